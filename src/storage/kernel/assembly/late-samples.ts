// Late samples of a series: those that were not behind its last one when they came, in a chain, the newest first.
// Of the samples for one time the one with the greatest version counts, and any of them before the one in order. A
// write that says what was there already changes nothing, so it does not count.
import {
  ALL_STEPPED,
  COLD,
  COUNT,
  DUE,
  DUE_COUNT,
  FIRST_TIME,
  LATE,
  LATE_CLASS,
  LATE_LEFT,
  LATE_SAMPLES,
  MAX_DUE,
  NEXT,
  PIECE,
  PIECE_HEAD,
  STEP,
  STEPPED,
  giveRoom,
  takeRoom,
} from './chunk-layout';

// A late sample.
export const BEFORE: usize = 0;
/** 1 when it replaced a sample that is not there any more. */
export const OVERWROTE: usize = 4;
export const TIME: usize = 8;
export const VALUE: usize = 16;
export const VERSION: usize = 24;

/** How many of the newest late samples are looked at to find out whether one is a repetition. */
const LOOK_BACK: u32 = 16;
export const FIRST_LATE_LEFT: u16 = 128;

export const LATE_ADDED: u8 = 0;
export const LATE_REPEATED: u8 = 1;
export const LATE_NO_MEMORY: u8 = 2;

/** Where the value of the sample in the open piece with this time is, or 0. */
function findInPiece(line: usize, time: i64): usize {
  const piece = load<usize>(line, PIECE);
  const count = load<u32>(line, COUNT);
  if (count == 0 || time < load<i64>(piece, FIRST_TIME)) return 0;
  const mark = load<u8>(piece, STEPPED);
  const stepped: u32 = mark == ALL_STEPPED ? count : mark;
  const since = time - load<i64>(piece, FIRST_TIME);
  if (since == 0) return piece + PIECE_HEAD;
  if (stepped > 1) {
    const step = load<i64>(line, STEP);
    const place = since / step;
    if (place < <i64>stepped) return place * step == since ? piece + PIECE_HEAD + (<usize>place << 3) : 0;
  }
  const first = piece + PIECE_HEAD + (stepped << 3);
  for (let at = load<usize>(line, NEXT); at > first; at -= 16) {
    const other = load<i64>(at - 8);
    if (other <= time) return other == time ? at - 16 : 0;
  }
  return 0;
}

/** Whether the sample says what is there already, as far as that is seen without effort. */
function isRepeated(line: usize, piece: usize, time: i64, value: u64): bool {
  let looked: u32 = 0;
  let newest: usize = 0;
  for (let late = load<usize>(piece, LATE); late != 0; late = load<usize>(late, BEFORE)) {
    if (++looked > LOOK_BACK) return false;
    if (load<i64>(late, TIME) != time) continue;
    if (newest == 0 || load<i64>(late, VERSION) > load<i64>(newest, VERSION)) newest = late;
  }
  if (newest != 0) return load<u64>(newest, VALUE) == value;
  const place = findInPiece(line, time);
  return place != 0 && load<u64>(place) == value;
}

/** Adds a sample to the late ones of a series that has a piece. */
export function addLate(
  chunks: usize,
  line: usize,
  reference: u32,
  time: i64,
  value: u64,
  version: i64,
  overwrote: bool,
): u8 {
  const piece = load<usize>(line, PIECE);
  if (!overwrote && isRepeated(line, piece, time, value)) return LATE_REPEATED;
  const late = takeRoom(chunks, LATE_CLASS);
  if (late == 0) return LATE_NO_MEMORY;
  store<usize>(late, load<usize>(piece, LATE), BEFORE);
  store<u32>(late, overwrote ? 1 : 0, OVERWROTE);
  store<i64>(late, time, TIME);
  store<u64>(late, value, VALUE);
  store<i64>(late, version, VERSION);
  store<usize>(piece, late, LATE);
  store<u32>(chunks, load<u32>(chunks, LATE_SAMPLES) + 1, LATE_SAMPLES);
  const left = load<u16>(piece, LATE_LEFT);
  if (left > 0) store<u16>(piece, left - 1, LATE_LEFT);
  if (left <= 1) {
    const due = load<u32>(chunks, DUE_COUNT);
    if (due < MAX_DUE) {
      store<u32>(chunks + DUE + (<usize>due << 2), reference);
      store<u32>(chunks, due + 1, DUE_COUNT);
      // Not every one of the next shall ask again.
      store<u16>(piece, FIRST_LATE_LEFT, LATE_LEFT);
    }
  }
  return LATE_ADDED;
}

