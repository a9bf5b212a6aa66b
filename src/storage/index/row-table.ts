import type { IndexSegment } from './index-segment.ts';
import { MAX_LABELS } from './labels.ts';
import { numbersUpTo } from './number-sets.ts';
import { PagedNumbers } from './paged-numbers.ts';
import { sortBySequence } from './sequence-sort.ts';
import { TermTable } from './term-table.ts';

/** What a row's terms are numbered in. */
export interface TermSpace {
  readonly nameCount: number;
  readonly termCount: number;
  nameBytes(name: number): Uint8Array;
  termName(term: number): number;
  valueBytes(term: number): Uint8Array;
}

/** The texts of a table in the order of their bytes, with what is used only. */
export interface RankedTerms {
  /** Names that occur, ascending, by their number in the table. */
  readonly names: Uint32Array;
  /** Terms that occur, by name and then by value, by their number in the table. */
  readonly terms: Uint32Array;
  /** Where a term of the table stands in `terms`. */
  readonly rankOf: Uint32Array;
}

/** Rows in the order of their labels, each series once. */
export interface OrderedRows {
  /** By their number in the table. */
  readonly rows: Uint32Array;
  /** The ranks of the terms of all rows of the table, row by row, each row with -1 behind it. */
  readonly ranks: Int32Array;
  /** Where each row of the table starts in `ranks`. */
  readonly starts: Uint32Array;
}

/**
 * Series of one or several segments side by side, as rows of terms that are comparable across segments: for finding
 * the same series in two segments, and for putting series into the order of their labels.
 *
 * With a single segment its own numbers are used; with several, texts that occur are interned here once.
 */
export class RowTable {
  readonly #segments: readonly IndexSegment[];
  readonly #space: TermSpace;
  readonly #interned: InternedSpace | undefined;
  readonly #buffer = new Uint32Array(MAX_LABELS);
  // Of rows: the segment, the position there, and where its terms start.
  readonly #sources = new PagedNumbers();
  readonly #positions = new PagedNumbers();
  readonly #starts = new PagedNumbers();
  readonly #terms = new PagedNumbers();

  constructor(segments: readonly IndexSegment[]) {
    this.#segments = segments;
    const [only, ...others] = segments;
    this.#interned = only === undefined || others.length > 0 ? new InternedSpace(segments) : undefined;
    this.#space = this.#interned ?? (only as IndexSegment);
    this.#starts.push(0);
  }

  get rowCount(): number {
    return this.#positions.count;
  }

  get space(): TermSpace {
    return this.#space;
  }

