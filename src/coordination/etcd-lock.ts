import { Backoff } from '../core/backoff.ts';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorDeps, Lock, LockOptions, Version } from './coordinator.ts';
import type { EtcdHttp } from './etcd-http.ts';
import type { Attempt, EtcdLockKeys } from './etcd-lock-keys.ts';
import type { EtcdSession } from './etcd-session.ts';
import { changesAfter, WATCH_CHECK_MS } from './etcd-watch.ts';
import { checkKey } from './key.ts';

type Taken = Extract<Attempt, { kind: 'taken' }>;

interface Wait {
  readonly key: string;
  readonly session: EtcdSession;
  readonly options: LockOptions;
  /** Monotonic. */
  readonly untilMs: number;
  /** Fires with the caller's signal and with the session. */
  readonly signal: AbortSignal;
  /** Requests for the lock whose answer did not arrive: they may have been granted it, or may yet be. */
  inDoubt: number;
}

/** Asks for the keys of a lock until they are granted, and again whenever the one in the way has changed. */
export class EtcdLocks {
  readonly #http: EtcdHttp;
  readonly #keys: EtcdLockKeys;
  readonly #deps: CoordinatorDeps;

  constructor(http: EtcdHttp, keys: EtcdLockKeys, deps: CoordinatorDeps) {
    this.#http = http;
    this.#keys = keys;
    this.#deps = deps;
  }

  /** As in the contract. */
  async lock(key: string, session: EtcdSession, options: LockOptions): Promise<Lock> {
    checkKey(key);
    options.signal?.throwIfAborted();
    session.throwIfLost();
    const releaseFirst = session.claimKey(key);
    const stopped = new AbortController();
    const stop = (): void => stopped.abort();
    const sources = [session.over, ...(options.signal ? [options.signal] : [])];
    for (const source of sources) source.addEventListener('abort', stop, { once: true });
    const untilMs = this.#deps.clock.monotonicMs() + (options.waitMs ?? Infinity);
    const wait: Wait = { key, session, options, untilMs, signal: stopped.signal, inDoubt: 0 };
    try {
      const token = await this.#acquire(wait, releaseFirst);
      return new EtcdLock(key, session, { token, inDoubt: wait.inDoubt > 0 });
    } catch (error) {
      if (wait.inDoubt > 0 || releaseFirst) await session.releaseKey(key, { inDoubt: true });
      else session.forgetKey(key);
      options.signal?.throwIfAborted();
      session.throwIfLost();
      throw error;
    } finally {
      for (const source of sources) source.removeEventListener('abort', stop);
    }
  }

  async #acquire(wait: Wait, releaseFirst: boolean): Promise<Version> {
    const { session, key, signal } = wait;
    const { random = Math.random } = this.#deps;
    const backoff = new Backoff({ firstMs: 100, maxMs: 2000, random });
    let toRelease = releaseFirst;
    for (;;) {
      try {
        if (toRelease) await session.releaseEarlier(key);
        toRelease = false;
        const attempt = await this.#attempt(wait);
        session.throwIfLost();
        if (attempt?.kind === 'granted') return attempt.token;
        if (attempt) await this.#untilChanged(wait, attempt);
        backoff.reset();
      } catch (error) {
        session.throwIfLost();
        const unavailable = error instanceof VarveError && error.code === 'COORDINATOR_UNAVAILABLE';
        if (!unavailable || signal.aborted || this.#leftMs(wait) <= 0) throw error;
        this.#deps.log.warn({ error }, `the lock of ${key} is asked for again`);
        const waitMs = Math.max(1, Math.min(backoff.nextMs(), this.#leftMs(wait)));
        await this.#deps.clock.sleep(waitMs, signal);
      }
    }
  }

  async #attempt(wait: Wait): Promise<Exclude<Attempt, { kind: 'no-lease' }> | undefined> {
    const { key, session, options, signal } = wait;
    wait.inDoubt += 1;
    const { result, moved } = await session.withLeases((leases) =>
      this.#keys.acquire(key, leases, { owner: options.owner, signal }),
    );
    // Whether what was granted has come along, the next attempt shows.
    if (moved) return undefined;
    wait.inDoubt -= 1;
    if (result.kind !== 'no-lease') return result;
    session.lose('the coordinator does not know it any more');
    session.throwIfLost();
    return undefined;
  }

  /** Returns when it is worth asking again, and now and then besides: a watch may be dead and not know it. */
  async #untilChanged(wait: Wait, { holder, key, revision }: Taken): Promise<void> {
    const leftMs = this.#leftMs(wait);
    if (leftMs <= 0) throw timedOut(wait, holder?.value.toString());
    const over = new AbortController();
    const end = (): void => over.abort();
    wait.signal.addEventListener('abort', end, { once: true });
    const { clock } = this.#deps;
    const timer = clock.sleep(Math.min(leftMs, WATCH_CHECK_MS), over.signal).then(end, () => {});
    try {
      wait.signal.throwIfAborted();
      const changes = changesAfter(this.#http, { revision }, { range: { key }, signal: over.signal });
      for await (const _ of changes) break;
    } catch (error) {
      // Its time is over, which is no error.
      if (!over.signal.aborted || wait.signal.aborted) throw error;
    } finally {
      wait.signal.removeEventListener('abort', end);
      end();
      await timer;
    }
  }

  #leftMs(wait: Wait): number {
    return wait.untilMs - this.#deps.clock.monotonicMs();
  }
}

class EtcdLock implements Lock {
  readonly key: string;
  readonly token: Version;
  readonly #session: EtcdSession;
  readonly #inDoubt: boolean;
  #released = false;

  constructor(
    key: string,
    session: EtcdSession,
    grant: {
      readonly token: Version;
      /** Another request for it may still be under way. */ readonly inDoubt: boolean;
    },
  ) {
    this.key = key;
    this.token = grant.token;
    this.#inDoubt = grant.inDoubt;
    this.#session = session;
  }

  get sessionId(): string {
    return this.#session.id;
  }

  get lost(): AbortSignal {
    return this.#session.lost;
  }

  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    await this.#session.releaseKey(this.key, { token: this.token, inDoubt: this.#inDoubt });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

function timedOut({ key, options }: Wait, owner: string | undefined): VarveError {
  const who = owner ?? 'nobody, but its delay runs';
  return new VarveError('LOCK_TIMEOUT', `the lock of ${key} was not granted within ${options.waitMs} ms`, {
    detail: `held by ${who}`,
    hint: 'Wait for the holder, or find out why it does not finish.',
  });
}
