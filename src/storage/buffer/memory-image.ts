import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { assert } from '../../core/errors.ts';
import { hasCode, type File, type FileSystem } from '../../core/file-system.ts';
import type { BufferMemory } from './buffer-memory.ts';
import { encodeImageHead, IMAGE_PAGE_BYTES, pagesOffset, STALE, type PagePlace } from './image-head.ts';
import type { BufferState, NamespaceBuffer } from './namespace-buffer.ts';

/** What stands in an image beside the pages. */
export interface ImageMeta {
  readonly buffers: readonly BufferState[];
  /** The caller's: which namespaces the buffers are of, where the log goes on. JSON. */
  readonly notes: unknown;
  readonly spill: number;
  readonly allocator: {
    readonly end: number;
    readonly pages: number;
    readonly serial: number;
    readonly free: readonly number[];
  };
  readonly regions: readonly (readonly [address: number, sizeBytes: number])[];
}

/** A page that will not change: its place in the spill, good as long as the page has this serial. */
interface Spilled {
  readonly serial: number;
  readonly page: number;
}

/** The memory as it was at one instant, on its way to the disk. */
export interface CapturedImage {
  readonly meta: Omit<ImageMeta, 'spill'>;
  /** Copies, one behind the other. */
  readonly content: Buffer;
  readonly mutable: readonly number[];
  readonly immutable: readonly { readonly address: number; readonly serial: number }[];
  /** See `BufferMemory.releases`. */
  readonly releases: number;
}

export interface ImageReport {
  readonly bytes: number;
  readonly spilledPages: number;
}

export const IMAGE_NAME = /^image-(\d+)\.img$/;
/** Of the images in a folder, the newest first. */
export async function imageNumbers(fs: FileSystem, folder: string): Promise<number[]> {
  try {
    const entries = await fs.list(folder);
    const numbers = entries.flatMap(({ name }) => IMAGE_NAME.exec(name)?.[1] ?? []).map(Number);
    return numbers.sort((a, b) => b - a);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return [];
    throw error;
  }
}

const SPILL_NAME = /^spill-(\d+)\.img$/;
const SLICE_PAGES = 16;
const PREPARED_SLICE_BYTES = 1024 * 1024;
/** Between preparing and capturing there may come some more. */
const PREPARED_SHARE = 1.02;
/** A spill that is mostly of pages that are gone is begun anew. */
const LEAST_STALE_PAGES = 512;

export const imageName = (number: number): string => `image-${number}.img`;
export const spillName = (number: number): string => `spill-${number}.img`;

/**
 * Writes images of the memory of an engine's buffers into a folder of its own, from which `restoreImage` makes them
 * again. They save time and nothing else: whatever is wrong with one, it is as if it were not there.
 *
 * Pages that are still written are copied at once, in a millisecond per 10 MB or so; those that are full are written
 * once, into a spill beside the images.
 */
export class MemoryImages {
  readonly #fs: FileSystem;
  readonly #folder: string;
  readonly #memory: BufferMemory;
  #number = 0;
  #spill = 0;
  /** Of its pages, also of those that are not needed any more: damage is to be seen wherever it is. */
  #spillChecksums: number[] = [];
  #spilled = new Map<number, Spilled>();
  #prepared: Buffer | undefined;

  constructor(fs: FileSystem, folder: string, memory: BufferMemory) {
    this.#fs = fs;
    this.#folder = folder;
    this.#memory = memory;
  }

