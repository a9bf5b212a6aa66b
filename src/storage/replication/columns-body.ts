import { VarveError } from '../../core/errors.ts';
import { NO_OVERWRITES, type Columns, type Overwrite } from '../engine/columns.ts';

/**
 * Samples as nodes send them to each other: one record a batch of a series, all numbers little endian.
 *
 * ```
 * u32 length of the labels | u32 count | u32 overwrites | u32 0
 * labels (as protobuf has them), filled up to a multiple of 8
 * i64 × count   times, in nanoseconds
 * u64 × count   bits of the values
 * (u32 place | u32 0 | u64 version) × overwrites
 * ```
 *
 * A record without labels goes on with the series of the record before.
 */
export interface ColumnsRecord {
  /** Empty: of the series before. */
  readonly labels: Uint8Array;
  readonly columns: Columns;
}

const HEAD_BYTES = 16;
const OVERWRITE_BYTES = 16;

/** Collects records in a buffer that grows and is used again. */
export class ColumnsWriter {
  #bytes = Buffer.allocUnsafe(64 * 1024);
  #at = 0;

  get length(): number {
    return this.#at;
  }

  add(labels: Uint8Array, { times, bits, overwrites }: Columns): void {
    const labelsEnd = HEAD_BYTES + padded(labels.length);
    const sizeBytes = labelsEnd + 16 * times.length + OVERWRITE_BYTES * overwrites.length;
    this.#reserve(sizeBytes);
    const start = this.#at;
    const out = this.#bytes;
    out.writeUInt32LE(labels.length, start);
    out.writeUInt32LE(times.length, start + 4);
    out.writeUInt32LE(overwrites.length, start + 8);
    out.writeUInt32LE(0, start + 12);
    out.fill(0, start + HEAD_BYTES + labels.length, start + labelsEnd);
    out.set(labels, start + HEAD_BYTES);
    let at = start + labelsEnd;
    for (const numbers of [times, bits]) {
      out.set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), at);
      at += numbers.byteLength;
    }
    for (const { place, version } of overwrites) {
      out.writeUInt32LE(place, at);
      out.writeUInt32LE(0, at + 4);
      out.writeBigUInt64LE(version, at + 8);
      at += OVERWRITE_BYTES;
    }
    this.#at = at;
  }

  /** A copy of what was added, after which it is empty. */
  take(): Buffer {
    const taken = Buffer.from(this.#bytes.subarray(0, this.#at));
    this.#at = 0;
    return taken;
  }

  #reserve(sizeBytes: number): void {
    const needed = this.#at + sizeBytes;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = larger;
  }
}

/** The records of a body; their columns are copies. @throws WRITE_INVALID for what is none */
export function* readColumns(body: Uint8Array): Generator<ColumnsRecord> {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  for (let at = 0; at < body.length;) {
    if (at + HEAD_BYTES > body.length) throw cutOff(at);
    const [labelBytes, count, marked] = [0, 4, 8].map((offset) => view.getUint32(at + offset, true)) as [
      number,
      number,
      number,
    ];
    const timesAt = at + HEAD_BYTES + padded(labelBytes);
    const end = timesAt + 16 * count + OVERWRITE_BYTES * marked;
    if (end > body.length) throw cutOff(at);
    const labels = body.subarray(at + HEAD_BYTES, at + HEAD_BYTES + labelBytes);
    // Columns have to be aligned, and the body may be anywhere.
    const numbers = new Uint8Array(16 * count);
    numbers.set(body.subarray(timesAt, timesAt + 16 * count));
    const overwrites: Overwrite[] = [];
    for (let i = 0, from = timesAt + 16 * count; i < marked; i++, from += OVERWRITE_BYTES) {
      overwrites.push({ place: view.getUint32(from, true), version: view.getBigUint64(from + 8, true) });
    }
    yield {
      labels,
      columns: {
        times: new BigInt64Array(numbers.buffer, 0, count),
        bits: new BigUint64Array(numbers.buffer, 8 * count, count),
        overwrites: marked === 0 ? NO_OVERWRITES : overwrites,
      },
    };
    at = end;
  }
}

function padded(length: number): number {
  return (length + 7) & ~7;
}

function cutOff(at: number): VarveError {
  return new VarveError('WRITE_INVALID', `samples of another node are cut off at byte ${at}`);
}
