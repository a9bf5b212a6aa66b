// The payloads of commit log batches. `docs/formats/commit-log-batch.md` draws the bytes. A sample is coded
// against what writer and reader both know: which series came after this one last time, the time of the sample
// before, the last value of the series. That state lasts from one batch with the restart flag to the next.
import { givePage, takePage } from './allocator';
import { listPage, listTree } from './page-list';
import { BAD_HEADER, BAD_REFERENCE, OUT_OF_MEMORY, TOO_LARGE, TRAILING_BYTES, TRUNCATED } from './fault';
import { cursor, readVarint, readZigzag, setCursor, startReading, varintFault, writeVarint, writeZigzag } from './varint';

const SAMPLES: u64 = 1;
const RESTARTED_SAMPLES: u64 = 2;

const NS_PER_MS: i64 = 1_000_000;

// The state is a page: a head, then the addresses of pages of 16 bytes a series: the last value, reference + 1 of
// the series that came after it, and the age of both; then, of a reader, the addresses of pages of references + 1 of
// the series by the numbers that the writer gave them.
const AGE: usize = 0;
/** Series of this age or younger were named since the epoch began. */
const EPOCH_AGE: usize = 4;
const PAGES: usize = 1024;
const MAP_PAGES: usize = 1024 + 4 * 4096;
const MAX_MAP_PAGES: u32 = 512;
const MAPPED_PER_PAGE: u32 = 16384;
const MAX_PAGES: u32 = 4096;
const PER_PAGE: u32 = 4096;
const VALUE: usize = 0;
const SUCCESSOR: usize = 8;
const WRITTEN: usize = 12;

/** What a reader or writer of a log knows; 0 when there is no memory. */
export function createLogState(): usize {
  const state = takePage();
  if (state != 0) {
    store<u32>(state, 1, AGE);
    store<u32>(state, 1, EPOCH_AGE);
  }
  return state;
}

export function freeLogState(state: usize): void {
  for (let i: u32 = 0; i < MAX_PAGES; i++) {
    const page = load<usize>(state + PAGES + (i << 2));
    if (page != 0) givePage(page);
  }
  for (let i: u32 = 0; i < MAX_MAP_PAGES; i++) {
    const page = load<usize>(state + MAP_PAGES + (i << 2));
    if (page != 0) givePage(page);
  }
  givePage(state);
}

/** Lists the pages of a writer's state; `page-list.ts` has the form. */
export function listLogPages(state: usize, out: usize, from: u32): u32 {
  const count = listPage(out, from, state);
  return listTree(out, count, state + PAGES, MAX_PAGES);
}

/** Forgets last values and successors; with `names` also which series were named, and what for. */
export function restartLogState(state: usize, names: bool): void {
  forget(state);
  if (!names) return;
  store<u32>(state, load<u32>(state, AGE), EPOCH_AGE);
  for (let i: u32 = 0; i < MAX_MAP_PAGES; i++) {
    const page = load<usize>(state + MAP_PAGES + (i << 2));
    if (page != 0) memory.fill(page, 0, 65536);
  }
}

/** Whether a series was named since the epoch began. */
@inline
export function isNamed(state: usize, reference: u32): bool {
  const page = load<usize>(state + PAGES + ((reference >> 12) << 2));
  return page != 0 && load<u32>(page + ((reference & 4095) << 4), WRITTEN) >= load<u32>(state, EPOCH_AGE);
}

/** Remembers that a series is named; false when there is no memory. */
export function setNamed(state: usize, reference: u32): bool {
  return known(state, reference) != 0;
}

/** Remembers the series that a number of the writer stands for; false when there is no memory. */
export function mapSeries(state: usize, number: u32, reference: u32): bool {
  if (number >= MAX_MAP_PAGES * MAPPED_PER_PAGE) return false;
  const place = state + MAP_PAGES + ((number >> 14) << 2);
  if (load<usize>(place) == 0) {
    store<usize>(place, takePage());
    if (load<usize>(place) == 0) return false;
  }
  store<u32>(load<usize>(place) + ((number & 16383) << 2), reference + 1);
  return true;
}

