import { systemClock } from '../core/clock.ts';
import { runNode } from '../node/daemon.ts';
import { nodeOptions } from '../node/node-options.ts';
import type { NodeMessage } from '../node/supervision.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { logger } from './logger.ts';
import { stopSignals } from './stop-signals.ts';

export async function node(context: CliContext, flags: Flags): Promise<number> {
  const given = settings(context, 'node', flags);
  const options = nodeOptions(given);
  using signals = stopSignals();
  // The supervisor is gone, in whatever way: nobody would start us again, or stop us.
  process.once('disconnect', () => signals.request());
  const log = logger({ level: given.logLevel, node: options.name });
  log.info({ kind: options.kind, folder: options.folder }, 'the node starts');
  try {
    await runNode({ log, clock: systemClock, report }, options, signals.stop);
    log.info({}, 'the node has stopped');
    return ExitCode.ok;
  } catch (error) {
    log.error({ error }, 'the node ends');
    throw error;
  } finally {
    if (process.connected) process.disconnect();
  }
}

function report(message: NodeMessage): void {
  // A supervisor that is just going away is no reason to fail.
  if (process.connected) process.send?.(message, undefined, {}, () => {});
}
