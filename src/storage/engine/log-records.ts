import { ByteCursor, varintBytes, writeVarint } from '../fileset/byte-cursor.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import { decodeTombstones, encodeTombstones, type Tombstone } from './tombstones.ts';

/** What stands in a record of the commit log: `docs/formats/engine.md` draws it. */
export type LogContent =
  /** A payload of the namespace's buffer. */
  | { readonly kind: 'batch'; readonly namespaceId: number; readonly payload: Uint8Array }
  | { readonly kind: 'delete'; readonly namespaceId: number; readonly tombstone: Tombstone }
  /** All that the log has of this block up to here is in these filesets. */
  | {
      readonly kind: 'flushed';
      readonly namespaceId: number;
      readonly blockStartNs: bigint;
      readonly filesets: readonly FlushedShard[];
    }
  /** What was written before to these shards, of any namespace, is not this node's any more. */
  | { readonly kind: 'dropped'; readonly shards: readonly number[] };

export interface FlushedShard {
  readonly shard: number;
  readonly volume: number;
}

const BATCH = 0;
const DELETE = 1;
const FLUSHED = 2;
const DROPPED = 3;

/** Puts the namespace before a batch; the bytes are valid until the next call. */
export class BatchFramer {
  #bytes = Buffer.allocUnsafe(64 * 1024);

  frame(namespaceId: number, payload: Uint8Array): Buffer {
    const needed = payload.length + 8;
    if (this.#bytes.length < needed) this.#bytes = Buffer.allocUnsafe(needed * 2);
    this.#bytes[0] = BATCH;
    const at = writeVarint(this.#bytes, namespaceId, 1);
    this.#bytes.set(payload, at);
    return this.#bytes.subarray(0, at + payload.length);
  }
}

export function encodeDelete(namespaceId: number, tombstone: Tombstone): Buffer {
  return Buffer.concat([head(DELETE, namespaceId), encodeTombstones([tombstone])]);
}

export function encodeFlushed(
  namespaceId: number,
  blockStartNs: bigint,
  filesets: readonly FlushedShard[],
): Buffer {
  const start = Buffer.alloc(8);
  start.writeBigInt64LE(blockStartNs);
  const numbers = [filesets.length, ...filesets.flatMap(({ shard, volume }) => [shard, volume])];
  const body = Buffer.alloc(numbers.reduce((sum, number) => sum + varintBytes(number), 0));
  numbers.reduce((at, number) => writeVarint(body, number, at), 0);
  return Buffer.concat([head(FLUSHED, namespaceId), start, body]);
}

export function encodeDropped(shards: readonly number[]): Buffer {
  const numbers = [shards.length, ...shards];
  const body = Buffer.alloc(numbers.reduce((sum, number) => sum + varintBytes(number), 0));
  numbers.reduce((at, number) => writeVarint(body, number, at), 0);
  return Buffer.concat([head(DROPPED, 0), body]);
}

/** Without reading more of it. */
export function isFlushedRecord(bytes: Uint8Array): boolean {
  return bytes[0] === FLUSHED;
}

/** Batches are views of `bytes`. @throws FormatFault */
export function decodeLogRecord(bytes: Buffer): LogContent {
  const cursor = new ByteCursor(bytes);
  const kind = cursor.uint8();
  const namespaceId = cursor.varint();
  switch (kind) {
    case BATCH:
      return { kind: 'batch', namespaceId, payload: bytes.subarray(cursor.at) };
    case DELETE: {
      const [tombstone] = decodeTombstones(bytes.subarray(cursor.at));
      if (!tombstone) throw new FormatFault(cursor.at, 'it deletes nothing');
      return { kind: 'delete', namespaceId, tombstone };
    }
    case FLUSHED: {
      const blockStartNs = cursor.int64();
      const count = cursor.varint();
      const filesets: FlushedShard[] = [];
      while (filesets.length < count) filesets.push({ shard: cursor.varint(), volume: cursor.varint() });
      if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than its lengths say');
      return { kind: 'flushed', namespaceId, blockStartNs, filesets };
    }
    case DROPPED: {
      const count = cursor.varint();
      const shards: number[] = [];
      while (shards.length < count) shards.push(cursor.varint());
      if (!cursor.atEnd) throw new FormatFault(cursor.at, 'there is more than its lengths say');
      return { kind: 'dropped', shards };
    }
    default:
      throw new FormatFault(0, `its kind ${kind} is unknown`);
  }
}

function head(kind: number, namespaceId: number): Buffer {
  const bytes = Buffer.alloc(1 + varintBytes(namespaceId));
  bytes[0] = kind;
  writeVarint(bytes, namespaceId, 1);
  return bytes;
}
