import { systemClock } from '../core/clock.ts';
import type { Options } from '../config/options.ts';
import type { DaemonDeps } from '../node/daemon.ts';
import type { NodeMessage } from '../node/supervision.ts';
import { settings, type CliContext, type Flags } from './context.ts';
import { ExitCode } from './exit-codes.ts';
import { logger } from './logger.ts';
import { stopSignals } from './stop-signals.ts';

export async function node(context: CliContext, flags: Flags): Promise<number> {
  const given = settings(context, 'node', flags);
  const { name, folder, run } = await runnerOf(given);
  using signals = stopSignals();
  // The supervisor is gone, in whatever way: nobody would start us again, or stop us.
  process.once('disconnect', () => signals.request());
  const log = logger({ level: given.logLevel, node: name });
  log.info({ kind: given.kind, folder }, 'the node starts');
  try {
    await run({ log, clock: systemClock, report }, signals.stop);
    log.info({}, 'the node has stopped');
    return ExitCode.ok;
  } catch (error) {
    log.error({ error }, 'the node ends');
    throw error;
  } finally {
    if (process.connected) process.disconnect();
  }
}

interface Runner {
  readonly name: string;
  readonly folder: string;
  readonly run: (deps: DaemonDeps, signal: AbortSignal) => Promise<void>;
}

/** A node loads what its kind needs, and no more. */
async function runnerOf(given: Options<'node'>): Promise<Runner> {
  if (given.kind === 'storage') {
    const { storageNodeOptions } = await import('../node/storage-settings.ts');
    const { runStorageNode } = await import('../node/storage-daemon.ts');
    const options = storageNodeOptions(given);
    return { ...options, run: (deps, signal) => runStorageNode(deps, options, signal) };
  }
  const { nodeOptions } = await import('../node/node-options.ts');
  const { runNode } = await import('../node/daemon.ts');
  const options = nodeOptions(given);
  return { ...options, run: (deps, signal) => runNode(deps, options, signal) };
}

function report(message: NodeMessage): void {
  // A supervisor that is just going away is no reason to fail.
  if (process.connected) process.send?.(message, undefined, {}, () => {});
}
