import { open, readFile, rename, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import { VarveError } from './errors.ts';

/**
 * An append-only file of records that survive a crash: one line is `crc32-hex SP json LF`. `append` returns
 * after fdatasync. A torn last line (the crash hit the write) is dropped on opening; damage elsewhere is an
 * error, because what follows it could not be trusted.
 */
export class Journal<R> {
  readonly #path: string;
  #file: FileHandle;
  #records: R[];
  #tail: Promise<unknown> = Promise.resolve();

  private constructor(path: string, file: FileHandle, records: R[]) {
    this.#path = path;
    this.#file = file;
    this.#records = records;
  }

  /** @throws JOURNAL_DAMAGED when a record before the last one does not match its checksum */
  static async open<R>(path: string): Promise<Journal<R>> {
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    });
    const { records, intactBytes } = decode<R>(path, text);
    const file = await open(path, 'a', 0o600);
    if (intactBytes < Buffer.byteLength(text)) await file.truncate(intactBytes);
    await syncFolder(dirname(path));
    return new Journal(path, file, records);
  }

  /** Oldest first, as of now. */
  records(): readonly R[] {
    return this.#records;
  }

  /** Durable when it resolves. Appends are written in the order of the calls. */
  append(record: R): Promise<void> {
    return this.#serially(async () => {
      await this.#file.appendFile(encode(record));
      await this.#file.datasync();
      this.#records.push(record);
    });
  }

  /** Replaces the content by `keep(records)`, atomically: a crash leaves the old file or the new one. */
  compact(keep: (records: readonly R[]) => R[]): Promise<void> {
    return this.#serially(async () => {
      const kept = keep(this.#records);
      const temporary = `${this.#path}.new`;
      const next = await open(temporary, 'w', 0o600);
      await next.appendFile(kept.map(encode).join(''));
      await next.sync();
      await rename(temporary, this.#path);
      await syncFolder(dirname(this.#path));
      await this.#file.close();
      this.#file = next;
      this.#records = kept;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#serially(() => this.#file.close());
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }
}

function encode(record: unknown): string {
  const json = JSON.stringify(record);
  return `${crc32(json).toString(16).padStart(8, '0')} ${json}\n`;
}

function decode<R>(path: string, text: string): { records: R[]; intactBytes: number } {
  const records: R[] = [];
  let offset = 0;
  const lines = text.split('\n');
  for (const [i, line] of lines.entries()) {
    const last = i >= lines.length - 2;
    const whole = i < lines.length - 1;
    if (line === '' && i === lines.length - 1) break;
    const json = line.slice(9);
    if (!whole || line.slice(0, 8) !== crc32(json).toString(16).padStart(8, '0')) {
      if (last) break;
      throw new VarveError('JOURNAL_DAMAGED', `${path} is damaged at offset ${offset}`);
    }
    records.push(JSON.parse(json) as R);
    offset += Buffer.byteLength(line) + 1;
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