  /** Announces that all series of all segments are added: texts are then taken in the order in which they lie. */
  takeAllTerms(): void {
    this.#segments.forEach((segment, source) => {
      for (let term = 0; term < segment.termCount; term++) this.#interned?.termOf(source, term);
    });
  }

  /** Adds the series at `position` of the segment with this index. */
  add(source: number, position: number): void {
    const segment = this.#segments[source] as IndexSegment;
    const labelCount = segment.readRow(position, this.#buffer, 0);
    for (let label = 0; label < labelCount; label++) {
      const term = this.#buffer[label] as number;
      this.#terms.push(this.#interned === undefined ? term : this.#interned.termOf(source, term));
    }
    this.#sources.push(source);
    this.#positions.push(position);
    this.#starts.push(this.#terms.count);
  }

  sourceOf(row: number): number {
    return this.#sources.at(row);
  }

  positionOf(row: number): number {
    return this.#positions.at(row);
  }

  labelCount(row: number): number {
    return this.#starts.at(row + 1) - this.#starts.at(row);
  }

  termAt(row: number, label: number): number {
    return this.#terms.at(this.#starts.at(row) + label);
  }

  /** How many series have each term, by its number. */
  countTerms(): Uint32Array {
    const counts = new Uint32Array(this.#space.termCount);
    for (let i = 0; i < this.#terms.count; i++) increment(counts, this.#terms.at(i));
    return counts;
  }

  /** Puts the terms that occur into order. */
  rank(): RankedTerms {
    const space = this.#space;
    const counts = this.countTerms();
    const nameTerms = new Uint32Array(space.nameCount);
    let used = 0;
    for (let term = 0; term < counts.length; term++) {
      if (counts[term] === 0) continue;
      increment(nameTerms, space.termName(term));
      used++;
    }
    const names = numbersUpTo(nameTerms.length).filter((name) => (nameTerms[name] as number) > 0);
    const nameTexts = Array.from(nameTerms.keys(), (name) => space.nameBytes(name));
    sortBySequence(names, (name, depth) => nameTexts[name]?.[depth] ?? -1);

    const terms = new Uint32Array(used);
    const next = new Uint32Array(nameTerms.length);
    let start = 0;
    for (const name of names) {
      next[name] = start;
      start += nameTerms[name] as number;
    }
    for (let term = 0; term < counts.length; term++) {
      if (counts[term] !== 0) terms[increment(next, space.termName(term))] = term;
    }
    start = 0;
    for (const name of names) {
      const stop = start + (nameTerms[name] as number);
      sortValues(space, terms.subarray(start, stop));
      start = stop;
    }
    const rankOf = new Uint32Array(counts.length);
    for (let rank = 0; rank < terms.length; rank++) rankOf[terms[rank] as number] = rank;
    return { names, terms, rankOf };
  }

  /**
   * The rows in the order of their labels, each series once: of several rows with the same labels the one that was
   * added first.
   */
  distinctInOrder({ rankOf }: Pick<RankedTerms, 'rankOf'>): OrderedRows {
    const ranks = new Int32Array(this.#terms.count + this.rowCount);
    const starts = new Uint32Array(this.rowCount);
    let at = 0;
    for (let row = 0; row < this.rowCount; row++) {
      starts[row] = at;
      const stop = this.#starts.at(row + 1);
      for (let i = this.#starts.at(row); i < stop; i++) ranks[at++] = rankOf[this.#terms.at(i)] as number;
      ranks[at++] = -1;
    }
    const rows = numbersUpTo(this.rowCount);
    sortBySequence(rows, (row, depth) => ranks[(starts[row] as number) + depth] as number);
    let count = 0;
    for (const row of rows) {
      const previous = count > 0 ? (rows[count - 1] as number) : -1;
      if (previous >= 0 && this.#same(previous, row)) rows[count - 1] = Math.min(previous, row);
      else rows[count++] = row;
    }
    return { rows: rows.subarray(0, count), ranks, starts };
  }

  /** The rows in the order in which they were added, each series once, its first row. */
  distinct(): Uint32Array {
    const slots = new Uint32Array(2 ** Math.ceil(Math.log2(this.rowCount * 2 + 2)));
    const mask = slots.length - 1;
    const rows = new Uint32Array(this.rowCount);
    let count = 0;
    for (let row = 0; row < this.rowCount; row++) {
      let slot = this.#hash(row) & mask;
      while (slots[slot] !== 0 && !this.#same((slots[slot] as number) - 1, row)) slot = (slot + 1) & mask;
      if (slots[slot] !== 0) continue;
      slots[slot] = row + 1;
      rows[count++] = row;
    }
    return rows.subarray(0, count);
  }

  #same(a: number, b: number): boolean {
    const count = this.labelCount(a);
    if (this.labelCount(b) !== count) return false;
    for (let label = 0; label < count; label++) {
      if (this.termAt(a, label) !== this.termAt(b, label)) return false;
    }
    return true;
  }

  #hash(row: number): number {
    let hash = 0;
    const count = this.labelCount(row);
    for (let label = 0; label < count; label++) {
      hash = Math.imul(hash ^ this.termAt(row, label), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return hash >>> 0;
  }
}

/** Adds one, and returns what was there before. */
function increment(counts: Uint32Array, index: number): number {
  const before = counts[index] as number;
  counts[index] = before + 1;
  return before;
}

function sortValues(space: TermSpace, terms: Uint32Array): void {
  const compact = new ValueTexts(space, terms);
  const order = numbersUpTo(terms.length);
  sortBySequence(order, (item, depth) => compact.byteAt(item, depth));
  terms.set(order.map((item) => terms[item] as number));
}

/** The texts of some terms side by side, so that sorting them walks over one array and makes no views. */
class ValueTexts {
  readonly #bytes: Uint8Array;
  readonly #starts: Uint32Array;

  constructor(space: TermSpace, terms: Uint32Array) {
    this.#starts = new Uint32Array(terms.length + 1);
    let sizeBytes = 0;
    for (let i = 0; i < terms.length; i++) {
      sizeBytes += space.valueBytes(terms[i] as number).length;
      this.#starts[i + 1] = sizeBytes;
    }
    this.#bytes = new Uint8Array(sizeBytes);
    for (let i = 0; i < terms.length; i++) {
      this.#bytes.set(space.valueBytes(terms[i] as number), this.#starts[i]);
    }
  }

  byteAt(item: number, depth: number): number {
    const at = (this.#starts[item] as number) + depth;
    return at < (this.#starts[item + 1] as number) ? (this.#bytes[at] as number) : -1;
  }
}

/** Texts of several segments, interned when a row has them. */
class InternedSpace implements TermSpace {
  readonly #segments: readonly IndexSegment[];
  readonly #names = new TermTable();
  readonly #terms = new TermTable();
  /** By segment, by term there: the number here + 1, or 0 for not seen yet. */
  readonly #translations: readonly Uint32Array[];

  constructor(segments: readonly IndexSegment[]) {
    this.#segments = segments;
    this.#translations = segments.map(({ termCount }) => new Uint32Array(termCount));
  }

  get nameCount(): number {
    return this.#names.count;
  }

  get termCount(): number {
    return this.#terms.count;
  }

  nameBytes(name: number): Uint8Array {
    return this.#names.bytes(name);
  }

  termName(term: number): number {
    return this.#terms.scope(term);
  }

  valueBytes(term: number): Uint8Array {
    return this.#terms.bytes(term);
  }

  termOf(source: number, term: number): number {
    const translation = this.#translations[source] as Uint32Array;
    const known = translation[term] as number;
    if (known > 0) return known - 1;
    const segment = this.#segments[source] as IndexSegment;
    const nameBytes = segment.nameBytes(segment.termName(term));
    const name = this.#names.intern(0, nameBytes, 0, nameBytes.length);
    const value = segment.valueBytes(term);
    const own = this.#terms.intern(name, value, 0, value.length);
    translation[term] = own + 1;
    return own;
  }
}
