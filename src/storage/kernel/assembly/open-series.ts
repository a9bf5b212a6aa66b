// One series of a block that is still written: reading it with its late samples merged in, and writing it anew.
import { OUT_OF_MEMORY, TOO_LARGE } from './fault';
import {
  CLOSED,
  CLOSED_COUNT,
  COUNT,
  DUE,
  DUE_COUNT,
  LAST,
  LATE,
  LATE_LEFT,
  LINES_PER_PAGE,
  MAX_LINE_PAGES,
  NEXT,
  NO_STEP,
  ORDERED_SAMPLES,
  PIECE,
  PIECE_END,
  PIECE_HEAD,
  STEP,
  lineAt,
} from './chunk-layout';
import { readClosedPieces, readOpenPiece } from './closed-piece';
import {
  BEFORE,
  FIRST_LATE_LEFT,
  LATE_NO_MEMORY,
  OVERWROTE,
  TIME,
  VALUE,
  VERSION,
  addLate,
  countLate,
  dropLate,
  groupChanged,
  groupWinner,
  isCold,
  nextGroup,
  sortLate,
} from './late-samples';
import { lineToWrite, push } from './open-chunks';
import { recordOf, seriesCount } from './series-table';

@inline
function lineOf(chunks: usize, reference: u32): usize {
  if (reference >= LINES_PER_PAGE * MAX_LINE_PAGES) return 0;
  const line = lineAt(chunks, reference);
  return line == 0 || load<usize>(line, PIECE) == 0 ? 0 : line;
}

@inline
function orderedCount(line: usize): u32 {
  return load<u32>(load<usize>(line, PIECE), CLOSED_COUNT) + load<u32>(line, COUNT);
}

/** How many samples the set has of a series in order, and how many late ones: together at least as many as it reads. */
export function seriesOrdered(chunks: usize, reference: u32): u32 {
  const line = lineOf(chunks, reference);
  return line == 0 ? 0 : orderedCount(line);
}
export function seriesLate(chunks: usize, reference: u32): u32 {
  const line = lineOf(chunks, reference);
  return line == 0 ? 0 : countLate(load<usize>(line, PIECE));
}

function readOrdered(line: usize, times: usize, values: usize): i32 {
  const piece = load<usize>(line, PIECE);
  const closed = load<u32>(piece, CLOSED_COUNT);
  const fault = readClosedPieces(load<usize>(piece, CLOSED), closed, times, values);
  if (fault < 0) return fault;
  readOpenPiece(line, times + (<usize>closed << 3), values + (<usize>closed << 3));
  return 0;
}

@inline
function timeAt(times: usize, i: u32): i64 {
  return load<i64>(times + (<usize>i << 3));
}

let overwrites: u32 = 0;

/** How many samples the last `readSeries` found that replaced others. */
export function readOverwrites(): u32 {
  return overwrites;
}

/**
 * Copies the samples of a series, one a time, to columns and returns how many; TOO_LARGE when they could be more than
 * `capacity`. Of those that replaced others, or all in a cold set, place and version go to `replaced`, 16 bytes each,
 * ascending. `list` and `replaced` have room for 8 and 16 bytes a late sample.
 */
export function readSeries(
  chunks: usize,
  reference: u32,
  times: usize,
  values: usize,
  capacity: u32,
  list: usize,
  replaced: usize,
): i32 {
  overwrites = 0;
  const line = lineOf(chunks, reference);
  if (line == 0) return 0;
  const ordered = orderedCount(line);
  const piece = load<usize>(line, PIECE);
  const late = countLate(piece);
  if (ordered + late > capacity) return TOO_LARGE;
  const fault = readOrdered(line, times, values);
  if (fault < 0) return fault;
  if (late == 0) return ordered;
  const sorted = sortLate(piece, late, list);
  const groups = reduce(chunks, sorted, late, times, values, ordered);
  return mergeGroups(sorted, groups, times, values, ordered, replaced);
}

let conflicts: u32 = 0;

// What `reduce` marks the addresses in its list with, which are multiples of 8.
/** The sample is told with its version. */
const TOLD: usize = 1;
/** It replaced another. */
const CHANGED: usize = 2;
const MARKS: usize = 7;

