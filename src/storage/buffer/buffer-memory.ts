import { createHash, randomBytes } from 'node:crypto';
import { VarveError } from '../../core/errors.ts';
import { builtKernels, Kernel, type Address } from '../kernel/kernel.ts';
import { KernelFault } from '../kernel/kernel-fault.ts';

/** How much of the memory of an engine's buffers is in use. */
export interface BufferMemoryUse {
  /** Of pages that tables and blocks hold, and of working space. */
  readonly usedBytes: number;
  readonly limitBytes: number;
  /** It is time to flush, or to take snapshots and drop what they hold. */
  readonly pressing: boolean;
  /** Writes are refused until memory was given back. */
  readonly refusing: boolean;
}

export interface BufferMemoryOptions {
  readonly limitBytes: number;
  /** The kernels; those of this build unless given. */
  readonly wasm?: Uint8Array;
  /** Of the hashes of series; nobody who writes series is to know it. Drawn unless given. */
  readonly hashSeed?: bigint;
}

export const PAGE_BYTES = 65_536;
/** More than four gigabytes have no addresses of 32 bits. */
const MAX_LIMIT_BYTES = 65_535 * PAGE_BYTES;
/** Kernels read and write a little behind what they were given. */
const SLACK_BYTES = 128;
const LEAST_REGION_BYTES = 4096;
/** What stays free of a limit for reads, flushes and merges, which is how memory gets free again. */
const RESERVE_SHARE = 16;
const PRESSING_SHARE = 0.8;

/**
 * The kernels and the memory that all buffers of an engine share. Working space, too, is shared: what lies in a region
 * is good until the next call of a buffer.
 */
export class BufferMemory {
  readonly kernel: Kernel;
  readonly limitBytes: number;
  readonly space: WorkingSpace;
  /** SHA-256 of the kernels: memory is laid out as they do it. */
  readonly kernelHash: Buffer;
  readonly hashSeed: bigint;
  #use = 0;
  #releases = 0;

  constructor({ limitBytes, wasm, hashSeed }: BufferMemoryOptions) {
    this.hashSeed = hashSeed ?? randomBytes(8).readBigUInt64LE();
    this.limitBytes = Math.min(limitBytes, MAX_LIMIT_BYTES);
    const kernels = wasm ?? builtKernels();
    this.kernelHash = createHash('sha256').update(kernels).digest();
    this.kernel = new Kernel(kernels, { limitBytes: this.limitBytes });
    this.space = new WorkingSpace(this.kernel);
  }

  /** A number for what lies in the working space; what lay there before is lost. */
  beginUse(): number {
    return ++this.#use;
  }

  get currentUse(): number {
    return this.#use;
  }

  /** How often pages were given back: what was seen before may be something else now. */
  get releases(): number {
    return this.#releases;
  }

  noteRelease(): void {
    this.#releases++;
  }

  get availableBytes(): number {
    return this.kernel.calls.availablePages() * PAGE_BYTES;
  }

  get use(): BufferMemoryUse {
    const { limitBytes, availableBytes } = this;
    const usedBytes = Math.max(0, limitBytes - availableBytes);
    return {
      usedBytes,
      limitBytes,
      pressing: usedBytes > limitBytes * PRESSING_SHARE,
      refusing: availableBytes < limitBytes / RESERVE_SHARE,
    };
  }

  /**
   * Makes sure that a write of so much leaves the reserve untouched.
   * @throws STORAGE_OVERLOADED
   */
  reserve(neededBytes: number): void {
    const { limitBytes, availableBytes } = this;
    if (availableBytes - neededBytes < limitBytes / RESERVE_SHARE) throw overloaded(limitBytes);
  }
}

/** The regions, each for one kind of thing. */
export class WorkingSpace {
  /** A body or payload as it came, and decompressed. */
  readonly input: Region;
  readonly raw: Region;
  /** Of a batch: entries, references, times, values, and labels or symbols that were put together. */
  readonly entries: Region;
  readonly references: Region;
  readonly times: Region;
  readonly values: Region;
  readonly labels: Region;
  readonly symbols: Region;
  readonly payload: Region;
  /** Of one series: its columns, its late samples, and its columns encoded. */
  readonly seriesTimes: Region;
  readonly seriesValues: Region;
  readonly late: Region;
  readonly replaced: Region;
  readonly sealedTimes: Region;
  readonly sealedValues: Region;
  readonly scratch: Region;

  constructor(kernel: Kernel) {
    this.input = new Region(kernel);
    this.raw = new Region(kernel);
    this.entries = new Region(kernel);
    this.references = new Region(kernel);
    this.times = new Region(kernel);
    this.values = new Region(kernel);
    this.labels = new Region(kernel);
    this.symbols = new Region(kernel);
    this.payload = new Region(kernel);
    this.seriesTimes = new Region(kernel);
    this.seriesValues = new Region(kernel);
    this.late = new Region(kernel);
    this.replaced = new Region(kernel);
    this.sealedTimes = new Region(kernel);
    this.sealedValues = new Region(kernel);
    this.scratch = new Region(kernel);
  }

  /** Where the regions are. */
  places(): [address: number, sizeBytes: number][] {
    return this.#all().map((region) => [region.address, region.sizeBytes]);
  }

  /** Takes over what `places` said, in memory that is the same. */
  adopt(places: readonly (readonly [address: number, sizeBytes: number])[]): void {
    for (const [i, region] of this.#all().entries()) {
      const [address, sizeBytes] = places[i] ?? [0, 0];
      region.adopt(address, sizeBytes);
    }
  }

  #all(): Region[] {
    return Object.values(this).filter((value) => value instanceof Region);
  }
}

/** Working space of its own for one kind of thing; grows by moving, and what was in it is lost then. */
export class Region {
  readonly #kernel: Kernel;
  #address: Address = 0;
  #sizeBytes = 0;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** How much there is room for. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get address(): Address {
    return this.#address;
  }

  adopt(address: Address, sizeBytes: number): void {
    this.#address = address;
    this.#sizeBytes = sizeBytes;
  }

  /** @throws STORAGE_OVERLOADED */
  ensure(sizeBytes: number): Address {
    if (sizeBytes <= this.#sizeBytes) return this.#address;
    let capacity = LEAST_REGION_BYTES;
    while (capacity < sizeBytes) capacity *= 2;
    try {
      this.#address = this.#kernel.allocate(capacity + SLACK_BYTES);
    } catch (error) {
      if (error instanceof KernelFault) throw overloaded(undefined);
      throw error;
    }
    this.#sizeBytes = capacity;
    return this.#address;
  }

  /** Puts bytes at its beginning. @throws STORAGE_OVERLOADED */
  put(data: ArrayBufferView): Address {
    const address = this.ensure(data.byteLength);
    this.#kernel.bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), address);
    return address;
  }
}

export function overloaded(limitBytes: number | undefined): VarveError {
  const limit = limitBytes === undefined ? '' : ` of ${Math.floor(limitBytes / 1024 / 1024)} MiB`;
  return new VarveError('STORAGE_OVERLOADED', `the storage memory${limit} is in use`, {
    hint: 'Repeat it in a moment: flushes and snapshots free memory. If it lasts, raise the limit.',
  });
}
