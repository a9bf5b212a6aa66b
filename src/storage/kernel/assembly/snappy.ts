// The block format of Snappy (google/snappy, format_description.txt): no frames, no checksums.
import { BAD_OFFSET, TOO_LARGE, TRAILING_BYTES, TRUNCATED } from './fault';
import { cursor, readVarint, setCursor, startReading, varintFault, writeVarint } from './varint';

/** How many bytes a block says it decodes to, or a fault: TOO_LARGE from 2 GiB on. */
export function snappyLength(from: usize, length: u32): i32 {
  startReading(from);
  const size = readVarint(from + length);
  if (varintFault != 0) return varintFault;
  return size > <u64>i32.MAX_VALUE ? TOO_LARGE : <i32>size;
}

/**
 * Decodes a block into `out` and returns how many bytes it held, or a fault. Takes time in proportion to
 * `length` + `capacity`, whatever the bytes are. 16 bytes behind both regions may be read, and 16 behind
 * `capacity` written.
 */
export function decodeSnappy(from: usize, length: u32, out: usize, capacity: u32): i32 {
  const size = snappyLength(from, length);
  if (size < 0) return size;
  if (<u32>size > capacity) return TOO_LARGE;
  const end = from + length;
  const outEnd = out + size;
  let p = cursor;
  let q = out;
  while (p < end) {
    const tag = <u32>load<u8>(p++);
    let count: usize;
    let distance: usize;
    if ((tag & 3) == 0) {
      count = (tag >> 2) + 1;
      if (count > 60) {
        const extra = count - 60;
        if (<usize>(end - p) < extra) return TRUNCATED;
        count = <usize>(load<u32>(p) & (0xffffffff >> ((4 - <u32>extra) << 3))) + 1;
        p += extra;
        // 2^32 bytes wrap to none.
        if (count == 0) return TRUNCATED;
      }
      if (count > <usize>(end - p)) return TRUNCATED;
      if (count > <usize>(outEnd - q)) return TRAILING_BYTES;
      if (count <= 16) v128.store(q, v128.load(p));
      else if (count <= 32) {
        v128.store(q, v128.load(p));
        v128.store(q + count - 16, v128.load(p + count - 16));
      } else memory.copy(q, p, count);
      p += count;
      q += count;
      continue;
    }
    if ((tag & 3) == 1) {
      if (p >= end) return TRUNCATED;
      count = ((tag >> 2) & 7) + 4;
      distance = ((tag >> 5) << 8) | <u32>load<u8>(p);
      p += 1;
    } else if ((tag & 3) == 2) {
      if (<usize>(end - p) < 2) return TRUNCATED;
      count = (tag >> 2) + 1;
      distance = <usize>load<u16>(p);
      p += 2;
    } else {
      if (<usize>(end - p) < 4) return TRUNCATED;
      count = (tag >> 2) + 1;
      distance = load<u32>(p);
      p += 4;
    }
    if (distance == 0 || distance > <usize>(q - out)) return BAD_OFFSET;
    if (count > <usize>(outEnd - q)) return TRAILING_BYTES;
    copyWithin(q, distance, count);
    q += count;
  }
  return q == outEnd ? size : TRUNCATED;
}

/** Copies up to 64 bytes from `distance` back, byte by byte in effect: a short distance repeats itself. */
@inline
function copyWithin(q: usize, distance: usize, count: usize): void {
  const end = q + count;
  if (distance >= 16) {
    do {
      v128.store(q, v128.load(q - distance));
      q += 16;
    } while (q < end);
    return;
  }
  let from = q - distance;
  // Each round doubles what is repeated, until eight bytes at once do not overlap.
  while (q - from < 8 && q < end) {
    store<u64>(q, load<u64>(from));
    q += q - from;
  }
  while (q < end) {
    store<u64>(q, load<u64>(from));
    q += 8;
    from += 8;
  }
}