/**
 * Leaves of a sorted list one sample a time, at its beginning: the one that counts, marked. Returns how many there
 * are; `conflicts` counts those for times in order.
 */
function reduce(chunks: usize, list: usize, late: u32, times: usize, values: usize, ordered: u32): u32 {
  let groups: u32 = 0;
  let place: u32 = 0;
  conflicts = 0;
  const always: usize = isCold(chunks) ? TOLD : 0;
  for (let from: u32 = 0; from < late; ) {
    from = nextGroup(list, from, late);
    const winner = groupWinner;
    let changed = groupChanged;
    const time = load<i64>(winner, TIME);
    while (place < ordered && timeAt(times, place) < time) place++;
    if (place < ordered && timeAt(times, place) == time) {
      conflicts++;
      changed = changed || load<u64>(values + (<usize>place << 3)) != load<u64>(winner, VALUE);
    }
    store<usize>(list + (<usize>groups << 2), winner | (changed ? TOLD | CHANGED : always));
    groups++;
  }
  return groups;
}

/** Merges what `reduce` left into the columns, from the end on; returns how many samples there are then. */
function mergeGroups(
  list: usize,
  groups: u32,
  times: usize,
  values: usize,
  ordered: u32,
  replaced: usize,
): u32 {
  const total = ordered + groups - conflicts;
  let marked: u32 = 0;
  for (let i: u32 = 0; i < groups; i++) marked += <u32>(load<usize>(list + (<usize>i << 2)) & TOLD);
  overwrites = marked;
  let to = total;
  let from = ordered;
  for (let group = groups; group > 0; ) {
    const marker = load<usize>(list + (<usize>(group - 1) << 2));
    const late = marker & ~MARKS;
    const time = load<i64>(late, TIME);
    const before: i64 = from > 0 ? timeAt(times, from - 1) : i64.MIN_VALUE;
    to--;
    if (from > 0 && before > time) {
      from--;
      store<i64>(times + (<usize>to << 3), before);
      store<u64>(values + (<usize>to << 3), load<u64>(values + (<usize>from << 3)));
      continue;
    }
    if (from > 0 && before == time) from--;
    store<i64>(times + (<usize>to << 3), time);
    store<u64>(values + (<usize>to << 3), load<u64>(late, VALUE));
    if (marker & TOLD) {
      marked--;
      store<u64>(replaced + (<usize>marked << 4), to);
      store<i64>(replaced + (<usize>marked << 4), load<i64>(late, VERSION), 8);
    }
    group--;
  }
  return total;
}

/** Forgets what a series has in order. */
function emptyOrdered(chunks: usize, line: usize): void {
  const piece = load<usize>(line, PIECE);
  store<u32>(chunks, load<u32>(chunks, ORDERED_SAMPLES) - orderedCount(line), ORDERED_SAMPLES);
  store<usize>(piece, 0, CLOSED);
  store<u32>(piece, 0, CLOSED_COUNT);
  store<u32>(line, 0, COUNT);
  store<usize>(line, piece + PIECE_HEAD, NEXT);
  store<usize>(line, 0, PIECE_END);
  store<i64>(line, i64.MIN_VALUE, LAST);
  store<i64>(line, NO_STEP, STEP);
}

/** Writes what a series has in order anew; false when there is no memory, and then the rest of it is lost. */
function rewrite(chunks: usize, line: usize, reference: u32, times: usize, values: usize, count: u32): bool {
  emptyOrdered(chunks, line);
  for (let i: u32 = 0; i < count; i++) {
    if (!push(chunks, line, reference, timeAt(times, i), load<u64>(values + (<usize>i << 3)))) return false;
  }
  store<u32>(chunks, load<u32>(chunks, ORDERED_SAMPLES) + count, ORDERED_SAMPLES);
  return true;
}

/** Takes a series that is due to be merged from the list; its reference, or -1. */
export function takeDue(chunks: usize): i32 {
  const due = load<u32>(chunks, DUE_COUNT);
  if (due == 0) return -1;
  store<u32>(chunks, due - 1, DUE_COUNT);
  return load<i32>(chunks + DUE + (<usize>(due - 1) << 2));
}

/**
 * Puts late samples of a series that replaced nothing in order, and leaves of the others one a time. The caller sees
 * to it that there is memory for all of the series once more. Parameters are those of `readSeries`.
 */
