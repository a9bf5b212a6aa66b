import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import { FormatFault } from './fileset-damage.ts';

/** All files of this room begin with eight letters and a version; `docs/formats/fileset.md` draws them. */
export const FORMAT_VERSION = 1;
/** Those that have changed since. What an older version wrote is read as well. */
const NEWER_VERSIONS: Partial<Record<Magic, number>> = { VRVINDEX: 2 };
export const FILE_HEADER_BYTES = 16;
export const CHECKSUM_BYTES = 4;

export type Magic =
  | 'VRVDATA_'
  | 'VRVINDEX'
  | 'VRVINFO_'
  | 'VRVDIGST'
  | 'VRVCHECK'
  | 'VRVMANIF'
  | 'VRVCATLG'
  | 'VRVTOMBS'
  | 'VRVDELET'
  | 'VRVHINTS'
  | 'VRVCOVER'
  | 'VRVSUMRY'
  | 'VRVBACKP'
  | 'VRVINTER'
  | 'VRVMEMIX';

/** The head of a file that is read in parts: letters, version, their checksum. */
export function encodeFileHeader(magic: Magic): Buffer {
  const bytes = Buffer.alloc(FILE_HEADER_BYTES);
  bytes.write(magic, 'latin1');
  bytes.writeUInt16LE(versionOf(magic), 8);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 12)), 12);
  return bytes;
}

/** @throws FormatFault, and STORAGE_FORMAT_UNKNOWN for a newer version */
export function checkFileHeader(file: string, magic: Magic, bytes: Buffer): void {
  if (bytes.length < FILE_HEADER_BYTES) throw new FormatFault(bytes.length, 'it ends too early');
  if (crc32(bytes.subarray(0, 12)) !== bytes.readUInt32LE(12)) {
    throw new FormatFault(0, 'the header does not match its checksum');
  }
  checkMagic(file, magic, bytes);
}

/**
 * A file that is read as a whole: letters, version, two bytes for the kind, its length, `body`, and a checksum
 * of all that.
 */
export function encodeCheckedFile(magic: Magic, kind: number, body: Uint8Array): Buffer {
  const bytes = Buffer.alloc(FILE_HEADER_BYTES + body.length + CHECKSUM_BYTES);
  bytes.set(checkedFileHead(magic, kind, body.length));
  bytes.set(body, FILE_HEADER_BYTES);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, -CHECKSUM_BYTES)), bytes.length - CHECKSUM_BYTES);
  return bytes;
}

/** What comes before a body of this size, for files that are written piece by piece. */
export function checkedFileHead(magic: Magic, kind: number, bodyBytes: number): Buffer {
  const bytes = Buffer.alloc(FILE_HEADER_BYTES);
  bytes.write(magic, 'latin1');
  bytes.writeUInt16LE(versionOf(magic), 8);
  bytes.writeUInt16LE(kind, 10);
  bytes.writeUInt32LE(FILE_HEADER_BYTES + bodyBytes + CHECKSUM_BYTES, 12);
  return bytes;
}

/**
 * The kind, and where the body ends; it begins at `FILE_HEADER_BYTES`.
 * @throws FormatFault, and STORAGE_FORMAT_UNKNOWN for a newer version
 */
export function decodeCheckedFile(
  file: string,
  magic: Magic,
  bytes: Buffer,
): { kind: number; bodyEnd: number } {
  if (bytes.length < FILE_HEADER_BYTES + CHECKSUM_BYTES)
    throw new FormatFault(bytes.length, 'it ends too early');
  const bodyEnd = bytes.length - CHECKSUM_BYTES;
  if (crc32(bytes.subarray(0, bodyEnd)) !== bytes.readUInt32LE(bodyEnd)) {
    throw new FormatFault(0, 'it does not match its checksum');
  }
  checkMagic(file, magic, bytes);
  if (bytes.readUInt32LE(12) !== bytes.length) throw new FormatFault(12, 'its length is another');
  return { kind: bytes.readUInt16LE(10), bodyEnd };
}

/**
 * What another file may say of such a file: the checksum of all but its own. (With its own, every file would
 * have the same one: that is how CRCs are made.)
 */
export function contentChecksum(bytes: Buffer): number {
  return crc32(bytes.subarray(0, -CHECKSUM_BYTES));
}

function checkMagic(file: string, magic: Magic, bytes: Buffer): void {
  if (bytes.toString('latin1', 0, 8) !== magic) throw new FormatFault(0, 'it is another kind of file');
  const version = bytes.readUInt16LE(8);
  if (version < FORMAT_VERSION || version > versionOf(magic)) {
    throw new VarveError(
      'STORAGE_FORMAT_UNKNOWN',
      `${file} has format version ${version}, this program reads ${versionOf(magic)}`,
      { hint: 'Start the newer version that wrote it.' },
    );
  }
}

function versionOf(magic: Magic): number {
  return NEWER_VERSIONS[magic] ?? FORMAT_VERSION;
}
