import { assert } from '../core/errors.ts';
import { Catalog, type CatalogCommand, type CatalogSnapshot } from './embedded-catalog.ts';
import {
  type KvError,
  type KvOperation,
  type KvOutcome,
  type KvRow,
  runKvOperations,
} from './embedded-kv.ts';

/**
 * The state machine of the embedded coordinator. `apply` of the same commands in the same order gives the
 * same state; that is what the log relies on. Time is no part of that state: when a session ends or a lock
 * delay is over lives in memory only and begins anew when the log is replayed, as on a new leader of Consul.
 * So the two that need the time come before a command is logged: `refusal` (a lock delay) and `due`
 * (commands that time itself gives).
 */

export interface SessionRow {
  readonly id: string;
  readonly name: string;
  readonly node: string;
  /** As it was written: `15s`. Empty: until it is destroyed. */
  readonly ttl: string;
  readonly ttlMs: number;
  readonly lockDelayMs: number;
  readonly behavior: 'release' | 'delete';
  readonly createIndex: number;
}

export type StoreCommand =
  | { readonly kind: 'kv'; readonly operations: readonly KvOperation[] }
  | { readonly kind: 'session-create'; readonly session: Omit<SessionRow, 'createIndex'> }
  | { readonly kind: 'session-destroy'; readonly id: string }
  | CatalogCommand;

export interface Outcome {
  readonly kv: KvOutcome;
  /** False when the command had no effect; then it needs no place in the log. */
  readonly changed: boolean;
}

export interface StoreSnapshot {
  readonly index: number;
  readonly rows: readonly KvRow[];
  readonly sessions: readonly SessionRow[];
  /** Keys that may not be locked yet, with the length of the delay. */
  readonly delays: readonly (readonly [key: string, delayMs: number])[];
  readonly catalog: CatalogSnapshot;
}

/** The server ends a session that was not renewed for so many TTLs: between one and two, as the contract says. */
export const EXPIRY_TTLS = 1.5;

/** Changes that are remembered one by one; a reader that is further behind is simply answered at once. */
const REMEMBERED_CHANGES = 1024;

/** As in Consul: a reader who says 0 has seen nothing, and one who says 1 has seen that there is nothing yet. */
const FIRST_INDEX = 1;

const NO_KV: KvOutcome = { results: [], errors: [], changes: new Map() };

export class EmbeddedStore {
  #index: number;
  readonly #rows = new Map<string, KvRow>();
  readonly #sessions = new Map<string, SessionRow>();
  readonly #catalog: Catalog;
  readonly #sessionEndsMs = new Map<string, number>();
  readonly #delays = new Map<string, { readonly delayMs: number; readonly endsMs: number }>();
  #changes: { readonly index: number; readonly topic: string }[] = [];
  /** Changes up to this index are not remembered. */
  #forgottenIndex: number;

  constructor(nowMs: number, snapshot?: StoreSnapshot) {
    this.#index = snapshot?.index ?? FIRST_INDEX;
    this.#forgottenIndex = this.#index;
    for (const row of snapshot?.rows ?? []) this.#rows.set(row.key, row);
    for (const session of snapshot?.sessions ?? []) this.#startSession(session, nowMs);
    for (const [key, delayMs] of snapshot?.delays ?? []) {
      this.#delays.set(key, { delayMs, endsMs: nowMs + delayMs });
    }
    this.#catalog = new Catalog(nowMs, snapshot?.catalog);
  }

  /** Of the last change. It never goes back. */
  get index(): number {
    return this.#index;
  }

  get rows(): ReadonlyMap<string, KvRow> {
    return this.#rows;
  }

  get sessions(): ReadonlyMap<string, SessionRow> {
    return this.#sessions;
  }

  get catalog(): Catalog {
    return this.#catalog;
  }

