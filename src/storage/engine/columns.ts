/**
 * Samples of one series in one block: times ascending and all different, values by their bits. Which of them
 * replaced another value is kept with the version of the write that did, so that whoever merges decides alike.
 */
export interface Columns {
  readonly times: BigInt64Array;
  readonly bits: BigUint64Array;
  /** The same memory as `bits`, if somebody has made the view. */
  readonly values?: Float64Array;
  readonly overwrites: readonly Overwrite[];
}

/** The sample at this place replaced another one. */
export interface Overwrite {
  readonly place: number;
  readonly version: bigint;
}

/** Nothing is overwritten in most columns: they share this. */
export const NO_OVERWRITES: readonly Overwrite[] = [];

export const NO_COLUMNS: Columns = {
  times: new BigInt64Array(0),
  bits: new BigUint64Array(0),
  overwrites: NO_OVERWRITES,
};

/**
 * All samples of both. Where both have one of the same time, the higher version wins; of equal versions, and where
 * no version is known, the newer's. May return one of them, when the other adds nothing.
 */
export function mergeColumns(older: Columns, newer: Columns): Columns {
  if (older.times.length === 0) return newer;
  if (newer.times.length === 0) return older;
  const joined = joinDisjoint(older, newer);
  if (joined) return joined;
  return mergeBy(older, newer, (left, right) => left.version > right.version);
}

/** What `mergeBy` has at a time of one side. */
export interface MergedSample {
  readonly bits: bigint;
  /** 0 where none is known. */
  readonly version: bigint;
}

/** All samples of both; where both have one of the same time, `left`'s or the other, as `leftWins` says. */
export function mergeBy(
  left: Columns,
  right: Columns,
  leftWins: (left: MergedSample, right: MergedSample) => boolean,
): Columns {
  const size = left.times.length + right.times.length;
  const times = new BigInt64Array(size);
  const bits = new BigUint64Array(size);
  const overwrites: Overwrite[] = [];
  const one = new Cursor(left);
  const other = new Cursor(right);
  let count = 0;
  const take = (from: Cursor): void => {
    times[count] = from.time;
    bits[count] = from.bits;
    if (from.version > 0n) overwrites.push({ place: count, version: from.version });
    count++;
    from.next();
  };
  while (!one.done && !other.done) {
    if (one.time < other.time) take(one);
    else if (one.time > other.time) take(other);
    else if (leftWins(one, other)) {
      take(one);
      other.next();
    } else {
      take(other);
      one.next();
    }
  }
  while (!one.done) take(one);
  while (!other.done) take(other);
  return { times: times.subarray(0, count), bits: bits.subarray(0, count), overwrites };
}

/**
 * The same for a file: of `newer`, which has a version for every sample, only those that replace another value are
 * noted.
 */
export function mergeForFile(older: Columns, newer: Columns): Columns {
  const { times, bits } = newer;
  const replacing = newer.overwrites.filter(({ place }) => {
    const at = lowerBound(older.times, times[place] as bigint);
    return older.times[at] === times[place] && older.bits[at] !== bits[place];
  });
  // One that is the same changes nothing: neither value nor version.
  const same = new Set<number>();
  const known = new Set(replacing.map(({ place }) => place));
  for (const { place } of newer.overwrites) {
    if (known.has(place)) continue;
    const at = lowerBound(older.times, times[place] as bigint);
    if (older.times[at] === times[place]) same.add(place);
  }
  if (same.size === 0) return mergeColumns(older, { times, bits, overwrites: replacing });
  const kept = [...times.keys()].filter((place) => !same.has(place));
  const moved = new Map(kept.map((place, index) => [place, index]));
  return mergeColumns(older, {
    times: BigInt64Array.from(kept, (place) => times[place] as bigint),
    bits: BigUint64Array.from(kept, (place) => bits[place] as bigint),
    overwrites: replacing.map(({ place, version }) => ({ place: moved.get(place) ?? 0, version })),
  });
}

/** Of columns that do not overlap in time; undefined of others. */
function joinDisjoint(older: Columns, newer: Columns): Columns | undefined {
  const isBefore = (a: Columns, b: Columns): boolean => (a.times.at(-1) as bigint) < (b.times[0] as bigint);
  const [first, second] = isBefore(older, newer)
    ? [older, newer]
    : isBefore(newer, older)
      ? [newer, older]
      : [undefined, undefined];
  if (!first || !second) return undefined;
  const firstCount = first.times.length;
  const times = new BigInt64Array(firstCount + second.times.length);
  const bits = new BigUint64Array(times.length);
  times.set(first.times);
  times.set(second.times, firstCount);
  bits.set(first.bits);
  bits.set(second.bits, firstCount);
  const moved = second.overwrites.map(({ place, version }) => ({ place: place + firstCount, version }));
  const overwrites = moved.length === 0 ? first.overwrites : [...first.overwrites, ...moved];
  return { times, bits, overwrites };
}

/** The samples in [startNs, endNs): views, and the columns themselves when that is all of them. */
export function sliceColumns(columns: Columns, startNs: bigint, endNs: bigint): Columns {
  const { times, bits, overwrites } = columns;
  const count = times.length;
  // Most blocks are asked for as a whole.
  if (count > 0 && (times[0] as bigint) >= startNs && (times[count - 1] as bigint) < endNs) return columns;
  const from = lowerBound(times, startNs);
  const to = lowerBound(times, endNs);
  if (from === 0 && to === times.length) return columns;
  if (from >= to) return NO_COLUMNS;
  return {
    times: times.subarray(from, to),
    bits: bits.subarray(from, to),
    overwrites: overwrites.flatMap(({ place, version }) =>
      place >= from && place < to ? [{ place: place - from, version }] : [],
    ),
  };
}

/** The samples outside of [startNs, endNs). */
export function withoutRange(columns: Columns, startNs: bigint, endNs: bigint): Columns {
  const { times } = columns;
  const from = lowerBound(times, startNs);
  const to = lowerBound(times, endNs);
  if (from >= to) return columns;
  const before = from === 0 ? NO_COLUMNS : sliceColumns(columns, times[0] as bigint, startNs);
  if (to === times.length) return before;
  return mergeColumns(before, sliceColumns(columns, endNs, (times.at(-1) as bigint) + 1n));
}

/** A copy that shares no memory with what it was made from. */
export function copyColumns({ times, bits, overwrites }: Columns): Columns {
  return { times: times.slice(), bits: bits.slice(), overwrites };
}

/** How many of the times are before this one. */
export function lowerBound(times: BigInt64Array, timeNs: bigint): number {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((times[middle] as bigint) < timeNs) low = middle + 1;
    else high = middle;
  }
  return low;
}

class Cursor {
  readonly #columns: Columns;
  #at = 0;
  #nextOverwrite = 0;
  time = 0n;
  bits = 0n;
  version = 0n;
  done = false;

  constructor(columns: Columns) {
    this.#columns = columns;
    this.#load();
  }

  next(): void {
    this.#at++;
    this.#load();
  }

  #load(): void {
    const { times, bits, overwrites } = this.#columns;
    this.done = this.#at >= times.length;
    if (this.done) return;
    this.time = times[this.#at] as bigint;
    this.bits = bits[this.#at] as bigint;
    const overwrite = overwrites[this.#nextOverwrite];
    this.version = 0n;
    if (overwrite?.place !== this.#at) return;
    this.version = overwrite.version;
    this.#nextOverwrite++;
  }
}