export function mergeLate(
  chunks: usize,
  reference: u32,
  times: usize,
  values: usize,
  capacity: u32,
  list: usize,
): i32 {
  const line = lineOf(chunks, reference);
  if (line == 0) return 0;
  const ordered = orderedCount(line);
  const late = countLate(load<usize>(line, PIECE));
  if (ordered + late > capacity) return TOO_LARGE;
  const fault = readOrdered(line, times, values);
  if (fault < 0) return fault;
  const sorted = sortLate(load<usize>(line, PIECE), late, list);
  const groups = reduce(chunks, sorted, late, times, values, ordered);
  // What stays late is marked by the second bit of OVERWROTE; what is put in order is gathered in the list.
  let moved: u32 = 0;
  let stays: u32 = 0;
  let place: u32 = 0;
  for (let i: u32 = 0; i < groups; i++) {
    const marker = load<usize>(sorted + (<usize>i << 2));
    const winner = marker & ~MARKS;
    const time = load<i64>(winner, TIME);
    if (marker & TOLD) {
      store<u32>(winner, STAYS | (marker & CHANGED ? 1 : 0), OVERWROTE);
      stays++;
      continue;
    }
    while (place < ordered && timeAt(times, place) < time) place++;
    if (place < ordered && timeAt(times, place) == time) continue;
    store<usize>(sorted + (<usize>moved << 2), winner);
    moved++;
  }
  if (moved > 0) {
    conflicts = 0;
    const total = mergeGroups(sorted, moved, times, values, ordered, 0);
    if (!rewrite(chunks, line, reference, times, values, total)) return OUT_OF_MEMORY;
  }
  keepLate(chunks, load<usize>(line, PIECE));
  const next = max(<u32>FIRST_LATE_LEFT, max(orderedCount(line), stays) >> 1);
  store<u16>(load<usize>(line, PIECE), <u16>min(next, 65535), LATE_LEFT);
  return moved;
}

const STAYS: u32 = 2;

/** Gives back the late samples that are not marked as staying; the others keep their order. */
function keepLate(chunks: usize, piece: usize): void {
  let link = piece + LATE;
  for (let one = load<usize>(link); one != 0; ) {
    const before = load<usize>(one, BEFORE);
    const marks = load<u32>(one, OVERWROTE);
    if (marks & STAYS) {
      store<u32>(one, marks & ~STAYS, OVERWROTE);
      store<usize>(link, one);
      link = one + BEFORE;
    } else dropLate(chunks, one);
    one = before;
  }
  store<usize>(link, 0);
}

/**
 * Removes the samples of a series with times in [from, to); returns how many, or a fault. The caller sees to it that
 * there is memory for all of the series once more.
 */
export function cutSeries(
  chunks: usize,
  reference: u32,
  from: i64,
  to: i64,
  times: usize,
  values: usize,
  capacity: u32,
): i32 {
  const line = lineOf(chunks, reference);
  if (line == 0) return 0;
  let removed: u32 = 0;
  for (let one = load<usize>(load<usize>(line, PIECE), LATE); one != 0; one = load<usize>(one, BEFORE)) {
    const time = load<i64>(one, TIME);
    if (time < from || time >= to) store<u32>(one, load<u32>(one, OVERWROTE) | STAYS, OVERWROTE);
    else removed++;
  }
  const ordered = orderedCount(line);
  if (ordered > capacity) return TOO_LARGE;
  const fault = readOrdered(line, times, values);
  if (fault < 0) return fault;
  let kept: u32 = 0;
  for (let i: u32 = 0; i < ordered; i++) {
    const time = timeAt(times, i);
    if (time >= from && time < to) continue;
    store<i64>(times + (<usize>kept << 3), time);
    store<u64>(values + (<usize>kept << 3), load<u64>(values + (<usize>i << 3)));
    kept++;
  }
  if (kept < ordered && !rewrite(chunks, line, reference, times, values, kept)) return OUT_OF_MEMORY;
  keepLate(chunks, load<usize>(line, PIECE));
  return coverLate(chunks, line, reference) ? removed + (ordered - kept) : OUT_OF_MEMORY;
}

