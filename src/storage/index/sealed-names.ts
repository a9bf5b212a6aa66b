import { MAX_LABEL_BYTES, textOf } from './labels.ts';
import type { SectionReader } from './section-reader.ts';
import { GROUP_TERMS, type Footer } from './segment-layout.ts';

/** The label names of a sealed segment, and which terms and groups are theirs. */
export class SealedNames {
  readonly #numbers = new Map<string, number>();
  readonly #texts: Uint8Array[] = [];
  /** First term and first group of each name, and the ends of the last. */
  readonly #terms: Uint32Array;
  readonly #groups: Uint32Array;
  readonly #seriesCounts: Uint32Array;
  #lastName = 0;

  /** @throws INDEX_SEGMENT_DAMAGED */
  constructor(reader: SectionReader, footer: Footer) {
    const { nameCount, termCount, groupCount } = footer;
    // Each takes four bytes at least: no more memory is taken than the file has.
    if (nameCount * 4 > reader.length) throw reader.damaged(0, `there is no room for ${nameCount} names`);
    this.#terms = new Uint32Array(nameCount + 1);
    this.#groups = new Uint32Array(nameCount + 1);
    this.#seriesCounts = new Uint32Array(nameCount);
    reader.seek(0);
    let term = 0;
    let group = 0;
    for (let name = 0; name < nameCount; name++) {
      const length = reader.uvarint();
      if (length === 0 || length > MAX_LABEL_BYTES)
        throw reader.damaged(reader.at, `a name of ${length} bytes`);
      const start = reader.take(length);
      this.#texts.push(reader.bytes.subarray(start, start + length));
      this.#numbers.set(textOf(reader.bytes, start, start + length), name);
      const values = reader.uvarint();
      term += values;
      group += Math.ceil(values / GROUP_TERMS);
      if (values === 0 || term > termCount) throw reader.damaged(reader.at, `a name with ${values} values`);
      this.#terms[name + 1] = term;
      this.#groups[name + 1] = group;
      const series = reader.uvarint();
      if (series > footer.seriesCount || series < values) {
        throw reader.damaged(reader.at, `a name with ${values} values in ${series} series`);
      }
      this.#seriesCounts[name] = series;
    }
    const isWhole = term === termCount && group === groupCount && reader.at === reader.length;
    if (!isWhole || this.#numbers.size !== nameCount) {
      throw reader.damaged(reader.at, 'the names are not those that the footer counts');
    }
  }

  find(name: string): number {
    return this.#numbers.get(name) ?? -1;
  }

  bytes(name: number): Uint8Array {
    return this.#texts[name] as Uint8Array;
  }

  firstTerm(name: number): number {
    return this.#terms[name] as number;
  }

  valueCount(name: number): number {
    return (this.#terms[name + 1] as number) - (this.#terms[name] as number);
  }

  seriesWith(name: number): number {
    return this.#seriesCounts[name] as number;
  }

  firstGroup(name: number): number {
    return this.#groups[name] as number;
  }

  endGroup(name: number): number {
    return this.#groups[name + 1] as number;
  }

  ofTerm(term: number): number {
    const terms = this.#terms;
    const last = this.#lastName;
    if (term >= (terms[last] as number) && term < (terms[last + 1] as number)) return last;
    let low = 0;
    let high = terms.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((terms[middle] as number) <= term) low = middle;
      else high = middle - 1;
    }
    this.#lastName = low;
    return low;
  }

  /** How many terms a group has. */
  groupTerms(name: number, group: number): number {
    const before = (group - this.firstGroup(name)) * GROUP_TERMS;
    return Math.min(GROUP_TERMS, this.valueCount(name) - before);
  }

  get memoryBytes(): number {
    return this.#texts.length * 100 + this.#terms.byteLength + this.#groups.byteLength;
  }
}
