// A mini-block holds up to 128 unsigned numbers of one width. Number i is in lane i % 4 of row i / 4, and a
// lane packs its rows into 32-bit words from the lowest bit up, so that four numbers are unpacked at once.
// Widths above 32 are two planes: all low words first, then what is above bit 32.

export const MINI_BLOCK: u32 = 128;

/** The low and high words of the mini-block that is packed. */
const planes: usize = memory.data(1024, 16);
const LOW: usize = 0;
const HIGH: usize = 512;

/** Bytes of one plane: the words of its lanes, as many as its rows need. */
@inline
function planeBytes(rows: u32, width: u32): u32 {
  return ((rows * width + 31) >> 5) << 4;
}

/** Bytes of `count` numbers of `width` bits. */
export function packedBytes(count: u32, width: u32): u32 {
  const rows = (count + 3) >> 2;
  return width <= 32 ? planeBytes(rows, width) : planeBytes(rows, 32) + planeBytes(rows, width - 32);
}

/** Sets number `index` of the mini-block that is packed next. */
@inline
export function put(index: u32, value: u64): void {
  store<u32>(planes + LOW + (index << 2), <u32>value);
  store<u32>(planes + HIGH + (index << 2), <u32>(value >> 32));
}

/** Sets four numbers from `index`, which is a multiple of 4. */
@inline
export function putFour(index: u32, one: v128, two: v128): void {
  v128.store(planes + LOW + (index << 2), v128.shuffle<i32>(one, two, 0, 2, 4, 6));
  v128.store(planes + HIGH + (index << 2), v128.shuffle<i32>(one, two, 1, 3, 5, 7));
}

/** Packs the `count` numbers that were put, and returns the end of what it wrote. */
export function pack(count: u32, width: u32, out: usize): usize {
  for (let i = count; i & 3; i++) put(i, 0);
  const rows = (count + 3) >> 2;
  if (width <= 32) return packPlane(planes + LOW, rows, width, out);
  return packPlane(planes + HIGH, rows, width - 32, packPlane(planes + LOW, rows, 32, out));
}

function packPlane(from: usize, rows: u32, width: u32, out: usize): usize {
  if (width == 0) return out;
  let word = i32x4.splat(0);
  let filled: u32 = 0;
  for (let row: u32 = 0; row < rows; row++) {
    const numbers = v128.load(from + (row << 4));
    word = v128.or(word, i32x4.shl(numbers, <i32>filled));
    filled += width;
    if (filled >= 32) {
      v128.store(out, word);
      out += 16;
      filled -= 32;
      word = filled > 0 ? i32x4.shr_u(numbers, <i32>(width - filled)) : i32x4.splat(0);
    }
  }
  if (filled > 0) {
    v128.store(out, word);
    out += 16;
  }
  return out;
}

/** The four numbers at bit `bit` of each lane. Reads one word more than it needs. */
@inline
export function unpackRow(plane: usize, bit: u32, mask: v128): v128 {
  const at = plane + ((bit >> 5) << 4);
  const shift = <i32>(bit & 31);
  const low = i32x4.shr_u(v128.load(at), shift);
  const high = i32x4.shl(i32x4.shl(v128.load(at, 16), 1), 31 - shift);
  return v128.and(v128.or(low, high), mask);
}

@inline
export function widthMask(width: u32): v128 {
  return i32x4.splat(width >= 32 ? -1 : (1 << width) - 1);
}

/** Where the plane of the high words begins, for widths above 32. */
@inline
export function highPlane(plane: usize, count: u32): usize {
  return plane + planeBytes((count + 3) >> 2, 32);
}
