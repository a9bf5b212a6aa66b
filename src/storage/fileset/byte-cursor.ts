import { FormatFault } from './fileset-damage.ts';

const HIGH = 0x1_0000_0000;
/** What is copied faster byte by byte than by a call. */
const SHORT_BYTES = 48;

export function writeUint53(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32LE(value % HIGH, at);
  bytes.writeUInt32LE(Math.floor(value / HIGH), at + 4);
}

/** Reads forward through bytes that may be anything: never beyond their end. */
export class ByteCursor {
  readonly #bytes: Buffer;
  readonly #end: number;
  at: number;

  constructor(bytes: Buffer, at = 0, end = bytes.length) {
    this.#bytes = bytes;
    this.at = at;
    this.#end = Math.min(end, bytes.length);
  }

  get atEnd(): boolean {
    return this.at >= this.#end;
  }

  uint8(): number {
    return this.#bytes.readUInt8(this.#advance(1));
  }

  uint16(): number {
    return this.#bytes.readUInt16LE(this.#advance(2));
  }

  uint32(): number {
    return this.#bytes.readUInt32LE(this.#advance(4));
  }

  uint53(): number {
    const at = this.#advance(8);
    const value = this.#bytes.readUInt32LE(at) + this.#bytes.readUInt32LE(at + 4) * HIGH;
    if (!Number.isSafeInteger(value)) throw new FormatFault(at, 'a number is too large');
    return value;
  }

  int64(): bigint {
    return this.#bytes.readBigInt64LE(this.#advance(8));
  }

  /** Up to 32 bits, seven a byte, lowest first. */
  varint(): number {
    const start = this.at;
    let value = 0;
    for (let scale = 1; scale <= 2 ** 28; scale *= 128) {
      const byte = this.uint8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value >= HIGH) break;
        return value;
      }
    }
    throw new FormatFault(start, 'a number is too large');
  }

  /** A view, not a copy. */
  bytes(length: number): Buffer {
    const at = this.#advance(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** The same bytes, copied to `into` at a place. */
  copy(into: Buffer, at: number, length: number): void {
    const from = this.#advance(length);
    if (length > SHORT_BYTES) this.#bytes.copy(into, at, from, from + length);
    else for (let i = 0; i < length; i++) into[at + i] = this.#bytes[from + i] as number;
  }

  #advance(length: number): number {
    const at = this.at;
    if (at + length > this.#end) throw new FormatFault(at, 'it ends too early');
    this.at = at + length;
    return at;
  }
}

export function varintBytes(value: number): number {
  let length = 1;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) length++;
  return length;
}

/** Returns the position behind it. */
export function writeVarint(bytes: Buffer, value: number, at: number): number {
  let rest = value;
  let position = at;
  while (rest >= 128) {
    bytes[position++] = (rest % 128) | 0x80;
    rest = Math.floor(rest / 128);
  }
  bytes[position++] = rest;
  return position;
}
