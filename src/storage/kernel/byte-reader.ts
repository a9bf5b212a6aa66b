import { unzigzag } from './byte-writer.ts';
import { KernelFault } from './kernel-fault.ts';

/** Reads bytes one after the other and never beyond their end. @throws KernelFault */
export class ByteReader {
  readonly #bytes: Uint8Array;
  #at: number;

  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get at(): number {
    return this.#at;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  byte(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) throw new KernelFault('TRUNCATED');
    this.#at++;
    return value;
  }

  take(count: number): Uint8Array {
    if (count > this.left) throw new KernelFault('TRUNCATED');
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }

  varint(): bigint {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.byte();
      if (shift === 63n && byte > 1) throw new KernelFault('BAD_VARINT');
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  }

  zigzag(): bigint {
    return unzigzag(this.varint());
  }

  littleEndian64(): bigint {
    const bytes = this.take(8);
    return new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  }

  bigEndian64(): bigint {
    const bytes = this.take(8);
    return new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0);
  }

  end(): void {
    if (this.left > 0) throw new KernelFault('TRAILING_BYTES');
  }
}
