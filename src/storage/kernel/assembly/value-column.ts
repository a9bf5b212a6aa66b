// The values of one series in one block. `docs/formats/sealed-block.md` draws the bytes.
//
// A value is decimal if some d / 10^e is this very double, bit for bit; a column of such values is stored as
// the integers d. What is not (NaN, -0, infinities, full-precision doubles) is an exception with its 64 bits,
// or, if the column then gets smaller, the whole column is stored as the integers that the bits are.
import { BAD_COUNT, BAD_HEADER, BAD_OFFSET, BAD_WIDTH, TRAILING_BYTES, TRUNCATED } from './fault';
import {
  DELTA,
  FRAME,
  blockLeast,
  blockWidth,
  frameBlock,
  integersSize,
  openBlock,
  readIntegers,
  startBlocks,
  sumBlock,
  writeIntegers,
} from './integer-column';
import { MINI_BLOCK, packedBytes, unpackRow, widthMask } from './mini-block';
import {
  cursor,
  readVarint,
  readZigzag,
  setCursor,
  startReading,
  varintFault,
  varintSize,
  writeVarint,
} from './varint';

const MODE: u32 = 3;
const CONSTANT: u32 = 0;
const BITS: u32 = 4;
const EXCEPTIONS: u32 = 8;
const KNOWN_FLAGS: u32 = 15;

const MAX_EXPONENT: i32 = 18;
/** Below it, d and the sums of the decoder are exact in a double. */
const MAX_DECIMAL: f64 = 2251799813685248.0;
const SAMPLES: u32 = 32;
/** 1.5 * 2^52. */
const SHIFT: f64 = 6755399441055744.0;

const powers: usize = memory.data<f64>(
  [1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18],
  16,
);
/** How many samples need which exponent; the last place is for those that no exponent makes whole. */
const needs: usize = memory.data(80, 16);

@inline
function power(exponent: i32): f64 {
  return load<f64>(powers + (<usize>exponent << 3));
}

@inline
function bitsAt(values: usize, i: u32): u64 {
  return load<u64>(values + (<usize>i << 3));
}

// Adding zero makes -0 zero, so that -0, which no integer is, does not count as decimal.
@inline
function isDecimal(bits: u64, scale: f64): bool {
  const scaled = reinterpret<f64>(bits) * scale;
  if (!(abs(scaled) < MAX_DECIMAL)) return false;
  return reinterpret<u64>((nearest(scaled) + 0.0) / scale) == bits;
}

/** The greatest exponent that keeps a positive number below MAX_DECIMAL, or -1. */
function greatestExponent(size: f64): i32 {
  if (!(size < MAX_DECIMAL)) return -1;
  // By its power of two; the estimate is at most one too great.
  const binary = <i32>(reinterpret<u64>(size) >> 52) - 1023;
  let exponent = min(MAX_EXPONENT, ((51 - binary) * 1233 >> 12) + 1);
  while (size * power(exponent) >= MAX_DECIMAL) exponent--;
  return exponent;
}

/**
 * The least exponent that makes the value whole, or MAX_EXPONENT + 1. What one exponent makes whole all greater ones do
 * as long as it stays below MAX_DECIMAL: so `near`, which may be any, is asked first, and then the greatest.
 */
function exponentOf(bits: u64, near: i32): i32 {
  const greatest = greatestExponent(abs(reinterpret<f64>(bits)));
  let exponent = min(near, greatest);
  if (exponent < 0) return MAX_EXPONENT + 1;
  if (isDecimal(bits, power(exponent))) {
    while (exponent > 0 && isDecimal(bits, power(exponent - 1))) exponent--;
    return exponent;
  }
  if (exponent == greatest || !isDecimal(bits, power(greatest))) return MAX_EXPONENT + 1;
  while (!isDecimal(bits, power(++exponent)));
  return exponent;
}

