const FIRST_BYTES = 16 * 1024;

/**
 * Builds one protobuf message after the other in a buffer of its own, which grows and is used again. For messages
 * whose nested lengths are known before they are written.
 */
export class ProtobufWriter {
  #bytes: Buffer;
  #at = 0;

  constructor(firstBytes = FIRST_BYTES) {
    this.#bytes = Buffer.allocUnsafe(firstBytes);
  }

  get length(): number {
    return this.#at;
  }

  /** What was written, as a view that is valid until the next call. */
  view(): Buffer {
    return this.#bytes.subarray(0, this.#at);
  }

  /** A copy of what was written. */
  copy(): Buffer {
    return Buffer.from(this.view());
  }

  /** Everything is forgotten, or all behind `length` bytes. */
  reset(length = 0): void {
    this.#at = length;
  }

  /** Room for `sizeBytes` more, of which the caller writes what it needs from `at` on; `advance` then says where it ended. */
  room(sizeBytes: number): { readonly bytes: Buffer; readonly at: number } {
    this.#reserve(sizeBytes);
    return { bytes: this.#bytes, at: this.#at };
  }

  advance(to: number): void {
    this.#at = to;
  }

  /** A whole number from -2^53 to 2^53. */
  varint(value: number): void {
    this.#reserve(10);
    this.#at = writeVarint(this.#bytes, this.#at, value);
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  bytesField(number: number, bytes: Uint8Array): void {
    this.varint(number * 8 + 2);
    this.varint(bytes.length);
    this.raw(bytes);
  }

  textField(number: number, text: string): void {
    this.bytesField(number, Buffer.from(text));
  }

  integerField(number: number, value: number): void {
    this.varint(number * 8);
    this.varint(value);
  }

  doubleField(number: number, value: number): void {
    this.varint(number * 8 + 1);
    this.#reserve(8);
    this.#at = this.#bytes.writeDoubleLE(value, this.#at);
  }

  #reserve(sizeBytes: number): void {
    const needed = this.#at + sizeBytes;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2));
    larger.set(this.view());
    this.#bytes = larger;
  }
}

/** Writes up to ten bytes and returns the place behind them. */
export function writeVarint(bytes: Uint8Array, start: number, value: number): number {
  let at = start;
  if (value < 0) {
    // Two's complement of 64 bits: ten bytes, always.
    let low = (value % 0x1_0000_0000) >>> 0;
    let high = Math.floor(value / 0x1_0000_0000) >>> 0;
    for (let i = 0; i < 9; i += 1) {
      bytes[at++] = (low & 0x7f) | 0x80;
      low = ((low >>> 7) | (high << 25)) >>> 0;
      high >>>= 7;
    }
    bytes[at++] = low;
    return at;
  }
  let rest = value;
  while (rest > 0x7fff_ffff) {
    bytes[at++] = (rest % 128) | 0x80;
    rest = Math.floor(rest / 128);
  }
  while (rest > 0x7f) {
    bytes[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  bytes[at++] = rest;
  return at;
}

/** How many bytes `writeVarint` takes for a number that is not negative. */
export function varintBytes(value: number): number {
  let count = 1;
  for (let rest = value; rest > 0x7f; rest = Math.floor(rest / 128)) count += 1;
  return count;
}
