import type { WriteBatch } from './write-batch.ts';
import { ENTRY } from '../kernel/kernel.ts';
import type { BufferMemory } from './buffer-memory.ts';
import type { BlockColumns } from './block-columns.ts';

const FIRST_ROOM = 1024;

/**
 * Writes of other nodes do not come in the order of their versions. Samples in order have none in memory: of each series
 * it is therefore known which version was written to it last. What comes with an older one does not replace such a
 * sample: it was there before what is there now, or repair finds out. Of what was there before the process started only
 * one version is known, which is not older than any of it; what is older than that comes late as well.
 */
export class LateWrites {
  readonly #memory: BufferMemory;
  /** Differences of versions are small enough for numbers. */
  #base: bigint | undefined;
  /** By reference: the newest version that was written to it. */
  #newest = new Float64Array(0);
  /** The same for series that nothing was written to yet, and for all. */
  #newestOfOthers = Number.NEGATIVE_INFINITY;
  #newestOfAll = Number.NEGATIVE_INFINITY;
  readonly #recovered: bigint;

  /** @param recovered not older than any version that was there before the first of these writes */
  constructor(memory: BufferMemory, recovered: bigint) {
    this.#memory = memory;
    this.#recovered = recovered;
  }

  /** References are other series now. */
  forget(): void {
    this.#newest = new Float64Array(0);
    this.#newestOfOthers = this.#newestOfAll;
  }

  /** A series has samples now that were written elsewhere, nobody knows when. */
  inserted(reference: number): void {
    if (reference >= this.#newest.length) this.#grow(reference);
    this.#newest[reference] = this.#newestOfAll;
  }

  /**
   * Gives samples of the batch in the working space that come too late the value that is there, which makes repetitions
   * of them.
   */
  settle(
    { series }: WriteBatch,
    version: bigint,
    read: (reference: number, timeNs: bigint) => BlockColumns | undefined,
  ): void {
    this.#base ??= this.#begin(version);
    const relative = Number(version - this.#base);
    if (relative > this.#newestOfAll) this.#newestOfAll = relative;
    const { space, kernel } = this.#memory;
    const references = new Int32Array(kernel.bytes.buffer, space.references.address, series);
    const late: number[] = [];
    for (let i = 0; i < series; i++) {
      const reference = references[i] as number;
      if (reference < 0) continue;
      if (reference >= this.#newest.length) this.#grow(reference);
      if ((this.#newest[reference] as number) > relative) late.push(i);
      else this.#newest[reference] = relative;
    }
    for (const entry of late) this.#settleEntry(entry, version, read);
  }

  #begin(version: bigint): bigint {
    this.#newestOfOthers = Number(this.#recovered - version);
    this.#newestOfAll = this.#newestOfOthers;
    return version;
  }

  #settleEntry(
    entry: number,
    version: bigint,
    read: (reference: number, timeNs: bigint) => BlockColumns | undefined,
  ): void {
    const { space, kernel } = this.#memory;
    const at = space.entries.address + entry * ENTRY.length * 4;
    const numbers = new Uint32Array(kernel.bytes.buffer, at, ENTRY.length);
    const [from, count] = [numbers[ENTRY.firstSample] ?? 0, numbers[ENTRY.samples] ?? 0];
    const [reference = -1] = new Int32Array(kernel.bytes.buffer, space.references.address + entry * 4, 1);
    let there: BlockColumns | undefined;
    let [startNs, endNs] = [0n, 0n];
    for (let place = from; place < from + count; place++) {
      const [timeNs = 0n] = this.#view(space.times.address, place);
      if (!there || timeNs < startNs || timeNs > endNs) {
        there = read(reference, timeNs);
        if (!there) continue;
        [startNs, endNs] = [there.times[0] ?? 0n, there.times.at(-1) ?? 0n];
      }
      const index = indexOf(there.times, timeNs);
      if (index === undefined) continue;
      const known = there.overwrites.find((overwrite) => overwrite.place === index);
      // With a version it is decided where samples are kept.
      if (known && known.version < version) continue;
      this.#view(space.values.address, place)[0] = BigInt.asIntN(64, there.bits[index] ?? 0n);
    }
  }

  /** Memory may have grown since the last one. */
  #view(address: number, place: number): BigInt64Array {
    return new BigInt64Array(this.#memory.kernel.bytes.buffer, address + place * 8, 1);
  }

  #grow(reference: number): void {
    const larger = new Float64Array(Math.max(FIRST_ROOM, 2 * (reference + 1))).fill(this.#newestOfOthers);
    larger.set(this.#newest);
    this.#newest = larger;
  }
}

function indexOf(times: BigInt64Array, timeNs: bigint): number | undefined {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((times[middle] as bigint) < timeNs) low = middle + 1;
    else high = middle;
  }
  return times[low] === timeNs ? low : undefined;
}
