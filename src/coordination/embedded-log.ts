import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { VarveError } from '../core/errors.ts';
import { Journal } from '../core/journal.ts';
import type { CoordinatorDeps } from './coordinator.ts';
import { EmbeddedStore, type StoreCommand, type StoreSnapshot } from './embedded-store.ts';

/**
 * The embedded coordinator on disk: a journal that begins with a snapshot of the store and goes on with the
 * commands since. Each command has a sequence number, because a snapshot may hold commands that are only
 * then being written behind it. `docs/coordination.md` draws the file.
 */
export type LogRecord =
  | {
      readonly kind: 'snapshot';
      readonly format: number;
      readonly sequence: number;
      readonly state: StoreSnapshot;
    }
  | { readonly kind: 'command'; readonly sequence: number; readonly command: StoreCommand };

export const LOG_FILE = 'coordinator.journal';
const FORMAT = 1;

/** The journal may grow by this, or by the size of its last snapshot, before it is compacted. */
const COMPACT_BYTES = 4 * 1024 * 1024;

export class EmbeddedLog {
  readonly store: EmbeddedStore;
  readonly #journal: Journal<LogRecord>;
  readonly #deps: Pick<CoordinatorDeps, 'clock' | 'log'>;
  #sequence: number;
  #compactAtBytes = 2 * COMPACT_BYTES;
  #compaction: Promise<void> | undefined;

  private constructor(
    journal: Journal<LogRecord>,
    content: { readonly store: EmbeddedStore; readonly sequence: number },
    deps: Pick<CoordinatorDeps, 'clock' | 'log'>,
  ) {
    this.#journal = journal;
    this.store = content.store;
    this.#sequence = content.sequence;
    this.#deps = deps;
  }

  /**
   * Brings back the store as it was; sessions and lock delays begin anew.
   * @throws JOURNAL_DAMAGED
   */
  static async open(folder: string, deps: Pick<CoordinatorDeps, 'clock' | 'log'>): Promise<EmbeddedLog> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const path = join(folder, LOG_FILE);
    const journal = await Journal.open<LogRecord>(path);
    try {
      const content = replay(path, journal.records(), deps.clock.monotonicMs());
      journal.forgetRecords();
      const log = new EmbeddedLog(journal, content, deps);
      if (journal.sizeBytes === 0 || journal.sizeBytes > COMPACT_BYTES) await log.#compact();
      return log;
    } catch (error) {
      await journal[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Durable when it resolves, and with it all that was appended before. The caller has applied the command
   * to `store` in the same turn of the event loop.
   * @throws JOURNAL_UNWRITABLE
   */
  async append(command: StoreCommand): Promise<void> {
    this.#sequence += 1;
    await this.#journal.append({ kind: 'command', sequence: this.#sequence, command });
    if (this.#journal.sizeBytes >= this.#compactAtBytes) this.#compaction ??= this.#compactLater();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#compaction;
    await this.#journal[Symbol.asyncDispose]();
  }

  async #compactLater(): Promise<void> {
    try {
      await this.#compact();
    } catch (error) {
      // The journal goes on as it was, unless it says otherwise at the next append.
      this.#deps.log.warn({ error }, 'the coordinator could not compact its journal');
      this.#compactAtBytes = this.#journal.sizeBytes + COMPACT_BYTES;
    } finally {
      this.#compaction = undefined;
    }
  }

  async #compact(): Promise<void> {
    await this.#journal.compact(() => {
      const state = this.store.snapshot(this.#deps.clock.monotonicMs());
      return [{ kind: 'snapshot', format: FORMAT, sequence: this.#sequence, state }];
    });
    this.#compactAtBytes = this.#journal.sizeBytes + Math.max(COMPACT_BYTES, this.#journal.sizeBytes);
  }
}

function replay(
  path: string,
  records: readonly LogRecord[],
  nowMs: number,
): { store: EmbeddedStore; sequence: number } {
  let store = new EmbeddedStore(nowMs);
  let sequence = 0;
  for (const record of records) {
    if (record.kind === 'snapshot') {
      if (record.format !== FORMAT) {
        throw new VarveError('JOURNAL_DAMAGED', `${path} has format ${record.format}, not ${FORMAT}`, {
          hint: 'It was written by another version of this program: use that one.',
        });
      }
      store = new EmbeddedStore(nowMs, record.state);
      sequence = record.sequence;
    } else if (record.sequence > sequence) {
      if (record.sequence !== sequence + 1) {
        throw new VarveError('JOURNAL_DAMAGED', `${path} lacks command ${sequence + 1}`);
      }
      store.apply(record.command, nowMs);
      sequence = record.sequence;
    }
  }
  return { store, sequence };
}
