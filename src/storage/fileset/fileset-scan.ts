import { crc32 } from 'node:zlib';
import type { ByteCursor } from './byte-cursor.ts';
import { decodeAt, FileDamageError, FormatFault } from './fileset-damage.ts';
import { MAX_ID_BYTES, openPage, type PagePlace } from './index-pages.ts';

/** What a scan reads with: views that stay valid. */
export interface ScanSource {
  readonly indexFile: string;
  readonly dataFile: string;
  readonly dataEnd: number;
  pages(): Promise<readonly PagePlace[]>;
  readIndex(offset: number, lengthBytes: number): Promise<Buffer>;
  readData(offset: number, lengthBytes: number): Promise<Buffer>;
}

/**
 * Goes through a fileset and finds the payloads of ids, best asked for in their order: then most are found without
 * waiting, because files are read ahead, and nothing is made for entries that nobody asks for.
 */
export class FilesetScan {
  readonly #source: ScanSource;
  readonly #aheadBytes: number;
  #pages: readonly PagePlace[] | undefined;
  #pageNumber = -1;
  #page: ByteCursor | undefined;
  #entriesLeft = 0;
  /** Index pages that were read ahead. */
  #indexAhead: Buffer = Buffer.alloc(0);
  #indexStart = 0;
  #data: Buffer = Buffer.alloc(0);
  #dataStart = 0;
  readonly #id = Buffer.allocUnsafe(MAX_ID_BYTES);
  #idBytes = 0;
  #offset = 0;
  #sizeBytes = 0;
  #checksum = 0;
  #hasEntry = false;
  /** The id of the entry, if that was just found. */
  #lastFound: Uint8Array | undefined;

  /** @param aheadBytes so much of index and data is read at once */
  constructor(source: ScanSource, aheadBytes: number) {
    this.#source = source;
    this.#aheadBytes = aheadBytes;
  }

  /**
   * The payload of the id; undefined when there is none; a promise of it when something has to be read first, which
   * is to be waited for before the next one is asked for.
   * @throws FILESET_DAMAGED
   */
  find(id: Uint8Array): Buffer | undefined | Promise<Buffer | undefined> {
    const follows = this.#isNext(id);
    if (follows !== undefined) return follows ? this.#payload() : undefined;
    // Back to the page that has it; it mostly is at hand.
    if (this.#hasEntry && this.#order(id) > 0) this.#rewind();
    const found = this.#seek(id);
    if (found === 'read') return this.#readAndFind(id);
    if (!found) return undefined;
    this.#lastFound = id;
    return this.#payload();
  }

  /** Whether the entry behind the one found last is it, or would be if there was one; undefined says nothing. */
  #isNext(id: Uint8Array): boolean | undefined {
    const last = this.#lastFound;
    this.#lastFound = undefined;
    if (!last || this.#entriesLeft === 0) return undefined;
    this.#nextEntry();
    const order = this.#order(id);
    if (order === 0) {
      this.#lastFound = id;
      return true;
    }
    if (order > 0 && Buffer.compare(last, id) < 0) return false;
    return undefined;
  }

  /** Of the entry to an id. */
  #order(id: Uint8Array): number {
    return this.#id.compare(id, 0, id.length, 0, this.#idBytes);
  }

