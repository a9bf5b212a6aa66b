import type { FileSystem } from '../../core/file-system.ts';
import { ByteCursor } from '../fileset/byte-cursor.ts';
import { FileDamageError, FormatFault } from '../fileset/fileset-damage.ts';
import { filesetPath } from '../fileset/fileset-id.ts';
import type { EntryTable, PayloadRun } from '../fileset/entry-table.ts';
import type { FilesetScan } from '../fileset/fileset-scan.ts';
import { FilesetReader, type ReadOptions } from '../fileset/fileset-reader.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import {
  decodeAnnotation,
  DICTIONARY_COPY_ID,
  DICTIONARY_ID,
  isDictionary,
  type BlockAnnotation,
} from './block-annotation.ts';
import type { SealedInput } from './block-writer.ts';
import { NO_OVERWRITES, type Columns } from './columns.ts';
import type { PageColumns, PageRows } from './page-columns.ts';
import type { ReusedColumn } from './reused-column.ts';
import type { SeriesOrder } from './segment-order.ts';
import { decodeSealedSeries, plainHead, type ColumnCodec, type SealedSeries } from './sealed-series.ts';

/**
 * Reads the series of one fileset. Files are opened when something is asked for, the dictionary of times is read
 * once.
 * @throws FILESET_DAMAGED from every method
 */
export class BlockReader {
  readonly info: FilesetInfo;
  readonly annotation: BlockAnnotation;
  readonly #root: string;
  readonly #files: FilesetReader;
  readonly #codec: ColumnCodec;
  #dictionary: Promise<readonly SharedTimes[]> | undefined;
  #shared: readonly SharedTimes[] | undefined;
  /** How many times each column of the dictionary has. */
  #counts: Uint32Array | undefined;
  readonly #placements = new WeakMap<SeriesOrder, Placement>();
  readonly #head = { timesNumber: 0, valuesAt: 0 };

  constructor(
    deps: { readonly fs: FileSystem; readonly codec: ColumnCodec },
    root: string,
    info: FilesetInfo,
  ) {
    this.info = info;
    this.#root = root;
    this.#codec = deps.codec;
    this.annotation = decodeAnnotation(info, filesetPath(root, info, 'info'));
    this.#files = new FilesetReader({ fs: deps.fs }, root, info);
  }

  /** The bytes of a series as they are in the file, checked; undefined when it has none. */
  async payload(id: Uint8Array): Promise<Buffer | undefined> {
    return await this.#files.find(id);
  }

  /** The samples in such bytes; the caller's own. */
  async decode(payload: Buffer): Promise<Columns> {
    const series = this.#located(() => decodeSealedSeries(payload));
    const { timesNumber } = series;
    const dictionary = timesNumber === undefined ? undefined : await this.#openDictionary();
    return this.#located(() => this.#columnsOf(series, dictionary?.[timesNumber ?? 0]));
  }

  #columnsOf({ timesNumber, times: own, values, overwrites }: SealedSeries, shared?: SharedTimes): Columns {
    const times =
      timesNumber === undefined
        ? this.#codec.decodeTimes(own ?? new Uint8Array()).slice()
        : timesOf(shared, this.#codec);
    const bits = this.#codec.decodeValues(values, times.length).slice();
    return { times, bits, overwrites };
  }

  /**
   * The same at once, if what it needs is at hand; undefined otherwise.
   * @param into may take the values, which are valid until it takes others
   */
  decodeNow(payload: Buffer, into: ReusedColumn): Columns | undefined {
    const head = this.#head;
    if (this.#shared && plainHead(payload, head)) {
      try {
        const times = timesOf(this.#shared[head.timesNumber], this.#codec);
        const { bits, values } = into.take(this.#codec.decodeValues(payload, times.length, head.valuesAt));
        return { times, bits, values, overwrites: NO_OVERWRITES };
      } catch (error) {
        throw this.#place(error);
      }
    }
    const series = this.#located(() => decodeSealedSeries(payload));
    const { timesNumber } = series;
    if (timesNumber !== undefined && !this.#shared) return undefined;
    return this.#located(() => this.#columnsOf(series, this.#shared?.[timesNumber ?? 0]));
  }

  /** Where the series of an order are; found once and kept as long as the order is. */
  async placement(order: SeriesOrder, shard: number): Promise<Placement> {
    const known = this.#placements.get(order);
    if (known) return known;
    const [start, end] = [order.startOf(shard), order.startOf(shard + 1)];
    const entries = new Int32Array(end - start).fill(NO_ENTRY);
    let [entry, rank] = [0, start];
    const table = await this.#files.table((id) => {
      let compared = isDictionary(id) ? -1 : 1;
      while (compared > 0 && rank < end && (compared = order.compare(id, rank)) > 0) rank++;
      if (compared === 0) entries[rank - start] = entry;
      entry++;
    });
    if (this.annotation.hasDictionary) await this.#openDictionary();
    const isSame = entries.every((one, i) => one === i);
    const placement = { table, start, entries: isSame ? undefined : entries };
    this.#placements.set(order, placement);
    return placement;
  }

  /** The payloads of some index pages, checked. */
  async payloads(
    { table }: Placement,
    pages: { readonly from: number; readonly to: number },
    into?: Buffer,
  ): Promise<PayloadRun> {
    return await this.#files.payloads(table, pages, into);
  }

  /** Decodes payloads after `placement`: what `into` is left is for `decodeNow`. */
  decodePage(bytes: Uint8Array, rows: PageRows, into: PageColumns): void {
    if (!this.#shared) {
      into.leave(rows.count);
      return;
    }
    this.#counts ??= this.#located(() =>
      Uint32Array.from(this.#shared ?? [], ({ encoded }) => this.#codec.countTimes(encoded)),
    );
    this.#codec.pages.decode(bytes, rows, this.#counts, into);
  }

  /** A column of the dictionary, by its number in a page; shared, not to be changed. */
  times(number: number): BigInt64Array {
    return this.#shared?.[number]?.decoded ?? this.#decodeTimes(number);
  }

  #decodeTimes(number: number): BigInt64Array {
    return this.#located(() => timesOf(this.#shared?.[number], this.#codec));
  }

