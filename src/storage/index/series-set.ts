import { ByteWriter } from './byte-writer.ts';
import type { IndexSegment } from './index-segment.ts';
import { MAX_LABELS, textOf, writeLabel, type LabelPair } from './labels.ts';

/** So many texts are remembered while labels are read: labels of few values come again and again. */
const MAX_KNOWN_TEXTS = 65_536;

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

  /** One entry a series: the index of its segment, and its position there. */
  constructor(segments: readonly IndexSegment[], sources: Uint16Array, positions: Uint32Array) {
    this.#segments = segments;
    this.#sources = sources;
    this.#positions = positions;
    this.#texts = segments.map(() => new Map());
    this.#names = segments.map(() => new Map());
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
    const end = segment.readRow(this.#positions[index] as number, this.#row, 0);
    const out = new ByteWriter();
    for (let label = 0; label < end; label++) {
      const term = this.#row[label] as number;
      writeLabel(out, segment.nameBytes(segment.termName(term)), segment.valueBytes(term));
    }
    return out.take();
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
      if (known.size < MAX_KNOWN_TEXTS) known.set(term, text);
    }
    return text;
  }
}