/** Takes a late sample that is in no chain any more back. */
export function dropLate(chunks: usize, late: usize): void {
  giveRoom(chunks, LATE_CLASS, late);
  store<u32>(chunks, load<u32>(chunks, LATE_SAMPLES) - 1, LATE_SAMPLES);
}

export function countLate(piece: usize): u32 {
  let count: u32 = 0;
  for (let late = load<usize>(piece, LATE); late != 0; late = load<usize>(late, BEFORE)) count++;
  return count;
}

@inline
function at(list: usize, i: u32): usize {
  return load<usize>(list + (<usize>i << 2));
}

@inline
function isBefore(one: usize, other: usize): bool {
  const oneTime = load<i64>(one, TIME);
  const otherTime = load<i64>(other, TIME);
  return oneTime != otherTime ? oneTime < otherTime : load<i64>(one, VERSION) < load<i64>(other, VERSION);
}

/**
 * Lists the addresses of the late samples of a piece, by time, then version, then arrival. `list` has room for twice
 * as many; returns where the list is: at its beginning or its middle.
 */
export function sortLate(piece: usize, count: u32, list: usize): usize {
  let place = count;
  for (let late = load<usize>(piece, LATE); late != 0; late = load<usize>(late, BEFORE)) {
    store<usize>(list + (<usize>--place << 2), late);
  }
  let sorted = true;
  for (let i: u32 = 1; i < count && sorted; i++) sorted = !isBefore(at(list, i), at(list, i - 1));
  if (sorted) return list;
  let from = list;
  let to = list + (<usize>count << 2);
  for (let run: u32 = 1; run < count; run <<= 1) {
    for (let start: u32 = 0; start < count; start += run << 1) {
      const middle = min(start + run, count);
      const end = min(middle + run, count);
      let left = start;
      let right = middle;
      for (let i = start; i < end; i++) {
        const takesRight = right < end && (left == middle || isBefore(at(from, right), at(from, left)));
        store<usize>(to + (<usize>i << 2), at(from, takesRight ? right++ : left++));
      }
    }
    const other = from;
    from = to;
    to = other;
  }
  return from;
}

/** Whether the group that `nextGroup` found holds different values, or replaced one. */
export let groupChanged: bool = false;
/** Its sample that counts: the first that said what the last one says. */
export let groupWinner: usize = 0;

/** Finds the late samples for the time of place `from` of a sorted list, and which of them counts; returns their end. */
export function nextGroup(list: usize, from: u32, count: u32): u32 {
  const time = load<i64>(at(list, from), TIME);
  let to = from + 1;
  while (to < count && load<i64>(at(list, to), TIME) == time) to++;
  let winner = to - 1;
  const value = load<u64>(at(list, winner), VALUE);
  groupChanged = false;
  while (winner > from && load<u32>(at(list, winner), OVERWROTE) == 0 && load<u64>(at(list, winner - 1), VALUE) == value) {
    winner--;
  }
  groupWinner = at(list, winner);
  groupChanged = winner > from || load<u32>(groupWinner, OVERWROTE) != 0;
  return to;
}

@inline
export function isCold(chunks: usize): bool {
  return load<u32>(chunks, COLD) != 0;
}
