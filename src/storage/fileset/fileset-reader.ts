import { crc32 } from 'node:zlib';
import { hasCode, type File, type FileSystem } from '../../core/file-system.ts';
import { checkFileHeader, FILE_HEADER_BYTES } from './checked-file.ts';
import { decodeAt, FileDamageError, FormatFault, type FileDamage } from './fileset-damage.ts';
import { filesetPath, type FileKind } from './fileset-id.ts';
import { FilesetScan } from './fileset-scan.ts';
import { IdDigest } from './id-digest.ts';
import { EntryTable, type PayloadRun } from './entry-table.ts';
import {
  decodeDirectory,
  decodeEntries,
  openPage,
  type IndexEntry,
  type OpenPage,
  type PagePlace,
} from './index-pages.ts';
import type { FilesetInfo } from './info-file.ts';

/** A series of a fileset with its bytes. The buffers are views; they stay valid. */
export interface FilesetSeries {
  readonly id: Buffer;
  readonly payload: Buffer;
}

export interface ReadOptions {
  /**
   * Told of damage, which then costs only what it hit; without it, damage is thrown. What is read in spite of
   * damage is intact, but may not be all.
   */
  readonly onDamage?: (damage: FileDamage) => void;
  /** Only what comes behind this id. */
  readonly after?: Uint8Array | undefined;
}

/** Payloads are read in pieces of about this size. */
const RUN_BYTES = 1024 * 1024;

/**
 * Reads a fileset whose info is known. Opens nothing before something is asked, and gives nothing that does
 * not match its checksum.
 *
 * @throws FILESET_DAMAGED (a `FileDamageError`) from every method, with file and offset
 */
export class FilesetReader {
  readonly info: FilesetInfo;
  readonly #fs: FileSystem;
  readonly #root: string;
  #dataFile: Promise<File> | undefined;
  #indexFile: Promise<File> | undefined;
  #pages: Promise<readonly PagePlace[]> | undefined;
  #lastPage: { readonly place: PagePlace; readonly entries: readonly IndexEntry[] } | undefined;

  constructor(deps: { readonly fs: FileSystem }, root: string, info: FilesetInfo) {
    this.#fs = deps.fs;
    this.#root = root;
    this.info = info;
  }

  /** The payload of a series; undefined when the fileset has none of this id. */
  async find(id: Uint8Array): Promise<Buffer | undefined> {
    const entry = await this.findEntry(id);
    return entry && (await this.payload(entry));
  }

