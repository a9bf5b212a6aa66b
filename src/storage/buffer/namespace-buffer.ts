import { assert, VarveError } from '../../core/errors.ts';
import type { SeriesBits } from '../engine/replica-access.ts';
import type { RemoteWriteVersion, SeriesSamples, WriteOutcome } from '../engine/storage-engine.ts';
import type { IndexBlock } from '../index/index-block.ts';
import { checked, KernelFault } from '../kernel/kernel-fault.ts';
import { MAX_SERIES, NO_VERSION, RECORD, type Address } from '../kernel/kernel.ts';
import { blockStartOf } from './block-start.ts';
import type { BlockColumns, BlockSummary, Overwrite, SealedColumns } from './block-columns.ts';
import { overloaded, PAGE_BYTES, type BufferMemory } from './buffer-memory.ts';
import { LateWrites } from './late-writes.ts';
import { LogReader } from './log-reader.ts';
import { LogWriter, type LogReaderState, type LogTicket } from './log-writer.ts';
import { OpenBlocks, type OpenBlockState } from './open-blocks.ts';
import { bitsOf } from './series-bits.ts';
import { SeriesIndex, type SavedIndex } from './series-index.ts';
import { WriteAdmission, type Admitted, type ForeignSeries } from './write-admission.ts';
import { spentBatch, type WriteBatch } from './write-batch.ts';

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
  /** One byte a shard, 1 for those that writes are taken of; undefined for all. */
  readonly ownedShards?: () => Uint8Array | undefined;
}

/** What a buffer takes of memory. */
export interface BufferUse {
  readonly seriesBytes: number;
  readonly blockBytes: number;
  readonly logBytes: number;
  /** Outside of the kernel's memory. */
  readonly indexBytes: number;
}

/** What an image has of a buffer, beside pages; JSON. */
export interface BufferState {
  readonly table: Address;
  readonly blocks: readonly OpenBlockState[];
  readonly log: LogReaderState | undefined;
}

/** What a replayed payload did. */
export interface ReplayOutcome {
  /** That were taken. */
  readonly samples: number;
  /** 0 when it is unreadable. */
  readonly version: bigint;
  /** It builds upon a payload that is missing or damaged; nothing of it was taken. */
  readonly unreadable: boolean;
  /** Samples whose series were named by a payload that is lost. */
  readonly orphans: number;
}

/** Appends to the log: `CommitLog.append`, with the namespace put before the payload. Copies before it returns. */
export type AppendToLog = (payload: Uint8Array) => Promise<unknown>;

/**
 * What a namespace has in memory: its series, the samples of its open blocks, their index, and what its log payloads
 * build upon. Synchronous but for `commit`; one thread.
 *
 * A write is applied as soon as it is given to the log, in the same turn, so that memory and log agree on the order.
 */
export class NamespaceBuffer {
  readonly #memory: BufferMemory;
  readonly #table: Address;
  readonly #blocks: OpenBlocks;
  readonly #writer: LogWriter;
  readonly #reader: LogReader;
  readonly #index: SeriesIndex;
  readonly #admission: WriteAdmission;
  /** From the first write of another node on. */
  #late: LateWrites | undefined;
  #options: BufferOptions;

