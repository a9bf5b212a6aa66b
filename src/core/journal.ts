import { open, readFile, rename, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import { messageOf, VarveError } from './errors.ts';

/**
 * An append-only file of records that survive a crash. One line is one write: `crc32-hex SP json-array LF`,
 * where the array holds the records of all the appends that were waiting, so that they share one fdatasync
 * and are kept or lost together: pages of one write may reach the disk in any order, and a checksum over
 * the whole of it is what tells. `docs/formats/journal.md` draws it.
 *
 * A torn last line (the crash hit the write; nobody was told that it succeeded) is dropped on opening;
 * damage elsewhere is an error, because what follows it could not be trusted.
 *
 * One process at a time: the owner of the folder sees to that.
 */
export class Journal<R> {
  readonly #path: string;
  #file: FileHandle;
  #sizeBytes: number;
  #records: R[];
  #keepsRecords = true;
  /** What the next write takes; undefined when no write is due. */
  #batch: Waiting<R>[] | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #broken: VarveError | undefined;
  #closed = false;

  private constructor(path: string, file: FileHandle, content: Content<R>) {
    this.#path = path;
    this.#file = file;
    this.#records = content.records;
    this.#sizeBytes = content.intactBytes;
  }

  /** @throws JOURNAL_DAMAGED when a record before the last write does not match its checksum */
  static async open<R>(path: string): Promise<Journal<R>> {
    const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return Buffer.alloc(0);
      throw error;
    });
    const content = decode<R>(path, bytes);
    const file = await open(path, 'a', 0o600);
    try {
      if (content.intactBytes < bytes.length) {
        await file.truncate(content.intactBytes);
        await file.datasync();
      }
      await syncFolder(dirname(path));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new Journal(path, file, content);
  }

  /** Oldest first, as of now; those that are durable. Empty after `forgetRecords`. */
  records(): readonly R[] {
    return this.#records;
  }

  /** Frees the records' memory, for an owner that keeps its own state: from now on `records()` is empty. */
  forgetRecords(): void {
    this.#keepsRecords = false;
    this.#records = [];
  }

  /** Of the file, as far as it is durable. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /**
   * Durable when it resolves. Records are written in the order of the calls; calls that wait for the same
   * write share its sync.
   * @throws JOURNAL_UNWRITABLE when it may not be durable; then every later append fails, too
   */
  append(record: R): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#openBatch().push({ record, json: JSON.stringify(record), resolve, reject });
    });
  }

  /**
   * Replaces the content by `keep(records)`, atomically: a crash leaves the old file or the new one. Records
   * appended by earlier calls are among `records`; those of later calls come after it in the file.
   * @throws JOURNAL_UNWRITABLE when the old content is still in place
   */
  compact(keep: (records: readonly R[]) => R[]): Promise<void> {
    this.#batch = undefined; // What is appended from now on goes into a write of its own, behind this.
    return this.#serially(async () => {
      if (this.#broken) throw this.#broken;
      const kept = keep(this.#records);
      const content = kept.length === 0 ? '' : encode(kept.map((record) => JSON.stringify(record)));
      const temporary = `${this.#path}.new`;
      const next = await open(temporary, 'w', 0o600).catch((error: unknown) => {
        throw this.#unwritable(error);
      });
      try {
        await next.appendFile(content);
        await next.sync();
        await rename(temporary, this.#path);
      } catch (error) {
        await next.close();
        throw this.#unwritable(error);
      }
      const previous = this.#file;
      this.#file = next;
      this.#sizeBytes = Buffer.byteLength(content);
      this.#records = this.#keepsRecords ? kept : [];
      await previous.close();
      // Without this the next crash may bring back the old file, and with it lose what is appended from now on.
      await syncFolder(dirname(this.#path)).catch((error: unknown) => {
        throw this.#break(error);
      });
    });
  }

  /** Waits for what was appended, then closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#serially(async () => {
      if (this.#closed) return;
      this.#closed = true;
      this.#broken = this.#unwritable('it is closed');
      await this.#file.close();
    });
  }

  #openBatch(): Waiting<R>[] {
    if (this.#batch) return this.#batch;
    const batch: Waiting<R>[] = [];
    this.#batch = batch;
    void this.#serially(() => {
      if (this.#batch === batch) this.#batch = undefined;
      return this.#writeBatch(batch);
    });
    return batch;
  }

  async #writeBatch(batch: readonly Waiting<R>[]): Promise<void> {
    try {
      if (this.#broken) throw this.#broken;
      await this.#write(encode(batch.map(({ json }) => json)));
    } catch (error) {
      for (const { reject } of batch) reject(error);
      return;
    }
    if (this.#keepsRecords) for (const { record } of batch) this.#records.push(record);
    for (const { resolve } of batch) resolve();
  }

  /**
   * The first failure is the last write: what comes later may rest on what was lost, and after a failed sync
   * nobody knows which pages are on disk (a second sync would not tell).
   */
  async #write(line: string): Promise<void> {
    try {
      await this.#file.appendFile(line);
      await this.#file.datasync();
    } catch (error) {
      throw this.#break(error);
    }
    this.#sizeBytes += Buffer.byteLength(line);
  }

  #break(cause: unknown): VarveError {
    this.#broken = this.#unwritable(cause);
    return this.#broken;
  }

  #unwritable(cause: unknown): VarveError {
    return new VarveError('JOURNAL_UNWRITABLE', `${this.#path} cannot be written: ${messageOf(cause)}`, {
      hint: 'Free space or repair the disk, then restart this node.',
      cause,
    });
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }
}

interface Waiting<R> {
  readonly record: R;
  readonly json: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface Content<R> {
  readonly records: R[];
  readonly intactBytes: number;
}

const LF = 0x0a;
const CHECKSUM_CHARS = 8;

function encode(records: readonly string[]): string {
  const json = `[${records.join(',')}]`;
  return `${checksum(json)} ${json}\n`;
}

function checksum(json: string | Buffer): string {
  return crc32(json).toString(16).padStart(CHECKSUM_CHARS, '0');
}

function decode<R>(path: string, bytes: Buffer): Content<R> {
  const records: R[] = [];
  let offset = 0;
  while (offset < bytes.length) {
    const end = bytes.indexOf(LF, offset);
    const line = bytes.subarray(offset, end === -1 ? bytes.length : end);
    const json = line.subarray(CHECKSUM_CHARS + 1);
    const head = line.toString('latin1', 0, CHECKSUM_CHARS + 1);
    const whole = end !== -1 && head === `${checksum(json)} `;
    if (!whole) {
      if (end === -1 || end === bytes.length - 1) break;
      throw new VarveError('JOURNAL_DAMAGED', `${path} is damaged at offset ${offset}`, {
        hint: 'Keep a copy of the file; the records before that offset are intact.',
      });
    }
    for (const record of JSON.parse(json.toString('utf8')) as R[]) records.push(record);
    offset = end + 1;
  }
  return { records, intactBytes: offset };
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
