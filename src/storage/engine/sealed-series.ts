import { VarveError } from '../../core/errors.ts';
import { ByteCursor, varintBytes, writeVarint } from '../fileset/byte-cursor.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import { KernelFault, checked } from '../kernel/kernel-fault.ts';
import type { Address, Kernel } from '../kernel/kernel.ts';
import { NO_OVERWRITES, type Overwrite } from './columns.ts';
import { PageCodec } from './page-columns.ts';

/**
 * The payload of a series in a fileset, as `docs/formats/engine.md` draws it: its times, mostly as a number in
 * the fileset's dictionary, its values, and which of them were overwritten.
 */
export interface SealedSeries {
  /** In the dictionary; undefined when `times` are the series' own. */
  readonly timesNumber: number | undefined;
  /** An encoded time column. */
  readonly times: Uint8Array | undefined;
  readonly values: Uint8Array;
  readonly overwrites: readonly Overwrite[];
}

const SHARED_TIMES = 1;
const OVERWRITES = 2;
const VERSION_BYTES = 8;
/** A series of one block has no more samples than this: bounds what a damaged count may ask for. */
const MAX_SAMPLES = 1 << 26;
const MAX_KEPT_TIMES = 16_384;
/** What kernels may read behind an input, or write behind an output. */
const MARGIN_BYTES = 64;

export function encodeSealedSeries(series: SealedSeries): Buffer {
  const { timesNumber, times, values, overwrites } = series;
  const flags = (timesNumber === undefined ? 0 : SHARED_TIMES) | (overwrites.length > 0 ? OVERWRITES : 0);
  const timesHead = timesNumber ?? times?.length ?? 0;
  let sizeBytes = 1 + varintBytes(timesHead) + (times?.length ?? 0) + values.length;
  if (overwrites.length > 0) {
    sizeBytes += varintBytes(values.length) + varintBytes(overwrites.length);
    let before = 0;
    for (const { place } of overwrites) {
      sizeBytes += varintBytes(place - before) + VERSION_BYTES;
      before = place;
    }
  }
  const bytes = Buffer.allocUnsafe(sizeBytes);
  bytes[0] = flags;
  let at = writeVarint(bytes, timesHead, 1);
  if (times) {
    bytes.set(times, at);
    at += times.length;
  }
  if (overwrites.length > 0) at = writeVarint(bytes, values.length, at);
  bytes.set(values, at);
  at += values.length;
  if (overwrites.length > 0) writeOverwrites(bytes, overwrites, at);
  return bytes;
}

function writeOverwrites(bytes: Buffer, overwrites: readonly Overwrite[], start: number): void {
  let at = writeVarint(bytes, overwrites.length, start);
  let before = 0;
  for (const { place, version } of overwrites) {
    at = writeVarint(bytes, place - before, at);
    at = bytes.writeBigUInt64LE(version, at);
    before = place;
  }
}

/** Views of `bytes`. @throws FormatFault */
export function decodeSealedSeries(bytes: Buffer): SealedSeries {
  const cursor = new ByteCursor(bytes);
  const flags = cursor.uint8();
  if (flags > (SHARED_TIMES | OVERWRITES)) throw new FormatFault(0, `its flags ${flags} are unknown`);
  const timesHead = cursor.varint();
  const shared = (flags & SHARED_TIMES) !== 0;
  const times = shared ? undefined : cursor.bytes(timesHead);
  const timesNumber = shared ? timesHead : undefined;
  if ((flags & OVERWRITES) === 0) {
    return { timesNumber, times, values: bytes.subarray(cursor.at), overwrites: NO_OVERWRITES };
  }
  const values = cursor.bytes(cursor.varint());
  const count = cursor.varint();
  const overwrites: Overwrite[] = [];
  let place = 0;
  for (let i = 0; i < count; i++) {
    const step = cursor.varint();
    if (i > 0 && step === 0) throw new FormatFault(cursor.at, 'a place is overwritten twice');
    place += step;
    overwrites.push({ place, version: BigInt.asUintN(64, cursor.int64()) });
  }
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than its lengths say');
  return { timesNumber, times, values, overwrites };
}