/** Puts references in the place of the writer's numbers, -1 where a number has no series; returns how many have none. */
export function mapReferences(state: usize, references: usize, count: u32): u32 {
  let orphans: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const number = load<u32>(references + (<usize>i << 2));
    const page = number < MAX_MAP_PAGES * MAPPED_PER_PAGE ? load<usize>(state + MAP_PAGES + ((number >> 14) << 2)) : 0;
    const mapped: u32 = page == 0 ? 0 : load<u32>(page + ((number & 16383) << 2));
    if (mapped == 0) orphans++;
    store<u32>(references + (<usize>i << 2), mapped - 1);
  }
  return orphans;
}

function forget(state: usize): void {
  const age = load<u32>(state, AGE) + 1;
  store<u32>(state, age, AGE);
  if (age != 0) return;
  // After 2^32 restarts ages would repeat.
  for (let i: u32 = 0; i < MAX_PAGES; i++) {
    const page = load<usize>(state + PAGES + (i << 2));
    if (page != 0) memory.fill(page, 0, 65536);
  }
  store<u32>(state, 1, AGE);
  store<u32>(state, 1, EPOCH_AGE);
}

/** What is known of a series; 0 when there is no memory or the reference is too large. */
@inline
function known(state: usize, reference: u32): usize {
  if (reference >= MAX_PAGES * PER_PAGE) return 0;
  const place = state + PAGES + ((reference >> 12) << 2);
  if (load<usize>(place) == 0) {
    store<usize>(place, takePage());
    if (load<usize>(place) == 0) return 0;
  }
  const series = load<usize>(place) + ((reference & 4095) << 4);
  if (load<u32>(series, WRITTEN) != load<u32>(state, AGE)) {
    store<u64>(series, 0, VALUE);
    store<u32>(series, 0, SUCCESSOR);
    store<u32>(series, load<u32>(state, AGE), WRITTEN);
  }
  return series;
}

/** Codes of what is left of an XOR: 0 for nothing, else zero bytes behind and bytes kept. */
@inline
function codeOf(zeros: u32, kept: u32): u32 {
  // Before those with `zeros` come 8 + 7 + … codes.
  return zeros * 8 - ((zeros * (zeros - 1)) >> 1) + kept;
}

const zerosOf: usize = memory.data<u8>(
  [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 7],
);
const LAST_CODE: u32 = 36;

/** No payload with so many samples is longer. */
export function maxLogSamplesBytes(samples: u32): u32 {
  return 16 + 24 * samples;
}

/**
 * Writes a payload with the samples of `count` entries of `walkWriteRequest`, those without series left out;
 * returns its size, or a fault. After OUT_OF_MEMORY the state is good only for a restart.
 */
export function encodeLogSamples(
  state: usize,
  restarts: bool,
  entries: usize,
  count: u32,
  references: usize,
  times: usize,
  values: usize,
  out: usize,
): i32 {
  if (restarts) forget(state);
  let samples: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    if (load<i32>(references + (i << 2)) >= 0) samples += load<u32>(entries + (i << 4), 12);
  }
  setCursor(out);
  writeVarint(restarts ? RESTARTED_SAMPLES : SAMPLES);
  writeVarint(samples);
  let reference: u32 = u32.MAX_VALUE;
  let time: i64 = 0;
  let before: usize = 0;
  for (let i: u32 = 0; i < count; i++) {
    const next = load<u32>(references + (i << 2));
    if (<i32>next < 0) continue;
    const entry = entries + (i << 4);
    const from = load<u32>(entry, 8);
    const to = from + load<u32>(entry, 12);
    for (let sample = from; sample < to; sample++) {
      const series = known(state, next);
      if (series == 0) return OUT_OF_MEMORY;
      const expected = before != 0 && load<u32>(before, SUCCESSOR) != 0 ? load<u32>(before, SUCCESSOR) - 1 : reference + 1;
      if (before != 0) store<u32>(before, next + 1, SUCCESSOR);
      const nextTime = load<i64>(times + (<usize>sample << 3));
      const value = load<u64>(values + (<usize>sample << 3));
      const xor = value ^ load<u64>(series, VALUE);
      const zeros: u32 = xor == 0 ? 0 : <u32>ctz(xor) >> 3;
      const kept: u32 = xor == 0 ? 0 : 8 - zeros - (<u32>clz(xor) >> 3);
      const head = (codeOf(zeros, kept) << 2) | (nextTime == time ? 0 : 2) | (next == expected ? 0 : 1);
      store<u8>(cursor, <u8>head);
      setCursor(cursor + 1);
      if (next != expected) writeZigzag(<i64>next - <i64>expected);
      if (nextTime != time) writeTime(nextTime - time);
      store<u64>(cursor, xor >> (zeros << 3));
      setCursor(cursor + kept);
      store<u64>(series, value, VALUE);
      before = series;
      reference = next;
      time = nextTime;
    }
  }
  return <i32>(cursor - out);
}

