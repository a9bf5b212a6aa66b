import type { BootstrapSourceStatus, UnfulfilledStatus } from '../engine/storage-engine.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapPass,
  type BootstrapRequest,
  type BootstrapResult,
  type BootstrapSource,
  type Unfulfilled,
} from './bootstrap-source.ts';
import type { SourceFill } from './fill-book.ts';
import type { ShardTimeRanges } from './shard-time-ranges.ts';

/** What one pass asks for, and after it what is left. */
export interface ChainRequest {
  readonly namespace: BootstrapNamespace;
  readonly data: ShardTimeRanges;
  readonly index: ShardTimeRanges;
}

export interface ChainResult {
  readonly data: ShardTimeRanges;
  readonly index: ShardTimeRanges;
  /** Why, of the last source that had a say. */
  readonly reasons: readonly UnfulfilledStatus[];
}

export interface ChainOutcome {
  /** By namespace. */
  readonly left: ReadonlyMap<string, ChainResult>;
  /** Shards that are for the next round: nothing is said of them. */
  readonly deferred: ReadonlySet<number>;
}

export interface ChainDeps {
  readonly monotonicMs: () => number;
  readonly onBegin?: (source: string, pass: BootstrapPass) => void;
  readonly onSource: (status: BootstrapSourceStatus) => void;
  readonly onFill?: (fill: Omit<SourceFill, 'atNs'>) => void;
}

/**
 * Asks the sources one after the other, each for what those before it have left. Every source is asked, even when
 * nothing is left. Returns, by namespace, what nobody could fulfil. What one of them defers, the others are not asked
 * for any more.
 * @throws what a source throws: it ends the bootstrap
 */
export async function runChain(
  deps: ChainDeps,
  sources: readonly BootstrapSource[],
  requests: ReadonlyMap<string, ChainRequest>,
  context: BootstrapContext,
): Promise<ChainOutcome> {
  const deferred = new Set<number>();
  const left = new Map<string, ChainResult>(
    [...requests].map(([name, { data, index }]) => [name, { data, index, reasons: [] }]),
  );
  for (const source of sources) {
    context.signal.throwIfAborted();
    const startedMs = deps.monotonicMs();
    deps.onBegin?.(source.name, context.pass);
    const due = await dueOf(source, requests, { left, context });
    const results = await source.read(due, context);
    const tookMs = deps.monotonicMs() - startedMs;
    for (const { deferred: put = [] } of results.values()) for (const shard of put) deferred.add(shard);
    for (const [name, promised] of due) {
      const wanted = left.get(name) ?? promised;
      const before = withoutDeferred(wanted, deferred);
      const asked = { ...promised, ...withoutDeferred(promised, deferred) };
      const result = results.get(name) ?? silent(source, name, asked);
      const fulfilled = asked.data.subtract(result.data.ranges);
      left.set(name, remaining(before, asked, result));
      deps.onFill?.({
        source: source.name,
        pass: context.pass,
        round: context.pace?.round ?? 0,
        namespace: name,
        requested: before.data,
        fulfilled,
        reasons: [...result.data.reasons, ...result.index.reasons],
        deferred,
        why: (shard) => source.why(shard, context),
      });
      const { blockSizeNs } = asked.namespace.options;
      deps.onSource({
        source: source.name,
        pass: context.pass,
        namespace: name,
        requestedBlocks: wanted.data.blockCount(blockSizeNs),
        fulfilledBlocks: fulfilled.blockCount(blockSizeNs),
        detail: result.detail,
        tookMs,
      });
    }
  }
  for (const [name, { data, index, reasons }] of left) {
    left.set(name, { data, index, reasons: explained(name, data.add(index), reasons) });
  }
  return { left, deferred };
}

function withoutDeferred(
  { data, index, reasons = [] }: Pick<ChainResult, 'data' | 'index'> & Partial<ChainResult>,
  deferred: ReadonlySet<number>,
): ChainResult {
  if (deferred.size === 0) return { data, index, reasons };
  const isDue = (shard: number): boolean => !deferred.has(shard);
  return {
    data: data.filterShards(isDue),
    index: index.filterShards(isDue),
    reasons: reasons.filter(({ shard }) => isDue(shard)),
  };
}

function remaining(before: ChainResult, asked: BootstrapRequest, result: BootstrapResult): ChainResult {
  const data = before.data.subtract(asked.data.subtract(result.data.ranges));
  const index = before.index.subtract(asked.index.subtract(result.index.ranges));
  const reasons = [...before.reasons, ...result.data.reasons, ...result.index.reasons];
  return { data, index, reasons: stillOpen(reasons, data.add(index)) };
}

/** Of a source that left a namespace out of its answer. */
function silent(source: BootstrapSource, name: string, { data, index }: BootstrapRequest): BootstrapResult {
  const failed = (ranges: ShardTimeRanges): Unfulfilled =>
    unfulfilled(name, ranges, 'notAvailable', `${source.name} said nothing`);
  return { data: failed(data), index: failed(index), detail: '' };
}

/** What a source says that it has of what is left. */
async function dueOf(
  source: BootstrapSource,
  requests: ReadonlyMap<string, ChainRequest>,
  state: { readonly left: ReadonlyMap<string, ChainResult>; readonly context: BootstrapContext },
): Promise<Map<string, BootstrapRequest>> {
  const { left, context } = state;
  const due = new Map<string, BootstrapRequest>();
  for (const [name, request] of requests) {
    const { data, index } = left.get(name) ?? request;
    const { namespace } = request;
    const availableData = await source.availableData(namespace, data, context);
    const availableIndex = await source.availableIndex(namespace, index, context);
    due.set(name, {
      namespace,
      // A source that promises more than it was asked for is not believed.
      data: availableData.intersect(data),
      index: availableIndex.intersect(index),
      target: request.data,
    });
  }
  return due;
}

/** Reasons of ranges that another source has not fulfilled since. */
function stillOpen(reasons: readonly UnfulfilledStatus[], open: ShardTimeRanges): UnfulfilledStatus[] {
  return reasons.filter((reason) => open.get(reason.shard).overlaps(reason));
}

/** Every range has a reason: where no source gave one, none of them had it. */
function explained(
  namespace: string,
  open: ShardTimeRanges,
  reasons: readonly UnfulfilledStatus[],
): readonly UnfulfilledStatus[] {
  const rest = open.filterShards((shard) => !reasons.some((reason) => reason.shard === shard));
  return [...reasons, ...unfulfilled(namespace, rest, 'notAvailable', 'no source has it').reasons];
}
