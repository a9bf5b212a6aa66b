import type { VarveError } from '../core/errors.ts';

/**
 * A bootstrap is a *run*; a run is a sequence of *steps*. A step looks first and acts only when needed, so
 * that every run can be repeated and resumed, and `varve plan` can run the checks alone.
 */
export type Check = { readonly state: 'done' } | { readonly state: 'todo'; readonly reason: string };

export const done: Check = { state: 'done' };
export const todo = (reason: string): Check => ({ state: 'todo', reason });

export interface Step<C> {
  /** Kebab-case, unique within its run; shown to people. */
  readonly name: string;
  check(context: C, work: StepWork): Promise<Check>;
  apply(context: C, work: StepWork): Promise<void>;
}

/** What a step is given besides its context. */
export interface StepWork {
  readonly signal: AbortSignal;
  report(progress: Progress): void;
}

export interface Progress {
  readonly done?: number;
  readonly total?: number;
  /** What `done` and `total` count: bytes, shards, nodes. */
  readonly unit?: string;
  readonly detail?: string;
  /** For whom or what the step waits, and until when. */
  readonly waitingFor?: string;
}

/** State machine of a step within a run. */
export type StepState = 'pending' | 'checking' | 'running' | 'done' | 'skipped' | 'failed';

/** State machine of a run. */
export type RunState = 'running' | 'done' | 'failed' | 'cancelled';

export interface RunEvent extends Progress {
  /** Identifies the run among all of the node's. */
  readonly run: string;
  readonly node: string;
  readonly step: string;
  readonly state: StepState | RunState;
  /** Milliseconds since the Unix epoch. */
  readonly atMs: number;
  readonly error?: ReturnType<VarveError['toJSON']>;
}
