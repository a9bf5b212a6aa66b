// Prometheus' XOR chunk (tsdb/chunkenc/xor.go, 2.42): what streamed remote read carries. Bits are stored from
// the highest of each byte down.
import { BAD_COUNT, BAD_WIDTH, TOO_LARGE, TRAILING_BYTES, TRUNCATED } from './fault';
import { cursor, readVarint, readZigzag, setCursor, startReading, varintFault, writeVarint, writeZigzag } from './varint';

const HEAD: u32 = 2;

@inline
function at(column: usize, i: u32): u64 {
  return load<u64>(column + (<usize>i << 3));
}

@inline
function reversed(p: usize): u64 {
  const bytes = v128.load64_zero(p);
  return i64x2.extract_lane(
    v128.shuffle<u8>(bytes, bytes, 7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0),
    0,
  );
}

@inline
function storeReversed(p: usize, value: u64): void {
  const bytes = i64x2.splat(value);
  store<u64>(
    p,
    i64x2.extract_lane(v128.shuffle<u8>(bytes, bytes, 7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0), 0),
  );
}

/** Writes the low `bits` (at most 56) of `value` at bit `bit`; all bits behind, of eight bytes, become zero. */
@inline
function writeShort(out: usize, bit: u32, value: u64, bits: u32): void {
  const p = out + (bit >> 3);
  const begun = <u64>load<u8>(p) << 56;
  storeReversed(p, begun | ((value << (64 - bits)) >> (bit & 7)));
}

@inline
function writeBits(out: usize, bit: u32, value: u64, bits: u32): void {
  if (bits > 56) {
    writeShort(out, bit, value >> 32, bits - 32);
    writeShort(out, bit + bits - 32, value & 0xffffffff, 32);
  } else {
    writeShort(out, bit, value, bits);
  }
}

export function maxXorChunkBytes(count: u32): u32 {
  return 40 + 19 * count;
}

@inline
function fits(dod: i64, bits: u32): bool {
  return dod >= 1 - (<i64>1 << (bits - 1)) && dod <= <i64>1 << (bits - 1);
}

/** Encodes up to 65,535 samples, times in any unit; returns how many bytes it wrote. */
export function encodeXorChunk(times: usize, values: usize, count: u32, out: usize): i32 {
  if (count == 0 || count > 65535) return BAD_COUNT;
  store<u8>(out, <u8>(count >> 8));
  store<u8>(out, <u8>count, 1);
  setCursor(out + HEAD);
  writeZigzag(at(times, 0));
  storeReversed(cursor, at(values, 0));
  setCursor(cursor + 8);
  if (count == 1) return <i32>(cursor - out);
  let delta = at(times, 1) - at(times, 0);
  writeVarint(delta);
  let bit = <u32>(cursor - out) << 3;
  store<u8>(cursor, 0);
  let leading: u32 = 255;
  let trailing: u32 = 0;
  for (let i: u32 = 1; i < count; i++) {
    if (i > 1) {
      const next = at(times, i) - at(times, i - 1);
      const dod = <i64>(next - delta);
      delta = next;
      if (dod == 0) {
        writeShort(out, bit, 0, 1);
        bit += 1;
      } else if (fits(dod, 14)) {
        writeShort(out, bit, (2 << 14) | (dod & 0x3fff), 16);
        bit += 16;
      } else if (fits(dod, 17)) {
        writeShort(out, bit, (6 << 17) | (dod & 0x1ffff), 20);
        bit += 20;
      } else if (fits(dod, 20)) {
        writeShort(out, bit, (14 << 20) | (dod & 0xfffff), 24);
        bit += 24;
      } else {
        writeShort(out, bit, 15, 4);
        writeBits(out, bit + 4, dod, 64);
        bit += 68;
      }
    }
    const xor = at(values, i) ^ at(values, i - 1);
    if (xor == 0) {
      writeShort(out, bit, 0, 1);
      bit += 1;
      continue;
    }
    const nextLeading = min(<u32>clz(xor), 31);
    const nextTrailing = <u32>ctz(xor);
    if (leading != 255 && nextLeading >= leading && nextTrailing >= trailing) {
      writeShort(out, bit, 2, 2);
      bit += 2;
    } else {
      leading = nextLeading;
      trailing = nextTrailing;
      writeShort(out, bit, (3 << 11) | (leading << 6) | ((64 - leading - trailing) & 63), 13);
      bit += 13;
    }
    const bits = 64 - leading - trailing;
    writeBits(out, bit, xor >> trailing, bits);
    bit += bits;
  }
  return <i32>((bit + 7) >> 3);
}

