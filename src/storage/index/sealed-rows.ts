import { bitWidth } from './byte-writer.ts';
import { MAX_LABELS } from './labels.ts';
import type { SealedNames } from './sealed-names.ts';
import { bitsAt, MAX_PACKED_BYTES, PADDING_BYTES, type SectionReader } from './section-reader.ts';
import { ROW_BLOCK, type Footer } from './segment-layout.ts';

interface Schema {
  readonly names: Uint32Array;
  /** Where each label starts in a row, in bits. */
  readonly offsets: Uint32Array;
  /** Of a row, in bits. */
  readonly width: number;
}

/** The terms of the series of a sealed segment, bit-packed in blocks of 64 rows. */
export class SealedRows {
  readonly #reader: SectionReader;
  readonly #names: SealedNames;
  readonly #seriesCount: number;
  readonly #schemas: Schema[] = [];
  readonly #widths: Uint32Array;
  readonly #tableOffset: number;
  readonly #blocksOffset: number;
  /** The block that is taken apart below. */
  #block = -1;
  /** Where its first row starts. */
  #firstBit = 0;
  /** The schema of all of its rows, or else those of each, and where each row starts. */
  #uniform: Schema | undefined;
  readonly #rowSchemas: Schema[] = [];
  readonly #rowBits = new Float64Array(ROW_BLOCK);

  /** @throws INDEX_SEGMENT_DAMAGED */
  constructor(reader: SectionReader, names: SealedNames, footer: Footer) {
    this.#reader = reader;
    this.#names = names;
    this.#seriesCount = footer.seriesCount;
    this.#widths = Uint32Array.from({ length: footer.nameCount }, (_, name) =>
      bitWidth(names.valueCount(name) - 1),
    );
    reader.seek(0);
    for (let i = 0; i < footer.schemaCount; i++) this.#schemas.push(this.#readSchema(footer.nameCount));
    this.#tableOffset = reader.at;
    const blockCount = Math.ceil(footer.seriesCount / ROW_BLOCK);
    reader.take(4 * blockCount);
    this.#blocksOffset = reader.at;
  }

  read(position: number, out: Uint32Array, at: number): number {
    const schema = this.#enter(position);
    const bits = this.#bitOf(position);
    const { names } = schema;
    for (let label = 0; label < names.length; label++) {
      out[at + label] = this.#term(names[label] as number, bits + (schema.offsets[label] as number));
    }
    return at + names.length;
  }

  termIn(position: number, name: number): number {
    const schema = this.#enter(position);
    const label = schema.names.indexOf(name);
    if (label < 0) return -1;
    return this.#term(name, this.#bitOf(position) + (schema.offsets[label] as number));
  }

  get memoryBytes(): number {
    return this.#schemas.reduce((sum, { names }) => sum + 8 * names.length + 200, 1_024);
  }

  #term(name: number, bit: number): number {
    const ordinal = bitsAt(this.#reader.view, bit, this.#widths[name] as number);
    if (ordinal >= this.#names.valueCount(name)) {
      throw this.#reader.damaged(Math.floor(bit / 8), `value ${ordinal} of ${this.#names.valueCount(name)}`);
    }
    return this.#names.firstTerm(name) + ordinal;
  }

  /** Takes the block of a series apart; returns its schema. */
  #enter(position: number): Schema {
    const block = Math.floor(position / ROW_BLOCK);
    if (block !== this.#block) {
      this.#block = -1;
      this.#load(block);
      this.#block = block;
    }
    return this.#uniform ?? (this.#rowSchemas[position % ROW_BLOCK] as Schema);
  }

  /** Of a series in the block that was entered. */
  #bitOf(position: number): number {
    const index = position % ROW_BLOCK;
    if (this.#uniform === undefined) return this.#rowBits[index] as number;
    return this.#firstBit + index * this.#uniform.width;
  }

  #load(block: number): void {
    const reader = this.#reader;
    const count = Math.min(ROW_BLOCK, this.#seriesCount - block * ROW_BLOCK);
    reader.seek(this.#blocksOffset + reader.uint32At(this.#tableOffset + 4 * block));
    const isUniform = reader.uint8() === 1;
    const width = bitWidth(Math.max(0, this.#schemas.length - 1));
    const schemaBits = reader.takeBits(isUniform ? 1 : count, width);
    this.#firstBit = reader.at * 8;
    this.#uniform = isUniform ? this.#schemaAt(schemaBits, width) : undefined;
    let bits = this.#firstBit + count * (this.#uniform?.width ?? 0);
    if (this.#uniform === undefined) {
      bits = this.#firstBit;
      for (let index = 0; index < count; index++) {
        const schema = this.#schemaAt(schemaBits + index * width, width);
        this.#rowSchemas[index] = schema;
        this.#rowBits[index] = bits;
        bits += schema.width;
      }
    }
    const end = Math.ceil(bits / 8);
    if (end + PADDING_BYTES > reader.length || end > MAX_PACKED_BYTES) {
      throw reader.damaged(reader.length, 'the rows end too early');
    }
  }

  #schemaAt(bit: number, width: number): Schema {
    const schema = this.#schemas[bitsAt(this.#reader.view, bit, width)];
    if (!schema) throw this.#reader.damaged(Math.floor(bit / 8), 'a row has a schema that does not exist');
    return schema;
  }

  #readSchema(nameCount: number): Schema {
    const reader = this.#reader;
    const count = reader.uvarint();
    if (count === 0 || count > MAX_LABELS) throw reader.damaged(reader.at, `a schema of ${count} labels`);
    const names = new Uint32Array(count);
    const offsets = new Uint32Array(count);
    let width = 0;
    let next = 0;
    for (let label = 0; label < count; label++) {
      const name = next + reader.uvarint();
      if (name >= nameCount) throw reader.damaged(reader.at, `a schema with name ${name} of ${nameCount}`);
      names[label] = name;
      offsets[label] = width;
      width += this.#widths[name] as number;
      next = name + 1;
    }
    return { names, offsets, width };
  }
}
