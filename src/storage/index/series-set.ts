import { ByteWriter } from './byte-writer.ts';
import type { IndexSegment } from './index-segment.ts';
import { MAX_LABELS, textOf, writeLabel, type LabelPair } from './labels.ts';

/** So many are remembered while labels are read: labels of few values come again and again. */
const MAX_KNOWN = 65_536;

/**
 * The result of a search over several segments: where each series is. Labels are read from the segments when they
 * are asked for, so the result must be used while they are open; a series that is added meanwhile does not matter.
 */
export class SeriesSet {
  readonly #segments: readonly IndexSegment[];
  readonly #sources: Uint16Array;
  readonly #positions: Uint32Array;
  readonly #row = new Uint32Array(MAX_LABELS);
  readonly #texts: Map<number, string>[];
  readonly #names: Map<number, string>[];
  /** Labels as an ID has them, by their term. */
  readonly #encoded: Map<number, Uint8Array>[];

  /** One entry a series: the index of its segment, and its position there. */
  constructor(segments: readonly IndexSegment[], sources: Uint16Array, positions: Uint32Array) {
    this.#segments = segments;
    this.#sources = sources;
    this.#positions = positions;
    this.#texts = segments.map(() => new Map());
    this.#names = segments.map(() => new Map());
    this.#encoded = segments.map(() => new Map());
  }

  get count(): number {
    return this.#positions.length;
  }

  /** The number that the caller gave to the series, in the first of the segments that have it. */
  ref(index: number): number {
    return this.#segmentOf(index).refOf(this.#positions[index] as number);
  }

  /** All refs, in the order of the set. */
  refs(): Uint32Array {
    return Uint32Array.from({ length: this.count }, (_, index) => this.ref(index));
  }

  /** In the order of their names. */
  labels(index: number): LabelPair[] {
    const segment = this.#segmentOf(index);
    const source = this.#sources[index] as number;
    const end = segment.readRow(this.#positions[index] as number, this.#row, 0);
    const pairs: LabelPair[] = [];
    for (let label = 0; label < end; label++) {
      const term = this.#row[label] as number;
      pairs.push([this.#name(source, segment.termName(term)), this.#text(source, term)]);
    }
    return pairs;
  }

  /** Canonical label bytes: the ID of the series. The caller's own. */
  labelBytes(index: number): Uint8Array {
    const segment = this.#segmentOf(index);
    const known = this.#encoded[this.#sources[index] as number] as Map<number, Uint8Array>;
    const end = segment.readRow(this.#positions[index] as number, this.#row, 0);
    const labels: Uint8Array[] = [];
    for (let label = 0; label < end; label++) {
      const term = this.#row[label] as number;
      let bytes = known.get(term);
      if (bytes === undefined) {
        bytes = labelOf(segment, term);
        if (known.size < MAX_KNOWN) known.set(term, bytes);
      }
      labels.push(bytes);
    }
    return Buffer.concat(labels);
  }

  #segmentOf(index: number): IndexSegment {
    return this.#segments[this.#sources[index] as number] as IndexSegment;
  }

  #name(source: number, name: number): string {
    const known = this.#names[source] as Map<number, string>;
    let text = known.get(name);
    if (text === undefined) {
      const bytes = (this.#segments[source] as IndexSegment).nameBytes(name);
      text = textOf(bytes, 0, bytes.length);
      known.set(name, text);
    }
    return text;
  }

  #text(source: number, term: number): string {
    const known = this.#texts[source] as Map<number, string>;
    let text = known.get(term);
    if (text === undefined) {
      text = (this.#segments[source] as IndexSegment).valueText(term);
      if (known.size < MAX_KNOWN) known.set(term, text);
    }
    return text;
  }
}

/** A label as an ID has it. */
export function labelOf(segment: IndexSegment, term: number): Uint8Array {
  const out = new ByteWriter();
  writeLabel(out, segment.nameBytes(segment.termName(term)), segment.valueBytes(term));
  return out.take();
}
