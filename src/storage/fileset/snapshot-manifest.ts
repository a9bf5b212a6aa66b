import { ByteCursor, writeUint53 } from './byte-cursor.ts';
import { DIGEST_BYTES } from './canonical-digest.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from './checked-file.ts';
import { FormatFault } from './fileset-damage.ts';
import type { FilesetId } from './fileset-id.ts';

/** Where in the commit log a replay starts; the commit log's own position has this shape. */
export interface ReplayPosition {
  readonly segment: number;
  readonly sequence: number;
}

/** A snapshot that a manifest counts on. */
export interface SnapshotEntry extends FilesetId {
  readonly digest: Buffer;
}

/**
 * - `cycle`: with the log from its position on, all that the node held; takes the place of all before it
 * - `addition`: data that came from elsewhere than the log, kept until the next cycle has it
 */
export type ManifestKind = 'cycle' | 'addition';

export interface SnapshotManifest {
  /** Grows from manifest to manifest. */
  readonly index: number;
  readonly kind: ManifestKind;
  /** Of a cycle: what is before it in the log is in the snapshots. Means nothing for an addition. */
  readonly position: ReplayPosition;
  readonly createdAtNs: bigint;
  readonly entries: readonly SnapshotEntry[];
  /** What the engine wanted to find again; not looked into here. */
  readonly annotation: Buffer;
}

const KINDS: readonly ManifestKind[] = ['cycle', 'addition'];
const FIXED_BYTES = 40;
const ENTRY_FIXED_BYTES = 4 + 4 + 8 + 4 + DIGEST_BYTES;
const NAME = /^manifest-(\d{12,15})\.db$/;

export function manifestName(index: number): string {
  return `manifest-${String(index).padStart(12, '0')}.db`;
}

export function parseManifestName(name: string): number | undefined {
  const digits = NAME.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

export function encodeManifest(manifest: SnapshotManifest): Buffer {
  const { entries, annotation } = manifest;
  const entryBytes = entries.reduce((sum, { namespace }) => sum + ENTRY_FIXED_BYTES + namespace.length, 0);
  const body = Buffer.alloc(FIXED_BYTES + entryBytes + annotation.length);
  writeUint53(body, manifest.index, 0);
  writeUint53(body, manifest.position.segment, 8);
  writeUint53(body, manifest.position.sequence, 16);
  body.writeBigInt64LE(manifest.createdAtNs, 24);
  body.writeUInt32LE(entries.length, 32);
  body.writeUInt32LE(annotation.length, 36);
  let at = FIXED_BYTES;
  for (const { namespace, shard, blockStartNs, volume, digest } of entries) {
    at = body.writeUInt32LE(shard, at);
    at = body.writeUInt32LE(volume, at);
    at = body.writeBigInt64LE(blockStartNs, at);
    body.set(digest, at);
    at = body.writeUInt32LE(namespace.length, at + DIGEST_BYTES);
    at += body.write(namespace, at, 'latin1');
  }
  body.set(annotation, at);
  return encodeCheckedFile('VRVMANIF', KINDS.indexOf(manifest.kind), body);
}

/** @throws FormatFault, and STORAGE_FORMAT_UNKNOWN for a newer version */
export function decodeManifest(file: string, bytes: Buffer, expectedIndex: number): SnapshotManifest {
  const { kind: kindNumber, bodyEnd } = decodeCheckedFile(file, 'VRVMANIF', bytes);
  const kind = KINDS[kindNumber];
  if (!kind) throw new FormatFault(10, `kind ${kindNumber} is unknown`);
  const cursor = new ByteCursor(bytes, FILE_HEADER_BYTES, bodyEnd);
  const index = cursor.uint53();
  if (index !== expectedIndex) throw new FormatFault(FILE_HEADER_BYTES, `it is manifest ${index}`);
  const position = { segment: cursor.uint53(), sequence: cursor.uint53() };
  const createdAtNs = cursor.int64();
  const count = cursor.uint32();
  const annotationBytes = cursor.uint32();
  const entries: SnapshotEntry[] = [];
  for (let i = 0; i < count; i++) {
    const shard = cursor.uint32();
    const volume = cursor.uint32();
    const blockStartNs = cursor.int64();
    const digest = Buffer.from(cursor.bytes(DIGEST_BYTES));
    const namespace = cursor.bytes(cursor.uint32()).toString('latin1');
    entries.push({ namespace, shard, blockStartNs, volume, digest });
  }
  const annotation = Buffer.from(cursor.bytes(annotationBytes));
  if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than its lengths say');
  return { index, kind, position, createdAtNs, entries, annotation };
}
