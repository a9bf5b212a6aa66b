import { createHash } from 'node:crypto';
import { FormatFault } from './fileset-damage.ts';
import { MAX_ID_BYTES, type OpenPage } from './index-pages.ts';

const LENGTH_BYTES = 4;
const BATCH_BYTES = 4 * MAX_ID_BYTES;

/**
 * A digest of ids in their order, wherever pages begin and whatever their payloads are: SHA-256 over the length of each
 * (32 bits, little endian) and the id. Made from pages without an object for each id.
 */
export class IdDigest {
  readonly #hash = createHash('sha256');
  readonly #batch = Buffer.allocUnsafe(BATCH_BYTES);
  /** What of the batch is hashed, and what is filled. */
  #hashedBytes = 0;
  #usedBytes = 0;

  /** @throws FormatFault */
  addPage({ entryCount, entries: cursor }: OpenPage): void {
    let lastAt = 0;
    let lastBytes = 0;
    for (let i = 0; i < entryCount; i++) {
      const shared = cursor.varint();
      if (shared > lastBytes) throw new FormatFault(cursor.at, 'an id shares more than there is');
      const restBytes = cursor.varint();
      const sizeBytes = shared + restBytes;
      if (sizeBytes > MAX_ID_BYTES) throw new FormatFault(cursor.at, 'an id is longer than any');
      if (this.#usedBytes + LENGTH_BYTES + sizeBytes > BATCH_BYTES) {
        this.#flush(lastAt, lastBytes);
        lastAt = 0;
      }
      const at = this.#batch.writeUInt32LE(sizeBytes, this.#usedBytes);
      this.#batch.copyWithin(at, lastAt, lastAt + shared);
      cursor.copy(this.#batch, at + shared, restBytes);
      lastAt = at;
      lastBytes = sizeBytes;
      this.#usedBytes = at + sizeBytes;
      // Size and checksum of its payload.
      cursor.varint();
      cursor.uint32();
    }
  }

  /** Takes no more. */
  digest(): string {
    this.#flush(0, 0);
    return this.#hash.digest('base64');
  }

  /** Keeps the id before, at the beginning of the batch. */
  #flush(keptAt: number, keptBytes: number): void {
    this.#hash.update(this.#batch.subarray(this.#hashedBytes, this.#usedBytes));
    this.#batch.copyWithin(0, keptAt, keptAt + keptBytes);
    this.#hashedBytes = this.#usedBytes = keptBytes;
  }
}
