import { assert } from '../../core/errors.ts';
import { checked } from '../kernel/kernel-fault.ts';
import { NO_VERSION, type Address } from '../kernel/kernel.ts';
import { PAGE_BYTES, overloaded, type BufferMemory } from './buffer-memory.ts';
import { blockStartOf } from './block-start.ts';
import type { BlockColumns, BlockSummary, Overwrite, SealedColumns } from './block-columns.ts';

interface OpenBlock {
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly chunks: Address;
  cold: boolean;
  readonly firstVersion: bigint;
  lastVersion: bigint;
}

/** A block as an image has it; numbers of 64 bits as text. */
export interface OpenBlockState {
  readonly startNs: string;
  readonly chunks: Address;
  readonly cold: boolean;
  readonly firstVersion: string;
  readonly lastVersion: string;
}

export interface OpenBlocksOptions {
  readonly blockSizeNs: bigint;
  readonly isFlushed?: ((blockStartNs: bigint) => boolean) | undefined;
}

/** Samples in the working space, with entries or, as `rows`, with a reference each. */
export interface Samples {
  readonly count: number;
  readonly rows: boolean;
}

const NO_OVERWRITES: readonly Overwrite[] = [];
/** What a rewritten series needs at most, per sample, and pages that are begun for it. */
const REWRITE_BYTES = 20;
const REWRITE_PAGES = 3;
const MARGIN_BYTES = 64;
const LINES_PER_PAGE = 2048;

/** The samples of a namespace by block. */
export class OpenBlocks {
  readonly #memory: BufferMemory;
  readonly #options: OpenBlocksOptions;
  /** Ascending. */
  #blocks: readonly OpenBlock[] = [];
  #recent: OpenBlock | undefined;

  constructor(memory: BufferMemory, options: OpenBlocksOptions) {
    this.#memory = memory;
    this.#options = options;
  }

