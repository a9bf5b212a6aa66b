import { VarveError, messageOf } from '../../core/errors.ts';
import { writeZeros, type File, type FileSystem } from '../../core/file-system.ts';
import type { Clock } from '../../core/clock.ts';
import { segmentPath } from './segment-folder.ts';

/** The part of pino's logger that this room uses. */
export interface Log {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface SpareDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly log: Log;
}

export interface SpareOptions {
  readonly folder: string;
  readonly segmentBytes: number;
  readonly retryMs: number;
  /** Segments are made only while this much more than one of them is free. */
  readonly keepFreeBytes: number;
}

export interface SpareSegment {
  readonly segment: number;
  readonly file: File;
}

const PIECE_BYTES = 1024 * 1024;

/**
 * Makes the next segment while the current one is filled: a file of zeros, with a durable name. When the disk
 * is full it says so to whoever asks, tries again in a while, and has one when there is room.
 */
export class SpareSegments {
  readonly #deps: SpareDeps;
  readonly #options: SpareOptions;
  readonly #stop = new AbortController();
  #segment: number;
  #ready: File | undefined;
  #failure: unknown;
  #preparing = false;
  /** The current or last try, and all tries until one succeeds. Neither ever rejects. */
  #attempt: Promise<void> = Promise.resolve();
  #work: Promise<void> = Promise.resolve();

  /** `segment` is the number of the next one. */
  constructor(deps: SpareDeps, options: SpareOptions, segment: number) {
    this.#deps = deps;
    this.#options = options;
    this.#segment = segment;
  }

  /** The number of the next segment that is begun; of one that was taken, until it is. */
  get segment(): number {
    return this.#segment;
  }

  get ready(): boolean {
    return this.#ready !== undefined;
  }

  /** Why there is none, while that is so. */
  get failure(): unknown {
    return this.#failure;
  }

  /** An unused segment of an earlier run is as good as a new one: its name was durable before its zeros. */
  async adopt(): Promise<void> {
    this.#ready = await this.#deps.fs.open(segmentPath(this.#options.folder, this.#segment), 'update');
  }

  /** What `take` would say now; undefined when it may give one. */
  get refusal(): VarveError | undefined {
    return this.#ready || this.#failure === undefined ? undefined : this.#full();
  }

  /** Begins to make one, unless that is under way or done. */
  prepare(): void {
    if (this.#ready || this.#preparing || this.#stop.signal.aborted) return;
    this.#preparing = true;
    this.#attempt = this.#try();
    this.#work = this.#keepTrying();
  }

  /**
   * Waits for the one that is being made; without any, gives one at once that grows as it is written to.
   * @throws COMMIT_LOG_FULL while there is no room for one
   */
  async take(): Promise<SpareSegment> {
    if (!this.#ready && this.#failure === undefined) {
      if (this.#preparing) await this.#attempt;
      else await this.#openNow();
    }
    const file = this.#ready;
    if (!file) throw this.#full();
    this.#ready = undefined;
    return { segment: this.#segment, file };
  }

  /** The one that was taken is in use: the next one has another number. */
  begun(): void {
    this.#segment++;
  }

  /** A segment that could not be begun: its number is used again. */
  async giveBack(spare: SpareSegment, error: unknown): Promise<VarveError> {
    await spare.file.close();
    await this.#deps.fs.remove(segmentPath(this.#options.folder, spare.segment)).catch(() => {});
    this.#failed(error);
    this.prepare();
    return this.#full();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#work;
    await this.#ready?.close();
  }

  async #keepTrying(): Promise<void> {
    const { signal } = this.#stop;
    await this.#attempt;
    while (this.#preparing && !signal.aborted) {
      await this.#deps.clock.sleep(this.#options.retryMs, signal).catch(() => {});
      if (!signal.aborted) await this.#try();
    }
  }

  async #try(): Promise<void> {
    try {
      this.#ready = await this.#make();
      this.#preparing = false;
      if (this.#failure === undefined) return;
      this.#failure = undefined;
      this.#deps.log.info({ segment: this.#segment }, 'the commit log has room again');
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#failed(error);
    }
  }

  async #openNow(): Promise<void> {
    try {
      this.#ready = await this.#open();
    } catch (error) {
      this.#failed(error);
      this.prepare();
    }
  }

  async #make(): Promise<File> {
    const { fs } = this.#deps;
    const { folder, segmentBytes, keepFreeBytes } = this.#options;
    const freeBytes = await fs.freeBytes(folder);
    if (freeBytes < segmentBytes + keepFreeBytes) {
      throw new Error(`${freeBytes} bytes are free, ${segmentBytes + keepFreeBytes} are needed`);
    }
    const file = await this.#open();
    try {
      // In pieces that are synced one by one: a whole segment at once would hold up the log's own syncs.
      for (let start = 0; start < segmentBytes; start += PIECE_BYTES) {
        await writeZeros(file, start, Math.min(segmentBytes, start + PIECE_BYTES), this.#stop.signal);
        await file.datasync();
      }
      await file.sync();
      return file;
    } catch (error) {
      await file.close();
      await fs.remove(file.path).catch(() => {});
      throw error;
    }
  }

  async #open(): Promise<File> {
    const { fs } = this.#deps;
    const file = await fs.open(segmentPath(this.#options.folder, this.#segment), 'replace');
    try {
      await fs.syncFolder(this.#options.folder);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  #failed(error: unknown): void {
    if (this.#failure === undefined) {
      this.#deps.log.warn({ reason: messageOf(error) }, 'the commit log cannot get a new segment');
    }
    this.#failure = error;
  }

  #full(): VarveError {
    const { folder } = this.#options;
    return new VarveError(
      'COMMIT_LOG_FULL',
      `the commit log in ${folder} has no room: ${messageOf(this.#failure)}`,
      {
        hint: 'Free space on that disk; writes are taken again by themselves as soon as there is some.',
        cause: this.#failure,
      },
    );
  }
}
