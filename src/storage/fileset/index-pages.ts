import { crc32, deflateRawSync, inflateRawSync } from 'node:zlib';
import { ByteCursor, varintBytes, writeUint53, writeVarint } from './byte-cursor.ts';
import { FormatFault } from './fileset-damage.ts';

/** One series of a fileset, as the index file has it. */
export interface IndexEntry {
  readonly id: Buffer;
  /** Of the payload in the data file. */
  readonly offset: number;
  readonly sizeBytes: number;
  /** CRC-32 of the payload. */
  readonly checksum: number;
}

/** One page of the index file. */
export interface PagePlace {
  readonly offset: number;
  readonly sizeBytes: number;
  readonly firstId: Buffer;
}

export const MAX_ID_BYTES = 64 * 1024;

const PAGE_HEADER_BYTES = 24;
/** Of entries before they are packed: what a search for one series unpacks. */
const PAGE_TARGET_BYTES = 16 * 1024;
/** Of payloads: a reader that takes all of a page has room for them. */
const PAGE_PAYLOAD_BYTES = 512 * 1024;
/** A page ends with the entry that fills it: no larger one is ever written. */
const MAX_UNPACKED_BYTES = PAGE_TARGET_BYTES + MAX_ID_BYTES + 64;
/** Greater levels save little and take longer. */
const PACKING = { level: 3 };
const DIRECTORY_HEADER_BYTES = 12;

/** The checksum of the payloads, before the entries. */
const UNPACKED_HEADER_BYTES = 4;

/**
 * Collects entries into pages that are checked one by one, so that damage costs a page; ids share their
 * beginnings with the one before, and what they have in common behind that is packed. Ids must ascend.
 */
export class PageBuilder {
  #bytes = Buffer.allocUnsafe(PAGE_TARGET_BYTES * 2);
  #usedBytes = UNPACKED_HEADER_BYTES;
  #payloadsChecksum = 0;
  #payloadBytes = 0;
  #entryCount = 0;
  #firstId: Buffer = Buffer.alloc(0);
  #lastId: Buffer = Buffer.alloc(0);
  #dataOffset = 0;

  get isEmpty(): boolean {
    return this.#entryCount === 0;
  }

  get isFull(): boolean {
    return this.#usedBytes >= PAGE_TARGET_BYTES || this.#payloadBytes >= PAGE_PAYLOAD_BYTES;
  }

