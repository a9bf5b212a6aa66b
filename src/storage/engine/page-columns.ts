import { KernelFault } from '../kernel/kernel-fault.ts';
import { PAGE_ROW, type Address, type Kernel } from '../kernel/kernel.ts';
import type { ValueViews } from './reused-column.ts';

/** So many samples are decoded at once: what a core's cache holds. */
export const PAGE_SAMPLES = 64 * 1024;
export const MAX_PAGE_ROWS = 512;
const PAYLOAD_BYTES = 1024 * 1024;
/** More columns of times than this no dictionary that is used here has; others are decoded one by one. */
const MAX_NUMBERS = 16 * 1024;
/** What kernels may read behind an input, or write behind an output. */
const MARGIN_BYTES = 64;

/** Where payloads are in a run of bytes, in their order. */
export interface PageRows {
  readonly count: number;
  readonly offsets: Float64Array;
  readonly sizes: Float64Array;
}

/** The place that a row has when it was left to others. */
export const LEFT = -1;

/**
 * The values of a page of series as they come out of the kernel, copied to memory that is used again for the next page:
 * most pages are alike, so that its views serve again as well.
 */
export class PageColumns {
  #memory = new ArrayBuffer(0);
  #all = new Float64Array(0);
  readonly #views: ValueViews[] = [];
  /** By row: the number of its times in the dictionary, or `LEFT`. */
  readonly numbers = new Int32Array(MAX_PAGE_ROWS);
  readonly #firsts = new Uint32Array(MAX_PAGE_ROWS);

  /** @param found rows as the kernel filled them in */
  take(found: Int32Array, rows: number, samples: Float64Array): void {
    if (this.#memory.byteLength < samples.byteLength) {
      this.#memory = new ArrayBuffer(Math.max(samples.byteLength, PAGE_SAMPLES * 8));
      this.#all = new Float64Array(this.#memory);
      this.#views.length = 0;
    }
    this.#all.set(samples);
    for (let row = 0, at = 0; row < rows; row++, at += PAGE_ROW.length) {
      this.numbers[row] = found[at + PAGE_ROW.number] as number;
      this.#firsts[row] = found[at + PAGE_ROW.first] as number;
    }
  }

  /** Nothing of a page was decoded. */
  leave(rows: number): void {
    this.numbers.fill(LEFT, 0, rows);
  }

  /** Of a row that was not left, which has `count` samples. Valid until the next page is taken. */
  views(row: number, count: number): ValueViews {
    const start = (this.#firsts[row] as number) * 8;
    const known = this.#views[row];
    if (known && known.values.length === count && known.values.byteOffset === start) return known;
    const fresh = {
      bits: new BigUint64Array(this.#memory, start, count),
      values: new Float64Array(this.#memory, start, count),
    };
    this.#views[row] = fresh;
    return fresh;
  }
}

/** Decodes pages of series in a region of the kernel's memory, which is taken when the first page comes. */
export class PageCodec {
  readonly #kernel: Kernel;
  #places: Places | undefined;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /**
   * @param counts how many times each column of the dictionary has
   * @param into takes what was decoded; rows that it leaves are decoded one by one
   */
  decode(bytes: Uint8Array, rows: PageRows, counts: Uint32Array, into: PageColumns): void {
    const places = (this.#places ??= this.#reserve());
    if (!places || counts.length > MAX_NUMBERS) {
      into.leave(rows.count);
      return;
    }
    const memory = this.#kernel.bytes;
    const table = new Int32Array(memory.buffer, places.table, rows.count * PAGE_ROW.length);
    this.#fill(table, places.payloads, bytes, rows);
    new Uint32Array(memory.buffer, places.counts, counts.length).set(counts);
    const samples = this.#kernel.calls.decodeSeriesPage(
      places.table,
      rows.count,
      places.payloads,
      places.counts,
      counts.length,
      places.out,
      PAGE_SAMPLES,
    );
    into.take(table, rows.count, new Float64Array(memory.buffer, places.out, samples));
  }

  /** Copies the payloads, in one piece when they are close together, and says where they are. */
  #fill(table: Int32Array, to: Address, bytes: Uint8Array, { count, offsets, sizes }: PageRows): void {
    const start = offsets[0] ?? 0;
    const end = count === 0 ? start : (offsets[count - 1] as number) + (sizes[count - 1] as number);
    const together = end - start <= PAYLOAD_BYTES;
    const memory = this.#kernel.bytes;
    if (together) memory.set(bytes.subarray(start, end), to);
    for (let row = 0, used = 0; row < count; row++) {
      const at = row * PAGE_ROW.length;
      const [offset, size] = [offsets[row] as number, sizes[row] as number];
      const fits = together || used + size <= PAYLOAD_BYTES;
      if (!together && fits) memory.set(bytes.subarray(offset, offset + size), to + used);
      table[at + PAGE_ROW.offset] = together ? offset - start : used;
      // What does not fit is no payload, and left.
      table[at + PAGE_ROW.sizeBytes] = fits ? size : 0;
      if (fits) used += size;
    }
  }

  /** Undefined when there is no memory for it, which there may be later. */
  #reserve(): Places | undefined {
    const tableBytes = MAX_PAGE_ROWS * PAGE_ROW.length * 4;
    const countsBytes = MAX_NUMBERS * 4;
    const payloadBytes = PAYLOAD_BYTES + MARGIN_BYTES;
    try {
      // In one piece: regions are not given back, so one that does not fit must not leave others behind.
      const table = this.#kernel.allocate(
        tableBytes + countsBytes + payloadBytes + PAGE_SAMPLES * 8 + MARGIN_BYTES,
      );
      const counts = table + tableBytes;
      const payloads = counts + countsBytes;
      return { table, counts, payloads, out: payloads + payloadBytes };
    } catch (error) {
      if (error instanceof KernelFault) return undefined;
      throw error;
    }
  }
}

interface Places {
  readonly table: Address;
  readonly counts: Address;
  readonly payloads: Address;
  readonly out: Address;
}
