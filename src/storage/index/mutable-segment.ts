import { assert } from '../../core/errors.ts';
import type { IndexSegment } from './index-segment.ts';
import { checkLabels, isText, LabelCursor, MAX_LABEL_BYTES, MAX_LABELS } from './labels.ts';
import { numbersIn, PagedNumbers } from './paged-numbers.ts';
import { PostingChains } from './posting-chains.ts';
import { SegmentFields, type SegmentField } from './segment-fields.ts';
import { TermTable } from './term-table.ts';

const NONE = 0xffff_ffff;

/**
 * The inverted index of series that are being written: a series is added once and can be searched at once.
 *
 * Single-threaded: no call while another is under way. Memory grows page by page: about 60 bytes for a series of 8
 * labels, and 45 for a label value that no series had before. There is no JavaScript object per series, term or
 * posting. Nothing is ever removed: a block's segment is sealed by `writeSegment` and dropped as a whole.
 */
export class MutableSegment implements IndexSegment {
  #names = new TermTable();
  #terms = new TermTable();
  #postings = new PostingChains();
  // Of names: how many values and series, and the newest value; of terms: the value of the same name before it.
  #valueCounts = new PagedNumbers();
  #seriesCounts = new PagedNumbers();
  #newestTerms = new PagedNumbers();
  #previousTerms = new PagedNumbers();
  // Of series: its ref, and where its terms start in `rows`.
  #refs = new PagedNumbers();
  #rowStarts = new PagedNumbers();
  #rows = new PagedNumbers();
  /** Position + 1 by hash of ref, or 0 for free. Its length is a power of two. */
  #refSlots: Uint32Array = new Uint32Array(16);
  readonly #cursor = new LabelCursor();
  /**
   * Of the labels of the series that is added: term and name, or -1 for new ones, and where name and value lie. The
   * terms stay for the next series, which mostly shares all but a few.
   */
  readonly #found = {
    terms: new Int32Array(MAX_LABELS),
    names: new Int32Array(MAX_LABELS),
    places: new Uint32Array(4 * MAX_LABELS),
  };
  #labelCount = 0;
  #lastLabelCount = 0;
  #likelyLabel = 0;

  constructor() {
    this.#rowStarts.push(0);
  }

  get seriesCount(): number {
    return this.#refs.count;
  }

  get nameCount(): number {
    return this.#names.count;
  }

  get termCount(): number {
    return this.#terms.count;
  }

  get memoryBytes(): number {
    const fixed =
      this.#names.sizeBytes + this.#terms.sizeBytes + this.#postings.sizeBytes + this.#refSlots.byteLength;
    return this.#lists.reduce((sum, list) => sum + list.sizeBytes, fixed);
  }

  get #lists(): readonly PagedNumbers[] {
    return [
      this.#valueCounts,
      this.#seriesCounts,
      this.#newestTerms,
      this.#previousTerms,
      this.#refs,
      this.#rowStarts,
      this.#rows,
    ];
  }

  /** All that it is, for `from`: views, good until a series is added. */
  fields(): SegmentField[] {
    return [
      ...this.#names.fields(),
      ...this.#terms.fields(),
      ...this.#postings.fields(),
      ...this.#lists.map((list) => list.parts()),
      [new Uint8Array(this.#refSlots.buffer, this.#refSlots.byteOffset, this.#refSlots.byteLength)],
    ];
  }

  /** The same segment again. The bytes are its own from now on, and exactly those that `fields` gave. */
  static from(bytes: readonly Uint8Array[]): MutableSegment {
    const fields = new SegmentFields(bytes);
    const segment = new MutableSegment();
    segment.#names = TermTable.from(fields);
    segment.#terms = TermTable.from(fields);
    segment.#postings = PostingChains.from(fields);
    segment.#valueCounts = PagedNumbers.from(fields.next());
    segment.#seriesCounts = PagedNumbers.from(fields.next());
    segment.#newestTerms = PagedNumbers.from(fields.next());
    segment.#previousTerms = PagedNumbers.from(fields.next());
    segment.#refs = PagedNumbers.from(fields.next());
    segment.#rowStarts = PagedNumbers.from(fields.next());
    segment.#rows = PagedNumbers.from(fields.next());
    segment.#refSlots = numbersIn(fields.next());
    return segment;
  }

  /**
   * Adds a series, unless one with this ref is there already; says whether it did. The caller sees to it that one
   * set of labels has one ref. `bytes[start, end)` are canonical label bytes (`encodeLabels`); nothing of them is
   * kept.
   * @throws SERIES_INVALID when they are not canonical; then nothing was added
   */
  add(ref: number, bytes: Uint8Array, start = 0, end = bytes.length): boolean {
    // Asserted by hand: building a message for each series would cost more than the rest of the check.
    if (ref >>> 0 !== ref) assert(false, `a series ref is an unsigned 32-bit number, not ${ref}`);
    if (this.positionOf(ref) >= 0) return false;
    if (!this.#recognise(bytes, start, end)) {
      checkLabels(bytes, start, end);
    }
    const position = this.#refs.count;
    const { terms } = this.#found;
    for (let label = 0; label < this.#labelCount; label++) {
      const term = this.#post(label, bytes, position);
      terms[label] = term;
      this.#rows.push(term);
    }
    this.#lastLabelCount = this.#labelCount;
    this.#refs.push(ref);
    this.#rowStarts.push(this.#rows.count);
    this.#placeRef(ref, position);
    return true;
  }

  /** Whether a series with this ref was added. */
  has(ref: number): boolean {
    return this.positionOf(ref) >= 0;
  }

  /** The position of a series, or -1. */
  positionOf(ref: number): number {
    const mask = this.#refSlots.length - 1;
    for (let slot = hashOfRef(ref) & mask; ; slot = (slot + 1) & mask) {
      const position = (this.#refSlots[slot] as number) - 1;
      if (position < 0) return -1;
      if (this.#refs.at(position) === ref) return position;
    }
  }

  refOf(position: number): number {
    return this.#refs.at(position);
  }

  readRow(position: number, out: Uint32Array, at: number): number {
    const stop = this.#rowStarts.at(position + 1);
    let next = at;
    for (let i = this.#rowStarts.at(position); i < stop; i++) out[next++] = this.#rows.at(i);
    return next;
  }

  termIn(position: number, name: number): number {
    const start = this.#rowStarts.at(position);
    const stop = this.#rowStarts.at(position + 1);
    // Mostly where it was in the series before.
    const likely = start + this.#likelyLabel;
    if (likely < stop) {
      const term = this.#rows.at(likely);
      if (this.#terms.scope(term) === name) return term;
    }
    for (let i = start; i < stop; i++) {
      const term = this.#rows.at(i);
      if (this.#terms.scope(term) !== name) continue;
      this.#likelyLabel = i - start;
      return term;
    }
    return -1;
  }

  findName(name: string): number {
    const bytes = Buffer.from(name);
    return this.#names.find(0, bytes, 0, bytes.length);
  }

  nameBytes(name: number): Uint8Array {
    return this.#names.bytes(name);
  }

  valueCount(name: number): number {
    return this.#valueCounts.at(name);
  }

  seriesWith(name: number): number {
    return this.#seriesCounts.at(name);
  }

  findTerm(name: number, value: string): number {
    const bytes = Buffer.from(value);
    return this.#terms.find(name, bytes, 0, bytes.length);
  }

  termName(term: number): number {
    return this.#terms.scope(term);
  }

  valueBytes(term: number): Uint8Array {
    return this.#terms.bytes(term);
  }

  valueText(term: number): string {
    return this.#terms.text(term);
  }

  visitValues(name: number, prefix: string, visit: (term: number, value: string) => void): void {
    const start = Buffer.from(prefix);
    for (let term = this.#newestTerms.at(name); term !== NONE; term = this.#previousTerms.at(term)) {
      if (this.#terms.startsWith(term, start)) visit(term, this.#terms.text(term));
    }
  }

  postingCount(term: number): number {
    return this.#postings.count(term);
  }

  readPostings(term: number, out: Uint32Array, at: number): number {
    return this.#postings.read(term, out, at);
  }

  inconsistent(what: string): Error {
    return new Error(`the index in memory is inconsistent: ${what}`);
  }

  /**
   * Finds what is known of the labels. Says whether that alone proves them canonical: they have the names of the
   * series before, and values that are known or at least text. Otherwise they have to be checked.
   */
  #recognise(bytes: Uint8Array, start: number, end: number): boolean {
    const cursor = this.#cursor;
    const { terms, names, places } = this.#found;
    let isCanonical = end - start <= MAX_LABEL_BYTES;
    cursor.reset(bytes, start, end);
    let label = 0;
    for (; label < MAX_LABELS && cursor.next(); label++) {
      const likely = label < this.#lastLabelCount ? (terms[label] as number) : -1;
      let name = likely < 0 ? -1 : this.#terms.scope(likely);
      const isSameName = name >= 0 && this.#names.is(name, bytes, cursor.start, cursor.stop);
      if (!isSameName) {
        isCanonical = false;
        name = this.#names.find(0, bytes, cursor.start, cursor.stop);
      }
      names[label] = name;
      places[4 * label] = cursor.start;
      places[4 * label + 1] = cursor.stop;
      if (!cursor.next()) break;
      places[4 * label + 2] = cursor.start;
      places[4 * label + 3] = cursor.stop;
      if (isSameName && this.#terms.is(likely, bytes, cursor.start, cursor.stop)) continue;
      const term = name < 0 ? -1 : this.#terms.find(name, bytes, cursor.start, cursor.stop);
      terms[label] = term;
      isCanonical &&= term >= 0 || (cursor.stop > cursor.start && isText(bytes, cursor.start, cursor.stop));
    }
    this.#labelCount = label;
    // What was found may be overwritten even when the series is refused: only whole rows predict the next.
    this.#lastLabelCount = 0;
    return isCanonical && label > 0 && !cursor.broken && cursor.stop === end;
  }

  /** Posts the series to the term of a label that was recognised, or makes one; returns it. */
  #post(label: number, bytes: Uint8Array, position: number): number {
    const { terms, names, places } = this.#found;
    const known = terms[label] as number;
    const at = 4 * label;
    const name =
      (names[label] as number) < 0
        ? this.#internName(bytes, places[at] as number, places[at + 1] as number)
        : (names[label] as number);
    this.#seriesCounts.set(name, this.#seriesCounts.at(name) + 1);
    if (known >= 0) {
      this.#postings.append(known, position);
      return known;
    }
    const term = this.#terms.intern(name, bytes, places[at + 2] as number, places[at + 3] as number);
    this.#postings.create(position);
    this.#previousTerms.push(this.#newestTerms.at(name));
    this.#newestTerms.set(name, term);
    this.#valueCounts.set(name, this.#valueCounts.at(name) + 1);
    return term;
  }

  #internName(bytes: Uint8Array, start: number, stop: number): number {
    const name = this.#names.intern(0, bytes, start, stop);
    if (name === this.#valueCounts.count) {
      this.#valueCounts.push(0);
      this.#seriesCounts.push(0);
      this.#newestTerms.push(NONE);
    }
    return name;
  }

  #placeRef(ref: number, position: number): void {
    if ((position + 1) * 3 > this.#refSlots.length * 2) {
      this.#refSlots = new Uint32Array(this.#refSlots.length * 2);
      for (let other = 0; other < position; other++) this.#fillSlot(this.#refs.at(other), other);
    }
    this.#fillSlot(ref, position);
  }

  #fillSlot(ref: number, position: number): void {
    const mask = this.#refSlots.length - 1;
    let slot = hashOfRef(ref) & mask;
    while (this.#refSlots[slot] !== 0) slot = (slot + 1) & mask;
    this.#refSlots[slot] = position + 1;
  }
}

function hashOfRef(ref: number): number {
  const hash = Math.imul(ref, 0x9e3779b1);
  return (hash ^ (hash >>> 15)) >>> 0;
}
