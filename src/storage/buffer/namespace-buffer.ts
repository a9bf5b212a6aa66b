import type { IndexBlock } from '../index/index-block.ts';
import type { RemoteWriteVersion, SeriesSamples, WriteOutcome } from '../engine/storage-engine.ts';
import type { BufferMemory } from './buffer-memory.ts';

export interface BufferOptions {
  readonly blockSizeNs: bigint;
  readonly bufferPastNs: bigint;
  readonly bufferFutureNs: bigint;
  readonly retentionNs: bigint;
  readonly coldWritesEnabled: boolean;
  readonly maxSeries: number;
  readonly shardCount: number;
  /**
   * Whether a volume of the block is on the disk already; asked when the block gets its first sample. What is written
   * to such a block keeps the version of each sample, for the merge with that volume.
   */
  readonly isFlushed?: (blockStartNs: bigint) => boolean;
}

/** One open block. */
export interface BlockSummary {
  readonly startNs: bigint;
  readonly endNs: bigint;
  /** Samples of the ascending part and late ones; a few may be for the same time. */
  readonly samples: number;
  readonly cold: boolean;
  /** Of the first and the newest write into it. */
  readonly firstVersion: bigint;
  readonly lastVersion: bigint;
}

/** A sample that replaced another of the same time: its place in the columns, and the version of its write. */
export interface Overwrite {
  readonly place: number;
  readonly version: bigint;
}

/** The samples of a series in a block, merged. Views of memory that the next call on the same memory may change. */
export interface BlockColumns {
  readonly times: BigInt64Array;
  readonly bits: BigUint64Array;
  /** The same memory as `bits`. */
  readonly values: Float64Array;
  /** Ascending by place; in a cold block one for every sample. */
  readonly overwrites: readonly Overwrite[];
}

/** The same as sealed columns (docs/formats/sealed-block.md). Views, as above. */
export interface SealedColumns {
  readonly count: number;
  readonly times: Uint8Array;
  readonly values: Uint8Array;
  readonly overwrites: readonly Overwrite[];
}

/** What a replayed payload did. */
export interface ReplayOutcome {
  readonly samples: number;
  readonly version: bigint;
  /** It could not be read, since a payload that it builds upon is missing or damaged; nothing of it was taken. */
  readonly unreadable: boolean;
  /** Samples whose series were named by a payload that is lost. */
  readonly orphans: number;
}

/**
 * A request that was decoded and checked: what of it can be taken. It lies in memory that all buffers share, so it is
 * to be committed before the next one is decoded.
 */
export interface WriteBatch {
  readonly samples: number;
}

/** Appends to the log: `CommitLog.append`, with the namespace put before the payload. Copies before it returns. */
export type AppendToLog = (payload: Uint8Array) => Promise<unknown>;

/**
 * What a namespace has in memory: its series, the samples of its open blocks, their index, and what its log payloads
 * build upon. Synchronous but for `commit`; one thread.
 */
export declare class NamespaceBuffer {
  constructor(memory: BufferMemory, options: BufferOptions);

  get options(): BufferOptions;
  /** Block size and shard count cannot change. */
  configure(options: BufferOptions): void;

  /** @throws WRITE_INVALID, STORAGE_OVERLOADED; then nothing has changed */
  decodeRemote(version: RemoteWriteVersion, body: Uint8Array, nowNs: bigint): WriteBatch;
  prepare(series: readonly SeriesSamples[], nowNs: bigint): WriteBatch;

  /**
   * Logs the batch, applies it, and resolves when the log has acknowledged it. `version` is larger than every one
   * before. When the log refuses, the promise is rejected with the log's reason; what was applied stays readable until
   * a restart, as after any error that leaves the outcome open, and a repeated request does no harm. Without `append`
   * (a namespace that does not log) it applies only.
   */
  commit(batch: WriteBatch, version: bigint, append: AppendToLog | undefined): Promise<WriteOutcome>;

  /** Deletes the samples of series in [startNs, endNs), in memory and log, so that it is the same after a replay. */
  deleteSamples(
    references: Uint32Array,
    range: { readonly startNs: bigint; readonly endNs: bigint },
    version: bigint,
    append: AppendToLog | undefined,
  ): Promise<void>;

  /**
   * Takes a payload that `commit` or `deleteSamples` appended, in their order. The first one after the position of a
   * manifest is whole by itself, if `beginLogEpoch` was called at that position.
   */
  replay(payload: Uint8Array): ReplayOutcome;

  /**
   * The next payload builds upon nothing before it. To be called, in the same turn as the log's position is taken,
   * when the log before that position is going to be removed.
   */
  beginLogEpoch(): void;

  /** Samples from a snapshot, a fileset or a peer: ascending times of one block. */
  insert(
    labels: Uint8Array,
    columns: {
      readonly times: BigInt64Array;
      readonly bits: BigUint64Array;
      readonly overwrites: readonly Overwrite[];
    },
  ): number;

  get seriesCount(): number;
  /** A copy of the canonical labels. */
  labelsOf(reference: number): Uint8Array;
  shardOf(reference: number): number;
  /** The reference of canonical labels, or -1. */
  find(labels: Uint8Array): number;

  /** Open blocks, ascending. */
  blocks(): readonly BlockSummary[];
  /** Series with samples in the block, of one shard or all, in the order of their canonical labels. */
  seriesOfBlock(blockStartNs: bigint, shard?: number): Uint32Array;
  readBlock(reference: number, blockStartNs: bigint): BlockColumns | undefined;
  sealBlock(reference: number, blockStartNs: bigint): SealedColumns | undefined;
  /** Gives the memory of a block back; what it held is on the disk. */
  dropBlock(blockStartNs: bigint): void;
  /** Gives back everything. */
  dispose(): void;

  /** The index of all series, complete; `ref` is a reference. Series may have no samples in memory. */
  index(): IndexBlock;
  /** Indexes some of the series that are not yet, for idle time; returns how many are left. */
  indexSome(maxSeries: number): number;
}
