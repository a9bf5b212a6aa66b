import { FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';

/** What the engine notes in a fileset's info: `docs/formats/engine.md` draws it. */
export interface BlockAnnotation {
  /** Without the dictionary. */
  readonly series: number;
  readonly samples: number;
  readonly hasDictionary: boolean;
  /** Deletions up to this version have been carried out in it; later ones have to be looked at. */
  readonly deletedUpTo: bigint;
}

/** The entry that holds the dictionary comes behind all series, whose ids begin with 0x0a. */
export const DICTIONARY_ID = Buffer.from([0xff]);
/** Almost all series need it and it is small: so that damage costs one series, it is there twice. */
export const DICTIONARY_COPY_ID = Buffer.from([0xff, 0xff]);

export function isDictionary(id: Uint8Array): boolean {
  return id[0] === 0xff;
}

const VERSION = 1;
const BYTES = 24;
const HAS_DICTIONARY = 1;
const HIGH = 0x1_0000_0000;

export function encodeAnnotation(annotation: BlockAnnotation): Buffer {
  const bytes = Buffer.alloc(BYTES);
  bytes.writeUInt16LE(VERSION, 0);
  bytes.writeUInt16LE(annotation.hasDictionary ? HAS_DICTIONARY : 0, 2);
  bytes.writeUInt32LE(annotation.series, 4);
  bytes.writeUInt32LE(annotation.samples % HIGH, 8);
  bytes.writeUInt32LE(Math.floor(annotation.samples / HIGH), 12);
  bytes.writeBigUInt64LE(annotation.deletedUpTo, 16);
  return bytes;
}

/** Of the bytes of an annotation: no write that is in the fileset has a newer version. 0 when it is none. */
export function newestVersionOf(annotation: Buffer): bigint {
  return annotation.length === BYTES ? annotation.readBigUInt64LE(16) : 0n;
}

/** @throws FILESET_DAMAGED when it is none of this engine's */
export function decodeAnnotation(info: FilesetInfo, file: string): BlockAnnotation {
  const { annotation: bytes } = info;
  if (bytes.length !== BYTES || bytes.readUInt16LE(0) !== VERSION) {
    const damage: FileDamage = { file, offset: 0, reason: 'its annotation is none that this version writes' };
    throw new FileDamageError(damage);
  }
  return {
    hasDictionary: (bytes.readUInt16LE(2) & HAS_DICTIONARY) !== 0,
    series: bytes.readUInt32LE(4),
    samples: bytes.readUInt32LE(8) + bytes.readUInt32LE(12) * HIGH,
    deletedUpTo: bytes.readBigUInt64LE(16),
  };
}
