import { BAD_VARINT, TRUNCATED } from './fault';

/** Where the last read or write of a varint ended. */
export let cursor: usize = 0;
/** Zero, or what was wrong with the last varint read. Stays set until `startReading`. */
export let varintFault: i32 = 0;

export function startReading(at: usize): void {
  cursor = at;
  varintFault = 0;
}

export function setCursor(at: usize): void {
  cursor = at;
}

export function readVarint(end: usize): u64 {
  let p = cursor;
  if (p < end) {
    const first = <u64>load<u8>(p);
    if (first < 128) {
      cursor = p + 1;
      return first;
    }
  }
  let value: u64 = 0;
  for (let shift: u64 = 0; shift < 70; shift += 7) {
    if (p >= end) {
      varintFault = TRUNCATED;
      return 0;
    }
    const byte = <u64>load<u8>(p++);
    if (shift == 63 && byte > 1) break;
    value |= (byte & 127) << shift;
    if (byte < 128) {
      cursor = p;
      return value;
    }
  }
  varintFault = BAD_VARINT;
  return 0;
}

export function readZigzag(end: usize): i64 {
  const value = readVarint(end);
  return <i64>(value >> 1) ^ -(<i64>(value & 1));
}

export function writeVarint(value: u64): void {
  let p = cursor;
  while (value >= 128) {
    store<u8>(p++, <u8>(value | 128));
    value >>= 7;
  }
  store<u8>(p++, <u8>value);
  cursor = p;
}

export function writeZigzag(value: i64): void {
  writeVarint(<u64>((value << 1) ^ (value >> 63)));
}

export function varintSize(value: u64): u32 {
  return value == 0 ? 1 : (70 - <u32>clz(value)) / 7;
}

export function zigzagSize(value: i64): u32 {
  return varintSize(<u64>((value << 1) ^ (value >> 63)));
}
