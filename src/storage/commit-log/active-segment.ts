import type { File } from '../../core/file-system.ts';
import {
  encodeSegmentHeader,
  FORMAT_VERSION,
  RECORD_HEADER_BYTES,
  RecordCodec,
  SEGMENT_HEADER_BYTES,
} from './segment-format.ts';

export interface SegmentIdentity {
  readonly segment: number;
  readonly salt: number;
  readonly clock: bigint;
  readonly firstSequence: number;
}

/** What is larger is left to another thread. */
const WRITE_NOW_BYTES = 256 * 1024;

/**
 * The segment that is written to. Knows how far it is written and how far that is durable; one write at a
 * time, syncs may run beside it.
 */
export class ActiveSegment {
  readonly segment: number;
  readonly codec: RecordCodec;
  readonly #file: File;
  readonly #limitBytes: number;
  #writtenBytes = SEGMENT_HEADER_BYTES;
  #syncedBytes = SEGMENT_HEADER_BYTES;
  #lastSequence: number;
  #syncing: Promise<void> = Promise.resolve();
  #isSyncing = false;
  #closed = false;

  private constructor(file: File, identity: SegmentIdentity, limitBytes: number) {
    this.#file = file;
    this.segment = identity.segment;
    this.codec = new RecordCodec(identity.salt, identity.segment);
    this.#limitBytes = limitBytes;
    this.#lastSequence = identity.firstSequence - 1;
  }

  /** Writes the header and makes it durable, so that records never stand in a segment without one. */
  static async begin(file: File, identity: SegmentIdentity, limitBytes: number): Promise<ActiveSegment> {
    await file.write(0, encodeSegmentHeader({ version: FORMAT_VERSION, ...identity }));
    await file.datasync();
    return new ActiveSegment(file, identity, limitBytes);
  }

  /** For records; the seal has its own. */
  get roomBytes(): number {
    return this.#limitBytes - RECORD_HEADER_BYTES - this.#writtenBytes;
  }

  get syncedBytes(): number {
    return this.#syncedBytes;
  }

  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  /** When it throws, nothing of it counts, and the next write takes its place. */
  async write(bytes: Buffer, lastSequence: number): Promise<void> {
    try {
      if (this.#file.writeNow && !this.#isSyncing && bytes.length <= WRITE_NOW_BYTES) {
        this.#file.writeNow(this.#writtenBytes, bytes);
      } else await this.#file.write(this.#writtenBytes, bytes);
    } catch (error) {
      // So that what was refused does not come back after a restart, as far as that can be helped.
      await this.#file.truncate(this.#writtenBytes).catch(() => {});
      throw error;
    }
    this.#writtenBytes += bytes.length;
    this.#lastSequence = lastSequence;
  }

  /** All that was written before the call is durable when it resolves. */
  sync(): Promise<void> {
    const synced = this.#syncing.then(async () => {
      const writtenBytes = this.#writtenBytes;
      if (this.#closed || writtenBytes === this.#syncedBytes) return;
      this.#isSyncing = true;
      try {
        await this.#file.datasync();
      } finally {
        this.#isSyncing = false;
      }
      this.#syncedBytes = writtenBytes;
    });
    this.#syncing = synced;
    // Whoever waits for it hears of the failure; the chain alone must not be an unhandled one.
    synced.catch(() => {});
    return synced;
  }

  /** Makes all of it durable, says so behind the last record, and closes the file. */
  async seal(): Promise<void> {
    await this.sync();
    const seal = Buffer.alloc(RECORD_HEADER_BYTES);
    const syncedBytes = this.#syncedBytes;
    this.codec.encode(
      { kind: 'seal', payloadBytes: 0, payloadChecksum: 0, sequence: this.#lastSequence, syncedBytes },
      seal,
      0,
    );
    try {
      await this.#file.write(this.#writtenBytes, seal);
      await this.#file.datasync();
    } catch {
      // The seal saves nothing: the records are durable, and a reader does without it.
    }
    await this.close();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#syncing.catch(() => {});
    await this.#file.close();
  }
}