  /** For many ids: reads ahead so much at once. */
  scan(aheadBytes: number): FilesetScan {
    return this.#files.scan(aheadBytes);
  }

  /** Such bytes as a writer takes them, without decoding the samples. Views. */
  async sealed(payload: Buffer): Promise<SealedInput> {
    const series = this.#located(() => decodeSealedSeries(payload));
    const { timesNumber, values, overwrites } = series;
    const dictionary = timesNumber === undefined ? undefined : await this.#openDictionary();
    return this.#located(() => {
      const shared = timesNumber === undefined ? undefined : dictionary?.[timesNumber];
      const times = timesNumber === undefined ? series.times : shared?.encoded;
      if (!times) throw new FormatFault(0, 'its times are not in the dictionary');
      if (!shared) return { count: this.#codec.countTimes(times), times, values, overwrites };
      shared.count ??= this.#codec.countTimes(times);
      return { count: shared.count, times, values, overwrites, sharedTimes: shared };
    });
  }

  async find(id: Uint8Array): Promise<Columns | undefined> {
    const payload = await this.payload(id);
    return payload && (await this.decode(payload));
  }

  /** All series in the order of their ids. */
  async *series(options: ReadOptions = {}): AsyncIterable<{ readonly id: Buffer; readonly payload: Buffer }> {
    for await (const run of this.#files.series(options)) {
      for (const series of run) if (!isDictionary(series.id)) yield series;
    }
  }

  /** Told of all ids in their order, without their samples. */
  async eachId(use: (id: Buffer) => void): Promise<void> {
    for await (const entries of this.#files.entries()) {
      for (const { id } of entries) if (!isDictionary(id)) use(id);
    }
  }

  /** Equal where another block has the same ids. */
  async idDigest(): Promise<string> {
    return await this.#files.idDigest();
  }

  /** What is asked afterwards opens the files again. */
  async close(): Promise<void> {
    await this.#files.close();
  }

  async #openDictionary(): Promise<readonly SharedTimes[]> {
    this.#dictionary ??= this.#readDictionary().catch((error: unknown) => {
      this.#dictionary = undefined;
      throw error;
    });
    this.#shared = await this.#dictionary;
    return this.#shared;
  }

  async #readDictionary(): Promise<readonly SharedTimes[]> {
    const payload = await this.#files.find(DICTIONARY_ID).catch(async (error: unknown) => {
      if (!(error instanceof FileDamageError)) throw error;
      return await this.#files.find(DICTIONARY_COPY_ID);
    });
    return this.#located(() => {
      if (!payload) throw new FormatFault(0, 'it has no dictionary');
      const cursor = new ByteCursor(payload);
      const count = cursor.varint();
      const shared: SharedTimes[] = [];
      while (shared.length < count) {
        shared.push({ encoded: cursor.bytes(cursor.varint()), decoded: undefined });
      }
      if (!cursor.atEnd) throw new FormatFault(cursor.at, 'the dictionary has more than its columns');
      return shared;
    });
  }

  #located<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      throw this.#place(error);
    }
  }

  #place(error: unknown): unknown {
    if (!(error instanceof FormatFault)) return error;
    const file = filesetPath(this.#root, this.info, 'data');
    const reason = `a series cannot be decoded: ${error.message}`;
    return new FileDamageError({ file, offset: 0, reason }, error);
  }
}

const NO_ENTRY = -1;

/** Where the series of an order's shard are in a fileset. */
export interface Placement {
  readonly table: EntryTable;
  /** The first rank of the shard. */
  readonly start: number;
  /** By rank, less the first: the entry, or -1. Undefined when each rank is its own. */
  readonly entries: Int32Array | undefined;
}

/** The entry of a rank; -1 when there is none. */
export function entryOf({ entries, start }: Placement, rank: number): number {
  return entries ? (entries[rank - start] ?? NO_ENTRY) : rank - start;
}

interface SharedTimes {
  readonly encoded: Uint8Array;
  /** Once somebody has asked. */
  decoded: BigInt64Array | undefined;
  count?: number;
}

function timesOf(shared: SharedTimes | undefined, codec: ColumnCodec): BigInt64Array {
  if (!shared) throw new FormatFault(0, 'its times are not in the dictionary');
  shared.decoded ??= codec.keptTimes(shared.encoded);
  return shared.decoded;
}
