import { setMaxListeners } from 'node:events';
import type { BootstrapContext } from '../bootstrap/bootstrap-source.ts';
import type { BlockJob } from './block-fetch.ts';
import type { NamespaceFetch } from './namespace-fetch.ts';

/** Shards whose blocks are listed together, and whose newest come first. */
const SHARDS_AT_ONCE = 8;
/** Blocks that are under way: those that come, and those that wait with others until the disk has them. */
const BLOCKS_UNDER_WAY = 128;

interface DueBlock {
  readonly fetch: NamespaceFetch;
  readonly job: BlockJob;
}

/**
 * Fetches shards, of all namespaces together, in their order, so that the first ones are whole long before the last;
 * those that are not begun when it is enough are deferred.
 * @throws what ends the bootstrap
 */
export async function fetchRound(
  fetches: readonly NamespaceFetch[],
  context: BootstrapContext,
): Promise<void> {
  // Each of those that are under way may listen.
  setMaxListeners(2 * BLOCKS_UNDER_WAY, context.signal);
  const due = dueBlocks(fetches, context);
  const worker = async (): Promise<void> => {
    for await (const { fetch, job } of due) await fetch.fetch(job);
  };
  const workers = Array.from({ length: BLOCKS_UNDER_WAY }, worker);
  // Whoever is told of a failure may count on it that nothing is written any more.
  await Promise.allSettled(workers);
  await Promise.all(workers);
}

async function* dueBlocks(
  fetches: readonly NamespaceFetch[],
  { pace, pass }: BootstrapContext,
): AsyncGenerator<DueBlock, void, void> {
  const shards = [...new Set(fetches.flatMap((fetch) => fetch.shards))].sort((a, b) => a - b);
  for (let at = 0; at < shards.length; at += SHARDS_AT_ONCE) {
    if (pass === 'persist' && pace && (at > 0 ? pace.isEnough() : othersWait(fetches, pace.round))) {
      for (const fetch of fetches) fetch.defer(shards.slice(at));
      return;
    }
    const batch = shards.slice(at, at + SHARDS_AT_ONCE);
    for (const fetch of fetches) for (const job of await fetch.list(batch)) yield { fetch, job };
  }
}

/** Shards that need nothing of others serve at once. */
function othersWait(fetches: readonly NamespaceFetch[], round: number): boolean {
  return round === 0 && fetches.some((fetch) => fetch.needsNoneOfSome);
}
