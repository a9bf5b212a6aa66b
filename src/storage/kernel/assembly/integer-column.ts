// A run of 64-bit integers as mini-blocks: either the numbers over the least of each mini-block ("frame of
// reference"), or the first number and then the differences, again over the least of each mini-block.
// All arithmetic wraps at 64 bits, so every sequence of integers can be stored.
import { BAD_WIDTH, TRUNCATED } from './fault';
import { MINI_BLOCK, highPlane, pack, packedBytes, put, putFour, unpackRow, widthMask } from './mini-block';
import {
  cursor,
  readVarint,
  readZigzag,
  setCursor,
  varintFault,
  writeVarint,
  writeZigzag,
  zigzagSize,
} from './varint';

export const FRAME: u32 = 1;
export const DELTA: u32 = 2;

let least: i64 = 0;
let width: u32 = 0;

@inline
function at(numbers: usize, i: u32): i64 {
  return load<i64>(numbers + (<usize>i << 3));
}

/** Two numbers from a place on, or their differences from those before. */
@inline
function two(place: usize, delta: bool): v128 {
  return delta ? i64x2.sub(v128.load(place), v128.load(place - 8)) : v128.load(place);
}

@inline
function measure(numbers: usize, from: u32, to: u32, delta: bool): void {
  let low = i64.MAX_VALUE;
  let high = i64.MIN_VALUE;
  let i = from;
  if (to - from >= 4) {
    let lows = i64x2.splat(low);
    let highs = i64x2.splat(high);
    let place = numbers + (<usize>from << 3);
    for (; i + 2 <= to; i += 2, place += 16) {
      const some = two(place, delta);
      lows = v128.bitselect(some, lows, i64x2.lt_s(some, lows));
      highs = v128.bitselect(some, highs, i64x2.gt_s(some, highs));
    }
    low = min(i64x2.extract_lane(lows, 0), i64x2.extract_lane(lows, 1));
    high = max(i64x2.extract_lane(highs, 0), i64x2.extract_lane(highs, 1));
  }
  for (; i < to; i++) {
    const number = delta ? at(numbers, i) - at(numbers, i - 1) : at(numbers, i);
    low = min(low, number);
    high = max(high, number);
  }
  least = low;
  width = 64 - <u32>clz(high - low);
}

/** Sets the mini-block that is packed next to numbers, or their differences, over the least. */
@inline
function putAll(numbers: usize, from: u32, to: u32, delta: bool): void {
  const base = i64x2.splat(least);
  let place = numbers + (<usize>from << 3);
  let i = from;
  for (; i + 4 <= to; i += 4, place += 32) {
    putFour(i - from, i64x2.sub(two(place, delta), base), i64x2.sub(two(place + 16, delta), base));
  }
  for (; i < to; i++) put(i - from, (delta ? at(numbers, i) - at(numbers, i - 1) : at(numbers, i)) - least);
}

/** Bytes that `writeIntegers` will write. */
export function integersSize(numbers: usize, count: u32, mode: u32): u32 {
  const delta = mode == DELTA;
  let size: u32 = delta ? zigzagSize(at(numbers, 0)) : 0;
  let previous: i64 = 0;
  for (let from: u32 = delta ? 1 : 0; from < count; from += MINI_BLOCK) {
    const to = min(from + MINI_BLOCK, count);
    if (delta) measure(numbers, from, to, true);
    else measure(numbers, from, to, false);
    size += 1 + zigzagSize(least - previous) + packedBytes(to - from, width);
    previous = least;
  }
  return size;
}

/** Writes at the cursor. */
export function writeIntegers(numbers: usize, count: u32, mode: u32): void {
  const delta = mode == DELTA;
  if (delta) writeZigzag(at(numbers, 0));
  let previous: i64 = 0;
  for (let from: u32 = delta ? 1 : 0; from < count; from += MINI_BLOCK) {
    const to = min(from + MINI_BLOCK, count);
    if (delta) measure(numbers, from, to, true);
    else measure(numbers, from, to, false);
    writeVarint(<u64>width);
    writeZigzag(least - previous);
    previous = least;
    if (delta) putAll(numbers, from, to, true);
    else putAll(numbers, from, to, false);
    setCursor(pack(to - from, width, cursor));
  }
}

/** What `openBlock` found: the width, and the least number. */
export let blockWidth: u32 = 0;
export let blockLeast: i64 = 0;

