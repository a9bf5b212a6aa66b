import type { NamespaceOptions, UnfulfilledReason, UnfulfilledStatus } from '../engine/storage-engine.ts';
import type { ShardTimeRanges } from './shard-time-ranges.ts';
import type { TopologySnapshot } from './topology-snapshot.ts';

/**
 * - `persist`: blocks that take no more writes; what comes from elsewhere belongs into filesets
 * - `memory`: blocks that are still written; what comes from elsewhere belongs into memory, and into snapshots
 */
export type BootstrapPass = 'persist' | 'memory';

/** A namespace as sources see it. */
export interface BootstrapNamespace {
  readonly options: NamespaceOptions;
  readonly shards: readonly number[];
}

/** The same during one attempt: what was decided on must not change under it. */
export interface BootstrapContext {
  readonly atNs: bigint;
  readonly pass: BootstrapPass;
  readonly topology: TopologySnapshot;
  readonly signal: AbortSignal;
  /** Fires when the placement has changed since: a source that takes long leaves the rest to the next attempt. */
  readonly superseded?: AbortSignal;
  /** Of a source that takes long: when it is to leave the other shards to the next round; never unless given. */
  readonly pace?: BootstrapPace;
  /** Tells people how far a shard is. */
  readonly onShard?: (namespace: string, shard: number, progress: ShardProgress) => void;
  /** Tells people what is done just now. */
  report(progress: {
    readonly done?: number;
    readonly total?: number;
    readonly unit?: string;
    readonly detail: string;
  }): void;
}

/**
 * An attempt goes over its shards in rounds, so that those that are whole serve before the others are: what a source
 * has not begun when it is enough, it defers.
 */
export interface BootstrapPace {
  /** From 0. */
  readonly round: number;
  isEnough(): boolean;
  /** Told what the end of a round takes, however little is in it: rounds are made so long that it is a small part. */
  spent(ms: number): void;
}

/** Of what others give of a shard, as far as they have said. */
export interface ShardProgress {
  readonly doneBlocks: number;
  readonly blocks: number;
  readonly doneBytes: number;
  readonly bytes: number;
}

export interface BootstrapRequest {
  readonly namespace: BootstrapNamespace;
  /** What the source said is available, and no source before it has fulfilled. */
  readonly data: ShardTimeRanges;
  readonly index: ShardTimeRanges;
  /** The whole range of the pass, whatever others have fulfilled. */
  readonly target: ShardTimeRanges;
}

export interface Unfulfilled {
  readonly ranges: ShardTimeRanges;
  readonly reasons: readonly UnfulfilledStatus[];
}

export interface BootstrapResult {
  /** Parts of the request that the source could not fulfil after all. */
  readonly data: Unfulfilled;
  readonly index: Unfulfilled;
  /** What was recovered, in words. */
  readonly detail: string;
  /** Shards that it could fulfil, and has not begun, in any namespace: they are for the next round. */
  readonly deferred?: readonly number[];
}

/**
 * Where data of a shard and a range of time may come from. A source throws only to end the whole bootstrap; trouble
 * with a range makes that range unfulfilled, with a typed reason. Every implementation passes `testBootstrapSource`.
 */
export interface BootstrapSource {
  readonly name: string;
  /** Which of the ranges it can fulfil: a subset. Changes nothing. */
  availableData(
    namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    context: BootstrapContext,
  ): Promise<ShardTimeRanges>;
  availableIndex(
    namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    context: BootstrapContext,
  ): Promise<ShardTimeRanges>;
  /**
   * Fulfils what is asked, by namespace. Called in every pass, also with nothing to fulfil: the commit log has to be
   * read in any case.
   */
  read(
    requests: ReadonlyMap<string, BootstrapRequest>,
    context: BootstrapContext,
  ): Promise<ReadonlyMap<string, BootstrapResult>>;
  /** For people: why it has nothing of a shard. */
  why(shard: number, context: BootstrapContext): string;
}

/** All of these ranges, for one reason. */
export function unfulfilled(
  namespace: string,
  ranges: ShardTimeRanges,
  reason: UnfulfilledReason,
  detail: string,
): Unfulfilled {
  const reasons = [...ranges].flatMap(([shard, times]) =>
    [...times].map(({ startNs, endNs }) => ({ namespace, shard, startNs, endNs, reason, detail })),
  );
  return { ranges, reasons };
}
