import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import { bitWidth, BitWriter, ByteWriter } from './byte-writer.ts';
import type { IndexSegment, RefSet } from './index-segment.ts';
import { encodePostings } from './posting-codec.ts';
import { RowTable, type RankedTerms } from './row-table.ts';
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
 * between chunks the caller may do other things. A chunk belongs to the caller. Memory: the rows (about 50 bytes a
 * series of 8 labels) and, for several sources, the texts.
 * @throws INVALID_ARGUMENT when a section would be larger than 512 MiB
 */
export function* writeSegment(
  sources: readonly IndexSegment[],
  options: SegmentWriteOptions = {},
): Generator<Uint8Array, void, void> {
  const table = new RowTable(sources);
  for (const [index, source] of sources.entries()) {
    for (let position = 0; position < source.seriesCount; position++) {
      if (!options.deleted?.has(source.refOf(position))) table.add(index, position);
    }
  }
  const ranked = table.rank();
  const rows = table.distinctInOrder(ranked);
  const content: Content = { table, ranked, rows, refs: rows.map((row) => refOf(sources, table, row)) };

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

interface Content {
  readonly table: RowTable;
  readonly ranked: RankedTerms;
  /** Of the table, in the order of the segment. */
  readonly rows: Uint32Array;
  readonly refs: Uint32Array;
}

function refOf(sources: readonly IndexSegment[], table: RowTable, row: number): number {
  return sources[table.sourceOf(row)]?.refOf(table.positionOf(row)) ?? 0;
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
    const { ranked, table } = this.#content;
    const { positions, starts } = invert(this.#content);
    const out = new ByteWriter();
    let taken = 0;
    let rank = 0;
    for (const name of ranked.names) {
      const first = rank;
      let previous: Uint8Array = new Uint8Array(0);
      for (; rank < ranked.terms.length; rank++) {
        const term = ranked.terms[rank] as number;
        if (table.space.termName(term) !== name) break;
        if ((rank - first) % GROUP_TERMS === 0) {
          this.#startGroup(taken + out.length);
          previous = new Uint8Array(0);
        }
        const value = table.space.valueBytes(term);
        this.#value(previous, value);
        previous = value;
        this.#list(positions.subarray(starts[rank], starts[rank + 1]), out);
        if (out.length >= CHUNK_BYTES) {
          taken += out.length;
          yield out.take();
        }
      }
      const bytes = table.space.nameBytes(name);
      this.names.uvarint(bytes.length);
      this.names.bytes(bytes);
      this.names.uvarint(rank - first);
      this.names.uvarint((starts[rank] as number) - (starts[first] as number));
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
function invert({ table, ranked, rows }: Content): { positions: Uint32Array; starts: Uint32Array } {
  const starts = new Uint32Array(ranked.terms.length + 1);
  for (const row of rows) {
    const count = table.labelCount(row);
    for (let label = 0; label < count; label++) {
      const next = (ranked.rankOf[table.termAt(row, label)] as number) + 1;
      starts[next] = (starts[next] as number) + 1;
    }
  }
  for (let rank = 1; rank < starts.length; rank++) {
    starts[rank] = (starts[rank] as number) + (starts[rank - 1] as number);
  }
  const positions = new Uint32Array(starts.at(-1) ?? 0);
  const next = starts.slice();
  rows.forEach((row, position) => {
    const count = table.labelCount(row);
    for (let label = 0; label < count; label++) {
      const rank = ranked.rankOf[table.termAt(row, label)] as number;
      const at = next[rank] as number;
      positions[at] = position;
      next[rank] = at + 1;
    }
  });
  return { positions, starts };
}

/** Rows of bit-packed values: which names a row has, its schema, is kept apart and mostly shared. */
function encodeRows({ table, ranked, rows }: Content): { bytes: Uint8Array; schemaCount: number } {
  const nameRank = new Map<number, number>();
  const widths: number[] = [];
  const bases: number[] = [];
  let base = 0;
  ranked.names.forEach((name, rank) => {
    nameRank.set(name, rank);
    bases.push(base);
    const first = base;
    while (base < ranked.terms.length && table.space.termName(ranked.terms[base] as number) === name) base++;
    widths.push(bitWidth(base - first - 1));
  });
  const rankOfName = (term: number): number => nameRank.get(table.space.termName(term)) ?? 0;
  const schemas = new SchemaTable(table, rankOfName);
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
      const count = table.labelCount(row);
      for (let label = 0; label < count; label++) {
        const term = table.termAt(row, label);
        const name = rankOfName(term);
        bits.put((ranked.rankOf[term] as number) - (bases[name] ?? 0), widths[name] ?? 0);
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
  readonly #table: RowTable;
  readonly #rankOfName: (term: number) => number;
  readonly #numbers = new Map<string, number>();
  #lastNames: number[] = [];
  #lastSchema = -1;

  constructor(table: RowTable, rankOfName: (term: number) => number) {
    this.#table = table;
    this.#rankOfName = rankOfName;
  }

  get count(): number {
    return this.#numbers.size;
  }

  schemaOf(row: number): number {
    const count = this.#table.labelCount(row);
    let isLast = count === this.#lastNames.length;
    for (let label = 0; isLast && label < count; label++) {
      isLast = this.#rankOfName(this.#table.termAt(row, label)) === this.#lastNames[label];
    }
    if (isLast) return this.#lastSchema;
    const names = Array.from({ length: count }, (_, label) =>
      this.#rankOfName(this.#table.termAt(row, label)),
    );
    const key = names.join(' ');
    let schema = this.#numbers.get(key);
    if (schema === undefined) {
      schema = this.#numbers.size;
      this.#numbers.set(key, schema);
      this.out.uvarint(count);
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
