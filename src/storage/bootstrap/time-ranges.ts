import { assert } from '../../core/errors.ts';

/** [startNs, endNs), nanoseconds since the Unix epoch; never empty. */
export interface TimeRange {
  readonly startNs: bigint;
  readonly endNs: bigint;
}

/**
 * A set of instants, as ranges that ascend and neither overlap nor touch: equal sets have equal ranges. A value:
 * every operation gives another one and leaves its arguments as they are.
 */
export class TimeRanges implements Iterable<TimeRange> {
  static readonly EMPTY = new TimeRanges([]);
  readonly #ranges: readonly TimeRange[];

  private constructor(ranges: readonly TimeRange[]) {
    this.#ranges = ranges;
  }

  /** Any ranges in any order; those without any instant count for nothing. */
  static of(...ranges: readonly TimeRange[]): TimeRanges {
    const sorted = ranges
      .filter(({ startNs, endNs }) => startNs < endNs)
      .sort((a, b) => (a.startNs < b.startNs ? -1 : a.startNs > b.startNs ? 1 : 0));
    const merged: TimeRange[] = [];
    for (const { startNs, endNs } of sorted) {
      const last = merged.at(-1);
      if (last && startNs <= last.endNs) {
        merged[merged.length - 1] = { startNs: last.startNs, endNs: endNs > last.endNs ? endNs : last.endNs };
      } else merged.push({ startNs, endNs });
    }
    return merged.length === 0 ? TimeRanges.EMPTY : new TimeRanges(merged);
  }

  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  get durationNs(): bigint {
    return this.#ranges.reduce((sum, { startNs, endNs }) => sum + endNs - startNs, 0n);
  }

  /** From the first instant to behind the last; undefined of the empty set. */
  get span(): TimeRange | undefined {
    const first = this.#ranges[0];
    const last = this.#ranges.at(-1);
    return first && last && { startNs: first.startNs, endNs: last.endNs };
  }

  [Symbol.iterator](): Iterator<TimeRange> {
    return this.#ranges[Symbol.iterator]();
  }

  add(other: TimeRanges): TimeRanges {
    if (other.isEmpty) return this;
    return this.isEmpty ? other : TimeRanges.of(...this.#ranges, ...other.#ranges);
  }

  subtract(other: TimeRanges): TimeRanges {
    const left: TimeRange[] = [];
    let next = 0;
    for (const { startNs, endNs } of this.#ranges) {
      let from = startNs;
      // Those that end before this range end before all that follow, too.
      while ((other.#ranges[next]?.endNs ?? endNs) <= startNs && next < other.#ranges.length) next++;
      for (let at = next; at < other.#ranges.length; at++) {
        const hole = other.#ranges[at] as TimeRange;
        if (hole.startNs >= endNs) break;
        if (hole.startNs > from) left.push({ startNs: from, endNs: hole.startNs });
        if (hole.endNs > from) from = hole.endNs;
      }
      if (from < endNs) left.push({ startNs: from, endNs });
    }
    return TimeRanges.of(...left);
  }

  intersect(other: TimeRanges): TimeRanges {
    return this.subtract(this.subtract(other));
  }

  isSuperset(other: TimeRanges): boolean {
    return other.subtract(this).isEmpty;
  }

  overlaps(range: TimeRange): boolean {
    if (range.startNs >= range.endNs) return false;
    return this.#ranges.some(({ startNs, endNs }) => startNs < range.endNs && range.startNs < endNs);
  }

  equals(other: TimeRanges): boolean {
    return (
      this.#ranges.length === other.#ranges.length &&
      this.#ranges.every(({ startNs, endNs }, index) => {
        const same = other.#ranges[index];
        return same !== undefined && startNs === same.startNs && endNs === same.endNs;
      })
    );
  }

  /** How many blocks have any instant of the set. */
  blockCount(blockSizeNs: bigint): number {
    let count = 0n;
    let lastNs: bigint | undefined;
    for (const { startNs, endNs } of this.#ranges) {
      let from = floorToBlock(startNs, blockSizeNs);
      if (lastNs !== undefined && from <= lastNs) from = lastNs + blockSizeNs;
      const last = floorToBlock(endNs - 1n, blockSizeNs);
      if (last >= from) count += (last - from) / blockSizeNs + 1n;
      lastNs = last;
    }
    return Number(count);
  }

  /** Starts of the blocks that have any instant of the set, ascending, each once. */
  *blockStarts(blockSizeNs: bigint): Iterable<bigint> {
    let last: bigint | undefined;
    for (const { startNs, endNs } of this.#ranges) {
      for (let start = floorToBlock(startNs, blockSizeNs); start < endNs; start += blockSizeNs) {
        if (last !== undefined && start <= last) continue;
        last = start;
        yield start;
      }
    }
  }

  toString(): string {
    return this.#ranges.map(({ startNs, endNs }) => `[${isoTime(startNs)}, ${isoTime(endNs)})`).join(' ');
  }
}

/** From 0001-01-01 to the Unix epoch: blocks are counted from there, so that those of a week begin on Mondays. */
const ZERO_NS = -62_135_596_800n * 1_000_000_000n;

/** The start of the block that has this instant. */
export function floorToBlock(timeNs: bigint, blockSizeNs: bigint): bigint {
  assert(blockSizeNs > 0n, 'a block has a size');
  const since = timeNs - ZERO_NS;
  const rest = since % blockSizeNs;
  return timeNs - (rest < 0n ? rest + blockSizeNs : rest);
}

/** As people read it; whole seconds without a fraction. */
export function isoTime(timeNs: bigint): string {
  const ms = Number(timeNs / 1_000_000n);
  if (Math.abs(ms) > 8.64e15) return `${timeNs} ns`;
  return new Date(ms).toISOString().replace('.000Z', 'Z');
}
