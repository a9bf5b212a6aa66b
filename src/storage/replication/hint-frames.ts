import { FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { crc32c } from '../../core/crc32c.ts';
import { decodeDeletions, encodeDeletions } from './deletion-ledger.ts';
import type { ReplicaDelete, ReplicaFormat, ReplicaWrite } from './replica-transport.ts';

/** Something that a replica missed. `docs/formats/hints.md` draws the file. */
export type Hint =
  | { readonly kind: 'write'; readonly write: ReplicaWrite }
  | { readonly kind: 'delete'; readonly deletion: ReplicaDelete };

const FRAME_HEAD_BYTES = 8;
const WRITE_HEAD_BYTES = 12;
const WRITE = 0;
const DELETE = 1;
const FORMATS: readonly ReplicaFormat[] = ['columns', 1, 2];
/** No frame is longer: a body, and what is around it. */
const MAX_FRAME_BYTES = 64 * 1024 * 1024;

export function encodeHint(hint: Hint): Buffer {
  const payload = hint.kind === 'write' ? encodeWrite(hint.write) : encodeDeletion(hint.deletion);
  const frame = Buffer.allocUnsafe(FRAME_HEAD_BYTES + payload.length);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt32LE(crc32c(payload), 4);
  frame.set(payload, FRAME_HEAD_BYTES);
  return frame;
}

function encodeWrite({ namespace, format, body, stamp }: ReplicaWrite): Buffer {
  const name = Buffer.from(namespace);
  const payload = Buffer.allocUnsafe(WRITE_HEAD_BYTES + name.length + body.length);
  payload[0] = WRITE;
  payload[1] = FORMATS.indexOf(format);
  payload.writeUInt16LE(name.length, 2);
  payload.writeBigInt64LE(stamp, 4);
  payload.set(name, WRITE_HEAD_BYTES);
  payload.set(body, WRITE_HEAD_BYTES + name.length);
  return payload;
}

function encodeDeletion(deletion: ReplicaDelete): Buffer {
  return Buffer.concat([Buffer.from([DELETE]), encodeDeletions([deletion])]);
}

/** A hint with the place behind it; `undefined` where the rest of the file cannot be read. */
export function* readHints(
  file: Buffer,
): Generator<{ readonly hint: Hint; readonly end: number } | undefined> {
  for (let at = FILE_HEADER_BYTES; at < file.length;) {
    const payload = payloadAt(file, at);
    const hint = payload && decodeHint(payload);
    if (!payload || !hint) {
      yield undefined;
      return;
    }
    at += FRAME_HEAD_BYTES + payload.length;
    yield { hint, end: at };
  }
}

function payloadAt(file: Buffer, at: number): Buffer | undefined {
  if (at + FRAME_HEAD_BYTES > file.length) return undefined;
  const length = file.readUInt32LE(at);
  const start = at + FRAME_HEAD_BYTES;
  if (length > MAX_FRAME_BYTES || start + length > file.length) return undefined;
  const payload = file.subarray(start, start + length);
  return crc32c(payload) === file.readUInt32LE(at + 4) ? payload : undefined;
}

function decodeHint(payload: Buffer): Hint | undefined {
  if (payload[0] === DELETE) {
    const [deletion] = decodeDeletions(payload.subarray(1));
    return deletion && { kind: 'delete', deletion };
  }
  const format = FORMATS[payload[1] ?? FORMATS.length];
  if (payload[0] !== WRITE || format === undefined) return undefined;
  const nameEnd = WRITE_HEAD_BYTES + payload.readUInt16LE(2);
  return {
    kind: 'write',
    write: {
      namespace: payload.toString('utf8', WRITE_HEAD_BYTES, nameEnd),
      format,
      body: payload.subarray(nameEnd),
      stamp: payload.readBigInt64LE(4),
    },
  };
}

export function stampOf(hint: Hint): bigint {
  return hint.kind === 'write' ? hint.write.stamp : hint.deletion.stamp;
}
