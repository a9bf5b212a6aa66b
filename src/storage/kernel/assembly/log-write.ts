// The log batch of a write: its head, the series that the log has not named yet, and the samples.
// `docs/formats/commit-log-batch.md` draws the bytes.
import { BAD_HEADER, OUT_OF_MEMORY, OUT_OF_SEQUENCE, TRUNCATED } from './fault';
import { encodeLogSamples, isNamed, mapSeries, restartLogState, setNamed } from './log-batch';
import { recordOf, resolveLabels } from './series-table';
import { cursor, readVarint, readZigzag, setCursor, startReading, varintFault, writeVarint, writeZigzag } from './varint';

const WRITE: u64 = 4;

/** The flags of a write. */
const RESTARTS_VALUES: u32 = 1;
const RESTARTS_NAMES: u32 = 2;
const KNOWN_FLAGS: u32 = 3;
const FIXED_BYTES: u32 = 18;
/** Kind, flags, epoch, version, ordinal, and the number of series. */
const HEAD_BYTES: u32 = 48;
const NAME_BYTES: u32 = 16;

@inline
function hasSamples(entries: usize, references: usize, i: u32): bool {
  return load<i32>(references + (i << 2)) >= 0 && load<u32>(entries + (i << 4), 12) > 0;
}

/** An upper bound of what comes before the samples of these entries, in bytes. */
export function maxLogNamesBytes(state: usize, table: usize, entries: usize, count: u32, references: usize): u32 {
  let size = HEAD_BYTES;
  for (let i: u32 = 0; i < count; i++) {
    if (!hasSamples(entries, references, i)) continue;
    const reference = load<u32>(references + (i << 2));
    if (!isNamed(state, reference)) size += NAME_BYTES + load<u32>(recordOf(table, reference), 4);
  }
  return size;
}

/**
 * Writes a write with the samples of these entries, those without series left out; returns its size, or a fault after
 * which the state is good only for a restart. `flags` say what the state was restarted with since the batch before.
 */
export function encodeLogWrite(
  state: usize,
  table: usize,
  flags: u32,
  epoch: i64,
  version: i64,
  ordinal: u32,
  entries: usize,
  count: u32,
  references: usize,
  times: usize,
  values: usize,
  out: usize,
): i32 {
  store<u8>(out, <u8>WRITE);
  store<u8>(out, <u8>flags, 1);
  store<i64>(out, epoch, 2);
  store<i64>(out, version, 10);
  setCursor(out + 18);
  writeVarint(ordinal);
  const counter = cursor;
  // Four bytes of a varint that is longer than it need be.
  setCursor(cursor + 4);
  let named: u32 = 0;
  let expected: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    if (!hasSamples(entries, references, i)) continue;
    const reference = load<u32>(references + (i << 2));
    if (isNamed(state, reference)) continue;
    if (!setNamed(state, reference)) return OUT_OF_MEMORY;
    const record = recordOf(table, reference);
    const size = load<u32>(record, 4);
    writeZigzag(<i64>reference - <i64>expected);
    writeVarint(size);
    memory.copy(cursor, load<usize>(record), size);
    setCursor(cursor + size);
    expected = reference + 1;
    named++;
  }
  store<u32>(
    counter,
    (named & 127) | 0x80 | ((((named >> 7) & 127) | 0x80) << 8) | ((((named >> 14) & 127) | 0x80) << 16) | ((named >> 21) << 24),
  );
  const size = encodeLogSamples(state, false, entries, count, references, times, values, cursorAt());
  return size < 0 ? size : samplesAt + size - <i32>out;
}

let samplesAt: i32 = 0;

function cursorAt(): usize {
  samplesAt = <i32>cursor;
  return cursor;
}

let version: i64 = 0;
let epoch: i64 = 0;
let ordinal: u32 = 0;
let flags: u32 = 0;
let lost: u32 = 0;

