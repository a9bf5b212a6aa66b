import type { BootstrapSourceStatus, UnfulfilledStatus } from '../engine/storage-engine.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapPass,
  type BootstrapRequest,
  type BootstrapSource,
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

export interface ChainDeps {
  readonly monotonicMs: () => number;
  readonly onBegin?: (source: string, pass: BootstrapPass) => void;
  readonly onSource: (status: BootstrapSourceStatus) => void;
  readonly onFill?: (fill: Omit<SourceFill, 'atNs'>) => void;
}

/**
 * Asks the sources one after the other, each for what those before it have left. Every source is asked, even when
 * nothing is left. Returns, by namespace, what nobody could fulfil.
 * @throws what a source throws: it ends the bootstrap
 */
export async function runChain(
  deps: ChainDeps,
  sources: readonly BootstrapSource[],
  requests: ReadonlyMap<string, ChainRequest>,
  context: BootstrapContext,
): Promise<ReadonlyMap<string, ChainResult>> {
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
    for (const [name, asked] of due) {
      const before = left.get(name);
      const result = results.get(name);
      if (!before) continue;
      const failedData =
        result?.data ?? unfulfilled(name, asked.data, 'notAvailable', `${source.name} said nothing`);
      const failedIndex =
        result?.index ?? unfulfilled(name, asked.index, 'notAvailable', `${source.name} said nothing`);
      const fulfilled = asked.data.subtract(failedData.ranges);
      const data = before.data.subtract(fulfilled);
      const index = before.index.subtract(asked.index.subtract(failedIndex.ranges));
      left.set(name, {
        data,
        index,
        reasons: stillOpen(
          [...before.reasons, ...failedData.reasons, ...failedIndex.reasons],
          data.add(index),
        ),
      });
      deps.onFill?.({
        source: source.name,
        pass: context.pass,
        namespace: name,
        requested: before.data,
        fulfilled,
        reasons: [...failedData.reasons, ...failedIndex.reasons],
        why: (shard) => source.why(shard, context),
      });
      const { blockSizeNs } = asked.namespace.options;
      deps.onSource({
        source: source.name,
        pass: context.pass,
        namespace: name,
        requestedBlocks: before.data.blockCount(blockSizeNs),
        fulfilledBlocks: fulfilled.blockCount(blockSizeNs),
        detail: result?.detail ?? '',
        tookMs,
      });
    }
  }
  for (const [name, { data, index, reasons }] of left) {
    left.set(name, { data, index, reasons: explained(name, data.add(index), reasons) });
  }
  return left;
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
