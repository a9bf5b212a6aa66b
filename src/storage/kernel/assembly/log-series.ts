// The payload of a commit log batch that names new series. `docs/formats/commit-log-batch.md` draws the bytes.
import { BAD_HEADER, BAD_REFERENCE, TOO_LARGE, TRAILING_BYTES, TRUNCATED } from './fault';
import { seriesCount, seriesRecord } from './series-table';
import { cursor, readVarint, setCursor, startReading, varintFault, varintSize, writeVarint } from './varint';

const SERIES: u64 = 3;
const RECORD_LABELS: usize = 0;
const RECORD_SIZE: usize = 4;

let firstRead: u32 = 0;

/** The first reference that `decodeLogSeries` read. */
export function logFirstReference(): u32 {
  return firstRead;
}

/** Writes a payload with the labels of `count` series from `first` on; returns its size, or a fault. */
export function encodeLogSeries(table: usize, first: u32, count: u32, out: usize, capacity: u32): i32 {
  if (<u64>first + <u64>count > <u64>seriesCount(table)) return BAD_REFERENCE;
  let size: u64 = 1 + varintSize(first) + varintSize(count);
  for (let i: u32 = 0; i < count; i++) {
    const labelsSize = load<u32>(seriesRecord(table, first + i), RECORD_SIZE);
    size += varintSize(labelsSize) + labelsSize;
  }
  if (size > capacity) return TOO_LARGE;
  setCursor(out);
  writeVarint(SERIES);
  writeVarint(first);
  writeVarint(count);
  for (let i: u32 = 0; i < count; i++) {
    const record = seriesRecord(table, first + i);
    const labelsSize = load<u32>(record, RECORD_SIZE);
    writeVarint(labelsSize);
    memory.copy(cursor, load<usize>(record, RECORD_LABELS), labelsSize);
    setCursor(cursor + labelsSize);
  }
  return <i32>(cursor - out);
}

/** Reads a payload of series as entries for `resolveSeries`, without samples; returns how many, or a fault. */
export function decodeLogSeries(from: usize, length: u32, entries: usize, maxSeries: u32): i32 {
  startReading(from);
  const end = from + length;
  const kind = readVarint(end);
  const first = readVarint(end);
  const count = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (kind != SERIES) return BAD_HEADER;
  if (first > <u64>i32.MAX_VALUE) return BAD_REFERENCE;
  if (count > maxSeries) return TOO_LARGE;
  firstRead = <u32>first;
  for (let i: u32 = 0; i < <u32>count; i++) {
    const size = readVarint(end);
    if (varintFault != 0) return varintFault;
    if (size > <u64>(end - cursor)) return TRUNCATED;
    const entry = entries + (i << 4);
    store<usize>(entry, cursor);
    store<u32>(entry, <u32>size, 4);
    store<u64>(entry, 0, 8);
    setCursor(cursor + <usize>size);
  }
  return cursor == end ? <i32>count : TRAILING_BYTES;
}
