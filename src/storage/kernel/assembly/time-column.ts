// The timestamps of a block, shared by all series that were sampled at the same instants.
// `docs/formats/sealed-block.md` draws the bytes.
import { BAD_COUNT, BAD_HEADER, NOT_ASCENDING, TOO_LARGE, TRAILING_BYTES } from './fault';
import { DELTA, FRAME, integersSize, readIntegers, writeIntegers } from './integer-column';
import { MINI_BLOCK } from './mini-block';
import {
  cursor,
  readVarint,
  readZigzag,
  setCursor,
  startReading,
  varintFault,
  varintSize,
  writeVarint,
  writeZigzag,
} from './varint';

const REGULAR: u32 = 0;
/** Differences from `first + i * step`, as integers over the least of each mini-block. */
const JITTER: u32 = 1;
/** The ticks themselves, as differences. */
const TICKS: u32 = 2;

/** Further apart than 146 years is no block. */
const MAX_SPAN: u64 = 1 << 62;

@inline
function timeAt(times: usize, i: u32): i64 {
  return load<i64>(times + (<usize>i << 3));
}

export function maxTimeColumnBytes(count: u32): u32 {
  return 96 + 8 * count + 48 * ((count + MINI_BLOCK - 1) / MINI_BLOCK);
}

export function timeScratchBytes(count: u32): u32 {
  return 16 * count + 32;
}

/** Encodes `count` ascending timestamps, all different, and returns how many bytes it wrote. */
export function encodeTimes(times: usize, count: u32, out: usize, scratch: usize): i32 {
  if (count == 0) return BAD_COUNT;
  const first = timeAt(times, 0);
  for (let i: u32 = 1; i < count; i++) if (timeAt(times, i) <= timeAt(times, i - 1)) return NOT_ASCENDING;
  const span = <u64>(timeAt(times, count - 1) - first);
  if (span > MAX_SPAN) return TOO_LARGE;
  const unit = greatestCommonUnit(times, count);
  const regular = unit * <u64>(count - 1) == span;
  setCursor(out);
  if (regular) {
    writeHead(REGULAR, count, first, unit);
    return <i32>(cursor - out);
  }
  const ticks = scratch;
  const jitter = scratch + (<usize>count << 3);
  const step = (span / unit + (count - 1) / 2) / (count - 1);
  for (let i: u32 = 0; i < count; i++) {
    const tick = <u64>(timeAt(times, i) - first) / unit;
    store<u64>(ticks + (<usize>i << 3), tick);
    store<u64>(jitter + (<usize>i << 3), tick - step * i);
  }
  if (varintSize(step) + integersSize(jitter, count, FRAME) <= integersSize(ticks, count, DELTA)) {
    writeHead(JITTER, count, first, unit);
    writeVarint(step);
    writeIntegers(jitter, count, FRAME);
  } else {
    writeHead(TICKS, count, first, unit);
    writeIntegers(ticks, count, DELTA);
  }
  return <i32>(cursor - out);
}

/** The column of `count` timestamps that follow each other at equal steps, as `encodeTimes` writes it. */
export function encodeSteps(first: i64, step: i64, count: u32, out: usize): i32 {
  setCursor(out);
  writeHead(REGULAR, count, first, count > 1 ? step : 0);
  return <i32>(cursor - out);
}

function writeHead(mode: u32, count: u32, first: i64, unit: u64): void {
  writeVarint(mode);
  writeVarint(count);
  writeZigzag(first);
  writeVarint(unit);
}

/** The greatest number of nanoseconds that divides all differences; 0 for a single timestamp. */
function greatestCommonUnit(times: usize, count: u32): u64 {
  let unit: u64 = 0;
  for (let i: u32 = 1; i < count; i++) {
    let rest = <u64>(timeAt(times, i) - timeAt(times, i - 1));
    if (rest == unit) continue;
    while (rest != 0) {
      const next = unit % rest;
      unit = rest;
      rest = next;
    }
  }
  return unit;
}

let modeRead: u32 = 0;

/** How many timestamps the column holds, or a fault. */
export function countTimes(from: usize, length: u32): i32 {
  startReading(from);
  const mode = readVarint(from + length);
  const count = readVarint(from + length);
  if (varintFault != 0) return varintFault;
  if (mode > TICKS) return BAD_HEADER;
  modeRead = <u32>mode;
  return count == 0 || count > <u64>i32.MAX_VALUE ? BAD_COUNT : <i32>count;
}

/**
 * Decodes all timestamps and returns how many, or a fault: TOO_LARGE when they are more than `capacity`. The
 * output has room for `capacity` + 4, and 32 bytes may be read behind the input.
 */
export function decodeTimes(from: usize, length: u32, out: usize, capacity: u32): i32 {
  const count = countTimes(from, length);
  if (count < 0) return count;
  if (<u32>count > capacity) return TOO_LARGE;
  const end = from + length;
  const mode = modeRead;
  const first = readZigzag(end);
  const unit = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (mode == REGULAR) {
    for (let i: i32 = 0; i < count; i++) store<u64>(out + (<usize>i << 3), first + unit * i);
    return cursor == end ? count : TRAILING_BYTES;
  }
  const step = mode == JITTER ? readVarint(end) : 0;
  if (varintFault != 0) return varintFault;
  const fault = readIntegers(end, count, mode == JITTER ? FRAME : DELTA, 0, out);
  if (fault != 0) return fault;
  for (let i: i32 = 0; i < count; i++) {
    const place = out + (<usize>i << 3);
    store<u64>(place, first + unit * (load<u64>(place) + step * i));
  }
  return cursor == end ? count : TRAILING_BYTES;
}
