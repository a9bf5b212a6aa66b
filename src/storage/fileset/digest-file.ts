import { ByteCursor, writeUint53 } from './byte-cursor.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from './checked-file.ts';
import { FormatFault } from './fileset-damage.ts';

/** What a file of a fileset is as a whole. */
export interface FileSum {
  readonly sizeBytes: number;
  /** CRC-32 of all of it; of the info file without its own checksum at the end. */
  readonly checksum: number;
}

const SUMMED_KINDS = ['data', 'index', 'info'] as const;
export type FileSums = Readonly<Record<(typeof SUMMED_KINDS)[number], FileSum>>;

const SUM_BYTES = 12;

export function encodeDigestFile(sums: FileSums): Buffer {
  const body = Buffer.alloc(SUM_BYTES * SUMMED_KINDS.length);
  for (const [index, kind] of SUMMED_KINDS.entries()) {
    writeUint53(body, sums[kind].sizeBytes, index * SUM_BYTES);
    body.writeUInt32LE(sums[kind].checksum, index * SUM_BYTES + 8);
  }
  return encodeCheckedFile('VRVDIGST', 0, body);
}

/** @throws FormatFault, and STORAGE_FORMAT_UNKNOWN for a newer version */
export function decodeDigestFile(file: string, bytes: Buffer): FileSums {
  const { bodyEnd } = decodeCheckedFile(file, 'VRVDIGST', bytes);
  const cursor = new ByteCursor(bytes, FILE_HEADER_BYTES, bodyEnd);
  const sum = (): FileSum => ({ sizeBytes: cursor.uint53(), checksum: cursor.uint32() });
  const sums = { data: sum(), index: sum(), info: sum() };
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than it should have');
  return sums;
}

/** The last file: that it is there says that the others are whole; what is in it is for verification. */
export function encodeCheckpoint(digestFileChecksum: number): Buffer {
  const body = Buffer.alloc(4);
  body.writeUInt32LE(digestFileChecksum, 0);
  return encodeCheckedFile('VRVCHECK', 0, body);
}

/** The checksum of the digest file, without its own. @throws FormatFault, and STORAGE_FORMAT_UNKNOWN for a newer version */
export function decodeCheckpoint(file: string, bytes: Buffer): number {
  const { bodyEnd } = decodeCheckedFile(file, 'VRVCHECK', bytes);
  const cursor = new ByteCursor(bytes, FILE_HEADER_BYTES, bodyEnd);
  const checksum = cursor.uint32();
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than it should have');
  return checksum;
}
