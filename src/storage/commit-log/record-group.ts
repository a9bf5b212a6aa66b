import { crc32 } from 'node:zlib';
import { padded, RECORD_HEADER_BYTES, recordBytes, type RecordCodec } from './segment-format.ts';

export interface Waiting {
  readonly sequence: number;
  readonly resolve: (sequence: number) => void;
  readonly reject: (error: unknown) => void;
}

interface Entry extends Waiting {
  readonly offset: number;
  readonly payloadBytes: number;
  readonly payloadChecksum: number;
}

const FIRST_BYTES = 64 * 1024;

/**
 * Records that wait for the next write, laid out as they will stand in the segment. Payloads are copied and
 * summed when they are added; the headers follow when it is known into which segment they go.
 */
export class RecordGroup {
  #bytes: Buffer = Buffer.allocUnsafe(FIRST_BYTES);
  #usedBytes = 0;
  #entries: Entry[] = [];

  get count(): number {
    return this.#entries.length;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  add(payload: Uint8Array, waiting: Waiting): void {
    const offset = this.#usedBytes;
    const start = offset + RECORD_HEADER_BYTES;
    const end = start + padded(payload.length);
    this.#grow(end);
    this.#bytes.set(payload, start);
    this.#bytes.fill(0, start + payload.length, end);
    const payloadChecksum = crc32(this.#bytes.subarray(start, end));
    this.#entries.push({ ...waiting, offset, payloadBytes: payload.length, payloadChecksum });
    this.#usedBytes = end;
  }

  /** What the record at `index` takes in a segment. */
  sizeOf(index: number): number {
    return recordBytes(this.#entries[index]?.payloadBytes ?? 0);
  }

  sequenceOf(index: number): number {
    return this.#entries[index]?.sequence ?? 0;
  }

  /** How far the records from `from` on fit into `roomBytes`: the index behind the last one. */
  fit(from: number, roomBytes: number): number {
    const limit = (this.#entries[from]?.offset ?? 0) + roomBytes;
    let to = from;
    while (to < this.#entries.length && this.#endOf(to) <= limit) to++;
    return to;
  }

  /** The bytes of records `[from, to)` for a segment; valid until `clear`. */
  encode(from: number, to: number, codec: RecordCodec, syncedBytes: number): Buffer {
    const entries = this.#entries.slice(from, to);
    for (const { offset, payloadBytes, payloadChecksum, sequence } of entries) {
      const header = { kind: 'batch', payloadBytes, payloadChecksum, sequence, syncedBytes } as const;
      codec.encode(header, this.#bytes, offset);
    }
    return this.#bytes.subarray(entries[0]?.offset ?? 0, this.#endOf(to - 1));
  }

  acknowledge(from: number, to: number): void {
    for (const { resolve, sequence } of this.#entries.slice(from, to)) resolve(sequence);
  }

  refuse(from: number, error: unknown): void {
    for (const { reject } of this.#entries.slice(from)) reject(error);
  }

  clear(): void {
    this.#entries = [];
    this.#usedBytes = 0;
  }

  #endOf(index: number): number {
    const entry = this.#entries[index];
    return entry === undefined ? 0 : entry.offset + recordBytes(entry.payloadBytes);
  }

  #grow(neededBytes: number): void {
    if (neededBytes <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(neededBytes, this.#bytes.length * 2));
    this.#bytes.copy(grown, 0, 0, this.#usedBytes);
    this.#bytes = grown;
  }
}
