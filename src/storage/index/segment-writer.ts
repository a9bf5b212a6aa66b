import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import { bitWidth, BitWriter, ByteWriter } from './byte-writer.ts';
import type { IndexSegment, RefSet } from './index-segment.ts';
import { encodePostings } from './posting-codec.ts';
import { RowTable, type OrderedRows, type RankedTerms, type TermSpace } from './row-table.ts';
import { MAX_PACKED_BYTES, PADDING_BYTES } from './section-reader.ts';
import {
  encodeFooter,
  encodeHeader,
  GROUP_TERMS,
  HEADER_BYTES,
  ROW_BLOCK,
  SECTIONS,
  type SectionEntry,
  type SectionName,
} from './segment-layout.ts';

const CHUNK_BYTES = 65_536;

export interface SegmentWriteOptions {
  /** Series that are not taken along. */
  readonly deleted?: RefSet | undefined;
}

/**
 * Writes the series of one or several segments as one sealed segment: the bytes of the file in order, in chunks.
 * A series that is in several is taken once, with its ref in the first. The result depends on nothing but the
 * series and refs: the same give the same bytes.
 *
 * Nothing happens until the first chunk is asked for. The sources must not change until the last one has come;
 * between chunks the caller may do other things. A chunk belongs to the caller. Memory while it is written: about 130
 * bytes a series of 8 labels and, for several sources, the texts of all of them once.
 * @throws INVALID_ARGUMENT when a section would be larger than 512 MiB
 */
export function* writeSegment(
  sources: readonly IndexSegment[],
  options: SegmentWriteOptions = {},
): Generator<Uint8Array, void, void> {
  const content = collect(sources, options);
  const { rows, ranked } = content;
  const sums = new Sums();
  yield sums.header();
  const values = new ValueWriter(content);
  yield* sums.section('postings', values.postings());
  yield* sums.section('values', [values.out.take()]);
  yield* sums.section('groups', [values.groups.take()]);
  yield* sums.section('names', [values.names.take()]);
  const { bytes, schemaCount } = encodeRows(content);
  yield* sums.section('rows', [bytes]);
  yield* sums.section('refs', [encodeRefs(content.refs)]);
  yield encodeFooter({
    seriesCount: rows.length,
    nameCount: ranked.names.length,
    termCount: ranked.terms.length,
    groupCount: values.groupCount,
    schemaCount,
    sections: sums.sections(),
  });
}