  /** @throws STORAGE_OVERLOADED when there is no memory for the least of it */
  constructor(memory: BufferMemory, options: BufferOptions, state?: Pick<BufferState, 'table'>) {
    const { kernel } = memory;
    this.#memory = memory;
    this.#options = options;
    this.#table =
      state?.table ??
      kernel.calls.createSeriesTable(Math.min(options.maxSeries, MAX_SERIES), memory.hashSeed);
    if (this.#table === 0) throw overloaded(memory.limitBytes);
    this.#blocks = new OpenBlocks(memory, {
      blockSizeNs: options.blockSizeNs,
      isFlushed: (blockStartNs) => this.#options.isFlushed?.(blockStartNs) ?? false,
    });
    this.#writer = new LogWriter(memory, this.#table);
    this.#reader = new LogReader(memory, this.#table);
    this.#index = new SeriesIndex(kernel, this.#table);
    this.#admission = new WriteAdmission(memory, this.#table);
  }

  /** A buffer as it was captured, in memory that was restored; replay goes on behind the image. */
  static restore(memory: BufferMemory, options: BufferOptions, state: BufferState): NamespaceBuffer {
    const buffer = new NamespaceBuffer(memory, options, state);
    memory.kernel.calls.limitSeries(state.table, Math.min(options.maxSeries, MAX_SERIES));
    buffer.#blocks.adopt(state.blocks);
    if (state.log) buffer.#reader.adopt(state.log);
    return buffer;
  }

  /** What `restore` needs beside the pages. */
  state(): BufferState {
    return { table: this.#table, blocks: this.#blocks.state(), log: this.#writer.readerState() };
  }

  /** Lists the pages of all that it holds, as `KernelCalls.listTablePages` does. */
  listPages(out: Address, from: number): number {
    const count = this.#memory.kernel.calls.listTablePages(this.#table, out, from);
    return this.#writer.listPages(out, this.#blocks.listPages(out, count));
  }

  get options(): BufferOptions {
    return this.#options;
  }

  /** Block size and shard count stay. */
  configure(options: BufferOptions): void {
    const { blockSizeNs, shardCount } = this.#options;
    assert(
      options.blockSizeNs === blockSizeNs && options.shardCount === shardCount,
      'blocks and shards stay',
    );
    this.#options = options;
    this.#memory.kernel.calls.limitSeries(this.#table, Math.min(options.maxSeries, MAX_SERIES));
  }

  /** The body of a remote write request as it came. @throws WRITE_INVALID, STORAGE_OVERLOADED: nothing has changed */
  decodeRemote(
    version: RemoteWriteVersion,
    body: Uint8Array,
    nowNs: bigint,
    others: ForeignSeries = 'refuse',
  ): WriteBatch {
    return this.#admission.decode(version, body, this.#admitted(nowNs, others));
  }

  /** The same for what comes as objects. */
  prepare(series: readonly SeriesSamples[], nowNs: bigint, others: ForeignSeries = 'refuse'): WriteBatch {
    return this.#admission.prepare(bitsOf(series), this.#admitted(nowNs, others));
  }

  /** The same for columns of other nodes; with `heals` all within retention is taken. */
  prepareBits(series: readonly SeriesBits[], nowNs: bigint, heals: boolean): WriteBatch {
    const admitted = this.#admitted(nowNs, 'passOver');
    const fromNs = heals ? nowNs - this.#options.retentionNs : admitted.fromNs;
    return this.#admission.prepare(series, { ...admitted, fromNs });
  }

  /**
   * Logs the last decoded batch, applies it, and resolves when the log has acknowledged it. `version` is larger than
   * every one before. When the log refuses, the promise is rejected with the log's reason: if `append` throws, nothing
   * was applied; if it rejects later, what was applied stays readable until a restart, as after any error that leaves
   * the outcome open, and a repeated request does no harm.
   * Without `append` (a namespace that does not log) it applies only. With `late` the version came from elsewhere, and
   * may be older than those before; its `epoch` is newer than all.
   * @throws STORAGE_OVERLOADED, INVALID_ARGUMENT when another batch was decoded since
   */
  async commit(
    batch: WriteBatch,
    version: bigint,
    append: AppendToLog | undefined,
    late?: LateVersion,
  ): Promise<WriteOutcome> {
    if (batch.use !== this.#memory.currentUse) throw spentBatch();
    if (late && !late.heals) this.#settle(batch, version, late.recovered);
    if (append === undefined || batch.samples === 0) return this.#apply(batch, version);
    const { payload, ticket } = this.#writer.encode(batch, version, late?.epoch);
    this.#reader.dispose();
    const logged = this.#appendNow(append, payload, ticket);
    const applied = outcomeOf(() => this.#apply(batch, version));
    try {
      await logged;
    } catch (error) {
      this.#writer.refused(ticket);
      throw error;
    }
    if (!this.#writer.isWhole(ticket)) throw unreadableInLog();
    return applied();
  }

  /** Removes the samples of series in [startNs, endNs); returns how many. The log is the caller's matter. */
  deleteSamples(
    references: Uint32Array,
    range: { readonly startNs: bigint; readonly endNs: bigint },
  ): number {
    this.#memory.beginUse();
    let removed = 0;
    for (const reference of references) removed += this.#blocks.cut(reference, range.startNs, range.endNs);
    return removed;
  }

  /** Removes all samples of these shards. The log is the caller's matter. */
  dropShards(shards: readonly number[]): number {
    let removed = 0;
    for (const { startNs, endNs } of this.blocks()) {
      for (const shard of shards) {
        removed += this.deleteSamples(this.seriesOfBlock(startNs, shard), { startNs, endNs });
      }
    }
    return removed;
  }

  /**
   * Takes a payload that `commit` appended, in their order and before anything is committed, but for its samples of the
   * blocks `leftOut`, which are elsewhere. The first one after the position of a manifest is whole by itself, if
   * `beginLogEpoch` was called at that position.
   * @throws STORAGE_OVERLOADED
   */
  replay(payload: Uint8Array, leftOut: readonly bigint[] = []): ReplayOutcome {
    this.#memory.beginUse();
    const read = this.#reader.read(payload);
    if (read === undefined) return { samples: 0, version: 0n, unreadable: true, orphans: 0 };
    const { version, orphans } = read;
    const { kernel, space } = this.#memory;
    const samples = leftOut.reduce(
      (count, startNs) => this.#leaveOut(count, startNs, startNs + this.#options.blockSizeNs),
      read.samples,
    );
    if (samples > 0) {
      kernel.calls.findSpan(space.times.address, samples);
      const refused = this.#blocks.append(
        { count: samples, rows: true },
        kernel.calls.admittedLeast(),
        version,
      );
      if (refused > 0) throw overloaded(this.#memory.limitBytes);
    }
    return { samples: samples - orphans, version, unreadable: false, orphans };
  }

  /**
   * The next payload builds upon nothing before it. To be called, in the same turn as the log's position is taken,
   * when the log before that position is going to be removed.
   */
  beginLogEpoch(): void {
    this.#writer.beginEpoch();
  }

  /**
   * Adds samples of one block, with ascending times, from a snapshot, a fileset or a peer. What was written live and
   * replaced nothing stays, else the greater version wins. Returns the reference.
   * @throws SERIES_INVALID, STORAGE_OVERLOADED
   */
  insert(labels: Uint8Array, columns: InsertedColumns): number {
    this.#memory.beginUse();
    const { space, kernel } = this.#memory;
    // Views of the kernel's own memory end when it grows.
    const isOwn = columns.times.buffer === kernel.bytes.buffer;
    const times = isOwn ? columns.times.slice() : columns.times;
    const bits = isOwn ? columns.bits.slice() : columns.bits;
    const { overwrites } = columns;
    const reference = this.#resolve(labels);
    const [leastNs] = times;
    if (leastNs === undefined) return reference;
    const versions = new BigInt64Array(times.length).fill(NO_VERSION);
    let newest = 0n;
    for (const { place, version } of overwrites) {
      versions[place] = version;
      if (version > newest) newest = version;
    }
    this.#memory.reserve(times.length * INSERTED_BYTES + BYTES_PER_SERIES);
    space.times.put(times);
    space.values.put(bits);
    space.labels.put(versions);
    this.#blocks.insert(reference, times.length, [leastNs, times.at(-1) ?? leastNs], newest);
    this.#late?.inserted(reference);
    return reference;
  }

  get seriesCount(): number {
    return this.#memory.kernel.calls.seriesCount(this.#table);
  }

  /** What it holds of the memory that all buffers share, and of the process's own. */
  get memoryUse(): BufferUse {
    const { calls } = this.#memory.kernel;
    const blocks = this.#blocks.all.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
    return {
      seriesBytes: calls.listTablePages(this.#table, 0, 0) * PAGE_BYTES,
      blockBytes: blocks,
      logBytes: this.#writer.listPages(0, 0) * PAGE_BYTES,
      indexBytes: this.#index.memoryBytes,
    };
  }

  /** A copy of the canonical labels. */
  labelsOf(reference: number): Uint8Array {
    const { bytes } = this.#memory.kernel;
    const record = this.#recordOf(reference);
    const start = record[RECORD.labels] ?? 0;
    return bytes.slice(start, start + (record[RECORD.labelsBytes] ?? 0));
  }

  shardOf(reference: number): number {
    return (this.#recordOf(reference)[RECORD.shardHash] ?? 0) % this.#options.shardCount;
  }

  /** The reference of labels, or -1. */
  find(labels: Uint8Array): number {
    const from = this.#memory.space.scratch.put(labels);
    return Math.max(-1, this.#memory.kernel.calls.resolveLabels(this.#table, from, labels.length, 0));
  }

  /** Open blocks, ascending. */
  blocks(): readonly BlockSummary[] {
    return this.#blocks.all;
  }

  /** Series with samples in the block, of one shard or all, in the order of their canonical labels. */
  seriesOfBlock(blockStartNs: bigint, shard?: number): Uint32Array {
    const { shardCount } = this.#options;
    return this.#blocks.series(blockStartNs, this.#table, shard ?? 0, shard === undefined ? 1 : shardCount);
  }

  readBlock(reference: number, blockStartNs: bigint): BlockColumns | undefined {
    return this.#blocks.read(reference, blockStartNs);
  }

  sealBlock(reference: number, blockStartNs: bigint): SealedColumns | undefined {
    return this.#blocks.seal(reference, blockStartNs);
  }

  /**
   * To be called when files have come that nobody flushed: versions of what is written to their blocks from now on are
   * kept, as in blocks that are opened after their flush.
   */
  chillFlushed(): void {
    this.#blocks.chillFlushed();
  }

  /** Gives the memory of a block back; what it held is on the disk. */
  dropBlock(blockStartNs: bigint): void {
    this.#blocks.drop(blockStartNs);
  }

  /** Gives back everything; the buffer is not to be used any more. */
  dispose(): void {
    this.#blocks.dropAll();
    this.#writer.dispose();
    this.#reader.dispose();
    this.#memory.kernel.calls.freeSeriesTable(this.#table);
    this.#memory.noteRelease();
  }

  /**
   * Forgets series that have no samples in memory, if they are at least so large a share of all; returns how many. The
   * others get new references: to be called when nobody holds any, and an index that was asked for before is void. The
   * next log payload names its series anew. Takes memory for a second table while it works; without it does nothing.
   */
  dropUnusedSeries(leastShare = 0.5): number {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const count = this.seriesCount;
    this.#memory.beginUse();
    const marks = space.scratch.ensure(count);
    kernel.bytes.fill(0, marks, marks + count);
    this.#blocks.mark(marks, count);
    const used = kernel.bytes.subarray(marks, marks + count).reduce((sum, mark) => sum + mark, 0);
    if (count === 0 || count - used < leastShare * count) return 0;
    const map = space.references.ensure(count * 4);
    const needed = calls.listTablePages(this.#table, 0, 0) + this.#blocks.renumberPages(used);
    const fresh =
      calls.availablePages() > needed + SPARE_PAGES
        ? calls.createSeriesTable(MAX_SERIES, this.#memory.hashSeed)
        : 0;
    if (fresh === 0) return 0;
    if (calls.moveSeries(this.#table, fresh, marks, map, count) < 0) {
      calls.freeSeriesTable(fresh);
      return 0;
    }
    this.#blocks.renumber(map, count);
    calls.limitSeries(fresh, Math.min(this.#options.maxSeries, MAX_SERIES));
    calls.replaceTable(this.#table, fresh);
    this.#memory.noteRelease();
    this.#index.forget();
    this.#admission.forget();
    this.#late?.forget();
    this.#writer.beginEpoch();
    this.#reader.dispose();
    return count - used;
  }

  /** The index of all series, complete; `ref` is a reference. Series may have no samples in memory. */
  index(): IndexBlock {
    return this.#index.get();
  }

  /** Indexes some of the series that are not yet, for idle time; returns how many are left. */
  indexSome(maxSeries: number): number {
    return this.#index.fill(maxSeries);
  }

  /** How many series are indexed. */
  get indexedSeries(): number {
    return this.#index.seriesCount;
  }

  /** What of the index is made already, for `adoptIndex` after a restart; good until series are indexed. */
  saveIndex(): SavedIndex {
    return this.#index.save();
  }

  /** False when it is not the index of these series; then it is made from them. */
  adoptIndex(
    saved: Pick<SavedIndex, 'seriesCount' | 'seriesDigest'>,
    fields: readonly Uint8Array[],
  ): boolean {
    return this.#index.adopt(saved, fields);
  }

  #admitted(nowNs: bigint, others: ForeignSeries): Admitted {
    const { bufferPastNs, bufferFutureNs, retentionNs, coldWritesEnabled, blockSizeNs } = this.#options;
    const pastNs = coldWritesEnabled && retentionNs > bufferPastNs ? retentionNs : bufferPastNs;
    const ownedShards = this.#options.ownedShards?.();
    return {
      fromNs: nowNs - pastNs,
      toNs: nowNs + bufferFutureNs,
      blockSizeNs,
      owned: ownedShards && { shards: ownedShards, others },
    };
  }

  #appendNow(append: AppendToLog, payload: Uint8Array, ticket: LogTicket): Promise<unknown> {
    try {
      return append(payload);
    } catch (error) {
      this.#writer.refused(ticket);
      throw error;
    }
  }

  /** @throws STORAGE_OVERLOADED when some of it found no memory */
  #apply({ series, samples, leastNs, newSeries, ...rest }: WriteBatch, version: bigint): WriteOutcome {
    if (samples > 0) {
      const refused = this.#blocks.append({ count: series, rows: false }, leastNs, version);
      if (refused > 0) throw overloaded(this.#memory.limitBytes);
    }
    const { rejected, exemplars, histograms, notOwned } = rest;
    const outcome = { samples, series: newSeries, rejected, exemplars, histograms };
    return notOwned === 0 ? outcome : { ...outcome, notOwned };
  }

  /** What comes later than a newer version of it changes nothing. */
  #settle(batch: WriteBatch, version: bigint, recovered: bigint): void {
    this.#late ??= new LateWrites(this.#memory, recovered);
    const { blockSizeNs } = this.#options;
    this.#late.settle(batch, version, (reference, timeNs) =>
      this.#blocks.read(reference, blockStartOf(timeNs, blockSizeNs)),
    );
  }

  /** Of the rows in the working space; returns how many stay. */
  #leaveOut(count: number, startNs: bigint, endNs: bigint): number {
    const { kernel, space } = this.#memory;
    const { references, times, values } = space;
    return kernel.calls.leaveOutRows(
      references.address,
      times.address,
      values.address,
      count,
      startNs,
      endNs,
    );
  }

  #resolve(labels: Uint8Array): number {
    const { kernel, space } = this.#memory;
    const from = space.scratch.put(labels);
    try {
      return checked(kernel.calls.resolveLabels(this.#table, from, labels.length, 1));
    } catch (error) {
      if (!(error instanceof KernelFault)) throw error;
      if (error.fault === 'OUT_OF_MEMORY' || error.fault === 'TOO_LARGE')
        throw overloaded(this.#memory.limitBytes);
      throw new VarveError('SERIES_INVALID', `the labels of a series are not valid: ${error.message}`);
    }
  }

  #recordOf(reference: number): Uint32Array {
    const record = this.#memory.kernel.calls.seriesRecord(this.#table, reference) >>> 0;
    assert(record !== 0, `there is no series ${reference}`);
    return new Uint32Array(this.#memory.kernel.bytes.buffer, record, RECORD_NUMBERS);
  }
}

const RECORD_NUMBERS = 3;
const SPARE_PAGES = 16;
const BYTES_PER_SERIES = 4096;
/** Of a sample that is inserted, at most. */
const INSERTED_BYTES = 48;

export interface InsertedColumns {
  readonly times: BigInt64Array;
  readonly bits: BigUint64Array;
  readonly overwrites: readonly Overwrite[];
}

/** Of a write that has its version from elsewhere. */
export interface LateVersion {
  readonly epoch: bigint;
  /** It wins over all that has no version. */
  readonly heals: boolean;
  /** No write that was there when the process started has a newer version. */
  readonly recovered: bigint;
}

/** Does something now and tells later how it went. */
function outcomeOf<T>(act: () => T): () => T {
  try {
    const value = act();
    return () => value;
  } catch (error) {
    return () => {
      throw error;
    };
  }
}

function unreadableInLog(): VarveError {
  return new VarveError('COMMIT_LOG_BUSY', 'the commit log refused a write that this one builds upon', {
    hint: 'Repeat it: nothing is wrong with it.',
  });
}
