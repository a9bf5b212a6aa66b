import { Backoff } from '../core/backoff.ts';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorDeps, Version } from './coordinator.ts';
import type { EtcdHttp } from './etcd-http.ts';
import { type KeyRange, rangeJson } from './etcd-keys.ts';
import { type EtcdKv, type HeaderJson, type Reading, type Row, rowFrom, type RowJson } from './etcd-kv.ts';

export type Change =
  | { readonly kind: 'put'; readonly row: Row }
  | { readonly kind: 'delete'; readonly row: Pick<Row, 'key' | 'version'> };

interface WatchJson {
  readonly result: {
    readonly header: HeaderJson;
    readonly canceled?: boolean;
    readonly cancel_reason?: string;
    readonly compact_revision?: string;
    readonly events?: readonly { readonly type?: 'DELETE'; readonly kv: RowJson }[];
  };
}

export interface Followed {
  /** For the log. */
  readonly what: string;
  readonly range: KeyRange;
  readonly signal: AbortSignal;
}

/** A watch that is silent for so long is compared with the store: its connection may be dead, and not know it. */
export const WATCH_CHECK_MS = 10_000;
/** An event that is on its way has arrived by then. */
const ARRIVED_MS = 1000;

/**
 * The changes of a range after `revision`, those of one revision together, without end but by an error or
 * `signal`.
 * @throws COORDINATOR_UNAVAILABLE also when etcd has forgotten what followed that revision
 */
export async function* changesAfter(
  http: EtcdHttp,
  { revision }: { readonly revision: Version },
  { range, signal }: Pick<Followed, 'range' | 'signal'>,
): AsyncGenerator<readonly Change[], never, void> {
  const create = { create_request: { ...rangeJson(range), start_revision: String(revision + 1n) } };
  for await (const message of http.stream('/v3/watch', create, signal)) {
    const { canceled, cancel_reason, compact_revision, events } = (message as WatchJson).result;
    if (canceled) {
      const compacted = `revisions before ${compact_revision} are compacted`;
      throw http.unavailable(`the watch ended: ${cancel_reason ?? compacted}`);
    }
    if (!events) continue;
    yield events.map(({ type, kv }) => ({ kind: type === 'DELETE' ? 'delete' : 'put', row: rowFrom(kv) }));
  }
  throw http.unavailable('the watch ended');
}

/**
 * A range as a level-triggered sequence: its rows now, and after each change; changes that come while the
 * reader is busy come together. It begins anew with a reading that a majority confirms whenever the stream of
 * changes breaks, falls behind etcd's compaction, or falls silent while the store changes, so it never shows a
 * state that is older than what it showed before.
 */
export async function* follow(
  kv: EtcdKv,
  http: EtcdHttp,
  deps: CoordinatorDeps,
  followed: Followed,
): AsyncGenerator<readonly Row[], void, void> {
  const stop = new AbortController();
  const end = (): void => stop.abort();
  if (followed.signal.aborted) return;
  followed.signal.addEventListener('abort', end, { once: true });
  const mirror = new Mirror();
  const following = new Follower({ kv, http, deps }, { ...followed, signal: stop.signal }, mirror).run();
  try {
    for (;;) {
      const rows = await mirror.next();
      if (stop.signal.aborted) return;
      yield rows;
    }
  } finally {
    followed.signal.removeEventListener('abort', end);
    end();
    await following;
  }
}

/** The rows of a range, and whether their reader knows them. */
class Mirror {
  readonly #rows = new Map<string, Row>();
  #changes = 0;
  #shown = 0;
  #failure: { readonly error: unknown } | undefined;
  #ended = false;
  #wake: () => void = () => {};

  /** Grows with every change; 0 before the first reading. */
  get changes(): number {
    return this.#changes;
  }

