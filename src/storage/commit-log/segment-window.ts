import { hasCode, type File } from '../../core/file-system.ts';

const PAGE_BYTES = 4096;

/** What stands for pages that the disk cannot read: neither zeros nor a record. */
const UNREADABLE = 0xff;

/** A view of a file that moves forward, so that a segment of any size is read in bounded memory. */
export class SegmentWindow {
  readonly sizeBytes: number;
  readonly #file: File;
  readonly #windowBytes: number;
  #bytes: Buffer = Buffer.alloc(0);
  /** What windows are read into, one after the other; new memory for each would cost as much as the read. */
  #memory: Buffer = Buffer.alloc(0);
  #start = 0;

  constructor(file: File, sizeBytes: number, windowBytes: number) {
    this.#file = file;
    this.sizeBytes = sizeBytes;
    this.#windowBytes = windowBytes;
  }

  /** The bytes from `offset`, fewer at the end of the file; valid until the next call. */
  async bytes(offset: number, lengthBytes: number): Promise<Buffer> {
    const held = this.held(offset, lengthBytes);
    if (held) return held;
    const wanted = Math.min(this.sizeBytes - offset, Math.max(lengthBytes, this.#windowBytes));
    this.#bytes = await this.#read(offset, Math.max(0, wanted));
    this.#start = offset;
    const end = Math.min(offset + lengthBytes, this.sizeBytes);
    return this.#bytes.subarray(0, Math.max(offset, end) - offset);
  }

  /** What `bytes` would give, if it need not be read. */
  held(offset: number, lengthBytes: number): Buffer | undefined {
    const end = Math.min(offset + lengthBytes, this.sizeBytes);
    if (offset < this.#start || end > this.#start + this.#bytes.length) return undefined;
    return this.#bytes.subarray(offset - this.#start, Math.max(offset, end) - this.#start);
  }

  /** As many bytes from `offset` as are at hand, at least `lengthBytes` unless the file ends. */
  async atLeast(offset: number, lengthBytes: number): Promise<Buffer> {
    await this.bytes(offset, lengthBytes);
    return this.#bytes.subarray(offset - this.#start);
  }

  async #read(offset: number, lengthBytes: number): Promise<Buffer> {
    if (this.#memory.length < lengthBytes) this.#memory = Buffer.allocUnsafe(lengthBytes);
    try {
      return await this.#file.read(offset, lengthBytes, this.#memory);
    } catch (error) {
      if (!hasCode(error, 'EIO')) throw error;
      return await this.#readPages(offset, lengthBytes);
    }
  }

  /** A page that cannot be read costs itself, not the window around it. */
  async #readPages(offset: number, lengthBytes: number): Promise<Buffer> {
    const bytes = Buffer.alloc(lengthBytes, UNREADABLE);
    for (let at = 0; at < lengthBytes;) {
      const end = Math.min(lengthBytes, at + PAGE_BYTES - ((offset + at) % PAGE_BYTES));
      await this.#file.read(offset + at, end - at).then(
        (page) => bytes.set(page, at),
        (error: unknown) => {
          if (!hasCode(error, 'EIO')) throw error;
        },
      );
      at = end;
    }
    return bytes;
  }
}
