import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { makeFolders, readWholeFile, type File, type FileSystem } from '../../core/file-system.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { encodeFileHeader, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import { encodeHint, readHints, type Hint } from './hint-frames.ts';

export interface HintQueueDeps {
  readonly fs: FileSystem;
  readonly log: Log;
}

export interface HintQueueOptions {
  /** Exists. */
  readonly folder: string;
  /** Of the replica that they are for. */
  readonly id: string;
  readonly maxBytes: number;
  /** Each is on the disk soon after it was added; otherwise it is with the operating system. */
  readonly synced: boolean;
}

export interface HintQueueFigures {
  /** On the disk and on the way there. */
  readonly bytes: number;
  /** Were added since the start, and not taken for want of room, or because the disk refused them. */
  readonly added: number;
  readonly dropped: number;
  readonly replayed: number;
  /** Bytes of files that could not be read. */
  readonly damagedBytes: number;
}

const SEGMENT_BYTES = 8 * 1024 * 1024;
/** Of hints that are on their way to a disk that is slow. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;
const SUFFIX = '.hints';

/**
 * What one replica missed, in files, in the order in which it was written. What does not fit is left out, for the repair.
 * A file is removed when all of it was replayed; a crash before that repeats it, which changes nothing.
 */
export class HintQueue {
  readonly #deps: HintQueueDeps;
  readonly #options: HintQueueOptions;
  readonly #folder: string;
  /** The oldest first; the last may be the one that is written. */
  readonly #segments: Segment[];
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #writing: Promise<void> = Promise.resolve();
  #open: { readonly segment: Segment; readonly file: File } | undefined;
  #next: number;
  #figures = { added: 0, dropped: 0, replayed: 0, damagedBytes: 0 };
  #isClosed = false;
  #wake: () => void = () => {};

  private constructor(deps: HintQueueDeps, options: HintQueueOptions, segments: Segment[]) {
    this.#deps = deps;
    this.#options = options;
    this.#folder = join(options.folder, folderName(options.id));
    this.#segments = segments;
    this.#next = (segments.at(-1)?.number ?? 0) + 1;
  }

  static async open(deps: HintQueueDeps, options: HintQueueOptions): Promise<HintQueue> {
    const folder = await makeFolders(deps.fs, options.folder, [folderName(options.id)]);
    const segments: Segment[] = [];
    for (const { name } of await deps.fs.list(folder)) {
      const number = name.endsWith(SUFFIX) ? Number(name.slice(0, -SUFFIX.length)) : Number.NaN;
      const stat = Number.isInteger(number) ? await deps.fs.stat(join(folder, name)) : undefined;
      if (stat) segments.push({ number, bytes: stat.sizeBytes });
    }
    return new HintQueue(
      deps,
      options,
      segments.sort((a, b) => a.number - b.number),
    );
  }