  /** Why the time forbids the command; asked before `apply`, and not when replaying. */
  refusal(command: StoreCommand, nowMs: number): readonly KvError[] {
    if (command.kind !== 'kv') return [];
    return command.operations.flatMap(({ verb, key }, opIndex) => {
      const delayed = verb === 'lock' && (this.#delays.get(key)?.endsMs ?? -Infinity) > nowMs;
      return delayed ? [{ opIndex, what: `failed to lock key "${key}" due to lock delay` }] : [];
    });
  }

  apply(command: StoreCommand, nowMs: number): Outcome {
    const index = this.#index + 1;
    switch (command.kind) {
      case 'kv':
        return this.#applyKv(command.operations, index);
      case 'session-create':
        this.#startSession({ ...command.session, createIndex: index }, nowMs);
        this.#changed(index, ['session']);
        return { kv: NO_KV, changed: true };
      case 'session-destroy':
        return this.#destroySession(command.id, index, nowMs);
      default: {
        const topics = this.#catalog.apply(command, index, nowMs);
        if (topics.length > 0) this.#changed(index, topics);
        return { kv: NO_KV, changed: topics.length > 0 };
      }
    }
  }

  /** False when there is no such session. Not logged: a restart renews every session. */
  renewSession(id: string, nowMs: number): boolean {
    const session = this.#sessions.get(id);
    if (session) this.#startSession(session, nowMs);
    return session !== undefined;
  }

  /** The commands that the time demands now. */
  due(nowMs: number): StoreCommand[] {
    for (const [key, { endsMs }] of this.#delays) if (endsMs <= nowMs) this.#delays.delete(key);
    const ended = [...this.#sessionEndsMs].filter(([, endsMs]) => endsMs <= nowMs);
    return [...ended.map(([id]) => ({ kind: 'session-destroy' as const, id })), ...this.#catalog.due(nowMs)];
  }

  /** When `due` may next have something; Infinity when it will not by itself. */
  nextDueMs(): number {
    return Math.min(Infinity, ...this.#sessionEndsMs.values(), this.#catalog.nextDueMs());
  }

  /** Whether something about a topic that `matches` changed after `index`. In doubt yes. */
  changedSince(index: number, matches: (topic: string) => boolean): boolean {
    if (index < this.#forgottenIndex || index > this.#index) return true;
    return this.#changes.some((change) => change.index > index && matches(change.topic));
  }

  /** Owned by the caller. */
  snapshot(nowMs: number): StoreSnapshot {
    const delays = [...this.#delays].filter(([, { endsMs }]) => endsMs > nowMs);
    return {
      index: this.#index,
      rows: [...this.#rows.values()],
      sessions: [...this.#sessions.values()],
      delays: delays.map(([key, { delayMs }]) => [key, delayMs] as const),
      catalog: this.#catalog.snapshot(),
    };
  }

  #applyKv(operations: readonly KvOperation[], index: number): Outcome {
    const state = { rows: this.#rows, hasSession: (id: string) => this.#sessions.has(id) };
    const kv = runKvOperations(state, operations, index);
    for (const [key, row] of kv.changes) {
      if (row) this.#rows.set(key, row);
      else this.#rows.delete(key);
      // Who was granted the lock has waited long enough.
      if (row?.session) this.#delays.delete(key);
    }
    if (kv.changes.size > 0) this.#changed(index, [...kv.changes.keys()].map(kvTopic));
    return { kv, changed: kv.changes.size > 0 };
  }

  #destroySession(id: string, index: number, nowMs: number): Outcome {
    const session = this.#sessions.get(id);
    if (!session) return { kv: NO_KV, changed: false };
    this.#sessions.delete(id);
    this.#sessionEndsMs.delete(id);
    const topics = ['session'];
    for (const row of [...this.#rows.values()].filter((row) => row.session === id)) {
      if (session.behavior === 'delete') this.#rows.delete(row.key);
      else this.#rows.set(row.key, { ...row, session: '', modifyIndex: index });
      const delayMs = session.lockDelayMs;
      if (delayMs > 0) this.#delays.set(row.key, { delayMs, endsMs: nowMs + delayMs });
      topics.push(kvTopic(row.key));
    }
    this.#changed(index, topics);
    return { kv: NO_KV, changed: true };
  }

  #startSession(session: SessionRow, nowMs: number): void {
    this.#sessions.set(session.id, session);
    if (session.ttlMs > 0) this.#sessionEndsMs.set(session.id, nowMs + session.ttlMs * EXPIRY_TTLS);
  }

  #changed(index: number, topics: readonly string[]): void {
    assert(index === this.#index + 1, 'every change has the next index');
    this.#index = index;
    for (const topic of topics) this.#changes.push({ index, topic });
    if (this.#changes.length <= 2 * REMEMBERED_CHANGES) return;
    const forgotten = this.#changes.splice(0, this.#changes.length - REMEMBERED_CHANGES);
    this.#forgottenIndex = forgotten.at(-1)?.index ?? this.#forgottenIndex;
  }
}

/** The topic under which changes of a key are told to those who wait. */
export function kvTopic(key: string): string {
  return `kv:${key}`;
}