  /** Whether the range, so summed up, has nothing that is not here. */
  agreesWith({ count, newest }: { readonly count: number; readonly newest: Version }): boolean {
    if (this.#rows.size !== count) return false;
    return count === 0 || [...this.#rows.values()].some(({ version }) => version === newest);
  }

  replace({ rows }: Reading): void {
    const same =
      this.#changes > 0 &&
      rows.length === this.#rows.size &&
      rows.every(({ key, version }) => this.#rows.get(key)?.version === version);
    if (same) return;
    this.#rows.clear();
    for (const row of rows) this.#rows.set(row.key, row);
    this.#changed();
  }

  apply(changes: readonly Change[]): void {
    for (const change of changes) {
      if (change.kind === 'put') this.#rows.set(change.row.key, change.row);
      else this.#rows.delete(change.row.key);
    }
    this.#changed();
  }

  fail(error: unknown): void {
    this.#failure = { error };
  }

  /** Nothing comes any more: the reader need not wait. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** Once there is something that the reader does not know. */
  async next(): Promise<readonly Row[]> {
    while (this.#shown === this.#changes && !this.#ended) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    if (this.#failure) throw this.#failure.error;
    this.#shown = this.#changes;
    return [...this.#rows.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  #changed(): void {
    this.#changes += 1;
    this.#wake();
  }
}

interface FollowerDeps {
  readonly kv: EtcdKv;
  readonly http: EtcdHttp;
  readonly deps: CoordinatorDeps;
}

/** Keeps a mirror up to date. */
class Follower {
  readonly #with: FollowerDeps;
  readonly #followed: Followed;
  readonly #mirror: Mirror;
  readonly #backoff: Backoff;
  #revision: Version = 0n;

  constructor(deps: FollowerDeps, followed: Followed, mirror: Mirror) {
    this.#with = deps;
    this.#followed = followed;
    this.#mirror = mirror;
    const { random = Math.random } = deps.deps;
    this.#backoff = new Backoff({ firstMs: 100, maxMs: 5000, random });
  }

  /** Until the signal is aborted, or etcd refuses. */
  async run(): Promise<void> {
    const { signal, what } = this.#followed;
    const { log, clock } = this.#with.deps;
    while (!signal.aborted) {
      try {
        await this.#once();
      } catch (error) {
        if (signal.aborted) break;
        if (!(error instanceof VarveError) || error.code !== 'COORDINATOR_UNAVAILABLE') {
          this.#mirror.fail(error);
          break;
        }
        const waitMs = this.#backoff.nextMs();
        log.warn({ error, waitMs }, `${what} is interrupted and will be tried again`);
        await clock.sleep(waitMs, signal).catch(() => {});
      }
    }
    this.#mirror.end();
  }

  async #once(): Promise<never> {
    const { signal, range, what } = this.#followed;
    const { kv, http, deps } = this.#with;
    const reading = await kv.read(range, { signal });
    if (reading.revision < this.#revision) {
      const [before, now] = [String(this.#revision), String(reading.revision)];
      deps.log.warn(
        { before, now },
        `${what}: the store is older than it was, as after the restoring of a copy`,
      );
    }
    this.#revision = reading.revision;
    this.#mirror.replace(reading);
    const broken = new AbortController();
    const end = (): void => broken.abort();
    signal.addEventListener('abort', end, { once: true });
    const checking = this.#check(broken);
    try {
      for await (const changes of changesAfter(http, reading, { range, signal: broken.signal })) {
        this.#mirror.apply(changes);
        for (const { row } of changes) if (row.version > this.#revision) this.#revision = row.version;
        this.#backoff.reset();
      }
      throw new Error('a stream of changes has no end');
    } finally {
      signal.removeEventListener('abort', end);
      end();
      await checking;
    }
  }

  /** Breaks a stream that keeps silent about changes, or whose store cannot be read. */
  async #check(stream: AbortController): Promise<void> {
    const { kv, http, deps } = this.#with;
    const { signal } = stream;
    try {
      for (;;) {
        const { changes } = this.#mirror;
        await deps.clock.sleep(WATCH_CHECK_MS, signal);
        if (this.#mirror.changes !== changes) continue;
        const summary = await kv.summary(this.#followed.range, { signal });
        this.#backoff.reset();
        if (this.#mirror.agreesWith(summary)) continue;
        await deps.clock.sleep(ARRIVED_MS, signal);
        if (this.#mirror.changes === changes)
          throw http.unavailable('the watch shows nothing of what changes');
      }
    } catch (error) {
      stream.abort(error);
    }
  }
}
