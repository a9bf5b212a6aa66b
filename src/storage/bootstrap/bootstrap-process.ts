import type { UnfulfilledStatus } from '../engine/storage-engine.ts';
import { runChain, type ChainDeps, type ChainRequest } from './bootstrap-chain.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapPace,
  type BootstrapPass,
  type BootstrapSource,
} from './bootstrap-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { targetRanges } from './target-ranges.ts';
import type { TopologySnapshot } from './topology-snapshot.ts';

export interface ProcessDeps extends ChainDeps {
  readonly nowNs: () => bigint;
  readonly report: BootstrapContext['report'];
  readonly onShard?: BootstrapContext['onShard'];
}

export interface ProcessInput {
  readonly sources: readonly BootstrapSource[];
  readonly topology: TopologySnapshot;
  /** With the shards that are not bootstrapped yet. */
  readonly namespaces: readonly BootstrapNamespace[];
  readonly signal: AbortSignal;
  readonly superseded?: AbortSignal;
  readonly pace?: BootstrapPace;
  /** Shards that lack nothing whatever they are in the placement, because they were whole before; none unless given. */
  readonly isWhole?: (namespace: string, shard: number) => boolean;
}

export interface ProcessResult {
  /** By namespace: what nobody could fulfil, of data or index. */
  readonly unfulfilled: ReadonlyMap<string, ShardTimeRanges>;
  readonly reasons: readonly UnfulfilledStatus[];
  /** Shards of which nothing is said: they are for the next round; none unless given. */
  readonly deferred?: ReadonlySet<number>;
}

const PASSES: readonly BootstrapPass[] = ['persist', 'memory'];

/**
 * One round of an attempt: first the blocks that take no more writes, then those that do, each through the whole chain. The
 * ranges follow from the instant at which it begins.
 * @throws what a source throws
 */
export async function runBootstrapProcess(deps: ProcessDeps, input: ProcessInput): Promise<ProcessResult> {
  const { sources, topology, namespaces, signal, superseded, pace } = input;
  const atNs = deps.nowNs();
  const open = new Map<string, ShardTimeRanges>();
  const deferred = new Set<number>();
  const reasons: UnfulfilledStatus[] = [];
  const leave = (name: string, ranges: ShardTimeRanges): void => {
    open.set(name, (open.get(name) ?? ShardTimeRanges.EMPTY).add(ranges));
  };
  for (const pass of PASSES) {
    for (const { name, ranges: all } of pass === 'memory' ? advanced(deps, input, atNs) : []) {
      const ranges = all.filterShards((shard) => !deferred.has(shard));
      leave(name, ranges);
      reasons.push(...unfulfilled(name, ranges, 'rangeAdvanced', 'a new block began meanwhile').reasons);
    }
    const requests = new Map<string, ChainRequest>(
      namespaces.map((namespace) => {
        const range = targetRanges(atNs, namespace.options)[pass];
        const due = namespace.shards.filter((shard) => !deferred.has(shard));
        const data = ShardTimeRanges.forShards(due, range);
        const index = namespace.options.indexEnabled ? data : ShardTimeRanges.EMPTY;
        return [namespace.options.name, { namespace, data, index }];
      }),
    );
    const context: BootstrapContext = {
      atNs,
      pass,
      topology,
      signal,
      report: deps.report,
      ...(deps.onShard ? { onShard: deps.onShard } : {}),
      ...(superseded ? { superseded } : {}),
      ...(pace ? { pace } : {}),
    };
    const outcome = await runChain(deps, sources, requests, context);
    for (const [name, result] of outcome.left) {
      leave(name, result.data.add(result.index));
      reasons.push(...result.reasons);
    }
    for (const shard of outcome.deferred) deferred.add(shard);
  }
  return { unfulfilled: open, reasons, deferred };
}

/**
 * What a shard that is initialising lacks when the memory's range has moved on since the beginning: nobody was asked
 * for it, so the attempt has to be repeated. Shards that were available lack nothing: they have taken the writes.
 */
function advanced(
  deps: ProcessDeps,
  { topology, namespaces, isWhole }: ProcessInput,
  atNs: bigint,
): { readonly name: string; readonly ranges: ShardTimeRanges }[] {
  const nowNs = deps.nowNs();
  return namespaces.flatMap(({ options, shards }) => {
    const before = targetRanges(atNs, options).memory;
    const now = targetRanges(nowNs, options).memory;
    if (before.startNs === now.startNs && before.endNs === now.endNs) return [];
    // New shards have nobody who could lack anything.
    const initializing = shards.filter(
      (shard) =>
        topology.shards.get(shard)?.get(topology.origin) === 'initializing' &&
        topology.everAvailable.has(shard) &&
        !isWhole?.(options.name, shard),
    );
    if (initializing.length === 0) return [];
    const missing = { startNs: before.endNs, endNs: now.endNs };
    return [{ name: options.name, ranges: ShardTimeRanges.forShards(initializing, missing) }];
  });
}
