// Series in the order of their canonical labels, which is the order of files.
import { recordOf } from './series-table';

@inline
function comesBefore(one: usize, other: usize): bool {
  const oneSize = load<u32>(one, 4);
  const otherSize = load<u32>(other, 4);
  const order = memory.compare(load<usize>(one), load<usize>(other), min(oneSize, otherSize));
  return order != 0 ? order < 0 : oneSize < otherSize;
}

/** Sorts `count` references in place; `scratch` has room for as many. Stable merges of runs that are in order. */
export function sortSeries(table: usize, references: usize, count: u32, scratch: usize): void {
  let from = references;
  let to = scratch;
  for (let run: u32 = 1; run < count; run <<= 1) {
    for (let start: u32 = 0; start < count; start += run << 1) {
      const middle = min(start + run, count);
      const end = min(middle + run, count);
      mergeRuns(table, from, to, start, middle, end);
    }
    const other = from;
    from = to;
    to = other;
  }
  if (from != references) memory.copy(references, from, <usize>count << 2);
}

function mergeRuns(table: usize, from: usize, to: usize, start: u32, middle: u32, end: u32): void {
  let left = start;
  let right = middle;
  for (let i = start; i < end; i++) {
    const leftReference = load<u32>(from + (<usize>left << 2));
    const rightReference = load<u32>(from + (<usize>right << 2));
    const takesRight =
      right < end && (left == middle || comesBefore(recordOf(table, rightReference), recordOf(table, leftReference)));
    store<u32>(to + (<usize>i << 2), takesRight ? rightReference : leftReference);
    if (takesRight) right++;
    else left++;
  }
}
