const MASK_64 = 0xffff_ffff_ffff_ffffn;

/** Bytes that are written one after the other: the plain counterpart of `assembly/varint.ts`. */
export class ByteWriter {
  #bytes = new Uint8Array(256);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  byte(value: number): void {
    if (this.#length === this.#bytes.length) {
      const larger = new Uint8Array(this.#bytes.length * 2);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    this.#bytes[this.#length++] = value;
  }

  append(bytes: Iterable<number>): void {
    for (const value of bytes) this.byte(value);
  }

  varint(value: bigint | number): void {
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest >= 128n; rest >>= 7n) this.byte(Number(rest & 127n) | 128);
    this.byte(Number(rest));
  }

  zigzag(value: bigint): void {
    this.varint(zigzag(value));
  }

  littleEndian64(value: bigint): void {
    for (let shift = 0n; shift < 64n; shift += 8n) this.byte(Number((value >> shift) & 255n));
  }

  bigEndian64(value: bigint): void {
    for (let shift = 56n; shift >= 0n; shift -= 8n) this.byte(Number((value >> shift) & 255n));
  }

  toBytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }
}

export function zigzag(value: bigint): bigint {
  const signed = BigInt.asIntN(64, value);
  return ((signed << 1n) ^ (signed >> 63n)) & MASK_64;
}

export function unzigzag(value: bigint): bigint {
  return BigInt.asIntN(64, (value >> 1n) ^ -(value & 1n));
}

export function varintSize(value: bigint): number {
  return value === 0n ? 1 : Math.ceil(BigInt.asUintN(64, value).toString(2).length / 7);
}
