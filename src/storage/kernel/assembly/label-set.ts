// The canonical form of a label set, which is the series' ID: the labels as Prometheus encodes them in a series
// message (field 1: name as field 1, value as field 2, all lengths minimal), sorted by the bytes of their names,
// names different and not empty, values not empty, all of it valid UTF-8.
import {
  BAD_UTF8,
  BAD_WIRE_TYPE,
  DUPLICATE_LABEL,
  EMPTY_LABEL_NAME,
  NO_LABELS,
  TOO_LARGE,
} from './fault';
import { BYTES, field, openBytes, openFault, readTag, seekBytes, seekFault, skipField, wireType } from './protobuf';
import { cursor, setCursor, startReading, varintSize, writeVarint } from './varint';

const MAX_LABELS: u32 = 256;
/** Per label: address and bytes of the name, address and bytes of the value. */
const found: usize = memory.data(4096, 16);

/** Less than, equal to or greater than zero, as the bytes of one come before those of the other. */
function compareNames(one: usize, other: usize): i32 {
  const oneSize = load<u32>(one, 4);
  const otherSize = load<u32>(other, 4);
  const order = memory.compare(load<u32>(one), load<u32>(other), min(oneSize, otherSize));
  return order != 0 ? order : <i32>oneSize - <i32>otherSize;
}

/**
 * Writes the canonical form of the labels in `length` bytes of a series message and returns its size, at most
 * `length`, or a fault.
 */
export function canonicalLabels(from: usize, length: u32, out: usize): i32 {
  startReading(from);
  const end = from + length;
  let count: u32 = 0;
  for (let inner = seekBytes(end, 1); inner != 0; inner = seekBytes(end, 1)) {
    if (count == MAX_LABELS) return TOO_LARGE;
    const bad = readLabel(inner, found + (count << 4));
    if (bad != 0) return bad;
    if (load<u32>(found + (count << 4), 12) > 0) count = insert(count);
  }
  if (seekFault != 0) return seekFault;
  for (let i: u32 = 1; i < count; i++) {
    if (compareNames(found + ((i - 1) << 4), found + (i << 4)) == 0) return DUPLICATE_LABEL;
  }
  if (count == 0) return NO_LABELS;
  setCursor(out);
  for (let i: u32 = 0; i < count; i++) writeLabel(found + (i << 4));
  return <i32>(cursor - out);
}

/**
 * True when the labels are canonical already and of the common kind, ASCII and below 128 bytes each, which is
 * seen without copying them.
 */
export function isPlainlyCanonical(from: usize, length: u32): bool {
  const end = from + length;
  let high = i64x2.splat(0);
  let p = from;
  for (; p + 16 <= end; p += 16) high = v128.or(high, v128.load(p));
  let rest: u32 = 0;
  for (; p < end; p++) rest |= load<u8>(p);
  if (i8x16.bitmask(high) != 0 || rest > 127) return false;
  let before: usize = 0;
  let count: u32 = 0;
  p = from;
  while (p < end) {
    const labelEnd = p + 2 + load<u8>(p, 1);
    const nameSize = <usize>load<u8>(p, 3);
    const value = p + 4 + nameSize;
    if (labelEnd > end || value + 2 > labelEnd || nameSize == 0 || ++count > MAX_LABELS) return false;
    if (load<u8>(p) != 0x0a || load<u8>(p, 2) != 0x0a || load<u8>(value) != 0x12) return false;
    const valueSize = <usize>load<u8>(value, 1);
    if (valueSize == 0 || value + 2 + valueSize != labelEnd) return false;
    if (before != 0 && !isBefore(before, p + 3)) return false;
    before = p + 3;
    p = labelEnd;
  }
  return count > 0;
}

/** Whether a name comes before another; both begin with their size. */
@inline
function isBefore(one: usize, other: usize): bool {
  const oneSize = <usize>load<u8>(one);
  const otherSize = <usize>load<u8>(other);
  const shorter = min(oneSize, otherSize);
  for (let i: usize = 1; i <= shorter; i++) {
    const oneByte = load<u8>(one + i);
    const otherByte = load<u8>(other + i);
    if (oneByte != otherByte) return oneByte < otherByte;
  }
  return oneSize < otherSize;
}

function readLabel(end: usize, label: usize): i32 {
  memory.fill(label, 0, 16);
  while (cursor < end) {
    const fault = readTag(end);
    if (fault != 0) return fault;
    if (field != 1 && field != 2) {
      const bad = skipField(end);
      if (bad != 0) return bad;
      continue;
    }
    if (wireType != BYTES) return BAD_WIRE_TYPE;
    const place = label + (field == 1 ? 0 : 8);
    const textEnd = openBytes(end);
    if (textEnd == 0) return openFault();
    if (!isUtf8(cursor, textEnd)) return BAD_UTF8;
    store<u32>(place, <u32>cursor);
    store<u32>(place, <u32>(textEnd - cursor), 4);
    setCursor(textEnd);
  }
  return load<u32>(label, 4) == 0 ? EMPTY_LABEL_NAME : 0;
}

/** Moves the last label to its place among those before it. */
function insert(count: u32): u32 {
  const last = found + (count << 4);
  let to = last;
  while (to > found && compareNames(to - 16, last) > 0) to -= 16;
  if (to < last) {
    const label = v128.load(last);
    memory.copy(to + 16, to, last - to);
    v128.store(to, label);
  }
  return count + 1;
}

function writeLabel(label: usize): void {
  const nameSize = load<u32>(label, 4);
  const valueSize = load<u32>(label, 12);
  store<u8>(cursor, 0x0a);
  setCursor(cursor + 1);
  writeVarint(2 + nameSize + varintSize(nameSize) + valueSize + varintSize(valueSize));
  writeText(0x0a, load<u32>(label), nameSize);
  writeText(0x12, load<u32>(label, 8), valueSize);
}

function writeText(tag: u8, text: usize, size: u32): void {
  store<u8>(cursor, tag);
  setCursor(cursor + 1);
  writeVarint(size);
  memory.copy(cursor, text, size);
  setCursor(cursor + size);
}

@inline
function follows(p: usize, end: usize): bool {
  return p < end && (load<u8>(p) & 0xc0) == 0x80;
}

function isUtf8(from: usize, end: usize): bool {
  let p = from;
  while (p < end) {
    const byte = <u32>load<u8>(p++);
    if (byte < 0x80) continue;
    if (byte < 0xc2 || byte > 0xf4 || !follows(p, end)) return false;
    const second = <u32>load<u8>(p++);
    if (byte < 0xe0) continue;
    // No overlong forms, no surrogates, nothing above U+10FFFF.
    if (byte == 0xe0 && second < 0xa0) return false;
    if (byte == 0xed && second > 0x9f) return false;
    if (byte == 0xf0 && second < 0x90) return false;
    if (byte == 0xf4 && second > 0x8f) return false;
    if (!follows(p++, end)) return false;
    if (byte >= 0xf0 && !follows(p++, end)) return false;
  }
  return true;
}
