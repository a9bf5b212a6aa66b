// Prometheus' remote write 1.0: a walk over the body of a request (prometheus.WriteRequest) that finds where the
// labels of each series are and copies its samples to columns. Labels are not looked into: those of a known
// series are recognised by their bytes, others are checked when the series is made (`label-set.ts`).
import { BAD_WIRE_TYPE, TOO_LARGE, TRUNCATED } from './fault';
import { BYTES, FIXED64, VARINT, field, openBytes, openFault, readTag, seekBytes, seekFault, skipField, wireType } from './protobuf';
import {
  UNRESOLVED,
  findLabels,
  recordOf,
  seriesRecord,
  setSuccessor,
  sizeIfAt,
  successorOf,
} from './series-table';
import { cursor, readVarint, setCursor, startReading, varintFault } from './varint';

const ENTRY_BYTES: u32 = 16;
const NS_PER_MS: i64 = 1_000_000;
const MAX_MS: i64 = 9_223_372_036_854;

const TIMESERIES: u32 = 1;
const LABELS: u32 = 1;
const SAMPLES: u32 = 2;
const EXEMPLARS: u32 = 3;
const HISTOGRAMS: u32 = 4;
const VALUE: u32 = 1;
const TIMESTAMP: u32 = 2;

const LABEL_TAG: u32 = 0x0a;
const SAMPLE_TAG: u32 = 0x12;

/** The labels of the series that is walked. */
let labels: usize = 0;
let labelsEnd: usize = 0;

/** The table to find series in, or 0; the record of the series before, if it is known; and its reference. */
let table: usize = 0;
let record: usize = 0;
let last: i32 = -1;
let reference: i32 = UNRESOLVED;
let unresolved: u32 = 0;

let samples: u32 = 0;
let exemplars: u32 = 0;
let histograms: u32 = 0;

/** What the last walk found besides series. */
export function walkedSamples(): u32 {
  return samples;
}
export function walkedExemplars(): u32 {
  return exemplars;
}
export function walkedHistograms(): u32 {
  return histograms;
}
/** How many series `walkKnownSeries` left, and the last that it found. */
export function walkedUnresolved(): u32 {
  return unresolved;
}
export function walkedLast(): i32 {
  return last;
}
/** Where in the memory the last walk stopped. */
export function walkedTo(): usize {
  return cursor;
}

/** Begins a walk at `body`. */
export function startWalk(body: usize): void {
  samples = 0;
  exemplars = 0;
  histograms = 0;
  startReading(body);
}

export function countExemplar(): void {
  exemplars++;
}
export function countHistogram(): void {
  histograms++;
}

/** Milliseconds as nanoseconds; what is beyond them becomes the nearest, which no time window accepts. */
@inline
export function toNanoseconds(ms: i64): i64 {
  if (ms > MAX_MS) return i64.MAX_VALUE;
  if (ms < -MAX_MS) return i64.MIN_VALUE;
  return ms * NS_PER_MS;
}

/**
 * Walks the body and returns how many series it holds, or a fault; TOO_LARGE when there are more series or
 * samples than there is room for. An entry is four 32-bit numbers: address and bytes of the labels as fields 1
 * of the series message, index of its first sample, number of samples. Labels that do not lie together are
 * gathered at `spare`, which needs `length` bytes.
 */
export function walkWriteRequest(
  body: usize,
  length: u32,
  entries: usize,
  maxSeries: u32,
  times: usize,
  values: usize,
  maxSamples: u32,
  spare: usize,
): i32 {
  table = 0;
  return walk(body, length, entries, maxSeries, times, values, maxSamples, spare, 0);
}

/**
 * The same, and finds the series on the way, without making any: labels that are those of the series that came
 * next the last time are not even gone through. Writes references to `references`, UNRESOLVED where the bytes of
 * the labels are not those of a known series: `walkedUnresolved` of them are left for `resolveNew`. `after` is
 * the last series of the same sender before, or -1.
 */
export function walkKnownSeries(
  seriesTable: usize,
  after: i32,
  references: usize,
  body: usize,
  length: u32,
  entries: usize,
  maxSeries: u32,
  times: usize,
  values: usize,
  maxSamples: u32,
  spare: usize,
): i32 {
  table = seriesTable;
  record = after >= 0 ? seriesRecord(table, after) : 0;
  last = after;
  unresolved = 0;
  return walk(body, length, entries, maxSeries, times, values, maxSamples, spare, references);
}

function walk(
  body: usize,
  length: u32,
  entries: usize,
  maxSeries: u32,
  times: usize,
  values: usize,
  maxSamples: u32,
  spare: usize,
  references: usize,
): i32 {
  startWalk(body);
  const end = body + length;
  let series: u32 = 0;
  let gathered = spare;
  for (let inner = seekBytes(end, TIMESERIES); inner != 0; inner = seekBytes(end, TIMESERIES)) {
    if (series == maxSeries) return TOO_LARGE;
    const entry = entries + series * ENTRY_BYTES;
    store<u32>(entry, samples, 8);
    const bad = walkSeries(inner, entry, times, values, maxSamples, gathered);
    if (bad != 0) return bad;
    store<u32>(entry, samples - load<u32>(entry, 8), 12);
    if (load<usize>(entry) == gathered) gathered += load<u32>(entry, 4);
    if (table != 0) store<i32>(references + (series << 2), reference);
    series++;
  }
  return seekFault != 0 ? seekFault : series;
}