/** A difference of times, in milliseconds where it is whole ones and not too many. */
function writeTime(difference: i64): void {
  const ms = difference / NS_PER_MS;
  if (ms * NS_PER_MS == difference) {
    writeZigzag(ms << 1);
  } else {
    writeZigzag(1);
    store<i64>(cursor, difference);
    setCursor(cursor + 8);
  }
}

/**
 * Reads a payload of samples: references, times and values, `capacity` at most; returns how many, or a fault,
 * after which the state is good only for a payload that restarts. 8 bytes may be read behind the input.
 */
export function decodeLogSamples(
  state: usize,
  from: usize,
  length: u32,
  maxReference: u32,
  references: usize,
  times: usize,
  values: usize,
  capacity: u32,
): i32 {
  startReading(from);
  const end = from + length;
  const kind = readVarint(end);
  const samples = readVarint(end);
  if (varintFault != 0) return varintFault;
  if (kind != SAMPLES && kind != RESTARTED_SAMPLES) return BAD_HEADER;
  if (samples > capacity) return TOO_LARGE;
  if (kind == RESTARTED_SAMPLES) forget(state);
  let reference: u32 = u32.MAX_VALUE;
  let time: i64 = 0;
  let before: usize = 0;
  for (let i: u32 = 0; i < <u32>samples; i++) {
    if (cursor >= end) return TRUNCATED;
    const head = <u32>load<u8>(cursor);
    setCursor(cursor + 1);
    const code = head >> 2;
    if (code > LAST_CODE) return BAD_HEADER;
    let next: i64 = before != 0 && load<u32>(before, SUCCESSOR) != 0 ? <i64>load<u32>(before, SUCCESSOR) - 1 : <i64>(reference + 1);
    if (head & 1) next += readZigzag(end);
    if (varintFault != 0) return varintFault;
    if (<u64>next >= <u64>maxReference) return BAD_REFERENCE;
    reference = <u32>next;
    if (head & 2) {
      const fault = readTime(end);
      if (fault != 0) return fault;
      time += timeRead;
    }
    const zeros = <u32>load<u8>(zerosOf + code);
    const kept: u32 = code == 0 ? 0 : code - codeOf(zeros, 0);
    if (<u32>(end - cursor) < kept) return TRUNCATED;
    const series = known(state, reference);
    if (series == 0) return OUT_OF_MEMORY;
    if (before != 0) store<u32>(before, reference + 1, SUCCESSOR);
    const bits: u64 = kept == 0 ? 0 : load<u64>(cursor) & (u64.MAX_VALUE >> (64 - (<u64>kept << 3)));
    setCursor(cursor + kept);
    const value = load<u64>(series, VALUE) ^ (bits << (zeros << 3));
    store<u64>(series, value, VALUE);
    store<u32>(references + (i << 2), reference);
    store<i64>(times + (<usize>i << 3), time);
    store<u64>(values + (<usize>i << 3), value);
    before = series;
  }
  return cursor == end ? <i32>samples : TRAILING_BYTES;
}

let timeRead: i64 = 0;

function readTime(end: usize): i32 {
  const coded = readZigzag(end);
  if (varintFault != 0) return varintFault;
  if ((coded & 1) == 0) {
    timeRead = (coded >> 1) * NS_PER_MS;
    return 0;
  }
  if (coded != 1) return BAD_HEADER;
  if (end - cursor < 8) return TRUNCATED;
  timeRead = load<i64>(cursor);
  setCursor(cursor + 8);
  return 0;
}
