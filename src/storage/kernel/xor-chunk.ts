import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';

/**
 * The plain counterpart of `assembly/xor-chunk.ts`: Prometheus' XOR chunk (tsdb/chunkenc/xor.go, 2.42), bit by
 * bit. Times are in whatever unit the caller has; Prometheus' is the millisecond.
 */
export interface Samples {
  readonly times: BigInt64Array;
  /** The bits of doubles. */
  readonly values: BigUint64Array;
}

const DOD_PREFIXES = [
  { prefix: 0b10n, prefixBits: 2, bits: 14 },
  { prefix: 0b110n, prefixBits: 3, bits: 17 },
  { prefix: 0b1110n, prefixBits: 4, bits: 20 },
] as const;

class BitWriter {
  readonly #writer: ByteWriter;
  #byte = 0;
  #filled = 0;

  constructor(writer: ByteWriter) {
    this.#writer = writer;
  }

  write(value: bigint, bits: number): void {
    for (let i = bits - 1; i >= 0; i--) {
      this.#byte = (this.#byte << 1) | Number((value >> BigInt(i)) & 1n);
      if (++this.#filled === 8) {
        this.#writer.byte(this.#byte);
        this.#byte = 0;
        this.#filled = 0;
      }
    }
  }

  close(): void {
    if (this.#filled > 0) this.write(0n, 8 - this.#filled);
  }
}

class BitReader {
  readonly #reader: ByteReader;
  #byte = 0;
  #left = 0;

  constructor(reader: ByteReader) {
    this.#reader = reader;
  }

  read(bits: number): bigint {
    let value = 0n;
    for (let i = 0; i < bits; i++) {
      if (this.#left === 0) {
        this.#byte = this.#reader.byte();
        this.#left = 8;
      }
      this.#left--;
      value = (value << 1n) | BigInt((this.#byte >> this.#left) & 1);
    }
    return value;
  }
}

function leadingZeros(value: bigint): number {
  return 64 - value.toString(2).length;
}

function trailingZeros(value: bigint): number {
  let zeros = 0;
  while (((value >> BigInt(zeros)) & 1n) === 0n) zeros++;
  return zeros;
}

/** Encodes 1 to 65,535 samples. @throws KernelFault BAD_COUNT */
export function encodeXorChunk({ times, values }: Samples): Uint8Array {
  const count = times.length;
  if (count === 0 || count > 65_535) throw new KernelFault('BAD_COUNT');
  const writer = new ByteWriter();
  writer.append([count >> 8, count & 255]);
  writer.zigzag(times[0] ?? 0n);
  writer.bigEndian64(values[0] ?? 0n);
  if (count === 1) return writer.toBytes();
  const deltas = Array.from(times, (time, i) => BigInt.asIntN(64, time - (times[i - 1] ?? time)));
  writer.varint(deltas[1] ?? 0n);
  const bits = new BitWriter(writer);
  let window: { leading: number; trailing: number } | undefined;
  for (let i = 1; i < count; i++) {
    if (i > 1) writeTime(bits, BigInt.asIntN(64, (deltas[i] ?? 0n) - (deltas[i - 1] ?? 0n)));
    const xor = (values[i] ?? 0n) ^ (values[i - 1] ?? 0n);
    if (xor === 0n) {
      bits.write(0n, 1);
      continue;
    }
    const leading = Math.min(leadingZeros(xor), 31);
    const trailing = trailingZeros(xor);
    if (window !== undefined && leading >= window.leading && trailing >= window.trailing) {
      bits.write(0b10n, 2);
    } else {
      window = { leading, trailing };
      bits.write(0b11n, 2);
      bits.write(BigInt(leading), 5);
      bits.write(BigInt((64 - leading - trailing) & 63), 6);
    }
    bits.write(xor >> BigInt(window.trailing), 64 - window.leading - window.trailing);
  }
  bits.close();
  return writer.toBytes();
}

function writeTime(bits: BitWriter, dod: bigint): void {
  if (dod === 0n) return bits.write(0n, 1);
  for (const { prefix, prefixBits, bits: size } of DOD_PREFIXES) {
    const half = 1n << BigInt(size - 1);
    if (dod < 1n - half || dod > half) continue;
    bits.write(prefix, prefixBits);
    return bits.write(BigInt.asUintN(size, dod), size);
  }
  bits.write(0b1111n, 4);
  bits.write(BigInt.asUintN(64, dod), 64);
}

/** Decodes a chunk of at most `capacity` samples. @throws KernelFault */
export function decodeXorChunk(bytes: Uint8Array, capacity: number): Samples {
  const reader = new ByteReader(bytes);
  const count = reader.byte() * 256 + reader.byte();
  if (count > capacity) throw new KernelFault('TOO_LARGE');
  const times = new BigInt64Array(count);
  const values = new BigUint64Array(count);
  if (count > 0) {
    times[0] = reader.zigzag();
    values[0] = reader.bigEndian64();
  }
  const bits = new BitReader(reader);
  let delta = count > 1 ? reader.varint() : 0n;
  let leading = 0;
  let significant = 64;
  for (let i = 1; i < count; i++) {
    if (i > 1) delta += readTime(bits);
    times[i] = (times[i - 1] ?? 0n) + delta;
    let value = values[i - 1] ?? 0n;
    if (bits.read(1) === 1n) {
      if (bits.read(1) === 1n) {
        leading = Number(bits.read(5));
        significant = Number(bits.read(6)) || 64;
        if (leading + significant > 64) throw new KernelFault('BAD_WIDTH');
      }
      value ^= bits.read(significant) << BigInt(64 - leading - significant);
    }
    values[i] = value;
  }
  reader.end();
  return { times, values };
}

function readTime(bits: BitReader): bigint {
  let ones = 0;
  while (ones < 4 && bits.read(1) === 1n) ones++;
  if (ones === 0) return 0n;
  const size = DOD_PREFIXES[ones - 1]?.bits;
  if (size === undefined) return bits.read(64);
  const dod = bits.read(size);
  return dod > 1n << BigInt(size - 1) ? dod - (1n << BigInt(size)) : dod;
}