  /** Carries on behind an image from which the memory was restored. */
  adopt(number: number, spill: number, pages: readonly PagePlace[]): void {
    const words = new Uint32Array(this.#memory.kernel.bytes.buffer);
    this.#number = number;
    this.#spill = spill;
    for (const { address, isSpilled, page, checksum } of pages) {
      if (!isSpilled) continue;
      this.#spillChecksums[page] = checksum;
      if (address !== STALE) this.#spilled.set(address, { serial: words[(address >>> 2) + 1] ?? 0, page });
    }
  }

  /**
   * Gets memory for the copy that `capture` makes, so that it need not: a page that is touched for the first time costs
   * more than copying to it. To be called just before; without it a capture takes three times as long.
   */
  async prepare(buffers: readonly NamespaceBuffer[]): Promise<void> {
    const { mutable } = this.#list(buffers);
    const pages = Math.ceil(mutable.length * PREPARED_SHARE) + SLICE_PAGES;
    const prepared = Buffer.allocUnsafeSlow(pages * IMAGE_PAGE_BYTES);
    for (let from = 0; from < prepared.length; from += PREPARED_SLICE_BYTES) {
      prepared.fill(0, from, Math.min(from + PREPARED_SLICE_BYTES, prepared.length));
      await nextTurn();
    }
    this.#prepared = prepared;
  }

  /** Everything is as it is now, also the log's position if it is read in the same turn. */
  capture(buffers: readonly NamespaceBuffer[], notes: unknown): CapturedImage {
    const { kernel, space, releases } = this.#memory;
    const { calls } = kernel;
    const free = space.seriesTimes.ensure(calls.listFreePages(0) * 4);
    const { mutable, immutable } = this.#list(buffers);
    const freeCount = calls.listFreePages(free);
    const sizeBytes = mutable.length * IMAGE_PAGE_BYTES;
    const prepared = this.#prepared;
    this.#prepared = undefined;
    const content =
      prepared !== undefined && prepared.length >= sizeBytes
        ? prepared.subarray(0, sizeBytes)
        : Buffer.allocUnsafeSlow(sizeBytes);
    for (const [i, address] of mutable.entries()) {
      content.set(kernel.bytes.subarray(address, address + IMAGE_PAGE_BYTES), i * IMAGE_PAGE_BYTES);
    }
    return {
      meta: {
        buffers: buffers.map((buffer) => buffer.state()),
        notes,
        allocator: {
          end: calls.allocatedEnd() >>> 0,
          pages: mutable.length + immutable.length,
          serial: calls.lastSerial() >>> 0,
          free: [...new Uint32Array(kernel.bytes.slice(free, free + freeCount * 4).buffer)],
        },
        regions: space.places(),
      },
      content,
      mutable,
      immutable,
      releases,
    };
  }

  /**
   * Makes the image durable and removes the one before; undefined when memory was given back meanwhile, so that it
   * cannot be completed. Not to be called while another one is written.
   */
  async write(image: CapturedImage): Promise<ImageReport | undefined> {
    const spilledPages = await this.#writeSpill(image);
    if (spilledPages === undefined) return undefined;
    const number = this.#number + 1;
    const meta = Buffer.from(JSON.stringify({ ...image.meta, spill: this.#spill } satisfies ImageMeta));
    const count = image.mutable.length + this.#spillChecksums.length;
    const offset = pagesOffset(meta.length, count);
    const fresh = join(this.#folder, `${imageName(number)}.new`);
    await using file = await this.#fs.open(fresh, 'replace');
    const checksums = await this.#writePages(file, offset, image.content);
    const pages = [
      ...image.mutable.map((address, page) => ({
        address,
        isSpilled: false,
        page,
        checksum: checksums[page] ?? 0,
      })),
      ...this.#spillDirectory(image),
    ];
    await file.write(0, encodeImageHead({ kernelHash: this.#memory.kernelHash, meta, pages }));
    await file.datasync();
    await this.#fs.rename(fresh, join(this.#folder, imageName(number)));
    await this.#fs.syncFolder(this.#folder);
    this.#number = number;
    // What it made unnecessary, and what a crash left.
    await this.#removeAllBut([imageName(number), spillName(this.#spill)]);
    return { bytes: offset + image.content.length + spilledPages * IMAGE_PAGE_BYTES, spilledPages };
  }

  /** Gives the room back that they take; the next one begins anew. */
  async discard(): Promise<void> {
    this.#beginSpill();
    if (!(await this.#fs.stat(this.#folder))) return;
    await this.#removeAllBut([]);
    await this.#fs.syncFolder(this.#folder);
  }

  #spillDirectory({ immutable }: CapturedImage): PagePlace[] {
    const pages = this.#spillChecksums.map((checksum, page) => ({
      address: STALE,
      isSpilled: true,
      page,
      checksum,
    }));
    for (const { address } of immutable) {
      const page = pages[this.#spilled.get(address)?.page ?? -1];
      assert(page !== undefined, 'a page of the image is in the spill');
      page.address = address;
    }
    return pages;
  }

  #list(buffers: readonly NamespaceBuffer[]): Pick<CapturedImage, 'mutable' | 'immutable'> {
    const { kernel, space } = this.#memory;
    const count = buffers.reduce((from, buffer) => buffer.listPages(0, from), 0);
    const out = space.scratch.ensure(count * 8);
    buffers.reduce((from, buffer) => buffer.listPages(out, from), 0);
    const words = new Uint32Array(kernel.bytes.buffer, out, count * 2);
    const mutable: number[] = [];
    const immutable: { address: number; serial: number }[] = [];
    for (let i = 0; i < words.length; i += 2) {
      const word = words[i] as number;
      if (word % 2 === 0) mutable.push(word);
      else immutable.push({ address: word - 1, serial: words[i + 1] as number });
    }
    return { mutable: mutable.sort((a, b) => a - b), immutable };
  }

  /** Writes the pages that are not in the spill yet; returns how many, undefined when one of them may be gone. */
  async #writeSpill({ immutable, releases }: CapturedImage): Promise<number | undefined> {
    const live = new Set(immutable.map(({ address }) => address));
    for (const address of this.#spilled.keys()) if (!live.has(address)) this.#spilled.delete(address);
    if (this.#spillChecksums.length > 2 * this.#spilled.size + LEAST_STALE_PAGES) {
      this.#beginSpill();
    }
    const due = immutable.filter(({ address, serial }) => this.#spilled.get(address)?.serial !== serial);
    if (due.length === 0) return 0;
    try {
      return await this.#appendToSpill(due, releases);
    } catch (error) {
      // Nobody knows what of it is there.
      this.#beginSpill();
      throw error;
    }
  }

  #beginSpill(): void {
    this.#spill++;
    this.#spillChecksums = [];
    this.#spilled = new Map();
  }

  async #appendToSpill(due: CapturedImage['immutable'], releases: number): Promise<number | undefined> {
    await using file = await this.#openSpill();
    const staging = Buffer.allocUnsafe(SLICE_PAGES * IMAGE_PAGE_BYTES);
    for (let from = 0; from < due.length; from += SLICE_PAGES) {
      if (this.#memory.releases !== releases) return undefined;
      const slice = due.slice(from, from + SLICE_PAGES);
      const first = this.#spillChecksums.length;
      for (const [i, { address, serial }] of slice.entries()) {
        const page = staging.subarray(i * IMAGE_PAGE_BYTES, (i + 1) * IMAGE_PAGE_BYTES);
        page.set(this.#memory.kernel.bytes.subarray(address, address + IMAGE_PAGE_BYTES));
        this.#spilled.set(address, { serial, page: first + i });
        this.#spillChecksums.push(crc32(page));
      }
      await file.write(first * IMAGE_PAGE_BYTES, staging.subarray(0, slice.length * IMAGE_PAGE_BYTES));
    }
    await file.datasync();
    return due.length;
  }

  async #openSpill(): Promise<File> {
    const path = join(this.#folder, spillName(this.#spill));
    if (this.#spillChecksums.length === 0) return await this.#fs.open(path, 'replace');
    return await this.#fs.open(path, 'update');
  }

  async #writePages(file: File, offset: number, content: Buffer): Promise<number[]> {
    const checksums: number[] = [];
    const sliceBytes = SLICE_PAGES * IMAGE_PAGE_BYTES;
    for (let from = 0; from < content.length; from += sliceBytes) {
      const slice = content.subarray(from, from + sliceBytes);
      for (let at = 0; at < slice.length; at += IMAGE_PAGE_BYTES) {
        checksums.push(crc32(slice.subarray(at, at + IMAGE_PAGE_BYTES)));
      }
      await file.write(offset + from, slice);
      await nextTurn();
    }
    return checksums;
  }

  async #removeAllBut(keep: readonly string[]): Promise<void> {
    for (const { name } of await this.#fs.list(this.#folder)) {
      const isOurs = IMAGE_NAME.test(name) || SPILL_NAME.test(name) || name.endsWith('.new');
      if (!isOurs || keep.includes(name)) continue;
      await this.#fs.remove(join(this.#folder, name)).catch((error: unknown) => {
        if (!hasCode(error, 'ENOENT')) throw error;
      });
    }
  }
}
