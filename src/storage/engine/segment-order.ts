import { MAX_LABELS } from '../index/labels.ts';
import { search } from '../index/search.ts';
import type { LabelMatcher } from '../index/matcher.ts';
import type { SealedSegment } from '../index/sealed-segment.ts';
import { labelOf } from '../index/series-set.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import type { Found, FoundSet } from './series-columns.ts';

/** Of larger segments it would cost more memory than it saves time. */
const MAX_SERIES = 100_000;
/** So many sets of segments with different series are kept in order, beside the segments themselves. */
const MAX_UNIONS = 4;

/** Series in the order in which files have them, by shard and id. A rank is a place in it. */
export class SeriesOrder {
  readonly #ids: Buffer;
  /** Of the id of each rank. */
  readonly #ends: Uint32Array;
  /** Of each shard the first rank, and behind them the number of series. */
  readonly #starts: Uint32Array;

  /** @param ids ascending within each shard */
  constructor(ids: readonly Uint8Array[], shards: ArrayLike<number>, shardCount: number) {
    this.#ids = Buffer.concat(ids);
    this.#ends = new Uint32Array(ids.length);
    this.#starts = new Uint32Array(shardCount + 1);
    let end = 0;
    for (const [rank, id] of ids.entries()) {
      this.#ends[rank] = end += id.length;
      (this.#starts[(shards[rank] as number) + 1] as number)++;
    }
    for (let shard = 0; shard < shardCount; shard++) {
      this.#starts[shard + 1] = (this.#starts[shard + 1] as number) + (this.#starts[shard] as number);
    }
  }

  get count(): number {
    return this.#ends.length;
  }

  /** The first rank of a shard; of the one behind the last, the number of series. */
  startOf(shard: number): number {
    return this.#starts[shard] as number;
  }

  shardOf(rank: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low + 1 < high) {
      const middle = (low + high) >>> 1;
      if ((this.#starts[middle] as number) <= rank) low = middle;
      else high = middle;
    }
    return low;
  }

  /** A view. */
  id(rank: number): Buffer {
    return this.#ids.subarray(rank === 0 ? 0 : this.#ends[rank - 1], this.#ends[rank]);
  }

  /** Of an id to the one of a rank. */
  compare(id: Buffer, rank: number): number {
    const start = rank === 0 ? 0 : (this.#ends[rank - 1] as number);
    return id.compare(this.#ids, start, this.#ends[rank]);
  }

  isSame(other: SeriesOrder): boolean {
    return this.#ids.equals(other.#ids) && areEqual(this.#ends, other.#ends);
  }
}

/** The order of the series of one segment. */
interface SegmentOrder {
  readonly order: SeriesOrder;
  /** By position in the segment. */
  readonly ranks: Uint32Array;
}

/** Kept as long as the segment is in memory. */
const ofSegments = new WeakMap<SealedSegment, SegmentOrder>();

function orderOf(segment: SealedSegment, shardCount: number): SegmentOrder {
  const known = ofSegments.get(segment) ?? arranged(segment, shardCount);
  ofSegments.set(segment, known);
  return known;
}

function arranged(segment: SealedSegment, shardCount: number): SegmentOrder {
  const ids = idsOf(segment);
  const byShard: number[][] = Array.from({ length: shardCount }, () => []);
  for (const [position, id] of ids.entries()) byShard[murmur3(id, 0) % shardCount]?.push(position);
  const compare = (a: number, b: number): number => Buffer.compare(ids[a] as Buffer, ids[b] as Buffer);
  for (const positions of byShard) positions.sort(compare);
  const ranks = new Uint32Array(ids.length);
  const shards = new Uint16Array(ids.length);
  const sorted: Buffer[] = [];
  for (const [shard, positions] of byShard.entries()) {
    for (const position of positions) {
      ranks[position] = sorted.length;
      shards[sorted.length] = shard;
      sorted.push(ids[position] as Buffer);
    }
  }
  return { order: new SeriesOrder(sorted, shards, shardCount), ranks };
}

/** Several segments with different series as one order: of each segment the ranks of its own order in it. */
interface Union {
  readonly segments: readonly SealedSegment[];
  readonly order: SeriesOrder;
  readonly ranks: readonly Uint32Array[];
}

/** By their first segment, with which they are forgotten. */
const unions = new WeakMap<SealedSegment, Union[]>();

function unionOf(segments: readonly SealedSegment[], shardCount: number): Union {
  const [first] = segments;
  const known = (first && unions.get(first)) ?? [];
  const found = known.find((one) => areSame(one.segments, segments));
  if (found) return found;
  const made = united(segments, shardCount);
  if (first) unions.set(first, [made, ...known].slice(0, MAX_UNIONS));
  return made;
}

function united(segments: readonly SealedSegment[], shardCount: number): Union {
  const orders = segments.map((segment) => orderOf(segment, shardCount).order);
  const ranks = orders.map(({ count }) => new Uint32Array(count));
  const ids: Buffer[] = [];
  const shards: number[] = [];
  const next = orders.map(() => 0);
  for (let shard = 0; shard < shardCount; shard++) {
    for (;;) {
      let least: Buffer | undefined;
      for (const [i, order] of orders.entries()) {
        const rank = next[i] as number;
        if (rank >= order.startOf(shard + 1)) continue;
        if (!least || order.compare(least, rank) > 0) least = order.id(rank);
      }
      if (!least) break;
      for (const [i, order] of orders.entries()) {
        const rank = next[i] as number;
        if (rank >= order.startOf(shard + 1) || order.compare(least, rank) !== 0) continue;
        (ranks[i] as Uint32Array)[rank] = ids.length;
        next[i] = rank + 1;
      }
      ids.push(least);
      shards.push(shard);
    }
  }
  return { segments, order: new SeriesOrder(ids, shards, shardCount), ranks };
}

/** Canonical labels of all series, by position. Labels that many have are decoded once. */
function idsOf(segment: SealedSegment): Buffer[] {
  const labels: (Uint8Array | undefined)[] = [];
  const row = new Uint32Array(MAX_LABELS);
  const parts: Uint8Array[] = [];
  return Array.from({ length: segment.seriesCount }, (_, position) => {
    const count = segment.readRow(position, row, 0);
    parts.length = 0;
    for (let label = 0; label < count; label++) {
      const term = row[label] as number;
      parts.push((labels[term] ??= labelOf(segment, term)));
    }
    return Buffer.concat(parts);
  });
}

/** Whether `arrangedSeries` is worth its memory. */
export function canArrange(segments: readonly SealedSegment[]): boolean {
  return segments.every(({ seriesCount }) => seriesCount <= MAX_SERIES);
}

/** Series in the order in which files have them. */
export class ArrangedSeries implements FoundSet {
  readonly order: SeriesOrder;
  /** Ascending. */
  readonly ranks: Uint32Array;

  constructor(order: SeriesOrder, ranks: Uint32Array) {
    this.order = order;
    this.ranks = ranks;
  }

  get atMost(): number {
    return this.ranks.length;
  }

  count(): number {
    return this.ranks.length;
  }

  /** Those of some shards. */
  ofShards(isAsked: (shard: number) => boolean): ArrangedSeries {
    return new ArrangedSeries(
      this.order,
      this.ranks.filter((rank) => isAsked(this.order.shardOf(rank))),
    );
  }

  get series(): Iterable<Found> {
    return this.#series();
  }

  *#series(): Iterable<Found> {
    let shard = 0;
    for (const rank of this.ranks) {
      while (rank >= this.order.startOf(shard + 1)) shard++;
      yield { id: this.order.id(rank), shard, reference: undefined };
    }
  }
}

/**
 * The series of these segments that match, each once.
 * @throws SELECTOR_INVALID, INDEX_SEGMENT_DAMAGED
 */
export function arrangedSeries(
  segments: readonly SealedSegment[],
  matchers: readonly LabelMatcher[],
  shardCount: number,
): ArrangedSeries {
  // Index blocks that follow each other mostly have the same series.
  const distinct: SealedSegment[] = [];
  for (const segment of segments) {
    const { order } = orderOf(segment, shardCount);
    if (!distinct.some((one) => orderOf(one, shardCount).order.isSame(order))) distinct.push(segment);
  }
  const [first] = distinct;
  if (!first) return new ArrangedSeries(new SeriesOrder([], [], shardCount), new Uint32Array());
  if (distinct.length === 1) {
    const { order, ranks } = orderOf(first, shardCount);
    const positions = search(first, matchers);
    const isAll = positions.length === order.count;
    const chosen = isAll
      ? positions.map((_, rank) => rank)
      : positions.map((position) => ranks[position] as number).sort();
    return new ArrangedSeries(order, chosen);
  }
  const union = unionOf(distinct, shardCount);
  const marks = new Uint8Array(union.order.count);
  for (const [i, segment] of distinct.entries()) {
    const { ranks } = orderOf(segment, shardCount);
    const inUnion = union.ranks[i] as Uint32Array;
    for (const position of search(segment, matchers)) marks[inUnion[ranks[position] as number] as number] = 1;
  }
  let count = 0;
  const chosen = new Uint32Array(marks.length);
  for (let rank = 0; rank < marks.length; rank++) if (marks[rank] === 1) chosen[count++] = rank;
  return new ArrangedSeries(union.order, chosen.subarray(0, count));
}

function areSame(one: readonly SealedSegment[], other: readonly SealedSegment[]): boolean {
  return one.length === other.length && one.every((segment, i) => segment === other[i]);
}

function areEqual(a: Uint32Array, b: Uint32Array): boolean {
  const bytesOf = (some: Uint32Array): Uint8Array =>
    new Uint8Array(some.buffer, some.byteOffset, some.byteLength);
  return Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
}
