import { ByteReader } from './byte-reader.ts';
import { ByteWriter, varintSize } from './byte-writer.ts';
import { integersSize, readIntegers, writeIntegers } from './integer-column.ts';
import { KernelFault } from './kernel-fault.ts';

/**
 * The plain counterpart of `assembly/time-column.ts`: the timestamps of a block, in nanoseconds.
 * `docs/formats/sealed-block.md` draws the bytes.
 */
const REGULAR = 0;
const JITTER = 1;
const TICKS = 2;

const MAX_SPAN = 1n << 62n;

function greatestCommonDivisor(one: bigint, other: bigint): bigint {
  return other === 0n ? one : greatestCommonDivisor(other, one % other);
}

/** Encodes one or more ascending timestamps, all different. @throws KernelFault */
export function encodeTimes(times: BigInt64Array): Uint8Array {
  const first = times[0];
  if (first === undefined) throw new KernelFault('BAD_COUNT');
  const offsets = Array.from(times, (time) => time - first);
  const gaps = offsets.slice(1).map((offset, i) => offset - (offsets[i] ?? 0n));
  if (gaps.some((gap) => gap <= 0n)) throw new KernelFault('NOT_ASCENDING');
  const span = offsets.at(-1) ?? 0n;
  if (span > MAX_SPAN) throw new KernelFault('TOO_LARGE');
  const unit = gaps.reduce((one, other) => greatestCommonDivisor(one, other), 0n);
  const steps = BigInt(gaps.length);
  if (unit * steps === span) return withHead(REGULAR, times.length, first, unit).toBytes();
  const ticks = offsets.map((offset) => offset / unit);
  const step = (span / unit + steps / 2n) / steps;
  const jitter = ticks.map((tick, i) => tick - step * BigInt(i));
  if (varintSize(step) + integersSize(jitter, 'frame') <= integersSize(ticks, 'delta')) {
    const writer = withHead(JITTER, times.length, first, unit);
    writer.varint(step);
    writeIntegers(writer, jitter, 'frame');
    return writer.toBytes();
  }
  const writer = withHead(TICKS, times.length, first, unit);
  writeIntegers(writer, ticks, 'delta');
  return writer.toBytes();
}

function withHead(mode: number, count: number, first: bigint, unit: bigint): ByteWriter {
  const writer = new ByteWriter();
  writer.varint(mode);
  writer.varint(count);
  writer.zigzag(first);
  writer.varint(unit);
  return writer;
}

/** Decodes at most `capacity` timestamps. @throws KernelFault */
export function decodeTimes(bytes: Uint8Array, capacity: number): BigInt64Array {
  const reader = new ByteReader(bytes);
  const mode = reader.varint();
  const count = reader.varint();
  if (mode > TICKS) throw new KernelFault('BAD_HEADER');
  if (count === 0n || count > 0x7fff_ffffn) throw new KernelFault('BAD_COUNT');
  if (count > capacity) throw new KernelFault('TOO_LARGE');
  const first = reader.zigzag();
  const unit = reader.varint();
  const times = new BigInt64Array(Number(count));
  const regular = mode === BigInt(REGULAR);
  const step = mode === BigInt(JITTER) ? reader.varint() : 0n;
  const ticks = regular
    ? []
    : readIntegers(reader, times.length, step === 0n && mode !== BigInt(JITTER) ? 'delta' : 'frame');
  for (let i = 0; i < times.length; i++) {
    const tick = regular ? BigInt(i) : (ticks[i] ?? 0n) + step * BigInt(i);
    times[i] = first + unit * tick;
  }
  reader.end();
  return times;
}
