import { createHash, type Hash } from 'node:crypto';

export const DIGEST_BYTES = 32;

const LENGTHS_BYTES = 8;
const BATCH_BYTES = 16 * 1024;

/**
 * A digest of (id, payload) pairs in the order of their ids. It depends on nothing else, so that replicas that
 * have the same data have the same digest, whatever volume, node or time wrote it.
 *
 * It is SHA-256 over SHA-256 of all payloads, one after the other, and SHA-256 of all
 * `(id length, payload length, id)`, lengths as 32 bits, little endian: together they determine every pair.
 */
export class CanonicalDigest {
  readonly #payloads = new BatchedHash();
  readonly #entries = new BatchedHash();
  readonly #lengths = Buffer.alloc(LENGTHS_BYTES);

  add(id: Uint8Array, payload: Uint8Array): void {
    this.#lengths.writeUInt32LE(id.length, 0);
    this.#lengths.writeUInt32LE(payload.length, 4);
    this.#entries.update(this.#lengths);
    this.#entries.update(id);
    this.#payloads.update(payload);
  }

  digest(): Buffer {
    return createHash('sha256').update(this.#payloads.digest()).update(this.#entries.digest()).digest();
  }
}

/** One native call costs as much as hashing a kilobyte, and the pieces are smaller. */
class BatchedHash {
  readonly #hash: Hash = createHash('sha256');
  readonly #batch = Buffer.allocUnsafe(BATCH_BYTES);
  #usedBytes = 0;

  update(bytes: Uint8Array): void {
    if (this.#usedBytes + bytes.length > BATCH_BYTES) this.#flush();
    if (bytes.length > BATCH_BYTES) {
      this.#hash.update(bytes);
      return;
    }
    this.#batch.set(bytes, this.#usedBytes);
    this.#usedBytes += bytes.length;
  }

  digest(): Buffer {
    this.#flush();
    return this.#hash.digest();
  }

  #flush(): void {
    this.#hash.update(this.#batch.subarray(0, this.#usedBytes));
    this.#usedBytes = 0;
  }
}
