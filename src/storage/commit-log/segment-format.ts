import { crc32 } from 'node:zlib';

/**
 * The bytes of a segment; `docs/formats/commit-log.md` draws them. Little endian throughout.
 *
 * Every record's header begins with the salt of its segment, a random number that no payload can know, and is
 * checked by a checksum that covers salt and segment number, too: so a reader that lost its way finds the next
 * record by the salt alone, and takes nothing for a record that another segment or a client has written.
 */
export const SEGMENT_HEADER_BYTES = 64;
export const RECORD_HEADER_BYTES = 32;
export const RECORD_ALIGNMENT = 8;
export const FORMAT_VERSION = 1;

const MAGIC = Buffer.from('VARVELOG', 'latin1');
/** Of a segment that was begun. */
export const FIRST_BYTE = MAGIC[0];
const HEADER_CHECKSUM_AT = SEGMENT_HEADER_BYTES - 4;
const HIGH = 0x1_0000_0000;

export interface SegmentHeader {
  readonly version: number;
  /** Never zero, nor is its lowest byte, so that zeros cannot be a record. */
  readonly salt: number;
  readonly segment: number;
  /** The node's hybrid clock when the segment was opened: nothing in it is older than what it then knew. */
  readonly clock: bigint;
  /** Of the first record that may be in it. */
  readonly firstSequence: number;
}

/** `batch` carries a payload; `seal` is the last of a segment and says that all before it is durable. */
export type RecordKind = 'batch' | 'seal';

export interface RecordHeader {
  readonly kind: RecordKind;
  readonly payloadBytes: number;
  /** Of the payload with its padding. */
  readonly payloadChecksum: number;
  readonly sequence: number;
  /** How many bytes of this segment were durable when this record was written. */
  readonly syncedBytes: number;
}

/** What a record of this payload takes, with header and padding. */
export function recordBytes(payloadBytes: number): number {
  return RECORD_HEADER_BYTES + padded(payloadBytes);
}

export function padded(payloadBytes: number): number {
  return Math.ceil(payloadBytes / RECORD_ALIGNMENT) * RECORD_ALIGNMENT;
}

/** A salt from any random number. */
export function saltFrom(random: number): number {
  return (random | 1) >>> 0;
}

export function encodeSegmentHeader(header: SegmentHeader): Buffer {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt16LE(header.version, 8);
  bytes.writeUInt32LE(header.salt, 12);
  writeUint53(bytes, header.segment, 16);
  bytes.writeBigInt64LE(header.clock, 24);
  writeUint53(bytes, header.firstSequence, 32);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, HEADER_CHECKSUM_AT)), HEADER_CHECKSUM_AT);
  return bytes;
}

/** Undefined when these are not the bytes of a header, whatever its version. */
export function decodeSegmentHeader(bytes: Buffer): SegmentHeader | undefined {
  if (bytes.length < SEGMENT_HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  if (crc32(bytes.subarray(0, HEADER_CHECKSUM_AT)) !== bytes.readUInt32LE(HEADER_CHECKSUM_AT))
    return undefined;
  return {
    version: bytes.readUInt16LE(8),
    salt: bytes.readUInt32LE(12),
    segment: readUint53(bytes, 16),
    clock: bytes.readBigInt64LE(24),
    firstSequence: readUint53(bytes, 32),
  };
}

/** Writes and reads the record headers of one segment. */
export class RecordCodec {
  readonly salt: number;
  readonly saltBytes: Buffer;
  readonly #seed: number;

  constructor(salt: number, segment: number) {
    this.salt = salt;
    const identity = Buffer.alloc(12);
    identity.writeUInt32LE(salt, 0);
    writeUint53(identity, segment, 4);
    this.saltBytes = identity.subarray(0, 4);
    this.#seed = crc32(identity);
  }

  encode(header: RecordHeader, target: Buffer, at: number): void {
    target.writeUInt32LE(this.salt, at);
    target.writeUInt32LE(header.payloadBytes, at + 8);
    target.writeUInt32LE(header.payloadChecksum, at + 12);
    writeUint53(target, header.sequence, at + 16);
    target.writeUInt32LE(header.syncedBytes, at + 24);
    target.writeUInt32LE(header.kind === 'seal' ? 2 : 1, at + 28);
    target.writeUInt32LE(crc32(target.subarray(at + 8, at + RECORD_HEADER_BYTES), this.#seed), at + 4);
  }

  /** Undefined when there is no intact header of this segment. */
  decode(bytes: Buffer, at = 0): RecordHeader | undefined {
    if (at + RECORD_HEADER_BYTES > bytes.length || bytes.readUInt32LE(at) !== this.salt) return undefined;
    const checksum = crc32(bytes.subarray(at + 8, at + RECORD_HEADER_BYTES), this.#seed);
    if (checksum !== bytes.readUInt32LE(at + 4)) return undefined;
    return {
      kind: bytes.readUInt32LE(at + 28) === 2 ? 'seal' : 'batch',
      payloadBytes: bytes.readUInt32LE(at + 8),
      payloadChecksum: bytes.readUInt32LE(at + 12),
      sequence: readUint53(bytes, at + 16),
      syncedBytes: bytes.readUInt32LE(at + 24),
    };
  }
}

function writeUint53(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32LE(value % HIGH, at);
  bytes.writeUInt32LE(Math.floor(value / HIGH), at + 4);
}

function readUint53(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * HIGH;
}
