import type { VarveError } from '../../core/errors.ts';
import type { DamageReporter } from './segment-layout.ts';

/** Sections with packed bits end with so many zero bytes, so that whole words can be loaded. */
export const PADDING_BYTES = 8;

/** Where bits may start in a section: bit numbers stay below 2^32. */
export const MAX_PACKED_BYTES = 2 ** 29 - 1;

/** Reads one section from a place on; leaving it is damage, told with the place in the file. */
export class SectionReader {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly #start: number;
  readonly #reporter: DamageReporter;
  #at = 0;

  /** `start` is where the section starts in the file. */
  constructor(bytes: Uint8Array, start: number, reporter: DamageReporter) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#start = start;
    this.#reporter = reporter;
  }

  get at(): number {
    return this.#at;
  }

  get length(): number {
    return this.bytes.length;
  }

  seek(offset: number): void {
    if (offset > this.bytes.length)
      throw this.damaged(this.bytes.length, `a section is left: byte ${offset}`);
    this.#at = offset;
  }

  uint8(): number {
    const byte = this.bytes[this.#at];
    if (byte === undefined) throw this.#ended();
    this.#at++;
    return byte;
  }

  uint32At(offset: number): number {
    if (offset + 4 > this.bytes.length) throw this.#ended();
    return this.view.getUint32(offset, true);
  }

  uvarint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.bytes[this.#at++];
      if (byte === undefined) throw this.#ended();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) {
        if (value > 0xffff_ffff) break;
        return value;
      }
    }
    throw this.damaged(this.#at, 'a number does not end');
  }

  /** Steps over some bytes, and returns where they start. */
  take(sizeBytes: number): number {
    const start = this.#at;
    if (start + sizeBytes > this.bytes.length) throw this.#ended();
    this.#at = start + sizeBytes;
    return start;
  }

  /** Steps over packed numbers, and returns the number of their first bit. They can be loaded as words. */
  takeBits(count: number, width: number): number {
    if (width > 32) throw this.damaged(this.#at, `a width of ${width} bits`);
    const sizeBytes = Math.ceil((count * width) / 8);
    const start = this.take(sizeBytes);
    if (start + sizeBytes + PADDING_BYTES > this.bytes.length || start > MAX_PACKED_BYTES)
      throw this.#ended();
    return start * 8;
  }

  damaged(offset: number, what: string): VarveError {
    return this.#reporter.damaged(this.#start + offset, what);
  }

  #ended(): VarveError {
    return this.damaged(this.bytes.length, 'a section ends too early');
  }
}

/** The number of `width` bits that starts at a bit; the padding behind it lets whole words be loaded. */
export function bitsAt(view: DataView, bit: number, width: number): number {
  if (width === 0) return 0;
  const byte = bit >>> 3;
  const shift = bit & 7;
  let value = view.getUint32(byte, true) >>> shift;
  if (shift + width > 32) value |= view.getUint8(byte + 4) << (32 - shift);
  return (width === 32 ? value : value & ((1 << width) - 1)) >>> 0;
}
