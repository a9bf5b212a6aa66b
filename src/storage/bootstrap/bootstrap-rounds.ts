import type { UnfulfilledStatus } from '../engine/storage-engine.ts';
import {
  runBootstrapProcess,
  type ProcessDeps,
  type ProcessInput,
  type ProcessResult,
} from './bootstrap-process.ts';
import type { BootstrapNamespace } from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';

export interface RoundsOptions {
  /** A source that takes long is left so long before the shards that are whole are handed over. */
  readonly roundMs: number;
  /** What a round has filled, and what not, of these namespaces and shards: whole ones serve from here on. */
  readonly handOver: (namespaces: readonly BootstrapNamespace[], result: ProcessResult) => Promise<void>;
}

/** To end a round (an index that is written anew, a snapshot) takes at most one part in so many of all. */
const PARTS = 10;
const NONE: ReadonlySet<number> = new Set();

/**
 * One attempt. The chain of sources goes over all shards, but is not over all of them at once: what a source has not
 * begun when a round is long enough is left to the next, and the shards that are whole by then are handed over.
 * @throws what a source or `handOver` throws
 */
export async function runBootstrapRounds(
  deps: ProcessDeps,
  input: Omit<ProcessInput, 'pace'>,
  { roundMs, handOver }: RoundsOptions,
): Promise<ProcessResult> {
  const open = new Map<string, ShardTimeRanges>();
  const reasons: UnfulfilledStatus[] = [];
  let { namespaces } = input;
  let leastMs = roundMs;
  for (let round = 0; ; round++) {
    const startedMs = deps.monotonicMs();
    let spentMs = 0;
    const pace = {
      round,
      isEnough: () => deps.monotonicMs() - startedMs >= leastMs,
      spent: (ms: number) => {
        spentMs += ms;
      },
    };
    const result = await runBootstrapProcess(deps, { ...input, namespaces, pace });
    const { deferred = NONE } = result;
    for (const [name, ranges] of result.unfulfilled) {
      open.set(name, (open.get(name) ?? ShardTimeRanges.EMPTY).add(ranges));
    }
    reasons.push(...result.reasons);
    const filledMs = deps.monotonicMs();
    await handOver(
      ofShards(namespaces, (shard) => !deferred.has(shard)),
      result,
    );
    if (deferred.size === 0) return { unfulfilled: open, reasons };
    leastMs = Math.max(roundMs, PARTS * (spentMs + deps.monotonicMs() - filledMs));
    namespaces = ofShards(namespaces, (shard) => deferred.has(shard));
  }
}

function ofShards(
  namespaces: readonly BootstrapNamespace[],
  isTaken: (shard: number) => boolean,
): BootstrapNamespace[] {
  return namespaces.map(({ options, shards }) => ({ options, shards: shards.filter(isTaken) }));
}
