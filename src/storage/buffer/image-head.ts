import { crc32 } from 'node:zlib';
import type { File } from '../../core/file-system.ts';

/** Where a page of memory is: the image's own file, or the spill. */
export interface PagePlace {
  /** `STALE` for a page of the spill that the memory has no more. */
  readonly address: number;
  readonly isSpilled: boolean;
  /** In its file, counted from where pages begin. */
  readonly page: number;
  readonly checksum: number;
}

/** What an image is of, beside its pages; `docs/formats/memory-image.md` draws it. */
export interface ImageHead {
  /** SHA-256 of the kernels whose memory it is: others lay it out differently. */
  readonly kernelHash: Buffer;
  /** JSON. */
  readonly meta: Buffer;
  readonly pages: readonly PagePlace[];
}

/** No page lies there. */
export const STALE = 0;
export const IMAGE_PAGE_BYTES = 65_536;
export const HEAD_BYTES = 64;
const MAGIC = 'VRVIMAGE';
const VERSION = 2;
const PLACE_BYTES = 16;
const HASH_BYTES = 32;
const ALIGNMENT = 4096;
/** Of meta and directory together: bounds what a damaged head may ask for. */
const MAX_HEAD_BYTES = 64 * 1024 * 1024;

/** Where the pages of an image begin in its file. */
export function pagesOffset(metaBytes: number, pages: number): number {
  return Math.ceil((HEAD_BYTES + metaBytes + pages * PLACE_BYTES) / ALIGNMENT) * ALIGNMENT;
}

/** Behind it there are zeros until the pages begin. */
export function headEnd({ meta, pages }: Pick<ImageHead, 'meta' | 'pages'>): number {
  return HEAD_BYTES + meta.length + pages.length * PLACE_BYTES;
}

export function encodeImageHead({ kernelHash, meta, pages }: ImageHead): Buffer {
  const bytes = Buffer.alloc(pagesOffset(meta.length, pages.length));
  let at = HEAD_BYTES + meta.copy(bytes, HEAD_BYTES);
  for (const { address, isSpilled, page, checksum } of pages) {
    bytes.writeUInt32LE(address, at);
    bytes.writeUInt32LE(isSpilled ? 1 : 0, at + 4);
    bytes.writeUInt32LE(page, at + 8);
    bytes.writeUInt32LE(checksum, at + 12);
    at += PLACE_BYTES;
  }
  bytes.write(MAGIC, 'latin1');
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(meta.length, 12);
  bytes.writeUInt32LE(pages.length, 16);
  bytes.writeUInt32LE(crc32(bytes.subarray(HEAD_BYTES, at)), 20);
  kernelHash.copy(bytes, 24, 0, HASH_BYTES);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60);
  return bytes;
}

/** The bytes of a head, `decodeImageHead` for them; `unknown` when another version wrote it. */
export async function readImageHead(file: File): Promise<Buffer | 'damaged' | 'unknown'> {
  const start = await file.read(0, HEAD_BYTES);
  const sizeBytes = imageHeadBytes(start);
  if (sizeBytes !== undefined) return await file.read(0, sizeBytes);
  return isHead(start) && start.readUInt32LE(8) !== VERSION ? 'unknown' : 'damaged';
}

function isHead(start: Buffer): boolean {
  if (start.length < HEAD_BYTES || start.toString('latin1', 0, 8) !== MAGIC) return false;
  return start.readUInt32LE(60) === crc32(start.subarray(0, 60));
}

/** How many bytes the head has, by its beginning; undefined when it is none of this version. */
export function imageHeadBytes(start: Buffer): number | undefined {
  if (!isHead(start) || start.readUInt32LE(8) !== VERSION) return undefined;
  const sizeBytes = pagesOffset(start.readUInt32LE(12), start.readUInt32LE(16));
  return sizeBytes > MAX_HEAD_BYTES ? undefined : sizeBytes;
}

/** Undefined when it is damaged. */
export function decodeImageHead(bytes: Buffer): ImageHead | undefined {
  if (imageHeadBytes(bytes) !== bytes.length) return undefined;
  const metaEnd = HEAD_BYTES + bytes.readUInt32LE(12);
  const count = bytes.readUInt32LE(16);
  const end = metaEnd + count * PLACE_BYTES;
  if (crc32(bytes.subarray(HEAD_BYTES, end)) !== bytes.readUInt32LE(20)) return undefined;
  const pages = Array.from({ length: count }, (_, i): PagePlace => {
    const at = metaEnd + i * PLACE_BYTES;
    return {
      address: bytes.readUInt32LE(at),
      isSpilled: bytes.readUInt32LE(at + 4) !== 0,
      page: bytes.readUInt32LE(at + 8),
      checksum: bytes.readUInt32LE(at + 12),
    };
  });
  return {
    kernelHash: bytes.subarray(24, 24 + HASH_BYTES),
    meta: bytes.subarray(HEAD_BYTES, metaEnd),
    pages,
  };
}
