import { crc32 } from 'node:zlib';
import { FileDamageError } from './fileset-damage.ts';
import type { IndexEntry } from './index-pages.ts';

/** Some payloads as they are in the data file, checked. */
export interface PayloadRun {
  readonly bytes: Buffer;
  /** In the data file. */
  readonly startOffset: number;
  readonly firstEntry: number;
  readonly endEntry: number;
}

/** Where the payloads of a fileset are, by the place of their entries, and what they are checked with; without ids. */
export class EntryTable {
  readonly #dataFile: string;
  /** And where the last one ends. */
  readonly offsets: Float64Array;
  readonly #checksums: Uint32Array;
  /** The first entry of each page, and behind them the number of entries. */
  readonly #firsts: number[] = [0];
  readonly #pageChecksums: (number | undefined)[] = [];

  constructor(dataFile: string, entryCount: number) {
    this.#dataFile = dataFile;
    this.offsets = new Float64Array(entryCount + 1);
    this.#checksums = new Uint32Array(entryCount);
  }

  get count(): number {
    return this.#checksums.length;
  }

  get pageCount(): number {
    return this.#pageChecksums.length;
  }

  /** The next page; false when there are more entries than there should be. */
  addPage(entries: readonly IndexEntry[], payloadsChecksum: number | undefined): boolean {
    let at = this.#firsts.at(-1) ?? 0;
    if (at + entries.length > this.count) return false;
    for (const { offset, sizeBytes, checksum } of entries) {
      this.offsets[at] = offset;
      this.#checksums[at++] = checksum;
      this.offsets[at] = offset + sizeBytes;
    }
    this.#firsts.push(at);
    this.#pageChecksums.push(payloadsChecksum);
    return true;
  }

  get isWhole(): boolean {
    return this.#firsts.at(-1) === this.count;
  }

  /** The page that has an entry. */
  pageOf(entry: number): number {
    let low = 0;
    let high = this.pageCount;
    while (low + 1 < high) {
      const middle = (low + high) >>> 1;
      if ((this.#firsts[middle] as number) <= entry) low = middle;
      else high = middle;
    }
    return low;
  }

  firstOf(page: number): number {
    return this.#firsts[page] as number;
  }

  /** @throws FILESET_DAMAGED with the place of the first payload that is not as it was written */
  check({ bytes, startOffset }: PayloadRun, fromPage: number, toPage: number): void {
    for (let page = fromPage; page < toPage; page++) {
      const [from, to] = [this.firstOf(page), this.firstOf(page + 1)];
      const start = (this.offsets[from] as number) - startOffset;
      const payloads = bytes.subarray(start, (this.offsets[to] as number) - startOffset);
      if (crc32(payloads) !== this.#pageChecksums[page]) this.#checkEach(bytes, startOffset, from, to);
    }
  }

  #checkEach(bytes: Buffer, startOffset: number, from: number, to: number): void {
    for (let entry = from; entry < to; entry++) {
      const [offset, end] = [this.offsets[entry] as number, this.offsets[entry + 1] as number];
      const payload = bytes.subarray(offset - startOffset, end - startOffset);
      if (payload.length === end - offset && crc32(payload) === this.#checksums[entry]) continue;
      const reason = `the payload of ${end - offset} bytes does not match its checksum`;
      throw new FileDamageError({ file: this.#dataFile, offset, reason });
    }
  }
}
