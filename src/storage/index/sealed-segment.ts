import type { IndexSegment } from './index-segment.ts';
import { decodePostings } from './posting-codec.ts';
import { SealedNames } from './sealed-names.ts';
import { SealedRows } from './sealed-rows.ts';
import { SealedSections } from './sealed-sections.ts';
import { SealedValues } from './sealed-values.ts';
import { bitsAt, PADDING_BYTES, type SectionReader } from './section-reader.ts';
import { GROUP_TERMS } from './segment-layout.ts';
import type { SegmentSource } from './segment-source.ts';

/**
 * A segment as `writeSegment` wrote it, read where it lies: nothing is decoded but what a search needs. Its series
 * stand in the order of their labels.
 *
 * Opening reads header and footer only. Each section is read and its checksum compared when it is first used; every
 * method may therefore throw `INDEX_SEGMENT_DAMAGED`, with the offset in the file, and then has returned nothing.
 * Single-threaded: no call while another is under way.
 */
export class SealedSegment implements IndexSegment {
  readonly #sections: SealedSections;
  #nameTable: SealedNames | undefined;
  #valueTable: SealedValues | undefined;
  #rowTable: SealedRows | undefined;
  #refs: { reader: SectionReader; base: number; width: number } | undefined;

  private constructor(sections: SealedSections) {
    this.#sections = sections;
  }

  /**
   * @param label says in errors which segment it is, mostly a path
   * @throws INDEX_SEGMENT_DAMAGED when header or footer are not whole, STORAGE_FORMAT_UNKNOWN when it is of another version
   */
  static open(source: SegmentSource, label: string): SealedSegment {
    return new SealedSegment(new SealedSections(source, label));
  }

  get seriesCount(): number {
    return this.#sections.footer.seriesCount;
  }

  get nameCount(): number {
    return this.#sections.footer.nameCount;
  }

  get termCount(): number {
    return this.#sections.footer.termCount;
  }

  /** Of the sections that are loaded, whether in memory of their own or not, and of what was made from them. */
  get memoryBytes(): number {
    const made = (this.#nameTable?.memoryBytes ?? 0) + (this.#rowTable?.memoryBytes ?? 0);
    return this.#sections.loadedBytes + made + 1_024;
  }

  /** Reads all of it and compares all checksums. @throws INDEX_SEGMENT_DAMAGED */
  verify(): void {
    this.#sections.verify();
  }

  /** Gives back the memory of what was loaded; it is loaded and checked again when it is next used. */
  release(): void {
    this.#sections.release();
    this.#nameTable = undefined;
    this.#valueTable = undefined;
    this.#rowTable = undefined;
    this.#refs = undefined;
  }

  refOf(position: number): number {
    const { reader, base, width } = this.#loadRefs();
    return base + bitsAt(reader.view, 40 + position * width, width);
  }

  readRow(position: number, out: Uint32Array, at: number): number {
    return this.#rows().read(position, out, at);
  }

  termIn(position: number, name: number): number {
    return this.#rows().termIn(position, name);
  }

  findName(name: string): number {
    return this.#names().find(name);
  }

  nameBytes(name: number): Uint8Array {
    return this.#names().bytes(name);
  }

  valueCount(name: number): number {
    return this.#names().valueCount(name);
  }

  seriesWith(name: number): number {
    return this.#names().seriesWith(name);
  }

  findTerm(name: number, value: string): number {
    return this.#values().find(name, Buffer.from(value));
  }

  termName(term: number): number {
    return this.#names().ofTerm(term);
  }

  valueBytes(term: number): Uint8Array {
    const { group, index } = this.#values().groupOf(term);
    return group.value(index);
  }

  valueText(term: number): string {
    const { group, index } = this.#values().groupOf(term);
    return group.text(index);
  }

  /** In ascending order of their bytes. */
  visitValues(name: number, prefix: string, visit: (term: number, value: string) => void): void {
    const values = this.#values();
    const names = this.#names();
    const first = names.firstGroup(name);
    const start =
      prefix === '' ? first : Math.max(first, values.lastGroupNotAfter(name, Buffer.from(prefix)));
    let term = names.firstTerm(name) + (start - first) * GROUP_TERMS;
    for (let which = start; which < names.endGroup(name); which++) {
      const count = names.groupTerms(name, which);
      for (let index = 0; index < count; index++) {
        // Asked for each time: the visitor may have led to another group.
        const value = values.load(name, which).text(index);
        if (value.startsWith(prefix)) visit(term + index, value);
        // From the second group on all are behind the prefix itself, so those that have it come first.
        else if (which > start) return;
      }
      term += count;
    }
  }

  postingCount(term: number): number {
    const { group, index } = this.#values().groupOf(term);
    return group.counts[index] as number;
  }

  readPostings(term: number, out: Uint32Array, at: number): number {
    const { group, index } = this.#values().groupOf(term);
    const count = group.counts[index] as number;
    const place = group.places[index] as number;
    if (count > 1) {
      const reader = this.#sections.section('postings');
      return decodePostings(reader, { offset: place, count }, this.seriesCount, { out, at });
    }
    out[at] = place;
    return at + 1;
  }

  inconsistent(what: string): Error {
    return this.#sections.section('values').damaged(0, what);
  }

  #names(): SealedNames {
    this.#nameTable ??= new SealedNames(this.#sections.section('names'), this.#sections.footer);
    return this.#nameTable;
  }

  #values(): SealedValues {
    if (this.#valueTable === undefined) {
      const sections = { values: this.#sections.section('values'), groups: this.#sections.section('groups') };
      this.#valueTable = new SealedValues(sections, this.#names(), this.seriesCount);
    }
    return this.#valueTable;
  }

  #rows(): SealedRows {
    this.#rowTable ??= new SealedRows(this.#sections.section('rows'), this.#names(), this.#sections.footer);
    return this.#rowTable;
  }

  #loadRefs(): { reader: SectionReader; base: number; width: number } {
    if (this.#refs === undefined) {
      const reader = this.#sections.section('refs');
      reader.seek(0);
      const base = reader.uint32At(0);
      reader.take(4);
      const width = reader.uint8();
      reader.takeBits(this.seriesCount, width);
      if (reader.at + PADDING_BYTES !== reader.length) {
        throw reader.damaged(reader.at, 'the refs do not fill their section');
      }
      this.#refs = { reader, base, width };
    }
    return this.#refs;
  }
}