/**
 * No late sample is behind the last one in order, or what is written for its time would count less: if one is, what
 * counts at that time is put in order, too. False when there is no memory.
 */
function coverLate(chunks: usize, line: usize, reference: u32): bool {
  let newest: usize = 0;
  for (let one = load<usize>(load<usize>(line, PIECE), LATE); one != 0; one = load<usize>(one, BEFORE)) {
    const isLater = newest == 0 || load<i64>(one, TIME) > load<i64>(newest, TIME);
    const isNewer = newest != 0 && load<i64>(one, TIME) == load<i64>(newest, TIME) && load<i64>(one, VERSION) > load<i64>(newest, VERSION);
    if (isLater || isNewer) newest = one;
  }
  if (newest == 0 || load<i64>(newest, TIME) <= load<i64>(line, LAST) || isCold(chunks)) return true;
  return pushOne(chunks, line, reference, load<i64>(newest, TIME), load<u64>(newest, VALUE));
}

function pushOne(chunks: usize, line: usize, reference: u32, time: i64, value: u64): bool {
  if (!push(chunks, line, reference, time, value)) return false;
  store<u32>(chunks, load<u32>(chunks, ORDERED_SAMPLES) + 1, ORDERED_SAMPLES);
  return true;
}

/** The version of samples that have none: before all others. */
const NO_VERSION: i64 = i64.MIN_VALUE;

/**
 * Adds `count` samples of a series that come from elsewhere than a write, with ascending times of the block. `versions`
 * are those of samples that replaced others, NO_VERSION for the rest. Of two for one time the one with the greater
 * version stays; without versions, the one that is there. The other parameters are those of `readSeries`.
 */
export function insertSamples(
  chunks: usize,
  reference: u32,
  newTimes: usize,
  newValues: usize,
  versions: usize,
  count: u32,
  times: usize,
  values: usize,
  capacity: u32,
  list: usize,
  replaced: usize,
): i32 {
  const line = lineToWrite(chunks, reference);
  if (line == 0) return OUT_OF_MEMORY;
  const present = readSeries(chunks, reference, times, values, capacity, list, replaced);
  if (present < 0) return present;
  const marked = overwrites;
  let place: i32 = 0;
  let mark: u32 = 0;
  let inserted: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const time = timeAt(newTimes, i);
    const value = load<u64>(newValues + (<usize>i << 3));
    const version = load<i64>(versions + (<usize>i << 3));
    while (place < present && timeAt(times, place) < time) place++;
    if (place < present && timeAt(times, place) == time) {
      while (mark < marked && load<u32>(replaced + (<usize>mark << 4)) < <u32>place) mark++;
      const isMarked = mark < marked && load<u32>(replaced + (<usize>mark << 4)) == place;
      if (!isMarked || version <= load<i64>(replaced + (<usize>mark << 4), 8)) continue;
    }
    const isLast = time > load<i64>(line, LAST) && !isCold(chunks);
    if (isLast && !pushOne(chunks, line, reference, time, value)) return OUT_OF_MEMORY;
    if (isLast && version == NO_VERSION) {
      inserted++;
      continue;
    }
    const result = addLate(chunks, line, reference, time, value, version, version != NO_VERSION);
    if (result == LATE_NO_MEMORY) return OUT_OF_MEMORY;
    inserted++;
  }
  return inserted;
}

/** How many series have samples in the set; those of one of `shardCount` shards go to `out`, if that is not 0. */
export function listSeries(chunks: usize, table: usize, shard: u32, shardCount: u32, out: usize): u32 {
  const series = seriesCount(table);
  let count: u32 = 0;
  for (let first: u32 = 0; first < series; first += LINES_PER_PAGE) {
    if (lineAt(chunks, first) == 0) continue;
    const end = min(first + LINES_PER_PAGE, series);
    for (let reference = first; reference < end; reference++) {
      const line = lineOf(chunks, reference);
      if (line == 0 || (orderedCount(line) == 0 && load<usize>(load<usize>(line, PIECE), LATE) == 0)) continue;
      if (shardCount > 1 && load<u32>(recordOf(table, reference), 8) % shardCount != shard) continue;
      if (out != 0) store<u32>(out + (<usize>count << 2), reference);
      count++;
    }
  }
  return count;
}
