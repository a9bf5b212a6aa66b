// Which samples of a request are in the time that a namespace takes. Done before new series are made, so that samples
// that are refused leave nothing behind.
import { NO_SAMPLES } from './fault';
import { UNRESOLVED } from './series-table';

let least: i64 = 0;
let most: i64 = 0;
let tooOld: u32 = 0;
let tooNew: u32 = 0;
let oldEntry: u32 = 0;
let newEntry: u32 = 0;
let oldTime: i64 = 0;
let newTime: i64 = 0;

/** The least and the greatest time of what the last `admitSamples` let pass. */
export function admittedLeast(): i64 {
  return least;
}
export function admittedMost(): i64 {
  return most;
}
/** How many samples it refused because of their time, and one of each kind: its entry and time. */
export function refusedOld(): u32 {
  return tooOld;
}
export function refusedNew(): u32 {
  return tooNew;
}
export function refusedOldEntry(): u32 {
  return oldEntry;
}
export function refusedNewEntry(): u32 {
  return newEntry;
}
export function refusedOldTime(): i64 {
  return oldTime;
}
export function refusedNewTime(): i64 {
  return newTime;
}

/**
 * Leaves of the `samples` samples of `count` entries those with times in [from, to), moved together, and returns how
 * many. Entries without samples whose series are not known get NO_SAMPLES as reference, so that none are made.
 */
export function admitSamples(
  entries: usize,
  count: u32,
  references: usize,
  times: usize,
  values: usize,
  samples: u32,
  from: i64,
  to: i64,
): u32 {
  tooOld = 0;
  tooNew = 0;
  findSpan(times, samples);
  let kept = samples;
  if (samples > 0 && (least < from || most >= to)) kept = sift(entries, count, times, values, from, to);
  for (let i: u32 = 0; i < count; i++) {
    const place = references + (i << 2);
    if (load<u32>(entries + (i << 4), 12) == 0 && load<i32>(place) == UNRESOLVED) store<i32>(place, NO_SAMPLES);
  }
  return kept;
}

/** Finds `admittedLeast` and `admittedMost` of some times. */
export function findSpan(times: usize, count: u32): void {
  least = i64.MAX_VALUE;
  most = i64.MIN_VALUE;
  for (let i: u32 = 0; i < count; i++) {
    const time = load<i64>(times + (<usize>i << 3));
    least = min(least, time);
    most = max(most, time);
  }
}

/**
 * Leaves of `count` rows those outside of [from, to), and those that have no series, moved together; returns how many.
 */
export function leaveOutRows(references: usize, times: usize, values: usize, count: u32, from: i64, to: i64): u32 {
  let kept: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const reference = load<i32>(references + (<usize>i << 2));
    const time = load<i64>(times + (<usize>i << 3));
    if (reference >= 0 && time >= from && time < to) continue;
    store<i32>(references + (<usize>kept << 2), reference);
    store<i64>(times + (<usize>kept << 3), time);
    store<u64>(values + (<usize>kept << 3), load<u64>(values + (<usize>i << 3)));
    kept++;
  }
  return kept;
}

/** In how many blocks of `size` from `start` on times are; `bits` has room for one bit a block, and times are in them. */
export function countBlocks(times: usize, count: u32, start: i64, size: i64, bits: usize): u32 {
  let blocks: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const block = <u64>(load<i64>(times + (<usize>i << 3)) - start) / <u64>size;
    const place = bits + <usize>(block >> 3);
    const bit: u32 = 1 << (<u32>block & 7);
    const others = <u32>load<u8>(place);
    if (others & bit) continue;
    store<u8>(place, <u8>(others | bit));
    blocks++;
  }
  return blocks;
}

function sift(entries: usize, count: u32, times: usize, values: usize, from: i64, to: i64): u32 {
  let kept: u32 = 0;
  least = i64.MAX_VALUE;
  most = i64.MIN_VALUE;
  for (let i: u32 = 0; i < count; i++) {
    const entry = entries + (i << 4);
    const first = load<u32>(entry, 8);
    const end = first + load<u32>(entry, 12);
    store<u32>(entry, kept, 8);
    for (let sample = first; sample < end; sample++) {
      const time = load<i64>(times + (<usize>sample << 3));
      if (time < from) {
        if (tooOld++ == 0) {
          oldEntry = i;
          oldTime = time;
        }
      } else if (time >= to) {
        if (tooNew++ == 0) {
          newEntry = i;
          newTime = time;
        }
      } else {
        least = min(least, time);
        most = max(most, time);
        store<i64>(times + (<usize>kept << 3), time);
        store<u64>(values + (<usize>kept << 3), load<u64>(values + (<usize>sample << 3)));
        kept++;
      }
    }
    store<u32>(entry, kept - load<u32>(entry, 8), 12);
  }
  return kept;
}
