import { crc32 } from 'node:zlib';
import { IndexBlock } from '../index/index-block.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import type { SegmentField } from '../index/segment-fields.ts';
import { RECORD, type Address, type Kernel } from '../kernel/kernel.ts';

/** An index as a file has it: of the first series of a table. */
export interface SavedIndex {
  readonly seriesCount: number;
  /** Of those series of the table: with another one the index says nothing of that table. */
  readonly seriesDigest: number;
  /** Views, good until series are added. */
  readonly fields: readonly SegmentField[];
}

/**
 * The index of all series of a table, filled when it is asked for or when there is time: writes do not wait for it. A
 * `ref` of it is a reference.
 */
export class SeriesIndex {
  readonly #kernel: Kernel;
  readonly #table: Address;
  #segment = new MutableSegment();
  #block = new IndexBlock([this.#segment]);

  constructor(kernel: Kernel, table: Address) {
    this.#kernel = kernel;
    this.#table = table;
  }

  get memoryBytes(): number {
    return this.#segment.memoryBytes;
  }

  /** How many series it has. */
  get seriesCount(): number {
    return this.#segment.seriesCount;
  }

  /** Series have new references: begins anew. */
  forget(): void {
    this.#hold(new MutableSegment());
  }

  save(): SavedIndex {
    const { seriesCount } = this.#segment;
    return { seriesCount, seriesDigest: this.#digestOf(seriesCount), fields: this.#segment.fields() };
  }

  /** Takes a saved one over, whose fields are its own then; false when it is not of this table, or has less. */
  adopt(
    { seriesCount, seriesDigest }: Pick<SavedIndex, 'seriesCount' | 'seriesDigest'>,
    fields: readonly Uint8Array[],
  ): boolean {
    const isMore = seriesCount > this.#segment.seriesCount;
    if (!isMore || seriesCount > this.#kernel.calls.seriesCount(this.#table)) return false;
    if (this.#digestOf(seriesCount) !== seriesDigest) return false;
    this.#hold(MutableSegment.from(fields));
    return true;
  }

  /** Of all series that there are now. */
  get(): IndexBlock {
    this.fill(Number.POSITIVE_INFINITY);
    return this.#block;
  }

  /** Adds so many series at most; returns how many are left. */
  fill(maxSeries: number): number {
    const { calls, bytes } = this.#kernel;
    const total = calls.seriesCount(this.#table);
    const end = Math.min(total, this.#segment.seriesCount + maxSeries);
    const view = new Uint32Array(bytes.buffer);
    for (let reference = this.#segment.seriesCount; reference < end; reference++) {
      const record = calls.seriesRecord(this.#table, reference) >>> 2;
      const start = view[record + RECORD.labels] as number;
      this.#segment.add(reference, bytes, start, start + (view[record + RECORD.labelsBytes] as number));
    }
    return total - this.#segment.seriesCount;
  }

  #hold(segment: MutableSegment): void {
    this.#segment = segment;
    this.#block = new IndexBlock([segment]);
  }

  /** Of the hashes of the first series' labels, in their order. */
  #digestOf(seriesCount: number): number {
    const { calls, bytes } = this.#kernel;
    const view = new Uint32Array(bytes.buffer);
    const hashes = new Uint32Array(seriesCount);
    for (let reference = 0; reference < seriesCount; reference++) {
      const record = calls.seriesRecord(this.#table, reference) >>> 2;
      hashes[reference] = view[record + RECORD.shardHash] as number;
    }
    return crc32(new Uint8Array(hashes.buffer));
  }
}
