import { ByteWriter } from '../index/byte-writer.ts';
import { MAX_LABELS, writeLabel } from '../index/labels.ts';
import { search } from '../index/search.ts';
import type { LabelMatcher } from '../index/matcher.ts';
import type { SealedSegment } from '../index/sealed-segment.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import type { Found, FoundSet } from './series-columns.ts';

/** Of larger segments it would cost more memory than it saves time. */
const MAX_SERIES = 100_000;

const known = new WeakMap<SealedSegment, SegmentOrder>();

/**
 * The series of a sealed segment in the order in which files have them, by shard and id. Made when a query goes
 * through files for the first time, and kept as long as the segment is in memory.
 */
class SegmentOrder {
  readonly #ids: Buffer;
  readonly #ends: Uint32Array;
  readonly #shards: Uint16Array;
  /** By position: the place in the order. */
  readonly #ranks: Uint32Array;
  readonly #positions: Uint32Array;

  constructor(segment: SealedSegment, shardCount: number) {
    const count = segment.seriesCount;
    const positions = Uint32Array.from({ length: count }, (_, position) => position);
    const ids = idsOf(segment);
    this.#ids = Buffer.concat(ids);
    this.#ends = new Uint32Array(count);
    this.#shards = Uint16Array.from(ids, (id) => murmur3(id, 0) % shardCount);
    let end = 0;
    for (const [position, id] of ids.entries()) this.#ends[position] = end += id.length;
    this.#positions = positions.sort((a, b) => this.compare(a, this, b));
    this.#ranks = new Uint32Array(count);
    for (const [rank, position] of this.#positions.entries()) this.#ranks[position] = rank;
  }

  static of(segment: SealedSegment, shardCount: number): SegmentOrder {
    const order = known.get(segment) ?? new SegmentOrder(segment, shardCount);
    known.set(segment, order);
    return order;
  }

  /** Positions in the order of the files. */
  arrange(positions: Uint32Array): Uint32Array {
    if (positions.length === this.#positions.length) return this.#positions;
    const ranks = positions.map((position) => this.#ranks[position] as number).sort();
    return ranks.map((rank) => this.#positions[rank] as number);
  }

  compare(position: number, other: SegmentOrder, otherPosition: number): number {
    const byShard = (this.#shards[position] as number) - (other.#shards[otherPosition] as number);
    if (byShard !== 0) return byShard;
    const end = this.#ends[position] as number;
    const otherEnd = other.#ends[otherPosition] as number;
    return this.#ids.compare(other.#ids, other.#start(otherPosition), otherEnd, this.#start(position), end);
  }

  isSame(other: SegmentOrder): boolean {
    return this.#ids.equals(other.#ids) && areEqual(this.#ends, other.#ends);
  }

  found(position: number): Found {
    const id = this.#ids.subarray(this.#start(position), this.#ends[position]);
    return { id, shard: this.#shards[position] as number, reference: undefined };
  }

  #start(position: number): number {
    return position === 0 ? 0 : (this.#ends[position - 1] as number);
  }
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

function labelOf(segment: SealedSegment, term: number): Uint8Array {
  const out = new ByteWriter();
  writeLabel(out, segment.nameBytes(segment.termName(term)), segment.valueBytes(term));
  return out.take();
}

/** Whether `arrangedSeries` is worth its memory. */
export function canArrange(segments: readonly SealedSegment[]): boolean {
  return segments.every(({ seriesCount }) => seriesCount <= MAX_SERIES);
}

/**
 * The series of these segments that match, each once, in the order in which files have them.
 * @throws SELECTOR_INVALID, INDEX_SEGMENT_DAMAGED
 */
export function arrangedSeries(
  segments: readonly SealedSegment[],
  matchers: readonly LabelMatcher[],
  shardCount: number,
): FoundSet {
  const lists: List[] = [];
  for (const segment of segments) {
    const order = SegmentOrder.of(segment, shardCount);
    const positions = order.arrange(search(segment, matchers));
    // Index blocks that follow each other mostly have the same series.
    const isKnown = lists.some((list) => list.order.isSame(order) && areEqual(list.positions, positions));
    if (!isKnown) lists.push({ order, positions, next: 0 });
  }
  const count = (): number => {
    if (lists.length <= 1) return lists[0]?.positions.length ?? 0;
    let distinct = 0;
    for (const _ of merged(lists.map((list) => ({ ...list })))) distinct++;
    return distinct;
  };
  const atMost = lists.reduce((sum, { positions }) => sum + positions.length, 0);
  return { count, atMost, series: merged(lists) };
}

interface List {
  readonly order: SegmentOrder;
  readonly positions: Uint32Array;
  next: number;
}

function* merged(lists: readonly List[]): Iterable<Found> {
  // Those that have the same series next, which is the first of all.
  const firsts: List[] = [];
  for (;;) {
    firsts.length = 0;
    for (const list of lists) {
      if (list.next >= list.positions.length) continue;
      const first = firsts[0];
      const order = first ? orderOf(list, first) : 0;
      if (order < 0) firsts.length = 0;
      if (order <= 0) firsts.push(list);
    }
    const [first] = firsts;
    if (!first) return;
    const found = first.order.found(first.positions[first.next] as number);
    for (const list of firsts) list.next++;
    yield found;
  }
}

function areEqual(a: Uint32Array, b: Uint32Array): boolean {
  const bytesOf = (some: Uint32Array): Uint8Array =>
    new Uint8Array(some.buffer, some.byteOffset, some.byteLength);
  return Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
}

function orderOf(list: List, other: List): number {
  const position = list.positions[list.next] as number;
  return list.order.compare(position, other.order, other.positions[other.next] as number);
}
