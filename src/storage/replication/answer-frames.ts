import { crc32 } from 'node:zlib';
import { errorFromJson, VarveError } from '../../core/errors.ts';

/**
 * Frames of an answer that is made while it is sent: `u8 kind | u32 length | u32 CRC-32 of the content | content`,
 * little endian. The last one says that it is the last, or which error ended the answer: one that ends without is cut
 * off.
 */
const HEAD_BYTES = 9;
const DATA = 0;
const END = 1;
const ERROR = 2;
const MAX_CONTENT_BYTES = 256 * 1024 * 1024;

export function dataFrame(content: Uint8Array): Buffer {
  return frame(DATA, content);
}

export function endFrame(): Buffer {
  return frame(END, new Uint8Array(0));
}

export function errorFrame(error: VarveError): Buffer {
  return frame(ERROR, Buffer.from(JSON.stringify(error)));
}

function frame(kind: number, content: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + content.length);
  bytes[0] = kind;
  bytes.writeUInt32LE(content.length, 1);
  bytes.writeUInt32LE(crc32(content), 5);
  bytes.set(content, HEAD_BYTES);
  return bytes;
}

/** Puts frames together from the pieces in which they come. */
export class FrameReader {
  isDone = false;
  #pieces: Buffer[] = [];
  #bytes = 0;

  /** The contents that are whole now. @throws the error that ended the answer; REPLICA_UNREACHABLE for damaged ones */
  *read(piece: Buffer): Generator<Uint8Array> {
    this.#pieces.push(piece);
    this.#bytes += piece.length;
    while (!this.isDone && this.#bytes >= HEAD_BYTES) {
      const head = this.#peek(HEAD_BYTES);
      const length = head.readUInt32LE(1);
      if (length > MAX_CONTENT_BYTES) throw damaged();
      if (this.#bytes < HEAD_BYTES + length) return;
      const whole = this.#peek(HEAD_BYTES + length);
      this.#drop(HEAD_BYTES + length);
      const content = whole.subarray(HEAD_BYTES);
      if (crc32(content) !== head.readUInt32LE(5)) throw damaged();
      if (head[0] === ERROR) throw errorFromJson(JSON.parse(content.toString()));
      if (head[0] === END) this.isDone = true;
      else yield content;
    }
  }

  /** The first bytes, put together if need be. */
  #peek(length: number): Buffer {
    const [first] = this.#pieces;
    if (first && first.length >= length) return first.subarray(0, length);
    const all = Buffer.concat(this.#pieces);
    this.#pieces = [all];
    return all.subarray(0, length);
  }

  #drop(length: number): void {
    const rest = (this.#pieces[0] as Buffer).subarray(length);
    this.#pieces.splice(0, 1, ...(rest.length > 0 ? [rest] : []));
    this.#bytes -= length;
  }
}

function damaged(): VarveError {
  return new VarveError('REPLICA_UNREACHABLE', 'a part of the answer does not match its checksum');
}
