import { builtKernels, Kernel, type Address } from '../kernel/kernel.ts';
import { checked } from '../kernel/kernel-fault.ts';
import { varintBytes, writeVarint } from './protobuf-writer.ts';

/** What is compressed at once. Snappy's own blocks have 64 KiB, so nothing is lost by it. */
const PIECE_BYTES = 256 * 1024;
/** Requests that come compressed through here (remote read) may have this many bytes when decompressed. */
export const MAX_REQUEST_BYTES = 1024 * 1024;
/** As Prometheus makes its chunks. */
export const CHUNK_SAMPLES = 120;
const MEMORY_BYTES = 8 * 1024 * 1024;
/** Kernels read and write a little behind what they were given. */
const SLACK_BYTES = 128;

/**
 * The kernels that protocols need, on a memory of their own: snappy and XOR chunks. The engine's kernel is not
 * touched, so a response can be made while others write.
 */
export class ProtocolKernel {
  readonly #kernel: Kernel;
  readonly #from: Address;
  readonly #to: Address;
  readonly #toBytes: number;
  readonly #scratch: Address;
  readonly #times: Address;
  readonly #values: Address;

  constructor(wasm: Uint8Array = builtKernels()) {
    this.#kernel = new Kernel(wasm, { limitBytes: MEMORY_BYTES });
    const { calls } = this.#kernel;
    this.#toBytes = Math.max(calls.maxSnappyBytes(PIECE_BYTES), MAX_REQUEST_BYTES);
    this.#from = this.#kernel.allocate(this.#toBytes + SLACK_BYTES);
    this.#to = this.#kernel.allocate(this.#toBytes + SLACK_BYTES);
    this.#scratch = this.#kernel.allocate(calls.snappyScratchBytes() + SLACK_BYTES);
    this.#times = this.#kernel.allocate(CHUNK_SAMPLES * 8 + SLACK_BYTES);
    this.#values = this.#kernel.allocate(CHUNK_SAMPLES * 8 + SLACK_BYTES);
  }

  /** @throws KernelFault for what is no snappy block, or decompresses to more than `MAX_REQUEST_BYTES` */
  decodeSnappy(bytes: Uint8Array): Buffer {
    if (bytes.length > this.#toBytes) checked(-4);
    const memory = this.#kernel.bytes;
    memory.set(bytes, this.#from);
    const { calls } = this.#kernel;
    const size = checked(calls.decodeSnappy(this.#from, bytes.length, this.#to, MAX_REQUEST_BYTES));
    return Buffer.from(this.#kernel.bytes.subarray(this.#to, this.#to + size));
  }

  /** One snappy block of any size. */
  encodeSnappy(bytes: Uint8Array): Buffer {
    return Buffer.concat([snappyLength(bytes.length), ...this.snappyPieces(bytes)]);
  }

  /**
   * The elements of a snappy block without the length before them, so that a block can be put together from
   * parts, the length written last.
   */
  *snappyPieces(bytes: Uint8Array): Generator<Buffer> {
    const { calls } = this.#kernel;
    for (let start = 0; start < bytes.length; start += PIECE_BYTES) {
      const piece = bytes.subarray(start, start + PIECE_BYTES);
      this.#kernel.bytes.set(piece, this.#from);
      const size = checked(calls.encodeSnappy(this.#from, piece.length, this.#to, this.#scratch));
      const elements = this.#to + varintBytes(piece.length);
      yield Buffer.from(this.#kernel.bytes.subarray(elements, this.#to + size));
    }
  }

  /**
   * One XOR chunk as Prometheus has them. Milliseconds must ascend; at most `CHUNK_SAMPLES`.
   * @returns a view that is valid until the next call
   */
  encodeXorChunk(timesMs: Float64Array, bits: BigUint64Array, count: number): Uint8Array {
    const memory = this.#kernel.bytes;
    const times = new Int32Array(memory.buffer, this.#times, count * 2);
    for (let i = 0; i < count; i += 1) {
      const ms = timesMs[i] as number;
      times[2 * i] = ms % 0x1_0000_0000;
      times[2 * i + 1] = Math.floor(ms / 0x1_0000_0000);
    }
    new BigUint64Array(memory.buffer, this.#values, count).set(bits.subarray(0, count));
    const size = checked(this.#kernel.calls.encodeXorChunk(this.#times, this.#values, count, this.#to));
    return this.#kernel.bytes.subarray(this.#to, this.#to + size);
  }
}

/** How a snappy block begins. */
export function snappyLength(sizeBytes: number): Buffer {
  const bytes = Buffer.alloc(5);
  return bytes.subarray(0, writeVarint(bytes, 0, sizeBytes));
}
