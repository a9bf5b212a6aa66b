import { assert } from '../../core/errors.ts';
import type { IndexSegment, RefSet } from './index-segment.ts';
import { MAX_LABELS, sortTexts, textOf } from './labels.ts';
import type { LabelMatcher } from './matcher.ts';
import { numbersUpTo, sortDistinct } from './number-sets.ts';
import { RowTable } from './row-table.ts';
import { search } from './search.ts';
import { SeriesSet } from './series-set.ts';

/** All of its matchers have to accept a series. */
export type Selector = readonly LabelMatcher[];

export interface BlockFilter {
  /** A series is taken when one of them accepts it; without the field, every series is. */
  readonly selectors?: readonly Selector[] | undefined;
  /** By ref, as the segments have it: deleted series are nowhere in a result. */
  readonly deleted?: RefSet | undefined;
}

export interface SeriesQuery extends BlockFilter {
  /** In the order of the labels, as remote read wants them; without it, in no particular order. */
  readonly ordered?: boolean | undefined;
}

export interface LabelCardinality {
  readonly name: string;
  readonly valueCount: number;
  /** How many series have the label. */
  readonly seriesCount: number;
}

const MAX_SEGMENTS = 65_535;

/**
 * The segments of one index block, searched as one index. A series that is in several of them is found once, as the
 * first of them has it: list those that are preferred first.
 *
 * It holds the segments and no state of its own. A block is changed by making another with other segments; a result
 * of this one stays usable as long as its segments are.
 */
export class IndexBlock {
  readonly segments: readonly IndexSegment[];

  constructor(segments: readonly IndexSegment[]) {
    assert(segments.length <= MAX_SEGMENTS, `an index block has at most ${MAX_SEGMENTS} segments`);
    this.segments = segments;
  }

  get memoryBytes(): number {
    return this.segments.reduce((sum, segment) => sum + segment.memoryBytes, 0);
  }

  /** @throws SELECTOR_INVALID when a selector requires no label, INDEX_SEGMENT_DAMAGED */
  series(query: SeriesQuery): SeriesSet {
    const found = this.#found(query);
    const used = found.flatMap((positions, source) => (positions.length > 0 ? [source] : []));
    const [only = 0, ...others] = used;
    if (others.length === 0 && !query.ordered) {
      const positions = found[only] ?? new Uint32Array(0);
      return new SeriesSet(this.segments, new Uint16Array(positions.length).fill(only), positions);
    }
    const { table, sources } = this.#tableOf(found, used);
    const rows = query.ordered ? table.distinctInOrder(table.rank()).rows : table.distinct();
    return new SeriesSet(
      this.segments,
      Uint16Array.from(rows, (row) => sources[table.sourceOf(row)] ?? 0),
      rows.map((row) => table.positionOf(row)),
    );
  }

  /** The names of the labels of the series, in the order of their bytes. */
  labelNames(filter: BlockFilter = {}): string[] {
    const names = new Set<string>();
    const isFiltered = needsRows(filter);
    this.segments.forEach((segment) => {
      const numbers = isFiltered ? namesIn(segment, this.#positions(segment, filter)) : segment.nameCount;
      for (const name of typeof numbers === 'number' ? Array(numbers).keys() : numbers) {
        const bytes = segment.nameBytes(name);
        names.add(textOf(bytes, 0, bytes.length));
      }
    });
    return sortTexts([...names]);
  }

  /** The values that the series have for a label, in the order of their bytes. */
  labelValues(label: string, filter: BlockFilter = {}): string[] {
    const values = new Set<string>();
    const isFiltered = needsRows(filter);
    for (const segment of this.segments) {
      const name = segment.findName(label);
      if (name < 0) continue;
      if (!isFiltered) {
        segment.visitValues(name, '', (_, value) => values.add(value));
        continue;
      }
      const terms = new Set<number>();
      for (const position of this.#positions(segment, filter)) terms.add(segment.termIn(position, name));
      terms.delete(-1);
      for (const term of terms) values.add(segment.valueText(term));
    }
    return sortTexts([...values]);
  }

  /** How many different series there are. */
  seriesCount(filter: BlockFilter = {}): number {
    const found = this.#found(filter);
    const used = found.flatMap((positions, source) => (positions.length > 0 ? [source] : []));
    if (used.length <= 1) return found[used[0] ?? 0]?.length ?? 0;
    return this.#tableOf(found, used).table.distinct().length;
  }

  /** Per label, those with the most values first. */
  cardinality(filter: BlockFilter = {}): LabelCardinality[] {
    const found = this.#found(filter);
    const { table } = this.#tableOf(found, [...found.keys()]);
    const { space } = table;
    const rows = table.distinct();
    const seen = new Uint8Array(space.termCount);
    const labels = new Map<number, { valueCount: number; seriesCount: number }>();
    for (const row of rows) {
      const count = table.labelCount(row);
      for (let label = 0; label < count; label++) {
        const term = table.termAt(row, label);
        const name = space.termName(term);
        const counts = labels.get(name) ?? { valueCount: 0, seriesCount: 0 };
        counts.seriesCount++;
        if (seen[term] === 0) counts.valueCount++;
        seen[term] = 1;
        labels.set(name, counts);
      }
    }
    const all = [...labels].map(([name, counts]) => {
      const bytes = space.nameBytes(name);
      return { name: textOf(bytes, 0, bytes.length), ...counts };
    });
    return all.sort((a, b) => b.valueCount - a.valueCount || (a.name < b.name ? -1 : 1));
  }

  #found(filter: BlockFilter): Uint32Array[] {
    return this.segments.map((segment) => this.#positions(segment, filter));
  }

  /** The positions of a segment that the filter lets through, ascending. */
  #positions(segment: IndexSegment, { selectors, deleted }: BlockFilter): Uint32Array {
    const positions =
      selectors === undefined
        ? numbersUpTo(segment.seriesCount)
        : anyOf(
            selectors.map((selector) => search(segment, selector)),
            segment.seriesCount,
          );
    if (deleted === undefined || deleted.size === 0) return positions;
    return positions.filter((position) => !deleted.has(segment.refOf(position)));
  }

  /** The series found in the segments `used`; the sources of the table's rows are indexes into `used`. */
  #tableOf(
    found: readonly Uint32Array[],
    used: readonly number[],
  ): { table: RowTable; sources: readonly number[] } {
    const table = new RowTable(used.map((source) => this.segments[source] as IndexSegment));
    used.forEach((source, index) => {
      for (const position of found[source] ?? []) table.add(index, position);
    });
    return { table, sources: used };
  }
}

function needsRows({ selectors, deleted }: BlockFilter): boolean {
  return selectors !== undefined || (deleted !== undefined && deleted.size > 0);
}

function namesIn(segment: IndexSegment, positions: Uint32Array): Set<number> {
  const names = new Set<number>();
  const row = new Uint32Array(MAX_LABELS);
  for (const position of positions) {
    const end = segment.readRow(position, row, 0);
    for (let label = 0; label < end; label++) names.add(segment.termName(row[label] as number));
  }
  return names;
}

function anyOf(lists: readonly Uint32Array[], limit: number): Uint32Array {
  if (lists.length === 1) return lists[0] as Uint32Array;
  const all = new Uint32Array(lists.reduce((sum, list) => sum + list.length, 0));
  let at = 0;
  for (const list of lists) {
    all.set(list, at);
    at += list.length;
  }
  return sortDistinct(all, limit);
}
