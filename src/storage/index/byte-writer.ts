/** Bytes that grow at their end. */
export class ByteWriter {
  #bytes = new Uint8Array(256);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  uint8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
  }

  uint32(value: number): void {
    this.#reserve(4);
    for (let shift = 0; shift < 32; shift += 8) this.#bytes[this.#length++] = value >>> shift;
  }

  /** An unsigned 32-bit number in one to five bytes, seven bits each, the lowest first. */
  uvarint(value: number): void {
    this.#reserve(5);
    let rest = value;
    for (; rest >= 0x80; rest >>>= 7) this.#bytes[this.#length++] = (rest & 0x7f) | 0x80;
    this.#bytes[this.#length++] = rest;
  }

  bytes(some: Uint8Array): void {
    this.#reserve(some.length);
    this.#bytes.set(some, this.#length);
    this.#length += some.length;
  }

  /** What was written since the last `take`; the writer is empty afterwards. */
  take(): Uint8Array {
    const taken = this.#bytes.slice(0, this.#length);
    this.#length = 0;
    return taken;
  }

  #reserve(sizeBytes: number): void {
    if (this.#length + sizeBytes <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + sizeBytes));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}

/** Packs unsigned numbers of any width up to 32 bits behind each other, the lowest bit first. */
export class BitWriter {
  readonly #out: ByteWriter;
  #pending = 0;
  #pendingBits = 0;

  constructor(out: ByteWriter) {
    this.#out = out;
  }

  put(value: number, width: number): void {
    // In halves, so that nothing leaves the 32 bits of the operators.
    if (width > 16) {
      this.#putSome(value & 0xffff, 16);
      this.#putSome(value >>> 16, width - 16);
    } else if (width > 0) {
      this.#putSome(value, width);
    }
  }

  /** Fills the last byte with zeros. */
  flush(): void {
    if (this.#pendingBits > 0) this.#out.uint8(this.#pending);
    this.#pending = 0;
    this.#pendingBits = 0;
  }

  #putSome(value: number, width: number): void {
    this.#pending |= value << this.#pendingBits;
    this.#pendingBits += width;
    for (; this.#pendingBits >= 8; this.#pendingBits -= 8) {
      this.#out.uint8(this.#pending & 0xff);
      this.#pending >>>= 8;
    }
  }
}

/** How many bits a number needs. */
export function bitWidth(value: number): number {
  return 32 - Math.clz32(value);
}
