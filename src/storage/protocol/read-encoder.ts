import type { ColumnBatch } from '../engine/storage-engine.ts';
import { crc32c } from '../../core/crc32c.ts';
import { CHUNK_SAMPLES, type ProtocolKernel } from './protocol-kernel.ts';
import { ProtobufWriter, varintBytes, writeVarint } from './protobuf-writer.ts';

/** Encoding of `prometheus.Chunk`. */
const XOR = 1;
/** A frame is sent when it has this many bytes, as Prometheus does. */
const FRAME_BYTES = 1024 * 1024;
const SAMPLE_BYTES = 32;

/**
 * Milliseconds of nanoseconds, rounded down, without a bigint for each: the halves of the 64 bits are divided
 * apart, and all that is added stays below 2^53.
 */
export function msOf(low: number, high: number): number {
  return high * 4294 + Math.floor((high * 967_296 + (low >>> 0)) / 1_000_000);
}

/**
 * `prometheus.TimeSeries` of one series after the other. What lies within one millisecond is one sample for
 * Prometheus: the last of them.
 */
export class SampleSeriesEncoder {
  readonly #series = new ProtobufWriter(64 * 1024);
  #labelsEnd = 0;
  #lastStart = 0;
  #lastMs = Number.NaN;

  /** The canonical bytes of labels are already fields 1 of the message. */
  begin(labelBytes: Uint8Array): void {
    this.#series.reset();
    this.#series.raw(labelBytes);
    this.#labelsEnd = this.#series.length;
    this.#lastMs = Number.NaN;
  }

  add({ times, bits }: ColumnBatch): void {
    const halves = new Int32Array(times.buffer, times.byteOffset, times.length * 2);
    const values = new Uint8Array(bits.buffer, bits.byteOffset, bits.length * 8);
    const room = this.#series.room(times.length * SAMPLE_BYTES);
    const out = room.bytes;
    let at = room.at;
    for (let i = 0; i < times.length; i += 1) {
      const ms = msOf(halves[2 * i] as number, halves[2 * i + 1] as number);
      if (ms === this.#lastMs) at = this.#lastStart;
      this.#lastMs = ms;
      this.#lastStart = at;
      out[at] = 0x12;
      // The length is written when it is known; it is always below 128.
      let end = at + 2;
      out[end++] = 0x09;
      for (let byte = 8 * i; byte < 8 * i + 8; byte += 1) out[end++] = values[byte] as number;
      out[end++] = 0x10;
      end = writeVarint(out, end, ms);
      out[at + 1] = end - at - 2;
      at = end;
    }
    this.#series.advance(at);
  }

  /** The message, valid until the next series begins; undefined when it has no samples. */
  end(): Uint8Array | undefined {
    return this.#series.length === this.#labelsEnd ? undefined : this.#series.view();
  }
}

/**
 * `prometheus.ReadResponse` in snappy's block format, put together so that only compressed bytes are kept until it
 * is whole: the format wants its size first.
 */
export class ReadResponseWriter {
  readonly #kernel: ProtocolKernel;
  readonly #pieces: Buffer[] = [];
  readonly #waiting = new ProtobufWriter(512 * 1024);
  #resultBytes = 0;
  #totalBytes = 0;
  #storedBytes = 0;
  /** Where the head of the result that is being written belongs. */
  #headAt = 0;

  constructor(kernel: ProtocolKernel) {
    this.#kernel = kernel;
  }

  /** Of what has to be kept in memory. */
  get storedBytes(): number {
    return this.#storedBytes + this.#waiting.length;
  }