/** The exponent with the least cost among every `stride`-th value: a digit is 3.3 bits, an exception 80. */
function chooseExponent(values: usize, count: u32, stride: u32): i32 {
  memory.fill(needs, 0, 80);
  let samples: u32 = 0;
  let exponent = 0;
  for (let i: u32 = 0; i < count; i += stride) {
    exponent = exponentOf(bitsAt(values, i), exponent);
    const place = needs + (<usize>exponent << 2);
    store<u32>(place, load<u32>(place) + 1);
    samples++;
  }
  let beyond = samples;
  let best = 0;
  let bestCost = u64.MAX_VALUE;
  for (exponent = 0; exponent <= MAX_EXPONENT; exponent++) {
    beyond -= load<u32>(needs + (<usize>exponent << 2));
    const cost = 33 * <u64>exponent * <u64>samples + 800 * <u64>beyond;
    if (cost < bestCost) {
      best = exponent;
      bestCost = cost;
    }
  }
  return best;
}

/** Fills in the integers; returns how many values are exceptions, whose places go to `exceptions`. */
function toIntegers(values: usize, count: u32, exponent: i32, integers: usize, exceptions: usize): u32 {
  const scale = power(exponent);
  let excepted: u32 = 0;
  let previous: i64 = 0;
  let i: u32 = 0;
  const scales = f64x2.splat(scale);
  for (; i + 2 <= count; i += 2) {
    const place = <usize>i << 3;
    const pair = v128.load(values + place);
    const scaled = f64x2.mul(pair, scales);
    const whole = f64x2.add(f64x2.nearest(scaled), f64x2.splat(0));
    const same = i64x2.eq(f64x2.div(whole, scales), pair);
    const small = f64x2.lt(f64x2.abs(scaled), f64x2.splat(MAX_DECIMAL));
    if (!i64x2.all_true(v128.and(same, small))) break;
    // A number that large has its integer in its lowest bits.
    const integer = i64x2.sub(f64x2.add(whole, f64x2.splat(SHIFT)), i64x2.splat(reinterpret<i64>(SHIFT)));
    v128.store(integers + place, integer);
  }
  if (i > 0) previous = load<i64>(integers + (<usize>(i - 1) << 3));
  for (; i < count; i++) {
    const bits = bitsAt(values, i);
    if (isDecimal(bits, scale)) {
      previous = <i64>nearest(reinterpret<f64>(bits) * scale);
      // Exceptions before the first decimal take its integer, which costs least.
      if (excepted == i) for (let j: u32 = 0; j < i; j++) store<i64>(integers + (<usize>j << 3), previous);
    } else {
      store<u32>(exceptions + (<usize>excepted << 2), i);
      excepted++;
    }
    store<i64>(integers + (<usize>i << 3), previous);
  }
  return excepted;
}

/** Cuts the zero bits that all integers end with; returns how many. */
function cutZeros(integers: usize, count: u32): u32 {
  let all: u64 = 0;
  for (let i: u32 = 0; i < count; i++) all |= bitsAt(integers, i);
  const zeros = all == 0 ? 0 : <u32>ctz(all);
  if (zeros > 0) {
    for (let i: u32 = 0; i < count; i++) {
      const place = integers + (<usize>i << 3);
      store<i64>(place, load<i64>(place) >> zeros);
    }
  }
  return zeros;
}

let bestMode: u32 = 0;

function bestSize(integers: usize, count: u32): u32 {
  const frame = integersSize(integers, count, FRAME);
  const delta = integersSize(integers, count, DELTA);
  bestMode = delta < frame ? DELTA : FRAME;
  return min(frame, delta);
}

function exceptionsSize(exceptions: usize, excepted: u32): u32 {
  if (excepted == 0) return 0;
  let size = varintSize(excepted) + 8 * excepted;
  let previous: u32 = 0;
  for (let i: u32 = 0; i < excepted; i++) {
    const place = load<u32>(exceptions + (<usize>i << 2));
    size += varintSize(place - previous);
    previous = place;
  }
  return size;
}

/** No column of so many values is longer. */
export function maxValueColumnBytes(count: u32): u32 {
  return 96 + 9 * count + 48 * ((count + MINI_BLOCK - 1) / MINI_BLOCK);
}

/** Scratch that `encodeValues` needs. */
export function valueScratchBytes(count: u32): u32 {
  return 20 * count + 32;
}

