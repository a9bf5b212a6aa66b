import { BAD_TAG, BAD_WIRE_TYPE, TRUNCATED } from './fault';
import { cursor, readVarint, setCursor, varintFault } from './varint';

export const VARINT: u32 = 0;
export const FIXED64: u32 = 1;
export const BYTES: u32 = 2;
const FIXED32: u32 = 5;
const MAX_FIELD: u64 = (1 << 29) - 1;

/** Number and wire type of the field that `readTag` read. */
export let field: u32 = 0;
export let wireType: u32 = 0;

/** Reads the head of a field at the cursor; returns 0 or a fault. */
export function readTag(end: usize): i32 {
  const tag = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (tag >> 3 == 0 || tag >> 3 > MAX_FIELD) return BAD_TAG;
  field = <u32>(tag >> 3);
  wireType = <u32>tag & 7;
  // Groups were given up before Prometheus was begun.
  return wireType <= BYTES || wireType == FIXED32 ? 0 : BAD_TAG;
}

/** Where the message or string at the cursor ends; its content is then at the cursor. 0 after a fault. */
export function openBytes(end: usize): usize {
  const size = readVarint(end);
  return varintFault != 0 || size > <u64>(end - cursor) ? 0 : cursor + <usize>size;
}

/** Goes behind the content of the field whose tag was read; returns 0 or a fault. */
export function skipField(end: usize): i32 {
  if (wireType == VARINT) {
    readVarint(end);
    return varintFault;
  }
  let size: u64 = 0;
  if (wireType == FIXED64) size = 8;
  else if (wireType == FIXED32) size = 4;
  else size = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (size > <u64>(end - cursor)) return TRUNCATED;
  setCursor(cursor + <usize>size);
  return 0;
}

/** The fault after `openBytes` returned 0. */
export function openFault(): i32 {
  return varintFault != 0 ? varintFault : TRUNCATED;
}

/** Zero, or why the last `seekBytes` ended. */
export let seekFault: i32 = 0;

/**
 * Goes to the next message or text with this number and returns where it ends, with the cursor at its content;
 * 0 when there is none, or after a fault.
 */
export function seekBytes(end: usize, number: u32): usize {
  seekFault = 0;
  while (cursor < end) {
    seekFault = readTag(end);
    if (seekFault != 0) return 0;
    if (field != number) {
      seekFault = skipField(end);
      if (seekFault != 0) return 0;
      continue;
    }
    if (wireType != BYTES) {
      seekFault = BAD_WIRE_TYPE;
      return 0;
    }
    const inner = openBytes(end);
    if (inner == 0) seekFault = openFault();
    return inner;
  }
  return 0;
}