/** What `plainHead` finds. */
export interface PlainHead {
  timesNumber: number;
  valuesAt: number;
}

/**
 * The head of such bytes when they are of the common kind: times in the dictionary, and behind the head nothing but
 * values. False says nothing else: `decodeSealedSeries` knows.
 */
export function plainHead(bytes: Uint8Array, head: PlainHead): boolean {
  if (bytes[0] !== SHARED_TIMES) return false;
  const low = bytes[1] ?? 0x80;
  if (low < 0x80) {
    head.timesNumber = low;
    head.valuesAt = 2;
    return true;
  }
  const high = bytes[2] ?? 0x80;
  if (high >= 0x80) return false;
  head.timesNumber = (low & 0x7f) + high * 128;
  head.valuesAt = 3;
  return true;
}

/**
 * Encodes and decodes columns in a region of the kernel's memory, which grows with the longest of them. What it
 * returns are views, valid until the next call or until anything else changes the kernel's memory: copy, or use at
 * once.
 */
export class ColumnCodec {
  readonly pages: PageCodec;
  readonly #kernel: Kernel;
  #capacity = 0;
  #places = { times: 0, values: 0, encoded: 0, scratch: 0, encodedBytes: 0 };
  #lastValues: BigUint64Array = new BigUint64Array(0);
  /** Columns of times that were decoded for good, by their bytes. */
  readonly #keptTimes = new Map<string, WeakRef<BigInt64Array>>();

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.pages = new PageCodec(kernel);
  }

  encodeTimes(times: BigInt64Array): Uint8Array {
    const { calls } = this.#kernel;
    this.#reserve(times.length);
    const { times: from, encoded, scratch } = this.#places;
    this.#kernel.bytes.set(bytesOf(times), from);
    const sizeBytes = checked(calls.encodeTimes(from, times.length, encoded, scratch));
    return this.#kernel.bytes.subarray(encoded, encoded + sizeBytes);
  }

  encodeValues(bits: BigUint64Array): Uint8Array {
    const { calls } = this.#kernel;
    this.#reserve(bits.length);
    const { values: from, encoded, scratch } = this.#places;
    this.#kernel.bytes.set(bytesOf(bits), from);
    const sizeBytes = checked(calls.encodeValues(from, bits.length, encoded, scratch));
    return this.#kernel.bytes.subarray(encoded, encoded + sizeBytes);
  }

  /** @throws FormatFault */
  countTimes(encoded: Uint8Array): number {
    this.#take(encoded);
    return this.#fault(() => this.#kernel.calls.countTimes(this.#places.encoded, encoded.length));
  }

  /** @throws FormatFault */
  decodeTimes(encoded: Uint8Array): BigInt64Array {
    const { calls } = this.#kernel;
    this.#take(encoded);
    const count = this.#fault(() => calls.countTimes(this.#places.encoded, encoded.length));
    if (count > MAX_SAMPLES) throw new FormatFault(0, `it claims to have ${count} samples`);
    if (this.#reserve(count)) this.#take(encoded);
    const { times, encoded: from } = this.#places;
    this.#fault(() => calls.decodeTimes(from, encoded.length, times, count));
    return new BigInt64Array(this.#kernel.bytes.buffer, times, count);
  }

  /**
   * The same for good: not to be changed, because all who ask for the same column share it. Most series of a target
   * are in different shards, whose filesets each have its times.
   * @throws FormatFault
   */
  keptTimes(encoded: Uint8Array): BigInt64Array {
    const key = Buffer.from(encoded.buffer, encoded.byteOffset, encoded.length).toString('latin1');
    const kept = this.#keptTimes.get(key)?.deref();
    if (kept) return kept;
    const times = this.decodeTimes(encoded).slice();
    if (this.#keptTimes.size >= MAX_KEPT_TIMES) this.#forgetTimes();
    this.#keptTimes.set(key, new WeakRef(times));
    return times;
  }

  /** Those that nobody has any more, or else all: they are made again. */
  #forgetTimes(): void {
    for (const [key, kept] of this.#keptTimes) if (!kept.deref()) this.#keptTimes.delete(key);
    if (this.#keptTimes.size >= MAX_KEPT_TIMES) this.#keptTimes.clear();
  }

  /**
   * @param start of the column in `encoded`, which ends with it
   * @throws FormatFault
   */
  decodeValues(encoded: Uint8Array, count: number, start = 0): BigUint64Array {
    const { calls } = this.#kernel;
    this.#reserve(count);
    this.#take(encoded);
    const { values, encoded: from } = this.#places;
    const fault = calls.decodeValues(from + start, encoded.length - start, count, values);
    if (fault < 0) this.#fault(() => fault);
    const { buffer } = this.#kernel.bytes;
    const last = this.#lastValues;
    // Most columns are as long as the one before.
    if (last.length === count && last.byteOffset === values && last.buffer === buffer) return last;
    this.#lastValues = new BigUint64Array(buffer, values, count);
    return this.#lastValues;
  }

  #take(encoded: Uint8Array): void {
    if (encoded.length + MARGIN_BYTES > this.#places.encodedBytes) {
      // As large as the column of so many samples that would need it.
      let count = Math.max(1024, this.#capacity);
      while (this.#kernel.calls.maxValueColumnBytes(count) < encoded.length + MARGIN_BYTES) count *= 2;
      if (count > MAX_SAMPLES) throw new FormatFault(0, `${encoded.length} bytes are no column`);
      this.#reserve(count);
    }
    this.#kernel.bytes.set(encoded, this.#places.encoded);
  }

  /** @throws STORAGE_OVERLOADED: the memory may be there later, so what asks for it is not damaged for that */
  #allocate(sizeBytes: number): Address {
    try {
      return this.#kernel.allocate(sizeBytes);
    } catch (error) {
      if (!(error instanceof KernelFault)) throw error;
      throw new VarveError(
        'STORAGE_OVERLOADED',
        `a series needs ${sizeBytes} bytes of memory to be decoded`,
        {
          hint: 'Repeat it later, or give the engine more memory.',
          cause: error,
        },
      );
    }
  }

  #fault(call: () => number): number {
    try {
      return checked(call());
    } catch (error) {
      if (error instanceof KernelFault) throw new FormatFault(0, error.message);
      throw error;
    }
  }

  /** True when the places have moved. */
  #reserve(count: number): boolean {
    if (count <= this.#capacity) return false;
    const { calls } = this.#kernel;
    let capacity = Math.max(1024, this.#capacity);
    while (capacity < count) capacity *= 2;
    const columnBytes = rounded(capacity * 8);
    const encodedBytes = rounded(
      Math.max(calls.maxValueColumnBytes(capacity), calls.maxTimeColumnBytes(capacity)),
    );
    const scratchBytes = rounded(
      Math.max(calls.valueScratchBytes(capacity), calls.timeScratchBytes(capacity)),
    );
    // In one piece: regions are not given back, so one that does not fit must not leave others behind.
    const times = this.#allocate(columnBytes * 2 + encodedBytes + scratchBytes);
    const values = times + columnBytes;
    const encoded = values + columnBytes;
    this.#places = { times, values, encoded, scratch: encoded + encodedBytes, encodedBytes };
    this.#capacity = capacity;
    return true;
  }
}

/** With the margin, to a multiple of what the kernel's regions are aligned to. */
function rounded(sizeBytes: number): number {
  return Math.ceil((sizeBytes + MARGIN_BYTES) / 64) * 64;
}

function bytesOf(column: BigInt64Array | BigUint64Array): Uint8Array {
  return new Uint8Array(column.buffer, column.byteOffset, column.byteLength);
}