/**
 * Encodes `count` doubles and returns how many bytes it wrote, at most `maxValueColumnBytes(count)`.
 */
export function encodeValues(values: usize, count: u32, out: usize, scratch: usize): i32 {
  if (count == 0) return BAD_COUNT;
  setCursor(out);
  if (areSame(values, count)) return encodeConstant(values, out);
  return encodeVarying(values, count, out, scratch);
}

/**
 * The same, mostly without a search for the exponent: `like` is a column of values of the same kind, those before in
 * their series. What it writes may be a little longer.
 */
export function encodeValuesLike(values: usize, count: u32, out: usize, scratch: usize, like: usize): i32 {
  if (count == 0) return BAD_COUNT;
  setCursor(out);
  if (areSame(values, count)) return encodeConstant(values, out);
  const flags = <u32>load<u8>(like);
  const raw = scratch + (<usize>count << 3);
  if (flags & BITS) {
    // Values that are whole with some exponent have no reason to be stored as bits any more.
    const wasWhole = isWhole(bitsAt(values, 0)) || isWhole(bitsAt(values, count - 1));
    if (wasWhole) return encodeVarying(values, count, out, scratch);
    memory.copy(raw, values, <usize>count << 3);
    const zeros = cutZeros(raw, count);
    bestSize(raw, count);
    writeHead(bestMode | BITS, 0, zeros);
    writeIntegers(raw, count, bestMode);
    return <i32>(cursor - out);
  }
  const exponent = <i32>load<u8>(like, 1);
  if (flags == FRAME || flags == DELTA) {
    if (toIntegers(values, count, exponent, scratch, raw) == 0) {
      const zeros = cutZeros(scratch, count);
      bestSize(scratch, count);
      writeHead(bestMode, exponent, zeros);
      writeIntegers(scratch, count, bestMode);
      return <i32>(cursor - out);
    }
  }
  return encodeVarying(values, count, out, scratch);
}

@inline
function isWhole(bits: u64): bool {
  return exponentOf(bits, 0) <= MAX_EXPONENT;
}

@inline
function areSame(values: usize, count: u32): bool {
  const first = bitsAt(values, 0);
  for (let i: u32 = 1; i < count; i++) if (bitsAt(values, i) != first) return false;
  return true;
}

function encodeConstant(values: usize, out: usize): i32 {
  writeVarint(CONSTANT);
  writeVarint(bswap(bitsAt(values, 0)));
  return <i32>(cursor - out);
}

function encodeVarying(values: usize, count: u32, out: usize, scratch: usize): i32 {
  const integers = scratch;
  const raw = scratch + (<usize>count << 3);
  const exceptions = raw + (<usize>count << 3);
  let exponent = chooseExponent(values, count, max(1, count / SAMPLES));
  let excepted = toIntegers(values, count, exponent, integers, exceptions);
  if (excepted > 0 && excepted * 16 > count && excepted * 2 < count) {
    exponent = chooseExponent(values, count, 1);
    excepted = toIntegers(values, count, exponent, integers, exceptions);
  }
  let size = u32.MAX_VALUE;
  let zeros: u32 = 0;
  let mode: u32 = 0;
  if (excepted < count) {
    zeros = cutZeros(integers, count);
    size = bestSize(integers, count) + exceptionsSize(exceptions, excepted);
    mode = bestMode;
  }
  if (excepted * 8 > count) {
    memory.copy(raw, values, <usize>count << 3);
    const rawZeros = cutZeros(raw, count);
    if (bestSize(raw, count) <= size) {
      writeHead(bestMode | BITS, 0, rawZeros);
      writeIntegers(raw, count, bestMode);
      return <i32>(cursor - out);
    }
  }
  writeHead(excepted > 0 ? mode | EXCEPTIONS : mode, exponent, zeros);
  writeIntegers(integers, count, mode);
  if (excepted > 0) writeExceptions(values, exceptions, excepted);
  return <i32>(cursor - out);
}

function writeHead(flags: u32, exponent: i32, zeros: u32): void {
  store<u8>(cursor, <u8>flags);
  store<u8>(cursor, <u8>exponent, 1);
  store<u8>(cursor, <u8>zeros, 2);
  setCursor(cursor + 3);
}