  #rewind(): void {
    this.#pageNumber = -1;
    this.#entriesLeft = 0;
    this.#hasEntry = false;
  }

  /** The last page from `from` on that may have the id. */
  #pageOf(id: Uint8Array, from: number): number {
    const pages = this.#pages ?? [];
    let low = from;
    let high = pages.length;
    while (low + 1 < high) {
      const middle = (low + high) >>> 1;
      if (Buffer.compare((pages[middle] as PagePlace).firstId, id) <= 0) low = middle;
      else high = middle;
    }
    return low;
  }

  async #readAndFind(id: Uint8Array): Promise<Buffer | undefined> {
    this.#pages ??= await this.#source.pages();
    for (;;) {
      const found = this.#seek(id);
      if (found !== 'read') {
        this.#lastFound = found ? id : undefined;
        return found ? await this.#payload() : undefined;
      }
      await this.#readPages(id);
    }
  }

  /** Moves to the first entry not before the id; `read` when its page is not at hand. */
  #seek(id: Uint8Array): boolean | 'read' {
    for (;;) {
      if (this.#hasEntry) {
        const order = this.#order(id);
        if (order >= 0) return order === 0;
      }
      if (this.#entriesLeft > 0) this.#nextEntry();
      else if (!this.#nextPage(id)) return this.#atEnd ? false : 'read';
    }
  }

  get #atEnd(): boolean {
    return this.#pages !== undefined && this.#pageNumber + 1 >= this.#pages.length;
  }

  /** Goes to the page that may have the id, if it has been read. */
  #nextPage(id: Uint8Array): boolean {
    const pages = this.#pages;
    if (!pages) return false;
    const next = this.#pageOf(id, this.#pageNumber + 1);
    const place = pages[next];
    if (!place) return false;
    const start = place.offset - this.#indexStart;
    if (start < 0 || start + place.sizeBytes > this.#indexAhead.length) return false;
    this.#openPage(place, this.#indexAhead.subarray(start, start + place.sizeBytes));
    this.#pageNumber = next;
    return true;
  }

  #openPage(place: PagePlace, bytes: Buffer): void {
    decodeAt(this.#source.indexFile, place.offset, () => {
      const { entryCount, dataOffset, entries } = openPage(bytes);
      this.#entriesLeft = entryCount;
      this.#offset = dataOffset;
      this.#page = entries;
    });
    this.#sizeBytes = 0;
    this.#idBytes = 0;
    this.#hasEntry = false;
  }

  #nextEntry(): void {
    const page = this.#page as ByteCursor;
    this.#offset += this.#sizeBytes;
    const shared = page.varint();
    const rest = page.varint();
    if (shared > this.#idBytes || shared + rest > MAX_ID_BYTES) {
      throw new FormatFault(0, 'an id is longer than any').at(this.#source.indexFile);
    }
    page.copy(this.#id, shared, rest);
    this.#idBytes = shared + rest;
    this.#sizeBytes = page.varint();
    this.#checksum = page.uint32();
    this.#entriesLeft--;
    this.#hasEntry = true;
  }

  async #readPages(id: Uint8Array): Promise<void> {
    const pages = this.#pages ?? [];
    const first = this.#pageOf(id, this.#pageNumber + 1);
    const start = pages[first];
    if (!start) return;
    let end = start.offset + start.sizeBytes;
    for (let next = first + 1; next < pages.length; next++) {
      const place = pages[next] as PagePlace;
      if (place.offset + place.sizeBytes - start.offset > this.#aheadBytes) break;
      end = place.offset + place.sizeBytes;
    }
    this.#indexAhead = await this.#source.readIndex(start.offset, end - start.offset);
    this.#indexStart = start.offset;
    if (this.#indexAhead.length < end - start.offset) {
      throw new FileDamageError({
        file: this.#source.indexFile,
        offset: start.offset + this.#indexAhead.length,
        reason: 'it ends too early',
      });
    }
  }

  #payload(): Buffer | Promise<Buffer> {
    const start = this.#offset - this.#dataStart;
    const [offset, sizeBytes, checksum] = [this.#offset, this.#sizeBytes, this.#checksum];
    if (start >= 0 && start + sizeBytes <= this.#data.length) {
      return this.#checked(this.#data.subarray(start, start + sizeBytes), checksum, offset);
    }
    return this.#readPayload(offset, sizeBytes, checksum);
  }

  async #readPayload(offset: number, sizeBytes: number, checksum: number): Promise<Buffer> {
    // One that does not follow the last one is asked for alone: nobody goes from front to back.
    const follows =
      offset >= this.#dataStart && offset <= this.#dataStart + this.#data.length + this.#aheadBytes / 8;
    const wanted = follows
      ? Math.min(Math.max(sizeBytes, this.#aheadBytes), this.#source.dataEnd - offset)
      : sizeBytes;
    this.#data = await this.#source.readData(offset, Math.max(sizeBytes, wanted));
    this.#dataStart = offset;
    return this.#checked(this.#data.subarray(0, sizeBytes), checksum, offset);
  }

  #checked(payload: Buffer, checksum: number, offset: number): Buffer {
    if (payload.length === this.#sizeBytes && crc32(payload) === checksum) return payload;
    const reason = `the payload of ${this.#sizeBytes} bytes does not match its checksum`;
    throw new FileDamageError({ file: this.#source.dataFile, offset, reason });
  }
}
