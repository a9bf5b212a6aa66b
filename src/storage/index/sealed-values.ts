import { MAX_LABEL_BYTES } from './labels.ts';
import type { SealedNames } from './sealed-names.ts';
import type { SectionReader } from './section-reader.ts';
import { GROUP_TERMS } from './segment-layout.ts';

/** The terms between two restart points. */
export class TermGroup {
  /** Values behind each other; `starts` has one more entry than there are. New for each group, so views stay. */
  bytes: Buffer = Buffer.alloc(0);
  readonly starts = new Uint32Array(GROUP_TERMS + 1);
  readonly counts = new Uint32Array(GROUP_TERMS);
  /** The only posting, or where the list starts in its section. */
  readonly places = new Uint32Array(GROUP_TERMS);

  value(index: number): Uint8Array {
    const start = this.starts[index] as number;
    const { buffer, byteOffset } = this.bytes;
    return new Uint8Array(buffer, byteOffset + start, (this.starts[index + 1] as number) - start);
  }

  text(index: number): string {
    return this.bytes.toString('utf8', this.starts[index], this.starts[index + 1]);
  }
}

/** The values of a sealed segment: prefix-compressed, with a restart point every 16 terms. */
export class SealedValues {
  readonly #values: SectionReader;
  readonly #groups: SectionReader;
  readonly #names: SealedNames;
  readonly #seriesCount: number;
  readonly #group = new TermGroup();
  /** The group that `#group` holds. */
  #current = -1;
  #scratch = new Uint8Array(1_024);

  constructor(
    sections: { values: SectionReader; groups: SectionReader },
    names: SealedNames,
    seriesCount: number,
  ) {
    this.#values = sections.values;
    this.#groups = sections.groups;
    this.#names = names;
    this.#seriesCount = seriesCount;
  }

  /** The group of a term; valid until the next call. @throws INDEX_SEGMENT_DAMAGED */
  groupOf(term: number): { group: TermGroup; index: number } {
    const name = this.#names.ofTerm(term);
    const ordinal = term - this.#names.firstTerm(name);
    const which = this.#names.firstGroup(name) + Math.floor(ordinal / GROUP_TERMS);
    return { group: this.load(name, which), index: ordinal % GROUP_TERMS };
  }

  /** The number of the term, or -1. */
  find(name: number, value: Uint8Array): number {
    const which = this.lastGroupNotAfter(name, value);
    if (which < 0) return -1;
    const group = this.load(name, which);
    const count = this.#names.groupTerms(name, which);
    for (let index = 0; index < count; index++) {
      if (Buffer.compare(group.value(index), value) === 0) {
        return this.#names.firstTerm(name) + (which - this.#names.firstGroup(name)) * GROUP_TERMS + index;
      }
    }
    return -1;
  }

  /** The last group of the name whose first value is not after `value`, or -1. */
  lastGroupNotAfter(name: number, value: Uint8Array): number {
    const first = this.#names.firstGroup(name);
    let low = first - 1;
    let high = this.#names.endGroup(name) - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (Buffer.compare(this.#firstValue(middle), value) <= 0) low = middle;
      else high = middle - 1;
    }
    return low < first ? -1 : low;
  }

  load(name: number, which: number): TermGroup {
    if (this.#current === which) return this.#group;
    this.#current = -1;
    const reader = this.#values;
    const group = this.#group;
    reader.seek(this.#groups.uint32At(4 * which));
    let offset = reader.uvarint();
    const count = this.#names.groupTerms(name, which);
    let end = 0;
    let previous = 0;
    for (let index = 0; index < count; index++) {
      const shared = reader.uvarint();
      const added = reader.uvarint();
      const isPossible = shared <= end - previous && shared + added > 0 && shared + added <= MAX_LABEL_BYTES;
      if (!isPossible) throw reader.damaged(reader.at, `a value of ${shared} + ${added} bytes`);
      const from = reader.take(added);
      const scratch = this.#reserve(end, shared + added);
      scratch.copyWithin(end, previous, previous + shared);
      scratch.set(reader.bytes.subarray(from, from + added), end + shared);
      group.starts[index] = end;
      previous = end;
      end += shared + added;
      offset = this.#readPlace(index, offset);
    }
    group.starts[count] = end;
    group.bytes = Buffer.from(this.#scratch.slice(0, end).buffer);
    this.#current = which;
    return group;
  }

  /** Where the postings of the next entry are; returns where those after it start. */
  #readPlace(index: number, offset: number): number {
    const reader = this.#values;
    const count = reader.uvarint();
    const place = reader.uvarint();
    if (count === 0 || count > this.#seriesCount || (count === 1 && place >= this.#seriesCount)) {
      throw reader.damaged(reader.at, `a term with ${count} postings in ${this.#seriesCount} series`);
    }
    this.#group.counts[index] = count;
    this.#group.places[index] = count === 1 ? place : offset;
    return count === 1 ? offset : offset + place;
  }

  #firstValue(which: number): Uint8Array {
    const reader = this.#values;
    reader.seek(this.#groups.uint32At(4 * which));
    reader.uvarint();
    reader.uvarint();
    const length = reader.uvarint();
    const start = reader.take(length);
    return reader.bytes.subarray(start, start + length);
  }

  #reserve(end: number, sizeBytes: number): Uint8Array {
    if (end + sizeBytes > this.#scratch.length) {
      const grown = new Uint8Array(2 * (end + sizeBytes));
      grown.set(this.#scratch);
      this.#scratch = grown;
    }
    return this.#scratch;
  }
}