function writeExceptions(values: usize, exceptions: usize, excepted: u32): void {
  writeVarint(excepted);
  let previous: u32 = 0;
  for (let i: u32 = 0; i < excepted; i++) {
    const place = load<u32>(exceptions + (<usize>i << 2));
    writeVarint(place - previous);
    previous = place;
    store<u64>(cursor, bitsAt(values, place));
    setCursor(cursor + 8);
  }
}

/**
 * Decodes `count` doubles; returns 0 or a fault. The output has room for four more, and 32 bytes may be read
 * behind the input.
 */
export function decodeValues(from: usize, length: u32, count: u32, out: usize): i32 {
  if (count == 0) return BAD_COUNT;
  if (length == 0) return TRUNCATED;
  const end = from + length;
  const flags = <u32>load<u8>(from);
  const mode = flags & MODE;
  startReading(from + 1);
  if (flags == CONSTANT) {
    const bits = bswap(readVarint(end));
    if (varintFault != 0) return varintFault;
    const pair = i64x2.splat(bits);
    for (let i: u32 = 0; i < count; i += 2) v128.store(out + (<usize>i << 3), pair);
    return cursor == end ? 0 : TRAILING_BYTES;
  }
  if (flags > KNOWN_FLAGS || mode == CONSTANT || mode == MODE || flags >= (BITS | EXCEPTIONS)) return BAD_HEADER;
  if (length < 3) return TRUNCATED;
  const exponent = <i32>load<u8>(from, 1);
  const zeros = <i32>load<u8>(from, 2);
  if (zeros > 63 || exponent > (flags & BITS ? 0 : MAX_EXPONENT)) return BAD_HEADER;
  startReading(from + 3);
  const fault =
    flags & BITS
      ? readIntegers(end, count, mode, zeros, out)
      : readDecimals(end, count, mode, exponent, zeros, out);
  if (fault != 0) return fault;
  if (flags & EXCEPTIONS) {
    const bad = readExceptions(end, count, out);
    if (bad != 0) return bad;
  }
  return cursor == end ? 0 : TRAILING_BYTES;
}

function readExceptions(end: usize, count: u32, out: usize): i32 {
  const excepted = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (excepted > count || excepted == 0) return BAD_COUNT;
  let place: u64 = 0;
  for (let i: u64 = 0; i < excepted; i++) {
    const step = readVarint(end);
    if (varintFault != 0) return varintFault;
    if (step >= count || (i > 0 && step == 0)) return BAD_OFFSET;
    place += step;
    if (place >= count) return BAD_OFFSET;
    if (end - cursor < 8) return TRUNCATED;
    store<u64>(out + (<usize>place << 3), load<u64>(cursor));
    setCursor(cursor + 8);
  }
  return 0;
}

function readDecimals(end: usize, count: u32, mode: u32, exponent: i32, zeros: i32, out: usize): i32 {
  // 2^zeros scales exactly, so x / (10^e / 2^zeros) is the double that (x * 2^zeros) / 10^e is.
  const shift = reinterpret<f64>(<u64>(1023 + zeros) << 52);
  const divides = exponent > 0;
  const scale = divides ? power(exponent) / shift : shift;
  let from: u32 = 0;
  let last: i64 = 0;
  if (mode == DELTA) {
    last = readZigzag(end);
    if (varintFault != 0) return varintFault;
    store<f64>(out, divides ? <f64>last / scale : <f64>last * scale);
    from = 1;
  }
  startBlocks();
  for (; from < count; from += MINI_BLOCK) {
    const inBlock = min(MINI_BLOCK, count - from);
    const fault = openBlock(inBlock, end);
    if (fault != 0) return fault;
    if (blockWidth > 54) return BAD_WIDTH;
    const to = out + (<usize>from << 3);
    if (mode == DELTA) {
      if (blockWidth > 24) last = wideSums(cursor, inBlock, last, scale, divides, to);
      else if (divides) last = sums(cursor, inBlock, last, scale, to, true);
      else last = sums(cursor, inBlock, last, scale, to, false);
    } else {
      if (blockWidth > 31) wideFrame(cursor, inBlock, scale, divides, to);
      else if (divides) frame(cursor, inBlock, scale, to, true);
      else frame(cursor, inBlock, scale, to, false);
    }
    setCursor(cursor + packedBytes(inBlock, blockWidth));
  }
  return 0;
}