/** Reads the head of a mini-block and checks that it is whole. `blockLeast` must hold the one before, or 0. */
@inline
export function openBlock(count: u32, end: usize): i32 {
  const bits = readVarint(end);
  blockLeast += readZigzag(end);
  if (varintFault != 0) return varintFault;
  if (bits > 64) return BAD_WIDTH;
  blockWidth = <u32>bits;
  if (packedBytes(count, blockWidth) > <u32>(end - cursor)) return TRUNCATED;
  return 0;
}

export function startBlocks(): void {
  blockLeast = 0;
}

/** Reads `count` integers at the cursor, each shifted left by `shift`; the output has room for three more. */
export function readIntegers(end: usize, count: u32, mode: u32, shift: i32, out: usize): i32 {
  let from: u32 = 0;
  let last: i64 = 0;
  if (mode == DELTA) {
    last = readZigzag(end);
    if (varintFault != 0) return varintFault;
    store<i64>(out, last << shift);
    from = 1;
  }
  startBlocks();
  for (; from < count; from += MINI_BLOCK) {
    const inBlock = min(MINI_BLOCK, count - from);
    const fault = openBlock(inBlock, end);
    if (fault != 0) return fault;
    const to = out + (<usize>from << 3);
    if (mode == DELTA) last = sumBlock(cursor, inBlock, last, shift, to);
    else frameBlock(cursor, inBlock, shift, to);
    setCursor(cursor + packedBytes(inBlock, blockWidth));
  }
  return 0;
}

/** Four numbers of a row as 64-bit lanes, the first two or the last two. */
@inline
function wide(low: v128, high: v128, isWide: bool, first: bool): v128 {
  const bottom = first ? i64x2.extend_low_i32x4_u(low) : i64x2.extend_high_i32x4_u(low);
  if (!isWide) return bottom;
  const top = first ? i64x2.extend_low_i32x4_u(high) : i64x2.extend_high_i32x4_u(high);
  return v128.or(bottom, i64x2.shl(top, 32));
}

@inline
function frameRows(plane: usize, count: u32, shift: i32, out: usize, isWide: bool): void {
  const lowBits = isWide ? 32 : blockWidth;
  const highBits = isWide ? blockWidth - 32 : 0;
  const lowMask = widthMask(lowBits);
  const highMask = widthMask(highBits);
  const upper = highPlane(plane, count);
  const base = i64x2.splat(blockLeast);
  const rows = (count + 3) >> 2;
  for (let row: u32 = 0; row < rows; row++, out += 32) {
    const low = unpackRow(plane, row * lowBits, lowMask);
    const high = isWide ? unpackRow(upper, row * highBits, highMask) : low;
    v128.store(out, i64x2.shl(i64x2.add(base, wide(low, high, isWide, true)), shift));
    v128.store(out, i64x2.shl(i64x2.add(base, wide(low, high, isWide, false)), shift), 16);
  }
}

export function frameBlock(plane: usize, count: u32, shift: i32, out: usize): void {
  if (blockWidth > 32) frameRows(plane, count, shift, out, true);
  else frameRows(plane, count, shift, out, false);
}

@inline
function pairSum(pair: v128): v128 {
  return i64x2.add(pair, v128.shuffle<i64>(i64x2.splat(0), pair, 0, 2));
}

@inline
function sumRows(plane: usize, count: u32, first: i64, shift: i32, out: usize, isWide: bool): void {
  const lowBits = isWide ? 32 : blockWidth;
  const highBits = isWide ? blockWidth - 32 : 0;
  const lowMask = widthMask(lowBits);
  const highMask = widthMask(highBits);
  const upper = highPlane(plane, count);
  const base = i64x2.splat(blockLeast);
  const rows = (count + 3) >> 2;
  let carry = i64x2.splat(first);
  for (let row: u32 = 0; row < rows; row++, out += 32) {
    const low = unpackRow(plane, row * lowBits, lowMask);
    const high = isWide ? unpackRow(upper, row * highBits, highMask) : low;
    const one = i64x2.add(carry, pairSum(i64x2.add(base, wide(low, high, isWide, true))));
    carry = v128.shuffle<i64>(one, one, 1, 1);
    const two = i64x2.add(carry, pairSum(i64x2.add(base, wide(low, high, isWide, false))));
    carry = v128.shuffle<i64>(two, two, 1, 1);
    v128.store(out, i64x2.shl(one, shift));
    v128.store(out, i64x2.shl(two, shift), 16);
  }
}

/** Returns the last number, unshifted. */
export function sumBlock(plane: usize, count: u32, first: i64, shift: i32, out: usize): i64 {
  if (blockWidth > 32) sumRows(plane, count, first, shift, out, true);
  else sumRows(plane, count, first, shift, out, false);
  return load<i64>(out + (<usize>(count - 1) << 3)) >> shift;
}