  async findEntry(id: Uint8Array): Promise<IndexEntry | undefined> {
    const pages = await this.#openPages();
    const count = lowerBound(pages.length, (index) => compare(pages[index]?.firstId, id) <= 0);
    const place = pages[count - 1];
    if (!place) return undefined;
    if (this.#lastPage?.place !== place) this.#lastPage = { place, entries: await this.#readPage(place) };
    const { entries } = this.#lastPage;
    const entry = entries[lowerBound(entries.length, (index) => compare(entries[index]?.id, id) < 0)];
    return entry && compare(entry.id, id) === 0 ? entry : undefined;
  }

  async payload(entry: IndexEntry): Promise<Buffer> {
    return this.#checked(entry, await this.#readData(entry.offset, entry.sizeBytes));
  }

  /** For many ids: reads ahead so much at once. */
  scan(aheadBytes: number): FilesetScan {
    const source = {
      indexFile: this.#path('index'),
      dataFile: this.#path('data'),
      dataEnd: FILE_HEADER_BYTES + this.info.payloadBytes,
      pages: () => this.#openPages(),
      readIndex: (offset: number, lengthBytes: number) => this.#readIndex(offset, lengthBytes),
      readData: (offset: number, lengthBytes: number) => this.#readData(offset, lengthBytes),
    };
    return new FilesetScan(source, aheadBytes);
  }

  /** Where all payloads are; with each entry's id, in their order. */
  async table(onEntry: (id: Buffer) => void): Promise<EntryTable> {
    const table = new EntryTable(this.#path('data'), this.info.entryCount);
    await this.#eachPage((page) => {
      const entries = decodeEntries(page);
      if (!table.addPage(entries, page.payloadsChecksum)) throw new FormatFault(8, 'it has more entries');
      for (const { id } of entries) onEntry(id);
    });
    if (table.isWhole) return table;
    const reason = `it has less than ${this.info.entryCount} entries`;
    throw new FileDamageError({ file: this.#path('index'), offset: this.info.directory.offset, reason });
  }

  /** Of all its ids: equal where another fileset has the same. */
  async idDigest(): Promise<string> {
    const digest = new IdDigest();
    await this.#eachPage((page) => digest.addPage(page));
    return digest.digest();
  }

  /** The payloads of some pages, read into memory of the caller's where it is given. */
  async payloads(
    table: EntryTable,
    pages: { readonly from: number; readonly to: number },
    into?: Buffer,
  ): Promise<PayloadRun> {
    const [firstEntry, endEntry] = [table.firstOf(pages.from), table.firstOf(pages.to)];
    const startOffset = table.offsets[firstEntry] as number;
    const sizeBytes = (table.offsets[endEntry] as number) - startOffset;
    const bytes = await this.#readData(startOffset, sizeBytes, into);
    const run = { bytes, startOffset, firstEntry, endEntry };
    table.check(run, pages.from, pages.to);
    return run;
  }

  /** All entries in the order of their ids, a page at a time. */
  async *entries(options: ReadOptions = {}): AsyncIterable<readonly IndexEntry[]> {
    const pages = (await this.#orTell(options, () => this.#openPages())) ?? [];
    const { after } = options;
    const isBefore = (id: Uint8Array | undefined): boolean => after !== undefined && compare(id, after) <= 0;
    const skipped = lowerBound(pages.length, (index) => isBefore(pages[index]?.firstId));
    for (const place of pages.slice(Math.max(0, skipped - 1))) {
      const entries = (await this.#orTell(options, () => this.#readPage(place))) ?? [];
      const behind = lowerBound(entries.length, (index) => isBefore(entries[index]?.id));
      if (behind < entries.length) yield behind === 0 ? entries : entries.slice(behind);
    }
  }

  /** All series in the order of their ids, read in large pieces. */
  async *series(options: ReadOptions = {}): AsyncIterable<readonly FilesetSeries[]> {
    for await (const entries of this.entries(options)) {
      for (const run of runsOf(entries)) {
        const series = await this.#orTell(options, () => this.#readRun(run, options));
        if (series) yield series;
      }
    }
  }

  /** Closes the files; what is asked afterwards opens them again. */
  async close(): Promise<void> {
    const open = [this.#dataFile, this.#indexFile];
    this.#dataFile = undefined;
    this.#indexFile = undefined;
    for (const file of open) {
      const opened = await file?.catch(() => undefined);
      await opened?.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #readRun(run: readonly IndexEntry[], options: ReadOptions): Promise<FilesetSeries[]> {
    const start = run[0]?.offset ?? 0;
    const lengthBytes = sizeOf(run);
    const bytes = await this.#readData(start, lengthBytes);
    const series: FilesetSeries[] = [];
    for (const entry of run) {
      const at = entry.offset - start;
      const payload = await this.#orTell(options, async () =>
        this.#checked(entry, bytes.subarray(at, at + entry.sizeBytes)),
      );
      if (payload) series.push({ id: entry.id, payload });
    }
    return series;
  }

  async #orTell<T>(options: ReadOptions, read: () => Promise<T>): Promise<T | undefined> {
    try {
      return await read();
    } catch (error) {
      if (!options.onDamage || !(error instanceof FileDamageError)) throw error;
      options.onDamage(error.damage);
      return undefined;
    }
  }

  #checked(entry: IndexEntry, payload: Buffer): Buffer {
    if (payload.length === entry.sizeBytes && crc32(payload) === entry.checksum) return payload;
    throw new FileDamageError({
      file: this.#path('data'),
      offset: entry.offset,
      reason: `the payload of ${entry.sizeBytes} bytes does not match its checksum`,
    });
  }

  async #readData(offset: number, lengthBytes: number, into?: Buffer): Promise<Buffer> {
    this.#dataFile ??= this.#open('data', FILE_HEADER_BYTES + this.info.payloadBytes).catch(
      (error: unknown) => {
        this.#dataFile = undefined; // The next one may have more luck.
        throw error;
      },
    );
    return await this.#read('data', await this.#dataFile, { offset, lengthBytes, into });
  }

  /** All pages of the index file, read in large pieces. */
  async #eachPage(use: (page: OpenPage) => void): Promise<void> {
    for (const run of runsOf(await this.#openPages())) {
      const start = run[0]?.offset ?? 0;
      const bytes = await this.#readIndex(start, sizeOf(run));
      for (const { offset, sizeBytes } of run) {
        const at = offset - start;
        this.#inPage(offset, bytes.subarray(at, at + sizeBytes), use);
      }
    }
  }

  async #readPage(place: PagePlace): Promise<IndexEntry[]> {
    const bytes = await this.#readIndex(place.offset, place.sizeBytes);
    return this.#inPage(place.offset, bytes, decodeEntries);
  }