  state(): OpenBlockState[] {
    return this.#blocks.map(({ startNs, chunks, cold, firstVersion, lastVersion }) => ({
      startNs: String(startNs),
      chunks,
      cold,
      firstVersion: String(firstVersion),
      lastVersion: String(lastVersion),
    }));
  }

  /** Takes over what `state` said, in memory that is the same. */
  adopt(states: readonly OpenBlockState[]): void {
    this.#blocks = states.map(({ startNs, chunks, cold, firstVersion, lastVersion }) => ({
      startNs: BigInt(startNs),
      endNs: BigInt(startNs) + this.#options.blockSizeNs,
      chunks,
      cold,
      firstVersion: BigInt(firstVersion),
      lastVersion: BigInt(lastVersion),
    }));
  }

  /** Files have samples of blocks that are open: what is written from now on is told from them by its version. */
  chillFlushed(): void {
    const { isFlushed } = this.#options;
    for (const block of this.#blocks) {
      if (block.cold || !isFlushed?.(block.startNs)) continue;
      block.cold = true;
      this.#memory.kernel.calls.chillChunks(block.chunks);
    }
  }

  listPages(out: Address, from: number): number {
    const { calls } = this.#memory.kernel;
    return this.#blocks.reduce((count, { chunks }) => calls.listChunksPages(chunks, out, count), from);
  }

  get all(): readonly BlockSummary[] {
    const { calls } = this.#memory.kernel;
    return this.#blocks.map(({ startNs, endNs, chunks, cold, firstVersion, lastVersion }) => ({
      startNs,
      endNs,
      samples: calls.chunksOrdered(chunks) + calls.chunksLate(chunks),
      lateSamples: calls.chunksLate(chunks),
      memoryBytes: calls.chunksPages(chunks) * PAGE_BYTES,
      cold,
      firstVersion,
      lastVersion,
    }));
  }

  /**
   * Appends what is in the working space, with times from `leastNs` on, each sample to its block; returns how many
   * found no memory.
   */
  append({ count, rows }: Samples, leastNs: bigint, version: bigint): number {
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const [references, times, values] = [space.references.address, space.times.address, space.values.address];
    let refused = 0;
    for (let next = leastNs; ;) {
      const block = this.#blockAt(next, version);
      if (block === undefined) return refused + count;
      if (rows) calls.appendRows(block.chunks, count, references, times, values, version);
      else
        calls.appendSamples(block.chunks, space.entries.address, count, references, times, values, version);
      refused += calls.appendedRefused();
      // Also by a write that is older: whoever looks must see that there was one.
      block.lastVersion = version > block.lastVersion ? version : block.lastVersion + 1n;
      next = calls.appendedLeastBehind();
      if (calls.appendedLate() > 0) this.#mergeDue(block);
      if (next === MAX_TIME) return refused;
    }
  }

  /** Adds samples of one block from elsewhere; they are in the working space, their versions at `labels`. Returns how many were not there. */
  insert(
    reference: number,
    count: number,
    [leastNs, lastNs]: readonly [bigint, bigint],
    version: bigint,
  ): number {
    const { kernel, space } = this.#memory;
    const block = this.#blockAt(leastNs, version);
    if (block === undefined) throw overloaded(this.#memory.limitBytes);
    assert(lastNs < block.endNs, `samples of one block are inserted, not up to ${lastNs}`);
    const capacity = this.#reserve(block, reference);
    if (version > block.lastVersion) block.lastVersion = version;
    const result = kernel.calls.insertSamples(
      block.chunks,
      reference,
      space.times.address,
      space.values.address,
      space.labels.address,
      count,
      space.seriesTimes.address,
      space.seriesValues.address,
      capacity,
      space.late.address,
      space.replaced.address,
    );
    this.#mergeDue(block);
    return checked(result);
  }

  /** Removes the samples of a series in [startNs, endNs); returns how many. @throws STORAGE_OVERLOADED */
  cut(reference: number, startNs: bigint, endNs: bigint): number {
    const { kernel, space } = this.#memory;
    let removed = 0;
    for (const block of this.#blocks) {
      if (block.endNs <= startNs || endNs <= block.startNs) continue;
      const capacity = this.#reserve(block, reference);
      if (capacity === 0) continue;
      if (!this.#canRewrite(capacity)) throw overloaded(this.#memory.limitBytes);
      removed += checked(
        kernel.calls.cutSeries(
          block.chunks,
          reference,
          startNs,
          endNs,
          space.seriesTimes.address,
          space.seriesValues.address,
          capacity,
        ),
      );
    }
    return removed;
  }

  /** Views of the working space. */
  read(reference: number, blockStartNs: bigint): BlockColumns | undefined {
    const block = this.#find(blockStartNs);
    const count = block === undefined ? 0 : this.#read(block, reference);
    if (count === 0) return undefined;
    const { kernel, space } = this.#memory;
    const { buffer } = kernel.bytes;
    return {
      times: new BigInt64Array(buffer, space.seriesTimes.address, count),
      bits: new BigUint64Array(buffer, space.seriesValues.address, count),
      values: new Float64Array(buffer, space.seriesValues.address, count),
      overwrites: this.#overwrites(),
    };
  }

  /** Views of the working space. */
  seal(reference: number, blockStartNs: bigint): SealedColumns | undefined {
    const block = this.#find(blockStartNs);
    const count = block === undefined ? 0 : this.#read(block, reference);
    if (count === 0) return undefined;
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const overwrites = this.#overwrites();
    const times = space.sealedTimes.ensure(calls.maxTimeColumnBytes(count) + MARGIN_BYTES);
    const values = space.sealedValues.ensure(calls.maxValueColumnBytes(count) + MARGIN_BYTES);
    const scratch = space.scratch.ensure(
      Math.max(calls.valueScratchBytes(count), calls.timeScratchBytes(count)),
    );
    const timeBytes = checked(calls.encodeTimes(space.seriesTimes.address, count, times, scratch));
    const valueBytes = checked(calls.encodeValues(space.seriesValues.address, count, values, scratch));
    return {
      count,
      times: kernel.bytes.subarray(times, times + timeBytes),
      values: kernel.bytes.subarray(values, values + valueBytes),
      overwrites,
    };
  }

  /** The series of a shard that have samples in the block, or of all shards, in the order of their labels. */
  series(blockStartNs: bigint, table: Address, shard: number, shardCount: number): Uint32Array {
    const block = this.#find(blockStartNs);
    if (block === undefined) return new Uint32Array(0);
    const { kernel, space } = this.#memory;
    const { calls } = kernel;
    const references = space.seriesTimes.ensure(calls.seriesCount(table) * 4);
    const count = calls.listSeries(block.chunks, table, shard, shardCount, references);
    const scratch = space.scratch.ensure(count * 4);
    calls.sortSeries(table, references, count, scratch);
    return new Uint32Array(kernel.bytes.slice(references, references + 4 * count).buffer);
  }

  has(reference: number): boolean {
    const { calls } = this.#memory.kernel;
    return this.#blocks.some(
      ({ chunks }) => calls.seriesOrdered(chunks, reference) > 0 || calls.seriesLate(chunks, reference) > 0,
    );
  }

  /** Sets a byte at `marks` for each of `count` series that has samples. */
  mark(marks: Address, count: number): void {
    for (const { chunks } of this.#blocks) this.#memory.kernel.calls.markSeries(chunks, marks, count);
  }

  /** Series have new references, those of `map` less 1. There is memory for it. */
  renumber(map: Address, count: number): void {
    for (const { chunks } of this.#blocks) checked(this.#memory.kernel.calls.moveLines(chunks, map, count));
  }

  /** What `renumber` takes while it works, in pages. */
  renumberPages(series: number): number {
    return this.#blocks.length * (2 + Math.ceil(series / LINES_PER_PAGE));
  }

  drop(blockStartNs: bigint): void {
    const block = this.#find(blockStartNs);
    if (block === undefined) return;
    this.#memory.kernel.calls.freeChunks(block.chunks);
    this.#memory.noteRelease();
    this.#blocks = this.#blocks.filter((other) => other !== block);
    if (this.#recent === block) this.#recent = undefined;
  }

  dropAll(): void {
    for (const { startNs } of this.#blocks) this.drop(startNs);
  }

  /** Decodes a series into the working space; returns how many samples it has. */
  #read(block: OpenBlock, reference: number): number {
    const { kernel, space } = this.#memory;
    const capacity = this.#reserve(block, reference);
    if (capacity === 0) return 0;
    return checked(
      kernel.calls.readSeries(
        block.chunks,
        reference,
        space.seriesTimes.address,
        space.seriesValues.address,
        capacity,
        space.late.address,
        space.replaced.address,
      ),
    );
  }

  #overwrites(): readonly Overwrite[] {
    const { kernel, space } = this.#memory;
    const count = kernel.calls.readOverwrites();
    if (count === 0) return NO_OVERWRITES;
    const pairs = new BigInt64Array(kernel.bytes.buffer, space.replaced.address, 2 * count);
    const overwrites: Overwrite[] = [];
    for (let i = 0; i < count; i++) {
      const version = pairs[2 * i + 1] as bigint;
      // Of a late sample from elsewhere that replaced nothing there.
      if (version !== NO_VERSION) overwrites.push({ place: Number(pairs[2 * i]), version });
    }
    return overwrites;
  }

  /** Makes room for all samples of a series; returns how many they are at most. */
  #reserve({ chunks }: OpenBlock, reference: number): number {
    const { kernel, space } = this.#memory;
    const late = kernel.calls.seriesLate(chunks, reference);
    const capacity = kernel.calls.seriesOrdered(chunks, reference) + late;
    space.seriesTimes.ensure(capacity * 8 + MARGIN_BYTES);
    space.seriesValues.ensure(capacity * 8 + MARGIN_BYTES);
    space.late.ensure(late * 8);
    space.replaced.ensure(late * 16);
    return capacity;
  }

  #canRewrite(samples: number): boolean {
    const needed = REWRITE_PAGES + (samples * REWRITE_BYTES) / PAGE_BYTES;
    return this.#memory.kernel.calls.availablePages() >= needed;
  }

  /** Puts late samples in order where there are many. Without memory for it they stay where they are. */
  #mergeDue(block: OpenBlock): void {
    const { kernel, space } = this.#memory;
    for (;;) {
      const reference = kernel.calls.takeDue(block.chunks);
      if (reference < 0) return;
      const capacity = this.#reserve(block, reference);
      if (!this.#canRewrite(capacity)) continue;
      checked(
        kernel.calls.mergeLate(
          block.chunks,
          reference,
          space.seriesTimes.address,
          space.seriesValues.address,
          capacity,
          space.late.address,
        ),
      );
    }
  }

  #find(startNs: bigint): OpenBlock | undefined {
    return this.#blocks.find((block) => block.startNs === startNs);
  }

  /** The block of a time, made if need be; undefined when there is no memory. */
  #blockAt(timeNs: bigint, version: bigint): OpenBlock | undefined {
    const recent = this.#recent;
    if (recent !== undefined && recent.startNs <= timeNs && timeNs < recent.endNs) return recent;
    const startNs = blockStartOf(timeNs, this.#options.blockSizeNs);
    const block = this.#find(startNs) ?? this.#open(startNs, version);
    this.#recent = block;
    return block;
  }

  #open(startNs: bigint, version: bigint): OpenBlock | undefined {
    const { blockSizeNs, isFlushed } = this.#options;
    const endNs = startNs + blockSizeNs;
    const cold = isFlushed?.(startNs) ?? false;
    const chunks = this.#memory.kernel.calls.createChunks(startNs, endNs, cold ? 1 : 0);
    if (chunks === 0) return undefined;
    const block: OpenBlock = { startNs, endNs, chunks, cold, firstVersion: version, lastVersion: version };
    this.#blocks = [...this.#blocks, block].sort((a, b) => (a.startNs < b.startNs ? -1 : 1));
    assert(new Set(this.#blocks.map((one) => one.startNs)).size === this.#blocks.length, 'blocks differ');
    return block;
  }
}

const MAX_TIME = (1n << 63n) - 1n;