  add(entry: { id: Uint8Array; offset: number; payload: Uint8Array; checksum: number }): void {
    const { id, offset, payload, checksum } = entry;
    const sizeBytes = payload.length;
    this.#payloadBytes += sizeBytes;
    if (this.#entryCount === 0) {
      this.#firstId = Buffer.from(id);
      this.#lastId = Buffer.alloc(0);
      this.#dataOffset = offset;
      this.#payloadsChecksum = checksum;
    } else this.#payloadsChecksum = crc32(payload, this.#payloadsChecksum);
    const shared = sharedBytes(this.#lastId, id);
    const rest = id.length - shared;
    this.#reserve(varintBytes(shared) + varintBytes(rest) + rest + varintBytes(sizeBytes) + 4);
    let at = writeVarint(this.#bytes, shared, this.#usedBytes);
    at = writeVarint(this.#bytes, rest, at);
    this.#bytes.set(shared === 0 ? id : id.subarray(shared), at);
    at = writeVarint(this.#bytes, sizeBytes, at + rest);
    this.#usedBytes = this.#bytes.writeUInt32LE(checksum, at);
    this.#lastId = Buffer.from(id);
    this.#entryCount++;
  }

  /** The page's bytes, and its first id. The builder is empty again. */
  finish(): { bytes: Buffer; firstId: Buffer } {
    this.#bytes.writeUInt32LE(this.#payloadsChecksum, 0);
    const packed = deflateRawSync(this.#bytes.subarray(0, this.#usedBytes), PACKING);
    const bytes = Buffer.allocUnsafe(PAGE_HEADER_BYTES + packed.length);
    bytes.writeUInt32LE(bytes.length, 4);
    bytes.writeUInt32LE(this.#entryCount, 8);
    bytes.writeUInt32LE(this.#usedBytes, 12);
    writeUint53(bytes, this.#dataOffset, 16);
    packed.copy(bytes, PAGE_HEADER_BYTES);
    bytes.writeUInt32LE(crc32(bytes.subarray(4)), 0);
    this.#usedBytes = UNPACKED_HEADER_BYTES;
    this.#payloadBytes = 0;
    this.#entryCount = 0;
    return { bytes, firstId: this.#firstId };
  }

  #reserve(sizeBytes: number): void {
    const needed = this.#usedBytes + sizeBytes;
    if (needed <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2));
    this.#bytes.copy(grown, 0, 0, this.#usedBytes);
    this.#bytes = grown;
  }
}

/** A page that is whole. */
export interface OpenPage {
  readonly entryCount: number;
  /** Of the first payload, in the data file. */
  readonly dataOffset: number;
  /** CRC-32 of all its payloads; undefined in files of the first version. */
  readonly payloadsChecksum: number | undefined;
  /** At the first entry. */
  readonly entries: ByteCursor;
}

/** @throws FormatFault */
export function openPage(bytes: Buffer): OpenPage {
  if (bytes.length < PAGE_HEADER_BYTES) throw new FormatFault(bytes.length, 'it ends too early');
  if (crc32(bytes.subarray(4)) !== bytes.readUInt32LE(0)) {
    throw new FormatFault(0, 'a page does not match its checksum');
  }
  const head = new ByteCursor(bytes, 4);
  if (head.uint32() !== bytes.length) throw new FormatFault(4, 'a page has another length');
  const entryCount = head.uint32();
  const unpackedBytes = head.uint32();
  const dataOffset = head.uint53();
  if (unpackedBytes === 0) return { entryCount, dataOffset, payloadsChecksum: undefined, entries: head };
  const entries = new ByteCursor(unpacked(bytes.subarray(PAGE_HEADER_BYTES), unpackedBytes));
  return { entryCount, dataOffset, payloadsChecksum: entries.uint32(), entries };
}

function unpacked(packed: Buffer, sizeBytes: number): Buffer {
  if (sizeBytes > MAX_UNPACKED_BYTES) throw new FormatFault(12, 'a page is larger than any');
  const bytes = inflated(packed, sizeBytes);
  if (bytes?.length !== sizeBytes) throw new FormatFault(PAGE_HEADER_BYTES, 'a page cannot be unpacked');
  return bytes;
}

function inflated(packed: Buffer, sizeBytes: number): Buffer | undefined {
  try {
    return inflateRawSync(packed, { maxOutputLength: sizeBytes, chunkSize: Math.max(sizeBytes, 64) });
  } catch {
    return undefined; // Its codes say nothing that a caller could use.
  }
}

/** @throws FormatFault */
export function decodePage(bytes: Buffer): IndexEntry[] {
  return decodeEntries(openPage(bytes));
}

/** @throws FormatFault */
export function decodeEntries({ entryCount, dataOffset, entries: cursor }: OpenPage): IndexEntry[] {
  let offset = dataOffset;
  const entries: IndexEntry[] = [];
  let id = Buffer.alloc(0);
  for (let i = 0; i < entryCount; i++) {
    const shared = cursor.varint();
    if (shared > id.length) throw new FormatFault(cursor.at, 'an id shares more than there is');
    const rest = cursor.bytes(cursor.varint());
    id = Buffer.concat([id.subarray(0, shared), rest]);
    const sizeBytes = cursor.varint();
    entries.push({ id, offset, sizeBytes, checksum: cursor.uint32() });
    offset += sizeBytes;
  }
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'a page has more than its entries');
  return entries;
}

export function encodeDirectory(pages: readonly PagePlace[]): Buffer {
  const sizeBytes = pages.reduce(
    (sum, { firstId }) => sum + 12 + varintBytes(firstId.length) + firstId.length,
    DIRECTORY_HEADER_BYTES,
  );
  const bytes = Buffer.alloc(sizeBytes);
  bytes.writeUInt32LE(sizeBytes, 4);
  bytes.writeUInt32LE(pages.length, 8);
  let at = DIRECTORY_HEADER_BYTES;
  for (const page of pages) {
    writeUint53(bytes, page.offset, at);
    bytes.writeUInt32LE(page.sizeBytes, at + 8);
    at = writeVarint(bytes, page.firstId.length, at + 12);
    bytes.set(page.firstId, at);
    at += page.firstId.length;
  }
  bytes.writeUInt32LE(crc32(bytes.subarray(4)), 0);
  return bytes;
}

/** @throws FormatFault */
export function decodeDirectory(bytes: Buffer): PagePlace[] {
  if (bytes.length < DIRECTORY_HEADER_BYTES) throw new FormatFault(bytes.length, 'it ends too early');
  if (crc32(bytes.subarray(4)) !== bytes.readUInt32LE(0)) {
    throw new FormatFault(0, 'the list of pages does not match its checksum');
  }
  const cursor = new ByteCursor(bytes, 4);
  if (cursor.uint32() !== bytes.length) throw new FormatFault(4, 'the list of pages has another length');
  const count = cursor.uint32();
  const pages: PagePlace[] = [];
  for (let i = 0; i < count; i++) {
    const offset = cursor.uint53();
    const sizeBytes = cursor.uint32();
    pages.push({ offset, sizeBytes, firstId: cursor.bytes(cursor.varint()) });
  }
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'the list of pages has more than its entries');
  return pages;
}

function sharedBytes(a: Uint8Array, b: Uint8Array): number {
  const limit = Math.min(a.length, b.length);
  let shared = 0;
  while (shared < limit && a[shared] === b[shared]) shared++;
  return shared;
}