  get figures(): HintQueueFigures {
    return { ...this.#figures, bytes: this.#bytes };
  }

  get isEmpty(): boolean {
    return this.#segments.length === 0 && this.#waitingBytes === 0;
  }

  /** Takes a hint, or leaves it out when there is no room for it. Goes to the disk by itself, in order. */
  add(hint: Hint): void {
    if (this.#isClosed) return;
    const frame = encodeHint(hint);
    if (
      this.#bytes + frame.length > this.#options.maxBytes ||
      this.#waitingBytes + frame.length > MAX_WAITING_BYTES
    ) {
      this.#drop(1, 'there is no more room for hints; the repair has to bring what is missing');
      return;
    }
    this.#figures.added++;
    this.#waiting.push(frame);
    this.#waitingBytes += frame.length;
    if (this.#waiting.length === 1) this.#writing = this.#writing.then(() => this.#write());
  }

  /** Resolves when there is something to replay, or the queue is closed or the signal fires. */
  filled(signal: AbortSignal): Promise<void> {
    if (!this.isEmpty || this.#isClosed || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#wake = wake;
      signal.addEventListener('abort', wake, { once: true });
    });
  }

  /** Gives the oldest hints to `send`, one after the other, and forgets a file when all of it went. @throws what `send` throws */
  async replay(send: (hint: Hint) => Promise<void>): Promise<void> {
    const segment = await this.#oldest();
    if (!segment) return;
    const path = this.#path(segment);
    const content = await readWholeFile(this.#deps.fs, path).catch((error: unknown) => {
      this.#deps.log.warn({ file: path, reason: messageOf(error) }, 'a file of hints cannot be read');
      return Buffer.alloc(0);
    });
    let readTo = FILE_HEADER_BYTES;
    for (const entry of readHints(content)) {
      if (!entry) {
        this.#figures.damagedBytes += content.length - readTo;
        this.#deps.log.warn(
          { file: path, offset: readTo },
          'the rest of a file of hints is damaged or cut off',
        );
        break;
      }
      if (readTo >= (segment.replayedTo ?? 0)) {
        await send(entry.hint);
        this.#figures.replayed++;
        segment.replayedTo = entry.end;
      }
      readTo = entry.end;
    }
    this.#segments.splice(this.#segments.indexOf(segment), 1);
    await removeIfThere(this.#deps.fs, path);
  }

  /** Nothing of it is needed any more. */
  async clear(): Promise<void> {
    await this.close();
    for (const segment of this.#segments.splice(0)) await removeIfThere(this.#deps.fs, this.#path(segment));
    await this.#deps.fs.removeFolder(this.#folder).catch(() => {});
  }

  async close(): Promise<void> {
    await this.#settle();
    this.#isClosed = true;
    this.#wake();
    await this.#closeFile();
  }

  /** The oldest file, to which nothing is added any more. */
  async #oldest(): Promise<Segment | undefined> {
    let oldest: Segment | undefined;
    // Between two writes.
    this.#writing = this.#writing.then(async () => {
      [oldest] = this.#segments;
      if (oldest && this.#open?.segment === oldest) await this.#closeFile();
    });
    await this.#writing;
    return oldest;
  }

  get #bytes(): number {
    return this.#segments.reduce((sum, { bytes }) => sum + bytes, this.#waitingBytes);
  }

  async #settle(): Promise<void> {
    let last: Promise<void> | undefined;
    while (last !== this.#writing) {
      last = this.#writing;
      await last;
    }
  }

  /** All that waits, at once. */
  async #write(): Promise<void> {
    const frames = this.#waiting;
    this.#waiting = [];
    const bytes = Buffer.concat(frames);
    try {
      const { segment, file } = this.#open ?? (await this.#begin());
      await file.write(segment.bytes, bytes);
      if (this.#options.synced) await file.datasync();
      segment.bytes += bytes.length;
      if (segment.bytes >= SEGMENT_BYTES) await this.#closeFile();
    } catch (error) {
      await this.#closeFile().catch(() => {});
      this.#drop(frames.length, `hints could not be written: ${messageOf(error)}`);
    }
    this.#waitingBytes -= bytes.length;
    this.#wake();
  }

  async #begin(): Promise<{ readonly segment: Segment; readonly file: File }> {
    const segment: Segment = { number: this.#next++, bytes: FILE_HEADER_BYTES };
    const file = await this.#deps.fs.open(this.#path(segment), 'replace');
    await file.write(0, encodeFileHeader('VRVHINTS'));
    if (this.#options.synced) await this.#deps.fs.syncFolder(this.#folder);
    this.#segments.push(segment);
    this.#open = { segment, file };
    return this.#open;
  }

  async #closeFile(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    await open?.file.close();
  }

  #drop(count: number, why: string): void {
    if (this.#figures.dropped === 0) this.#deps.log.warn({ replica: this.#options.id }, why);
    this.#figures.dropped += count;
  }

  #path({ number }: Segment): string {
    return join(this.#folder, `${String(number).padStart(8, '0')}${SUFFIX}`);
  }
}

interface Segment {
  readonly number: number;
  bytes: number;
  replayedTo?: number;
}

/** Names of nodes may have characters that names of files have not. */
export function folderName(id: string): string {
  return encodeURIComponent(id).replaceAll('.', '%2E');
}

export function idOfFolder(name: string): string {
  return decodeURIComponent(name);
}
