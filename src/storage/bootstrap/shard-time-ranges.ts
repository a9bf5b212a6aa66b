import { TimeRanges, type TimeRange } from './time-ranges.ts';

/**
 * For each shard a set of instants: what is asked of bootstrap sources, and what they could give. A value, as
 * `TimeRanges` is; shards without any instant are not in it.
 */
export class ShardTimeRanges implements Iterable<readonly [shard: number, ranges: TimeRanges]> {
  /** `this`: the compiler gives a class that is named in its own methods another name, too late for this line. */
  static readonly EMPTY: ShardTimeRanges = new this(new Map());
  readonly #shards: ReadonlyMap<number, TimeRanges>;

  private constructor(shards: ReadonlyMap<number, TimeRanges>) {
    this.#shards = shards;
  }

  static of(entries: Iterable<readonly [shard: number, ranges: TimeRanges]>): ShardTimeRanges {
    const shards = new Map<number, TimeRanges>();
    for (const [shard, ranges] of entries) {
      const sum = ranges.add(shards.get(shard) ?? TimeRanges.EMPTY);
      if (!sum.isEmpty) shards.set(shard, sum);
    }
    const sorted = [...shards].sort(([a], [b]) => a - b);
    return sorted.length === 0 ? ShardTimeRanges.EMPTY : new ShardTimeRanges(new Map(sorted));
  }

  /** The same range for each of the shards. */
  static forShards(shards: Iterable<number>, ...ranges: readonly TimeRange[]): ShardTimeRanges {
    const all = TimeRanges.of(...ranges);
    return ShardTimeRanges.of([...shards].map((shard) => [shard, all] as const));
  }

  get isEmpty(): boolean {
    return this.#shards.size === 0;
  }

  /** Ascending. */
  get shards(): readonly number[] {
    return [...this.#shards.keys()];
  }

  /** From the first instant of any shard to behind the last; undefined of the empty set. */
  get span(): TimeRange | undefined {
    return TimeRanges.of(...[...this.#shards.values()].flatMap(({ span }) => span ?? [])).span;
  }

  get(shard: number): TimeRanges {
    return this.#shards.get(shard) ?? TimeRanges.EMPTY;
  }

  [Symbol.iterator](): Iterator<readonly [number, TimeRanges]> {
    return this.#shards[Symbol.iterator]();
  }

  add(other: ShardTimeRanges): ShardTimeRanges {
    return ShardTimeRanges.of([...this, ...other]);
  }

  subtract(other: ShardTimeRanges): ShardTimeRanges {
    return this.#combine(other, (left, right) => left.subtract(right));
  }

  intersect(other: ShardTimeRanges): ShardTimeRanges {
    return this.#combine(other, (left, right) => left.intersect(right));
  }

  filterShards(isWanted: (shard: number) => boolean): ShardTimeRanges {
    return this.#map((ranges, shard) => (isWanted(shard) ? ranges : TimeRanges.EMPTY));
  }

  isSuperset(other: ShardTimeRanges): boolean {
    return other.subtract(this).isEmpty;
  }

  equals(other: ShardTimeRanges): boolean {
    return (
      this.#shards.size === other.#shards.size &&
      [...this.#shards].every(([shard, ranges]) => ranges.equals(other.get(shard)))
    );
  }

  /** How many blocks, over all shards, have any instant of it. */
  blockCount(blockSizeNs: bigint): number {
    let count = 0;
    const known = new Map<TimeRanges, number>();
    for (const ranges of this.#shards.values()) {
      const blocks = known.get(ranges) ?? ranges.blockCount(blockSizeNs);
      known.set(ranges, blocks);
      count += blocks;
    }
    return count;
  }

  /** `0: [from, to) …; 1: …`, the first few shards. */
  toString(): string {
    const parts = [...this.#shards].slice(0, 8).map(([shard, ranges]) => `${shard}: ${ranges.toString()}`);
    if (this.#shards.size > parts.length) parts.push(`and ${this.#shards.size - parts.length} shards more`);
    return parts.join('; ');
  }

  /** Most shards share their ranges with the one before: then they share the result, too. */
  #combine(
    other: ShardTimeRanges,
    combine: (left: TimeRanges, right: TimeRanges) => TimeRanges,
  ): ShardTimeRanges {
    let last: { left: TimeRanges; right: TimeRanges; result: TimeRanges } | undefined;
    return this.#map((left, shard) => {
      const right = other.get(shard);
      if (last?.left !== left || last.right !== right) last = { left, right, result: combine(left, right) };
      return last.result;
    });
  }

  #map(change: (ranges: TimeRanges, shard: number) => TimeRanges): ShardTimeRanges {
    return ShardTimeRanges.of(
      [...this.#shards].map(([shard, ranges]) => [shard, change(ranges, shard)] as const),
    );
  }
}
