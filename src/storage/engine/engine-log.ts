import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { AppendToLog } from '../buffer/namespace-buffer.ts';
import { CommitLog } from '../commit-log/commit-log.ts';
import type { LogEnd } from '../commit-log/replay.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import type { HybridClock } from './hybrid-clock.ts';
import { LOG_FOLDER } from './log-folder.ts';
import { BatchFramer } from './log-records.ts';
import type { EngineOptions, LogStatus } from './storage-engine.ts';

export interface EngineLogDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly hybridClock: HybridClock;
  readonly randomUint32: () => number;
  readonly log: Log;
}

const MIB = 1024 * 1024;
/** Writes that wait for the log to be read hold at most this. */
const MAX_WAITING_BYTES = 64 * MIB;

/**
 * The commit log of all namespaces. It is written only after it has been read: writes that come before wait, up to a
 * limit.
 */
export class EngineLog {
  readonly #deps: EngineLogDeps;
  readonly #options: EngineOptions;
  readonly #framer = new BatchFramer();
  #letGo: { readonly resolve: () => void; readonly reject: (reason: Error) => void } | undefined;
  readonly #opened = new Promise<void>((resolve, reject) => {
    this.#letGo = { resolve, reject };
  });
  #log: CommitLog | undefined;
  #waitingBytes = 0;
  /** Appended since the newest manifest, or what was there at the start. */
  #bytes = 0;
  #appendedBytes = 0;
  #closed = false;
  #recoveredVersion = 0n;

  constructor(deps: EngineLogDeps, options: EngineOptions) {
    this.#deps = deps;
    this.#options = options;
    // Nobody may wait for it when it fails; the bootstrap tells.
    this.#opened.catch(() => {});
  }

  get folder(): string {
    return join(this.#options.folder, LOG_FOLDER);
  }

  get isOpen(): boolean {
    return this.#log !== undefined;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Since the start, with what was replayed. */
  get appendedBytes(): number {
    return this.#appendedBytes;
  }

  /** @throws STORAGE_BUSY before it is open */
  get commitLog(): CommitLog {
    if (this.#log) return this.#log;
    throw new VarveError('STORAGE_BUSY', 'the commit log is being read', { hint: 'Repeat it in a moment.' });
  }

  /** No write that was there at the start has a newer version. */
  get recoveredVersion(): bigint {
    return this.#recoveredVersion;
  }

  async open(end: LogEnd, replayedBytes: number): Promise<void> {
    const { fs, clock, hybridClock, randomUint32, log } = this.#deps;
    const { logMode: mode, logSegmentBytes, keepFreeBytes = 64 * MIB } = this.#options;
    // A start reads one that is not used yet: small ones keep that short.
    const segments = { segmentBytes: logSegmentBytes ?? 16 * MIB };
    const deps = { fs, clock, hybridClock: () => hybridClock.next(), randomUint32, log };
    const opened = await CommitLog.open(deps, { folder: this.folder, mode, keepFreeBytes, ...segments }, end);
    this.#bytes = replayedBytes;
    this.#appendedBytes += replayedBytes;
    this.#recoveredVersion = hybridClock.newestSeen;
    this.#log = opened;
    this.#letGo?.resolve();
  }

  /** Resolves when writes can be logged. @throws STORAGE_OVERLOADED when too much waits already */
  async ready(waitingBytes: number): Promise<void> {
    if (this.#log) return;
    if (this.#closed) throw closed();
    if (this.#waitingBytes + waitingBytes > MAX_WAITING_BYTES) {
      throw new VarveError('STORAGE_OVERLOADED', 'too many writes wait for the commit log to be read', {
        hint: 'Repeat it in a moment.',
      });
    }
    this.#waitingBytes += waitingBytes;
    try {
      await this.#opened;
    } finally {
      this.#waitingBytes -= waitingBytes;
    }
  }

  /** What a namespace's buffer appends with. */
  appenderOf(namespaceId: number): AppendToLog {
    return (payload) => this.append(this.#framer.frame(namespaceId, payload));
  }

  /**
   * Throws at once, before anything has happened, what it knows already that the log would say.
   * @throws COMMIT_LOG_FULL, COMMIT_LOG_BUSY, COMMIT_LOG_POISONED, INVALID_ARGUMENT
   */
  append(record: Uint8Array): Promise<number> {
    const refusal = this.commitLog.refusal(record.length);
    if (refusal) throw refusal;
    this.#bytes += record.length;
    this.#appendedBytes += record.length;
    return this.commitLog.append(record);
  }

  /** What was appended before has become unnecessary. */
  truncated(bytesBefore: number): void {
    this.#bytes = Math.max(0, this.#bytes - bytesBefore);
  }

  status(): LogStatus {
    const bytes = this.#bytes;
    if (!this.#log) {
      const reason = this.#closed ? undefined : 'it is being read';
      return { mode: this.#options.logMode, state: this.#closed ? 'closed' : 'reading', reason, bytes };
    }
    const { mode, state, reason } = this.#log.status();
    return { mode, state, reason, bytes };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#letGo?.reject(closed());
    await this.#log?.[Symbol.asyncDispose]();
  }
}

function closed(): VarveError {
  return new VarveError('CANCELLED', 'the storage engine is being closed');
}
