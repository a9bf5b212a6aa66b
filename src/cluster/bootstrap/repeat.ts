import { VarveError } from '../../core/errors.ts';
import type { GroupContext } from './context.ts';

const PAUSE_MS = 500;

/**
 * Runs a bootstrap, and again from the beginning when that is all it takes: the lock was lost because this node was
 * held up, another node took over from it, or the coordinator was away for a while. What was done is found done.
 * The lock is free, and nothing is watched, when it returns or throws.
 * @throws what the run throws otherwise; COORDINATOR_UNAVAILABLE when that lasts longer than a wait may
 */
export async function repeatBootstrap(
  context: GroupContext,
  signal: AbortSignal,
  run: () => Promise<void>,
): Promise<void> {
  const { deps, options } = context;
  let awaySinceMs: number | undefined;
  for (;;) {
    try {
      await run();
      return;
    } catch (error) {
      if (signal.aborted || !(error instanceof VarveError)) throw error;
      if (error.code === 'COORDINATOR_UNAVAILABLE') {
        const nowMs = deps.clock.monotonicMs();
        awaySinceMs ??= nowMs;
        if (nowMs - awaySinceMs > options.waitTimeoutMs) throw error;
      } else if (error.code === 'SESSION_LOST' || error.code === 'GROUP_OWNER_LOST') {
        awaySinceMs = undefined;
      } else throw error;
      deps.log.warn({ node: options.node, error: error.message }, 'the bootstrap of the group is begun anew');
    } finally {
      await context.changes.rest();
      await context.releaseLock();
    }
    await deps.clock.sleep(PAUSE_MS, signal);
  }
}