/** At least 57 bits from bit `bit` on, in the highest places. */
@inline
function peek(from: usize, bit: u32): u64 {
  return reversed(from + (bit >> 3)) << (bit & 7);
}

@inline
function readLong(from: usize, bit: u32, bits: u32): u64 {
  if (bits <= 57) return peek(from, bit) >> (64 - bits);
  return ((peek(from, bit) >> 32) << (bits - 32)) | (peek(from, bit + 32) >> (96 - bits));
}

/**
 * Decodes a chunk and returns how many samples it held, or a fault. 16 bytes may be read behind the input.
 */
export function decodeXorChunk(from: usize, length: u32, times: usize, values: usize, capacity: u32): i32 {
  if (length < HEAD) return TRUNCATED;
  const count = (<u32>load<u8>(from) << 8) | <u32>load<u8>(from, 1);
  if (count > capacity) return TOO_LARGE;
  const end = from + length;
  if (count == 0) return length == HEAD ? 0 : TRAILING_BYTES;
  startReading(from + HEAD);
  let time = <u64>readZigzag(end);
  if (varintFault != 0) return varintFault;
  if (end - cursor < 8) return TRUNCATED;
  let value = reversed(cursor);
  setCursor(cursor + 8);
  store<u64>(times, time);
  store<u64>(values, value);
  if (count == 1) return cursor == end ? 1 : TRAILING_BYTES;
  let delta = readVarint(end);
  if (varintFault != 0) return varintFault;
  let bit = <u32>(cursor - from) << 3;
  const endBit = length << 3;
  let leading: u32 = 0;
  let significant: u32 = 64;
  for (let i: u32 = 1; i < count; i++) {
    if (bit >= endBit) return TRUNCATED;
    let head = peek(from, bit);
    if (i > 1) {
      if (<i64>head >= 0) {
        bit += 1;
        head <<= 1;
      } else {
        const ones = min(<u32>clz(~head), 4);
        if (ones == 4) {
          delta += readLong(from, bit + 4, 64);
          bit += 68;
        } else {
          const bits: u32 = ones == 1 ? 14 : ones == 2 ? 17 : 20;
          let dod = <i64>((head << (ones + 1)) >> (64 - bits));
          if (dod > <i64>1 << (bits - 1)) dod -= <i64>1 << bits;
          delta += dod;
          bit += ones + 1 + bits;
        }
        head = peek(from, bit);
      }
    }
    time += delta;
    if (<i64>head >= 0) {
      bit += 1;
    } else {
      if (<i64>(head << 1) >= 0) {
        bit += 2;
      } else {
        leading = <u32>(head >> 57) & 31;
        const bits = <u32>(head >> 51) & 63;
        significant = bits == 0 ? 64 : bits;
        if (leading + significant > 64) return BAD_WIDTH;
        bit += 13;
      }
      value ^= readLong(from, bit, significant) << (64 - leading - significant);
      bit += significant;
    }
    if (bit > endBit) return TRUNCATED;
    store<u64>(times + (<usize>i << 3), time);
    store<u64>(values + (<usize>i << 3), value);
  }
  return (bit + 7) >> 3 == length ? <i32>count : TRAILING_BYTES;
}