  /** One more series of the result that is being written. */
  series(message: Uint8Array): void {
    const before = this.#waiting.length;
    this.#waiting.bytesField(1, message);
    this.#resultBytes += this.#waiting.length - before;
    if (this.#waiting.length >= 256 * 1024) this.#compress();
  }

  /** The result of one query is complete. */
  endResult(): void {
    this.#compress();
    const head = new ProtobufWriter(16);
    head.varint(8 + 2);
    head.varint(this.#resultBytes);
    const compressed = [...this.#kernel.snappyPieces(head.view())];
    this.#pieces.splice(this.#headAt, 0, ...compressed);
    this.#totalBytes += head.length + this.#resultBytes;
    this.#resultBytes = 0;
    this.#headAt = this.#pieces.length;
  }

  /** The whole body, in parts. */
  finish(): Buffer[] {
    const head = Buffer.alloc(varintBytes(this.#totalBytes));
    writeVarint(head, 0, this.#totalBytes);
    return [head, ...this.#pieces];
  }

  #compress(): void {
    for (const piece of this.#kernel.snappyPieces(this.#waiting.view())) {
      this.#pieces.push(piece);
      this.#storedBytes += piece.length;
    }
    this.#waiting.reset();
  }
}

/**
 * Frames of `prometheus.ChunkedReadResponse`: the series of a query one after the other, each as XOR chunks; a
 * series with many is continued in the next frame.
 */
export class ChunkFrameEncoder {
  readonly #kernel: ProtocolKernel;
  readonly #queryIndex: number;
  /** Series that are complete, as fields of the frame. */
  readonly #frame = new ProtobufWriter(256 * 1024);
  readonly #series = new ProtobufWriter(64 * 1024);
  readonly #chunk = new ProtobufWriter(4 * 1024);
  readonly #timesMs = new Float64Array(CHUNK_SAMPLES);
  readonly #bits = new BigUint64Array(CHUNK_SAMPLES);
  #labelsEnd = 0;
  #count = 0;

  constructor(kernel: ProtocolKernel, queryIndex: number) {
    this.#kernel = kernel;
    this.#queryIndex = queryIndex;
  }

  begin(labelBytes: Uint8Array): void {
    this.#series.reset();
    this.#series.raw(labelBytes);
    this.#labelsEnd = this.#series.length;
  }

  /** @returns frames that are full */
  add({ times, bits }: ColumnBatch): Buffer[] {
    const halves = new Int32Array(times.buffer, times.byteOffset, times.length * 2);
    const frames: Buffer[] = [];
    for (let i = 0; i < times.length; i += 1) {
      const ms = msOf(halves[2 * i] as number, halves[2 * i + 1] as number);
      if (this.#count > 0 && this.#timesMs[this.#count - 1] === ms) this.#count -= 1;
      else if (this.#count === CHUNK_SAMPLES) {
        this.#closeChunk();
        if (this.#series.length + this.#frame.length >= FRAME_BYTES) frames.push(...this.#splitSeries());
      }
      this.#timesMs[this.#count] = ms;
      this.#bits[this.#count] = bits[i] as bigint;
      this.#count += 1;
    }
    return frames;
  }

  /** The series is complete. @returns a frame when it is full */
  end(): Buffer[] {
    this.#closeChunk();
    if (this.#series.length > this.#labelsEnd) this.#frame.bytesField(1, this.#series.view());
    return this.#frame.length >= FRAME_BYTES ? this.flush() : [];
  }

  /** What is complete, as a frame, if there is any. */
  flush(): Buffer[] {
    if (this.#frame.length === 0) return [];
    if (this.#queryIndex > 0) this.#frame.integerField(2, this.#queryIndex);
    const message = this.#frame.view();
    const head = Buffer.alloc(varintBytes(message.length) + 4);
    head.writeUInt32BE(crc32c(message), writeVarint(head, 0, message.length));
    const frame = Buffer.concat([head, message]);
    this.#frame.reset();
    return [frame];
  }

  #splitSeries(): Buffer[] {
    this.#frame.bytesField(1, this.#series.view());
    this.#series.reset(this.#labelsEnd);
    return this.flush();
  }

  #closeChunk(): void {
    const count = this.#count;
    if (count === 0) return;
    const data = this.#kernel.encodeXorChunk(this.#timesMs, this.#bits, count);
    const chunk = this.#chunk;
    chunk.reset();
    chunk.integerField(1, this.#timesMs[0] as number);
    chunk.integerField(2, this.#timesMs[count - 1] as number);
    chunk.integerField(3, XOR);
    chunk.bytesField(4, data);
    this.#series.bytesField(2, chunk.view());
    this.#count = 0;
  }
}
