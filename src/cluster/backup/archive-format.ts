import { crc32 } from 'node:zlib';
import * as z from 'zod';

/**
 * A backup is one file, written from front to back and read the same way, drawn in docs/formats/backup.md:
 *
 * ```
 * file    = magic version frame* trailer
 * frame   = kind flags length checksum payload
 * trailer = offset of the last frame, magic
 * ```
 *
 * The order of the frames: one `manifest`, then `role*`, `extension*`, `ddl*`, `relation*`, for each table one
 * `table`, its `rows*` and one `table-end`, then `sequence*`, and `end`. A checksum guards each frame, and the
 * SHA-256 in `end` all that stands before it.
 */
export const MAGIC = Buffer.from('VARVEBAK');
export const TRAILER_MAGIC = Buffer.from('VARVEEND');
export const FORMAT_VERSION = 1;
/** Magic, format version. */
export const HEADER_BYTES = MAGIC.length + 4;
/** Kind (1), flags (1), zero (2), length of the payload (4), CRC-32 (4). */
export const FRAME_HEADER_BYTES = 12;
export const TRAILER_BYTES = 8 + TRAILER_MAGIC.length;
/** Of a payload. What is longer was not written by us: a statement of DDL has at most a tenth of it. */
export const MAX_PAYLOAD_BYTES = 1 << 28;
/** Of the rows in one frame, before they are compressed. */
export const ROWS_BYTES = 256 * 1024;
export const FLAG_DEFLATED = 1;

export const FRAME_KINDS = [
  'manifest',
  'role',
  'extension',
  'ddl',
  'relation',
  'table',
  'rows',
  'table-end',
  'sequence',
  'end',
] as const;
export type FrameKind = (typeof FRAME_KINDS)[number];

export function frameCode(kind: FrameKind): number {
  return FRAME_KINDS.indexOf(kind) + 1;
}

export function frameKind(code: number): FrameKind | undefined {
  return FRAME_KINDS[code - 1];
}

/** What may follow a frame of this kind. */
export const FOLLOWERS: Readonly<Record<FrameKind, readonly FrameKind[]>> = {
  manifest: ['role', 'extension', 'ddl', 'relation', 'table', 'sequence', 'end'],
  role: ['role', 'extension', 'ddl', 'relation', 'table', 'sequence', 'end'],
  extension: ['extension', 'ddl', 'relation', 'table', 'sequence', 'end'],
  ddl: ['ddl', 'relation', 'table', 'sequence', 'end'],
  relation: ['relation', 'table', 'sequence', 'end'],
  table: ['rows', 'table-end'],
  rows: ['rows', 'table-end'],
  'table-end': ['table', 'sequence', 'end'],
  sequence: ['sequence', 'end'],
  end: [],
};

export interface FrameHeader {
  readonly kind: FrameKind;
  readonly isDeflated: boolean;
  readonly payloadBytes: number;
  readonly checksum: number;
}

export function encodeFrame(kind: FrameKind, payload: Buffer, isDeflated: boolean): Buffer {
  const header = Buffer.alloc(FRAME_HEADER_BYTES);
  header.writeUInt8(frameCode(kind), 0);
  header.writeUInt8(isDeflated ? FLAG_DEFLATED : 0, 1);
  header.writeUInt32LE(payload.length, 4);
  header.writeUInt32LE(frameChecksum(header, payload), 8);
  return Buffer.concat([header, payload]);
}

/** Undefined for what no frame begins with. */
export function decodeHeader(bytes: Buffer): FrameHeader | undefined {
  const kind = frameKind(bytes.readUInt8(0));
  const flags = bytes.readUInt8(1);
  const payloadBytes = bytes.readUInt32LE(4);
  if (!kind || flags > FLAG_DEFLATED || bytes.readUInt16LE(2) !== 0) return undefined;
  if (payloadBytes > MAX_PAYLOAD_BYTES) return undefined;
  return { kind, isDeflated: flags === FLAG_DEFLATED, payloadBytes, checksum: bytes.readUInt32LE(8) };
}

/** Over the header up to the checksum, and the payload. */
export function frameChecksum(header: Buffer, payload: Buffer): number {
  return crc32(payload, crc32(header.subarray(0, 8)));
}

const count = z.int().min(0);

export const manifest = z.object({
  database: z.string(),
  cluster: z.string(),
  groupUuid: z.string(),
  /** The member whose database was read. */
  node: z.string(),
  /** As `server_version`. */
  serverVersion: z.string(),
  encoding: z.string(),
  /** Of the database. */
  owner: z.string(),
  /** When the snapshot was taken. */
  createdAt: z.iso.datetime(),
  /** What is in the database and not in the backup, for people. */
  leftOut: z.array(z.string()),
});
export type Manifest = z.infer<typeof manifest>;

export const roleFrame = z.object({
  name: z.string(),
  attributes: z.record(z.string(), z.boolean()),
  connectionLimit: z.int(),
  validUntil: z.string().nullable(),
  /** As `pg_authid.rolpassword`: not the password, and still not for everybody's eyes. */
  verifier: z.string().nullable(),
  memberOf: z.array(z.string()),
  /** `name=value`, for all databases and for this one. */
  settings: z.array(z.string()),
  databaseSettings: z.array(z.string()),
});
export type RoleFrame = z.infer<typeof roleFrame>;

export const extensionFrame = z.object({ name: z.string(), schema: z.string(), version: z.string() });
export type ExtensionFrame = z.infer<typeof extensionFrame>;

/**
 * A row of `varve_group.ddl_queue`, with all columns that it had there; what a restore needs to know of it by name
 * is here.
 */
export const ddlFrame = z.looseObject({ tag: z.string(), statement: z.string() });
export type DdlFrame = z.infer<typeof ddlFrame>;

/** What a table looks like when all statements were carried out: a restore compares. */
export const relationFrame = z.object({
  schema: z.string(),
  name: z.string(),
  columns: z.array(z.object({ name: z.string(), type: z.string() })),
});
export type RelationFrame = z.infer<typeof relationFrame>;

export const tableFrame = z.object({ schema: z.string(), name: z.string(), columns: z.array(z.string()) });
export type TableFrame = z.infer<typeof tableFrame>;

export const tableEndFrame = z.object({ rowCount: count, sizeBytes: count });

export const sequenceFrame = z.object({
  schema: z.string(),
  name: z.string(),
  lastValue: z.string(),
  isCalled: z.boolean(),
});
export type SequenceFrame = z.infer<typeof sequenceFrame>;

export const endFrame = z.object({
  tableCount: count,
  rowCount: count,
  ddlCount: count,
  sequenceCount: count,
  /** Of all bytes before this frame. */
  sha256: z.string(),
});
export type EndFrame = z.infer<typeof endFrame>;
