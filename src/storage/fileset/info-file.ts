import { ByteCursor, writeUint53 } from './byte-cursor.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from './checked-file.ts';
import { DIGEST_BYTES } from './canonical-digest.ts';
import { FormatFault } from './fileset-damage.ts';
import type { FilesetId } from './fileset-id.ts';

/** `flush`: a block that is closed; `snapshot`: the state of one that was still open. */
export type FilesetKind = 'flush' | 'snapshot';

/** All that a restart has to know of a fileset: the content of its info file. */
export interface FilesetInfo extends FilesetId {
  readonly kind: FilesetKind;
  readonly blockSizeNs: bigint;
  readonly entryCount: number;
  /** Of the payloads. */
  readonly payloadBytes: number;
  /** Of the index file. */
  readonly indexBytes: number;
  readonly directory: DirectoryPlace;
  /** By the writer's clock, nanoseconds since the Unix epoch. */
  readonly createdAtNs: bigint;
  /** Over (id, payload) of all entries: equal wherever and whenever the same data was written. */
  readonly digest: Buffer;
  /** What the engine wanted to find again at a restart; not looked into here. */
  readonly annotation: Buffer;
}

/** Where the index file has the list of its pages. */
export interface DirectoryPlace {
  readonly offset: number;
  readonly sizeBytes: number;
}

const FIXED_BYTES = 116;
const KINDS: readonly FilesetKind[] = ['flush', 'snapshot'];

export function encodeInfo(info: FilesetInfo): Buffer {
  const namespace = Buffer.from(info.namespace, 'latin1');
  const body = Buffer.alloc(FIXED_BYTES + namespace.length + info.annotation.length);
  body.writeBigInt64LE(info.blockStartNs, 0);
  body.writeBigInt64LE(info.blockSizeNs, 8);
  body.writeUInt32LE(info.shard, 16);
  body.writeUInt32LE(info.volume, 20);
  writeUint53(body, info.entryCount, 24);
  writeUint53(body, info.payloadBytes, 32);
  writeUint53(body, info.indexBytes, 40);
  writeUint53(body, info.directory.offset, 48);
  writeUint53(body, info.directory.sizeBytes, 56);
  body.writeBigInt64LE(info.createdAtNs, 64);
  body.set(info.digest, 72);
  body.writeUInt32LE(namespace.length, 104);
  body.writeUInt32LE(info.annotation.length, 108);
  body.set(namespace, FIXED_BYTES);
  body.set(info.annotation, FIXED_BYTES + namespace.length);
  return encodeCheckedFile('VRVINFO_', KINDS.indexOf(info.kind), body);
}

/**
 * The info of a fileset, which must be the one that `expected` names: a file that was moved here from
 * elsewhere is damage.
 * @throws FormatFault, and STORAGE_FORMAT_UNKNOWN for a newer version
 */
export function decodeInfo(file: string, bytes: Buffer, expected: FilesetId): FilesetInfo {
  const { kind: kindNumber, bodyEnd } = decodeCheckedFile(file, 'VRVINFO_', bytes);
  const kind = KINDS[kindNumber];
  if (!kind) throw new FormatFault(10, `kind ${kindNumber} is unknown`);
  const cursor = new ByteCursor(bytes, FILE_HEADER_BYTES, bodyEnd);
  const blockStartNs = cursor.int64();
  const blockSizeNs = cursor.int64();
  const shard = cursor.uint32();
  const volume = cursor.uint32();
  const entryCount = cursor.uint53();
  const payloadBytes = cursor.uint53();
  const indexBytes = cursor.uint53();
  const directory = { offset: cursor.uint53(), sizeBytes: cursor.uint53() };
  const createdAtNs = cursor.int64();
  const digest = Buffer.from(cursor.bytes(DIGEST_BYTES));
  const namespaceBytes = cursor.uint32();
  const annotationBytes = cursor.uint32();
  cursor.uint32();
  const namespace = cursor.bytes(namespaceBytes).toString('latin1');
  const annotation = Buffer.from(cursor.bytes(annotationBytes));
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than its lengths say');
  const belongs =
    namespace === expected.namespace &&
    shard === expected.shard &&
    blockStartNs === expected.blockStartNs &&
    volume === expected.volume;
  if (!belongs) {
    const whose = `namespace ${namespace}, shard ${shard}, block ${blockStartNs}, volume ${volume}`;
    throw new FormatFault(FILE_HEADER_BYTES, `it belongs to ${whose}`);
  }
  return {
    namespace,
    shard,
    blockStartNs,
    volume,
    kind,
    blockSizeNs,
    entryCount,
    payloadBytes,
    indexBytes,
    directory,
    createdAtNs,
    digest,
    annotation,
  };
}