/** What `openLogWrite` read. */
export function logVersion(): i64 {
  return version;
}
export function logEpoch(): i64 {
  return epoch;
}
/** The series that `openLogWrite` had no room for. */
export function logLostSeries(): u32 {
  return lost;
}
/** Where the samples of the write begin. */
export function logSamplesAt(): usize {
  return samplesAt;
}
/** How many samples there can be at most. */
export function logMaxSamples(): u32 {
  return samplesLeft;
}

let samplesLeft: u32 = 0;

// What a reader keeps in its state beside what `log-batch.ts` does.
const EXPECTED_ORDINAL: usize = 8;
const EPOCH: usize = 16;
const BEGUN: usize = 24;

/**
 * Reads head and names of a write, makes its series, and leaves the samples at `logSamplesAt` to `decodeLogSamples`;
 * returns 0 or a fault. OUT_OF_SEQUENCE: it builds upon what is not there. After any fault the state is good only for
 * a write that restarts.
 */
export function openLogWrite(state: usize, table: usize, from: usize, length: u32): i32 {
  lost = 0;
  const end = from + length;
  if (length < FIXED_BYTES + 2) return TRUNCATED;
  if (load<u8>(from) != <u8>WRITE) return BAD_HEADER;
  flags = load<u8>(from, 1);
  epoch = load<i64>(from, 2);
  version = load<i64>(from, 10);
  if (flags > KNOWN_FLAGS || (flags & RESTARTS_NAMES && !(flags & RESTARTS_VALUES))) return BAD_HEADER;
  startReading(from + 18);
  ordinal = <u32>readVarint(end);
  const named = readVarint(end);
  if (varintFault != 0) return varintFault;
  const begun = load<u32>(state, BEGUN) != 0;
  const sameEpoch = begun && load<i64>(state, EPOCH) == epoch;
  const follows = sameEpoch && load<u32>(state, EXPECTED_ORDINAL) == ordinal;
  store<u32>(state, u32.MAX_VALUE, EXPECTED_ORDINAL);
  if (!(flags & RESTARTS_VALUES) && !follows) return OUT_OF_SEQUENCE;
  // The batch that began the epoch may be lost: series that are named from here on can be read.
  if (flags & RESTARTS_VALUES) restartLogState(state, (flags & RESTARTS_NAMES) != 0 || !sameEpoch);
  store<i64>(state, epoch, EPOCH);
  store<u32>(state, 1, BEGUN);
  const fault = readNames(state, table, named, end);
  if (fault != 0) return fault;
  samplesAt = <i32>cursor;
  samplesLeft = <u32>(end - cursor);
  store<u32>(state, ordinal + 1, EXPECTED_ORDINAL);
  return 0;
}

function readNames(state: usize, table: usize, named: u64, end: usize): i32 {
  let number: i64 = 0;
  for (let i: u64 = 0; i < named; i++) {
    number += readZigzag(end);
    const size = readVarint(end);
    if (varintFault != 0) return varintFault;
    if (size > <u64>(end - cursor)) return TRUNCATED;
    const labels = cursor;
    const reference = resolveLabels(table, labels, <u32>size, true);
    setCursor(labels + <usize>size);
    if (reference < 0 || <u64>number > <u64>u32.MAX_VALUE || !mapSeries(state, <u32>number, reference)) lost++;
    number++;
  }
  return 0;
}

/** The next batch of the epoch can be read only if it restarts. */
export function breakLogState(state: usize): void {
  store<u32>(state, u32.MAX_VALUE, EXPECTED_ORDINAL);
}

/**
 * Makes of a writer's state that of a reader that has read all that was written: its numbers are the references of
 * `count` series. False when there is no memory.
 */
export function becomeReader(state: usize, epochNow: i64, next: u32, count: u32): bool {
  for (let reference: u32 = 0; reference < count; reference++) {
    if (isNamed(state, reference) && !mapSeries(state, reference, reference)) return false;
  }
  store<u32>(state, next, EXPECTED_ORDINAL);
  store<i64>(state, epochNow, EPOCH);
  store<u32>(state, 1, BEGUN);
  return true;
}