  #inPage<T>(offset: number, bytes: Buffer, decode: (page: OpenPage) => T): T {
    return decodeAt(this.#path('index'), offset, () => decode(openPage(bytes)));
  }

  async #openPages(): Promise<readonly PagePlace[]> {
    this.#pages ??= this.#readDirectory().catch((error: unknown) => {
      this.#pages = undefined;
      throw error;
    });
    return await this.#pages;
  }

  async #readDirectory(): Promise<readonly PagePlace[]> {
    const { offset, sizeBytes } = this.info.directory;
    const bytes = await this.#readIndex(offset, sizeBytes);
    return decodeAt(this.#path('index'), offset, () => decodeDirectory(bytes));
  }

  async #readIndex(offset: number, lengthBytes: number): Promise<Buffer> {
    this.#indexFile ??= this.#open('index', this.info.indexBytes).catch((error: unknown) => {
      this.#indexFile = undefined;
      throw error;
    });
    return await this.#read('index', await this.#indexFile, { offset, lengthBytes });
  }

  async #open(kind: 'data' | 'index', sizeBytes: number): Promise<File> {
    const path = this.#path(kind);
    const file = await this.#fs.open(path, 'read').catch((error: unknown) => {
      if (!hasCode(error, 'ENOENT')) throw error;
      throw new FileDamageError({ file: path, offset: 0, reason: 'it is missing' }, error);
    });
    try {
      const found = await file.sizeBytes();
      if (found !== sizeBytes) {
        const reason = `it has ${found} bytes, not ${sizeBytes}`;
        throw new FileDamageError({ file: path, offset: Math.min(found, sizeBytes), reason });
      }
      const header = await this.#read(kind, file, { offset: 0, lengthBytes: FILE_HEADER_BYTES });
      decodeAt(path, 0, () => checkFileHeader(path, kind === 'data' ? 'VRVDATA_' : 'VRVINDEX', header));
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async #read(
    kind: FileKind,
    file: File,
    { offset, lengthBytes, into }: { offset: number; lengthBytes: number; into?: Buffer | undefined },
  ): Promise<Buffer> {
    try {
      return await file.read(offset, lengthBytes, into);
    } catch (error) {
      if (!hasCode(error, 'EIO')) throw error;
      const reason = 'the disk cannot read it';
      throw new FileDamageError({ file: this.#path(kind), offset, reason }, error);
    }
  }

  #path(kind: FileKind): string {
    return filesetPath(this.#root, this.info, kind);
  }
}

function compare(a: Uint8Array | undefined, b: Uint8Array): number {
  return Buffer.compare(a ?? Buffer.alloc(0), b);
}

/** How many of the first `count` indices hold; those that do come first. */
function lowerBound(count: number, holds: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

function sizeOf(parts: readonly { readonly sizeBytes: number }[]): number {
  return parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

function* runsOf<T extends { readonly sizeBytes: number }>(entries: readonly T[]): Iterable<readonly T[]> {
  let start = 0;
  let sizeBytes = 0;
  for (const [index, entry] of entries.entries()) {
    if (index > start && sizeBytes + entry.sizeBytes > RUN_BYTES) {
      yield entries.slice(start, index);
      start = index;
      sizeBytes = 0;
    }
    sizeBytes += entry.sizeBytes;
  }
  if (start < entries.length) yield entries.slice(start);
}
