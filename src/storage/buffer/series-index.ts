import { IndexBlock } from '../index/index-block.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import { RECORD, type Address, type Kernel } from '../kernel/kernel.ts';

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

  /** Series have new references: begins anew. */
  forget(): void {
    this.#segment = new MutableSegment();
    this.#block = new IndexBlock([this.#segment]);
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
}
