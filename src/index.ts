/**
 * Varve as a library: what is meant to be used from outside. Everything else may change at any time.
 */
export { VarveError, type ErrorCode } from './core/errors.ts';
export { systemClock, type Clock } from './core/clock.ts';
export type { RunEvent, Step, StepWork, Check, Progress } from './run/step.ts';
export { RunEvents } from './run/events.ts';
export { runSteps, planSteps } from './run/run.ts';
export type { Coordinator } from './coordination/coordinator.ts';
export { openCoordinator } from './coordination/open-coordinator.ts';
export { EmbeddedCoordinator } from './coordination/embedded-server.ts';
export { Connection, type Endpoint, type ConnectOptions } from './postgres/connection.ts';
export { startServer, type ServerOptions } from './postgres/server.ts';
export { runNode } from './node/daemon.ts';
export { nodeOptions, type NodeOptions } from './node/node-options.ts';
export type { Connections } from './node/system-folder.ts';
export type { NodeStatus, SystemStatus } from './node/node-status.ts';