const BLOCK: u32 = 65536;
const TABLE_BITS: u32 = 14;

export function maxSnappyBytes(length: u32): u32 {
  return 32 + length + length / 6;
}

/** Scratch that `encodeSnappy` needs. */
export function snappyScratchBytes(): u32 {
  return 2 << TABLE_BITS;
}

/**
 * Encodes a block and returns how many bytes it wrote, at most `maxSnappyBytes(length)`. 32 bytes behind the
 * input may be read.
 */
export function encodeSnappy(from: usize, length: u32, out: usize, scratch: usize): i32 {
  setCursor(out);
  writeVarint(length);
  let q = cursor;
  for (let done: u32 = 0; done < length; done += BLOCK) {
    q = encodeBlock(from + done, min(BLOCK, length - done), q, scratch);
  }
  return <i32>(q - out);
}

@inline
function slot(bytes: u32): usize {
  return <usize>((bytes * 0x1e35a7bd) >> (32 - TABLE_BITS)) << 1;
}

/** The table has, for a hash of four bytes, where in the block they were seen last. */
function encodeBlock(from: usize, length: u32, q: usize, table: usize): usize {
  memory.fill(table, 0, 2 << TABLE_BITS);
  let literal: u32 = 0;
  let at: u32 = 1;
  let misses: u32 = 32;
  while (at + 4 <= length) {
    const bytes = load<u32>(from + at);
    const place = table + slot(bytes);
    const seen = <u32>load<u16>(place);
    store<u16>(place, <u16>at);
    if (load<u32>(from + seen) != bytes) {
      // The longer nothing is found, the larger are the steps.
      at += misses++ >> 5;
      continue;
    }
    misses = 32;
    q = writeLiteral(from + literal, at - literal, q);
    const matched = matchedBytes(from + seen, from + at, length - at);
    q = writeCopy(at - seen, matched, q);
    at += matched;
    literal = at;
  }
  return writeLiteral(from + literal, length - literal, q);
}

/** How many bytes are the same at both, of which the first four are; at most `most`. */
@inline
function matchedBytes(one: usize, other: usize, most: u32): u32 {
  let matched: u32 = 4;
  while (matched + 8 <= most) {
    const differing = load<u64>(one + matched) ^ load<u64>(other + matched);
    if (differing != 0) return matched + (<u32>ctz(differing) >> 3);
    matched += 8;
  }
  while (matched < most && load<u8>(one + matched) == load<u8>(other + matched)) matched++;
  return matched;
}

function writeLiteral(from: usize, count: u32, q: usize): usize {
  if (count == 0) return q;
  const less = count - 1;
  if (less < 60) {
    store<u8>(q++, <u8>(less << 2));
  } else if (less < 256) {
    store<u16>(q, <u16>((60 << 2) | (less << 8)));
    q += 2;
  } else {
    store<u8>(q, 61 << 2);
    store<u16>(q, <u16>less, 1);
    q += 3;
  }
  // Most are short: what is written behind their end is written again.
  if (count <= 32) {
    v128.store(q, v128.load(from));
    v128.store(q + 16, v128.load(from + 16));
  } else memory.copy(q, from, count);
  return q + count;
}

function writeCopy(distance: u32, count: u32, q: usize): usize {
  while (count > 64) {
    // What is left is at least 4.
    const some: u32 = count >= 68 ? 64 : 60;
    store<u8>(q, <u8>(((some - 1) << 2) | 2));
    store<u16>(q, <u16>distance, 1);
    q += 3;
    count -= some;
  }
  if (count <= 11 && distance < 2048) {
    store<u8>(q, <u8>(((distance >> 8) << 5) | ((count - 4) << 2) | 1));
    store<u8>(q, <u8>distance, 1);
    return q + 2;
  }
  store<u8>(q, <u8>(((count - 1) << 2) | 2));
  store<u16>(q, <u16>distance, 1);
  return q + 3;
}