@inline
function scaled(numbers: v128, scale: v128, divides: bool): v128 {
  return divides ? f64x2.div(numbers, scale) : f64x2.mul(numbers, scale);
}

/** Numbers below 2^31 over a least number: signed conversion is one instruction. */
@inline
function frame(plane: usize, count: u32, factor: f64, out: usize, divides: bool): void {
  const rows = (count + 3) >> 2;
  const bits = blockWidth;
  const mask = widthMask(bits);
  const scale = f64x2.splat(factor);
  const base = f64x2.splat(<f64>blockLeast);
  for (let row: u32 = 0, bit: u32 = 0; row < rows; row++, bit += bits, out += 32) {
    const four = unpackRow(plane, bit, mask);
    const low = f64x2.add(base, f64x2.convert_low_i32x4_s(four));
    const high = f64x2.add(base, f64x2.convert_low_i32x4_s(v128.shuffle<i32>(four, four, 2, 3, 2, 3)));
    v128.store(out, scaled(low, scale, divides));
    v128.store(out, scaled(high, scale, divides), 16);
  }
}

/**
 * Differences of at most 24 bits: the sums of a mini-block stay below 2^31, so they are made of 32-bit lanes,
 * and the least difference is added as a ramp of doubles. Returns the last number.
 */
@inline
function sums(plane: usize, count: u32, first: i64, factor: f64, out: usize, divides: bool): i64 {
  const rows = (count + 3) >> 2;
  const bits = blockWidth;
  const mask = widthMask(bits);
  const scale = f64x2.splat(factor);
  const least = <f64>blockLeast;
  const start = <f64>first;
  let rampLow = f64x2.replace_lane(f64x2.splat(start + least), 1, start + least * 2);
  let rampHigh = f64x2.replace_lane(f64x2.splat(start + least * 3), 1, start + least * 4);
  const ramp = f64x2.splat(least * 4);
  const zero = i32x4.splat(0);
  let carry = zero;
  for (let row: u32 = 0, bit: u32 = 0; row < rows; row++, bit += bits, out += 32) {
    const four = unpackRow(plane, bit, mask);
    const two = i32x4.add(four, v128.shuffle<i32>(zero, four, 0, 4, 5, 6));
    const local = i32x4.add(two, v128.shuffle<i32>(zero, two, 0, 0, 4, 5));
    const sum = i32x4.add(local, carry);
    carry = v128.shuffle<i32>(sum, sum, 3, 3, 3, 3);
    const low = f64x2.add(rampLow, f64x2.convert_low_i32x4_s(sum));
    const high = f64x2.add(rampHigh, f64x2.convert_low_i32x4_s(v128.shuffle<i32>(sum, sum, 2, 3, 2, 3)));
    rampLow = f64x2.add(rampLow, ramp);
    rampHigh = f64x2.add(rampHigh, ramp);
    v128.store(out, scaled(low, scale, divides));
    v128.store(out, scaled(high, scale, divides), 16);
  }
  return first + blockLeast * <i64>count + <i64>i32x4.extract_lane(carry, 0);
}

function wideFrame(plane: usize, count: u32, factor: f64, divides: bool, out: usize): void {
  frameBlock(plane, count, 0, out);
  toDoubles(count, factor, divides, out);
}

function wideSums(plane: usize, count: u32, first: i64, factor: f64, divides: bool, out: usize): i64 {
  const last = sumBlock(plane, count, first, 0, out);
  toDoubles(count, factor, divides, out);
  return last;
}

function toDoubles(count: u32, factor: f64, divides: bool, out: usize): void {
  for (let i: u32 = 0; i < count; i++) {
    const place = out + (<usize>i << 3);
    const number = <f64>load<i64>(place);
    store<f64>(place, divides ? number / factor : number * factor);
  }
}
