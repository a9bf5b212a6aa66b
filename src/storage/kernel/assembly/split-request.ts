// Takes the body of a remote write request (prometheus.WriteRequest) apart by shard: where each series is as a whole, and
// which group of shards it goes to. Samples are counted and not looked at.
import { BAD_WIRE_TYPE, TOO_LARGE } from './fault';
import { murmur3 } from './hash';
import { isPlainlyCanonical } from './label-set';
import { BYTES, field, openBytes, openFault, readTag, skipField, wireType } from './protobuf';
import { cursor, setCursor, startReading } from './varint';

/** Address of the field with its tag, its bytes, its group. */
const PART_BYTES: usize = 12;
const GROUP: usize = 8;
/** The labels have to be put in order before anybody knows. */
const UNKNOWN: i32 = -1;

const TIMESERIES: u32 = 1;
const LABELS: u32 = 1;
const SAMPLES: u32 = 2;
const EXEMPLARS: u32 = 3;
const HISTOGRAMS: u32 = 4;
const LABEL_TAG: u32 = 0x0a;
const SAMPLE_TAG: u32 = 0x12;

let samples: u32 = 0;
let exemplars: u32 = 0;
let histograms: u32 = 0;
let unknown: u32 = 0;
/** Of the series whose fields were counted last: labels that are long, or behind other fields. */
let hasMoreLabels: bool = false;

/** What the last split found besides series, and how many of them have no group yet. */
export function splitSamples(): u32 {
  return samples;
}
export function splitExemplars(): u32 {
  return exemplars;
}
export function splitHistograms(): u32 {
  return histograms;
}
export function splitUnknown(): u32 {
  return unknown;
}

/**
 * Writes a part for each series of the body and returns how many there are, or a fault. `groups` has the group of each
 * of `shardCount` shards; to `sizes`, of each group, the bytes of its series are added.
 */
export function splitRequest(
  body: usize,
  length: u32,
  parts: usize,
  maxSeries: u32,
  groups: usize,
  shardCount: u32,
  sizes: usize,
): i32 {
  samples = 0;
  exemplars = 0;
  histograms = 0;
  unknown = 0;
  startReading(body);
  const end = body + length;
  let series: u32 = 0;
  while (cursor < end) {
    const start = cursor;
    let fault = readTag(end);
    if (fault != 0) return fault;
    if (field != TIMESERIES) {
      fault = skipField(end);
      if (fault != 0) return fault;
      continue;
    }
    if (wireType != BYTES) return BAD_WIRE_TYPE;
    const inner = openBytes(end);
    if (inner == 0) return openFault();
    if (series == maxSeries) return TOO_LARGE;
    const labels = cursor;
    const labelsEnd = shortLabelsEnd(labels, inner);
    setCursor(labelsEnd);
    fault = countFields(inner);
    if (fault != 0) return fault;
    const part = parts + <usize>series * PART_BYTES;
    const size = <u32>(inner - start);
    store<usize>(part, start);
    store<u32>(part, size, 4);
    series++;
    if (hasMoreLabels || !isPlainlyCanonical(labels, <u32>(labelsEnd - labels))) {
      store<i32>(part, UNKNOWN, GROUP);
      unknown++;
      continue;
    }
    const shard = murmur3(labels, <u32>(labelsEnd - labels), 0) % shardCount;
    const group = load<u32>(groups + (<usize>shard << 2));
    store<u32>(part, group, GROUP);
    const place = sizes + (<usize>group << 2);
    store<u32>(place, load<u32>(place) + size);
  }
  return series;
}

/** Behind the labels that a series begins with, as far as they are short. */
@inline
function shortLabelsEnd(from: usize, end: usize): usize {
  let p = from;
  while (p < end && load<u8>(p) == LABEL_TAG) {
    const size = <usize>load<u8>(p, 1);
    if (size > 127 || p + 2 + size > end) break;
    p += 2 + size;
  }
  return p;
}

/** Goes over the fields of a series from the cursor on; returns 0 or a fault. */
@inline
function countFields(end: usize): i32 {
  hasMoreLabels = false;
  let p = cursor;
  while (p < end) {
    const size = <usize>load<u8>(p, 1);
    if (load<u8>(p) == SAMPLE_TAG && size < 128 && p + 2 + size <= end) {
      samples++;
      p += 2 + size;
      continue;
    }
    setCursor(p);
    let fault = readTag(end);
    if (fault != 0) return fault;
    if (field == LABELS) hasMoreLabels = true;
    else if (field == SAMPLES) samples++;
    else if (field == EXEMPLARS) exemplars++;
    else if (field == HISTOGRAMS) histograms++;
    fault = skipField(end);
    if (fault != 0) return fault;
    p = cursor;
  }
  setCursor(end);
  return 0;
}

/** Copies each part behind those of its group before: `places` has where the next of a group goes. */
export function gatherParts(parts: usize, count: u32, places: usize): void {
  const end = parts + <usize>count * PART_BYTES;
  for (let part = parts; part < end; part += PART_BYTES) {
    const place = places + (<usize>load<u32>(part, GROUP) << 2);
    const to = load<u32>(place);
    const size = load<u32>(part, 4);
    memory.copy(<usize>to, <usize>load<u32>(part), <usize>size);
    store<u32>(place, to + size);
  }
}
