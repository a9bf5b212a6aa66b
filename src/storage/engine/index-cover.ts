import { ByteCursor, writeUint53 } from '../fileset/byte-cursor.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { decodeAt, FormatFault } from '../fileset/fileset-damage.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';

export type CoveredFileset = Pick<FilesetId, 'blockStartNs' | 'shard' | 'volume'>;

/** Which filesets the series of an index segment are from: `docs/formats/engine.md` draws it. */
export interface IndexCover {
  /** Of the index block. */
  readonly blockStartNs: bigint;
  readonly volume: number;
  /** Of the segment. */
  readonly sizeBytes: number;
  readonly filesets: readonly CoveredFileset[];
}

const FIXED_BYTES = 24;
const ENTRY_BYTES = 16;

export function encodeCover(cover: IndexCover): Buffer {
  const body = Buffer.alloc(FIXED_BYTES + cover.filesets.length * ENTRY_BYTES);
  body.writeBigInt64LE(cover.blockStartNs, 0);
  writeUint53(body, cover.sizeBytes, 8);
  body.writeUInt32LE(cover.volume, 16);
  body.writeUInt32LE(cover.filesets.length, 20);
  let at = FIXED_BYTES;
  for (const { blockStartNs, shard, volume } of cover.filesets) {
    at = body.writeBigInt64LE(blockStartNs, at);
    at = body.writeUInt32LE(shard, at);
    at = body.writeUInt32LE(volume, at);
  }
  return encodeCheckedFile('VRVCOVER', 0, body);
}

/** @throws FILESET_DAMAGED, and STORAGE_FORMAT_UNKNOWN for a newer version */
export function decodeCover(file: string, bytes: Buffer): IndexCover {
  return decodeAt(file, 0, () => {
    const { bodyEnd } = decodeCheckedFile(file, 'VRVCOVER', bytes);
    const cursor = new ByteCursor(bytes, FILE_HEADER_BYTES, bodyEnd);
    const blockStartNs = cursor.int64();
    const sizeBytes = cursor.uint53();
    const volume = cursor.uint32();
    const count = cursor.uint32();
    const filesets: CoveredFileset[] = [];
    while (filesets.length < count) {
      filesets.push({ blockStartNs: cursor.int64(), shard: cursor.uint32(), volume: cursor.uint32() });
    }
    if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than its lengths say');
    return { blockStartNs, volume, sizeBytes, filesets };
  });
}