/** All of it as one array. */
export function segmentBytes(
  sources: readonly IndexSegment[],
  options: SegmentWriteOptions = {},
): Uint8Array {
  const chunks = [...writeSegment(sources, options)];
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

interface Content extends OrderedRows {
  readonly space: TermSpace;
  readonly ranked: RankedTerms;
  /** Of the rows, in their order. */
  readonly refs: Uint32Array;
  /** Of ranks: the place of the term's name among the names. */
  readonly nameOf: Uint32Array;
}

function collect(sources: readonly IndexSegment[], { deleted }: SegmentWriteOptions): Content {
  const table = new RowTable(sources);
  table.takeAllTerms();
  for (const [index, source] of sources.entries()) {
    for (let position = 0; position < source.seriesCount; position++) {
      if (!deleted?.has(source.refOf(position))) table.add(index, position);
    }
  }
  const ranked = table.rank();
  const ordered = table.distinctInOrder(ranked);
  const refs = ordered.rows.map((row) => sources[table.sourceOf(row)]?.refOf(table.positionOf(row)) ?? 0);
  const { space } = table;
  const nameOf = new Uint32Array(ranked.terms.length);
  for (let rank = 0, name = 0; rank < nameOf.length; rank++) {
    if (space.termName(ranked.terms[rank] as number) !== ranked.names[name]) name++;
    nameOf[rank] = name;
  }
  return { ...ordered, space, ranked, refs, nameOf };
}

/** Keeps account of where sections start and of their checksums. */
class Sums {
  readonly #entries = new Map<SectionName, SectionEntry>();
  #offset = 0;

  header(): Uint8Array {
    this.#offset = HEADER_BYTES;
    return encodeHeader();
  }

  *section(name: SectionName, chunks: Iterable<Uint8Array>): Generator<Uint8Array, void, void> {
    const offset = this.#offset;
    let sizeBytes = 0;
    let crc = 0;
    for (const chunk of chunks) {
      sizeBytes += chunk.length;
      if (sizeBytes > MAX_PACKED_BYTES) {
        throw new VarveError(
          'INVALID_ARGUMENT',
          `the section ${name} of an index segment would be larger than 512 MiB`,
          {
            hint: 'Write fewer series into one segment.',
          },
        );
      }
      crc = crc32(chunk, crc);
      yield chunk;
    }
    this.#entries.set(name, { offset, sizeBytes, crc });
    this.#offset += sizeBytes;
  }

  sections(): Record<SectionName, SectionEntry> {
    const none = { offset: 0, sizeBytes: 0, crc: 0 };
    const entries = SECTIONS.map((name) => [name, this.#entries.get(name) ?? none] as const);
    return Object.fromEntries(entries) as Record<SectionName, SectionEntry>;
  }
}

/** The postings, and with them what leads to them: values, restart points, names. */
class ValueWriter {
  readonly out = new ByteWriter();
  readonly groups = new ByteWriter();
  readonly names = new ByteWriter();
  groupCount = 0;
  readonly #content: Content;

  constructor(content: Content) {
    this.#content = content;
  }

  *postings(): Generator<Uint8Array, void, void> {
    const { ranked, space, nameOf } = this.#content;
    const { positions, starts } = invert(this.#content);
    const out = new ByteWriter();
    let taken = 0;
    for (let first = 0, stop = 0; first < nameOf.length; first = stop) {
      let previous: Uint8Array = new Uint8Array(0);
      for (stop = first; nameOf[stop] === nameOf[first]; stop++) {
        if ((stop - first) % GROUP_TERMS === 0) {
          this.#startGroup(taken + out.length);
          previous = new Uint8Array(0);
        }
        const value = space.valueBytes(ranked.terms[stop] as number);
        this.#value(previous, value);
        previous = value;
        this.#list(positions.subarray(starts[stop], starts[stop + 1]), out);
        if (out.length >= CHUNK_BYTES) {
          taken += out.length;
          yield out.take();
        }
      }
      const bytes = space.nameBytes(ranked.names[nameOf[first] as number] as number);
      this.names.uvarint(bytes.length);
      this.names.bytes(bytes);
      this.names.uvarint(stop - first);
      this.names.uvarint((starts[stop] as number) - (starts[first] as number));
    }
    out.bytes(new Uint8Array(PADDING_BYTES));
    yield out.take();
  }

  #startGroup(postingsOffset: number): void {
    this.groups.uint32(this.out.length);
    this.groupCount++;
    this.out.uvarint(postingsOffset);
  }

  #value(previous: Uint8Array, value: Uint8Array): void {
    let shared = 0;
    while (shared < previous.length && shared < value.length && previous[shared] === value[shared]) shared++;
    this.out.uvarint(shared);
    this.out.uvarint(value.length - shared);
    this.out.bytes(value.subarray(shared));
  }

  /** A single posting stands beside its value. */
  #list(positions: Uint32Array, out: ByteWriter): void {
    this.out.uvarint(positions.length);
    if (positions.length === 1) {
      this.out.uvarint(positions[0] as number);
      return;
    }
    const before = out.length;
    encodePostings(positions, out);
    this.out.uvarint(out.length - before);
  }
}

/** The positions of each term behind each other, by counting first. */
function invert({ ranked, rows, ranks, starts: rowStarts }: Content): {
  positions: Uint32Array;
  starts: Uint32Array;
} {
  const starts = new Uint32Array(ranked.terms.length + 1);
  for (const row of rows) {
    for (let at = rowStarts[row] as number; (ranks[at] as number) >= 0; at++) {
      const next = (ranks[at] as number) + 1;
      starts[next] = (starts[next] as number) + 1;
    }
  }
  for (let rank = 1; rank < starts.length; rank++) {
    starts[rank] = (starts[rank] as number) + (starts[rank - 1] as number);
  }
  const positions = new Uint32Array(starts.at(-1) ?? 0);
  const next = starts.slice();
  for (let position = 0; position < rows.length; position++) {
    for (let at = rowStarts[rows[position] as number] as number; (ranks[at] as number) >= 0; at++) {
      const rank = ranks[at] as number;
      const to = next[rank] as number;
      positions[to] = position;
      next[rank] = to + 1;
    }
  }
  return { positions, starts };
}

/** Rows of bit-packed values: which names a row has, its schema, is kept apart and mostly shared. */
function encodeRows(content: Content): { bytes: Uint8Array; schemaCount: number } {
  const { ranked, rows, ranks, starts, nameOf } = content;
  const bases = new Uint32Array(ranked.names.length + 1).fill(ranked.terms.length);
  for (let rank = nameOf.length - 1; rank >= 0; rank--) bases[nameOf[rank] as number] = rank;
  const widths = ranked.names.map((_, name) =>
    bitWidth((bases[name + 1] as number) - (bases[name] as number) - 1),
  );
  const schemas = new SchemaTable(content);
  const schemaOf = rows.map((row) => schemas.schemaOf(row));

  const blocks = new ByteWriter();
  const bits = new BitWriter(blocks);
  const blockStarts: number[] = [];
  const schemaWidth = bitWidth(Math.max(0, schemas.count - 1));
  for (let start = 0; start < rows.length; start += ROW_BLOCK) {
    blockStarts.push(blocks.length);
    const own = schemaOf.subarray(start, start + ROW_BLOCK);
    const isUniform = own.every((schema) => schema === own[0]);
    blocks.uint8(isUniform ? 1 : 0);
    for (const schema of isUniform ? own.subarray(0, 1) : own) bits.put(schema, schemaWidth);
    bits.flush();
    for (const row of rows.subarray(start, start + ROW_BLOCK)) {
      for (let at = starts[row] as number; (ranks[at] as number) >= 0; at++) {
        const rank = ranks[at] as number;
        const name = nameOf[rank] as number;
        bits.put(rank - (bases[name] as number), widths[name] as number);
      }
    }
    bits.flush();
  }
  const out = new ByteWriter();
  out.bytes(schemas.out.take());
  for (const start of blockStarts) out.uint32(start);
  out.bytes(blocks.take());
  out.bytes(new Uint8Array(PADDING_BYTES));
  return { bytes: out.take(), schemaCount: schemas.count };
}

/** Numbers the sets of label names, in the order in which rows need them. */
class SchemaTable {
  readonly out = new ByteWriter();
  readonly #content: Content;
  readonly #numbers = new Map<string, number>();
  #lastNames: number[] = [];
  #lastSchema = -1;

  constructor(content: Content) {
    this.#content = content;
  }

  get count(): number {
    return this.#numbers.size;
  }

  schemaOf(row: number): number {
    const { ranks, starts, nameOf } = this.#content;
    const start = starts[row] as number;
    const last = this.#lastNames;
    let count = 0;
    while (count < last.length && nameOf[ranks[start + count] as number] === last[count]) count++;
    if (count === last.length && count > 0 && (ranks[start + count] as number) < 0) return this.#lastSchema;
    const names: number[] = [];
    for (let at = start; (ranks[at] as number) >= 0; at++) names.push(nameOf[ranks[at] as number] as number);
    const key = names.join(' ');
    let schema = this.#numbers.get(key);
    if (schema === undefined) {
      schema = this.#numbers.size;
      this.#numbers.set(key, schema);
      this.out.uvarint(names.length);
      names.forEach((name, label) =>
        this.out.uvarint(label === 0 ? name : name - (names[label - 1] ?? 0) - 1),
      );
    }
    this.#lastNames = names;
    this.#lastSchema = schema;
    return schema;
  }
}

function encodeRefs(refs: Uint32Array): Uint8Array {
  let least = refs[0] ?? 0;
  let most = least;
  for (const ref of refs) {
    if (ref < least) least = ref;
    if (ref > most) most = ref;
  }
  const out = new ByteWriter();
  const width = bitWidth(most - least);
  out.uint32(least);
  out.uint8(width);
  const bits = new BitWriter(out);
  for (const ref of refs) bits.put(ref - least, width);
  bits.flush();
  out.bytes(new Uint8Array(PADDING_BYTES));
  return out.take();
}
