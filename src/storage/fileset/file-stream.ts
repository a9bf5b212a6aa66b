import { crc32 } from 'node:zlib';
import type { File } from '../../core/file-system.ts';
import type { FileSum } from './digest-file.ts';

const CHUNK_BYTES = 256 * 1024;
const FIRST_BYTES = 8 * 1024;

/** Writes a file from its beginning on, in large pieces, one of them while the next is filled. Sums it up. */
export class FileStream {
  readonly #file: File;
  /** Grows, because most filesets are small and many may be written at once. */
  #filling: Buffer = Buffer.allocUnsafe(FIRST_BYTES);
  #writing: Buffer | undefined;
  #usedBytes = 0;
  #startOffset = 0;
  #checksum = 0;
  #pending: Promise<void> = Promise.resolve();

  constructor(file: File) {
    this.#file = file;
  }

  /** Where the next byte goes. */
  get offset(): number {
    return this.#startOffset + this.#usedBytes;
  }

  /** `bytes` may be used again when it resolves. Calls must not overlap. */
  async append(bytes: Uint8Array): Promise<void> {
    if (bytes.length >= CHUNK_BYTES) {
      await this.#flush();
      await this.#writeAll(bytes);
    } else await this.#copy(bytes);
  }

  /** To write it later, with others. */
  async #copy(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      this.#grow(this.#usedBytes + bytes.length - at);
      const part = bytes.subarray(at, at + this.#filling.length - this.#usedBytes);
      this.#filling.set(part, this.#usedBytes);
      this.#usedBytes += part.length;
      at += part.length;
      if (this.#usedBytes === CHUNK_BYTES) await this.#flush();
    }
  }

  /** All of it is written, which is not yet durable; takes no more. */
  async finish(): Promise<FileSum> {
    await this.#flush();
    await this.#pending;
    await this.#file.close();
    return { sizeBytes: this.#startOffset, checksum: this.#checksum };
  }

  /** Ends without a promise as to what is in the file. */
  async abandon(): Promise<void> {
    await this.#pending.catch(() => {});
    await this.#file.close();
  }

  /** Without a copy of them. */
  async #writeAll(bytes: Uint8Array): Promise<void> {
    await this.#pending;
    this.#checksum = crc32(bytes, this.#checksum);
    await this.#file.write(this.#startOffset, bytes);
    this.#startOffset += bytes.length;
  }

  #grow(wantedBytes: number): void {
    if (wantedBytes <= this.#filling.length || this.#filling.length === CHUNK_BYTES) return;
    const sizeBytes = Math.min(CHUNK_BYTES, Math.max(wantedBytes, this.#filling.length * 2));
    const grown = Buffer.allocUnsafe(sizeBytes);
    this.#filling.copy(grown, 0, 0, this.#usedBytes);
    this.#filling = grown;
  }

  async #flush(): Promise<void> {
    await this.#pending;
    if (this.#usedBytes === 0) return;
    const bytes = this.#filling.subarray(0, this.#usedBytes);
    this.#checksum = crc32(bytes, this.#checksum);
    this.#pending = this.#file.write(this.#startOffset, bytes);
    // Told by the next call; until then it must not count as unhandled.
    this.#pending.catch(() => {});
    this.#startOffset += this.#usedBytes;
    this.#usedBytes = 0;
    const free = this.#writing ?? Buffer.allocUnsafe(FIRST_BYTES);
    this.#writing = this.#filling;
    this.#filling = free;
  }
}