/** Seven bits of each of the first bytes of a varint, of which there are at most eight, put together. */
@inline
function compact(bytes: u64): u64 {
  const two = (bytes & 0x007f007f007f007f) | ((bytes & 0x7f007f007f007f00) >> 1);
  const four = (two & 0x00003fff00003fff) | ((two & 0x3fff00003fff0000) >> 2);
  return (four & 0x0fffffff) | ((four & 0x0fffffff00000000) >> 4);
}

/**
 * Walks what Prometheus sends, fields in its order and of its sizes, without a call; whatever is unlike it is
 * left to `walkField`.
 */
@inline
function walkSeries(
  end: usize,
  entry: usize,
  times: usize,
  values: usize,
  maxSamples: u32,
  gathered: usize,
): i32 {
  let p = cursor;
  labels = 0;
  labelsEnd = 0;
  reference = UNRESOLVED;
  let expected: usize = 0;
  if (record != 0 && table != 0) {
    const next = successorOf(record);
    if (next >= 0) {
      const candidate = recordOf(table, next);
      const size = sizeIfAt(candidate, p, end);
      if (size > 0 && (p + size == end || load<u8>(p + size) != LABEL_TAG)) {
        labels = p;
        p += size;
        labelsEnd = p;
        expected = p;
        reference = next;
        record = candidate;
        last = next;
      }
    }
  }
  if (expected == 0 && p < end && load<u8>(p) == LABEL_TAG) {
    labels = p;
    while (load<u8>(p) == LABEL_TAG) {
      const size = <usize>load<u8>(p, 1);
      if (size > 127 || p + 2 + size > end) break;
      p += 2 + size;
      if (p == end) break;
    }
    labelsEnd = p;
    if (labelsEnd == labels) labels = 0;
  }
  while (p < end) {
    const size = <usize>load<u8>(p, 1);
    const inner = p + 2 + size;
    if (load<u8>(p) == SAMPLE_TAG && size < 128 && inner <= end && load<u8>(p, 2) == 0x09 && samples < maxSamples) {
      const bytes = load<u64>(p, 12);
      const stops = ~bytes & 0x8080808080808080;
      const last = <usize>ctz(stops) >> 3;
      if (stops != 0 && load<u8>(p, 11) == 0x10 && p + 13 + last == inner) {
        const ms = compact(bytes & (u64.MAX_VALUE >> (56 - (<u64>last << 3))));
        store<i64>(times + (<usize>samples << 3), toNanoseconds(ms));
        store<u64>(values + (<usize>samples << 3), load<u64>(p, 3));
        samples++;
        p = inner;
        continue;
      }
    }
    setCursor(p);
    const bad = walkField(end, times, values, maxSamples, gathered);
    if (bad != 0) return bad;
    p = cursor;
  }
  setCursor(p);
  store<usize>(entry, labels);
  store<u32>(entry, <u32>(labelsEnd - labels), 4);
  // Also when more labels followed the samples, so that those before were not all.
  if (table != 0 && (expected == 0 || expected != labelsEnd)) lookUp();
  return 0;
}

/** Finds the series that was walked, which is not the one that was expected. */
function lookUp(): void {
  reference = labels == 0 ? UNRESOLVED : findLabels(table, labels, <u32>(labelsEnd - labels));
  if (reference < 0) {
    reference = UNRESOLVED;
    record = 0;
    unresolved++;
    return;
  }
  if (record != 0) setSuccessor(record, reference);
  record = recordOf(table, reference);
  last = reference;
}

/** Walks one field of a series message, of whatever kind. */
function walkField(end: usize, times: usize, values: usize, maxSamples: u32, gathered: usize): i32 {
  const start = cursor;
  const fault = readTag(end);
  if (fault != 0) return fault;
  if (field != LABELS && field != SAMPLES) {
    if (field == EXEMPLARS) exemplars++;
    if (field == HISTOGRAMS) histograms++;
    return skipField(end);
  }
  if (wireType != BYTES) return BAD_WIRE_TYPE;
  const inner = openBytes(end);
  if (inner == 0) return openFault();
  if (field == SAMPLES) {
    return walkSample(inner, times, values, maxSamples);
  }
  setCursor(inner);
  if (labels == 0) {
    labels = start;
    labelsEnd = inner;
  } else if (start == labelsEnd) {
    labelsEnd = inner;
  } else {
    if (labels != gathered) {
      memory.copy(gathered, labels, labelsEnd - labels);
      labelsEnd = gathered + (labelsEnd - labels);
      labels = gathered;
    }
    memory.copy(labelsEnd, start, inner - start);
    labelsEnd += inner - start;
  }
  return 0;
}

/** Walks the sample at the cursor, which ends at `end`. */
export function walkSample(end: usize, times: usize, values: usize, maxSamples: u32): i32 {
  if (samples == maxSamples) return TOO_LARGE;
  let ms: i64 = 0;
  let bits: u64 = 0;
  while (cursor < end) {
    const fault = readTag(end);
    if (fault != 0) return fault;
    if (field == VALUE) {
      if (wireType != FIXED64) return BAD_WIRE_TYPE;
      if (end - cursor < 8) return TRUNCATED;
      bits = load<u64>(cursor);
      setCursor(cursor + 8);
    } else if (field == TIMESTAMP) {
      if (wireType != VARINT) return BAD_WIRE_TYPE;
      ms = <i64>readVarint(end);
      if (varintFault != 0) return varintFault;
    } else {
      const bad = skipField(end);
      if (bad != 0) return bad;
    }
  }
  store<i64>(times + (<usize>samples << 3), toNanoseconds(ms));
  store<u64>(values + (<usize>samples << 3), bits);
  samples++;
  return 0;
}
