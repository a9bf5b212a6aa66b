import { Backoff } from '../core/backoff.ts';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorDeps, Lock, LockOptions, Version } from './coordinator.ts';
import { checkKey } from './key.ts';
import type { RenewedSession } from './renewed-session.ts';

/** One call's wait for a lock. */
export interface LockWait<S> {
  readonly key: string;
  readonly session: S;
  readonly options: LockOptions;
  /** Monotonic. */
  readonly untilMs: number;
  /** Fires with the caller's signal and with the session. */
  readonly signal: AbortSignal;
  /** Requests for the lock whose answer did not arrive: they may have been granted it, or may yet be. */
  inDoubt: number;
}

/** The token when it is granted; otherwise what to wait for before it is worth asking again. */
export type LockAnswer = { readonly token: Version } | { readonly wait: () => Promise<unknown> };

/** Asks a store for a lock until it is granted, whichever store it is. */
export abstract class LockQueue<S extends RenewedSession> {
  protected readonly deps: CoordinatorDeps;

  constructor(deps: CoordinatorDeps) {
    this.deps = deps;
  }

  /**
   * Asks once. Counts `wait.inDoubt` up before it sends what may be granted, and down when it knows the answer.
   * @throws COORDINATOR_UNAVAILABLE: it is asked again
   */
  protected abstract attempt(wait: LockWait<S>): Promise<LockAnswer>;

  /** As in the contract. */
  async lock(key: string, session: S, options: LockOptions): Promise<Lock> {
    checkKey(key);
    options.signal?.throwIfAborted();
    session.throwIfLost();
    const releaseFirst = session.claimKey(key);
    const stopped = new AbortController();
    const stop = (): void => stopped.abort();
    const sources = [session.over, ...(options.signal ? [options.signal] : [])];
    for (const source of sources) source.addEventListener('abort', stop, { once: true });
    const untilMs = this.deps.clock.monotonicMs() + (options.waitMs ?? Infinity);
    const wait: LockWait<S> = { key, session, options, untilMs, signal: stopped.signal, inDoubt: 0 };
    try {
      const token = await this.#acquire(wait, releaseFirst);
      return new HeldLock(key, session, { token, inDoubt: wait.inDoubt > 0 });
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

  /** The lock of `key` that an earlier process with this session was granted. */
  resumed(key: string, session: S, token: Version): Lock {
    session.claimKey(key);
    return new HeldLock(key, session, { token, inDoubt: false });
  }

  protected leftMs(wait: LockWait<S>): number {
    return wait.untilMs - this.deps.clock.monotonicMs();
  }

  protected async sleep(wait: LockWait<S>, ms: number): Promise<void> {
    await this.deps.clock.sleep(Math.max(1, Math.min(ms, this.leftMs(wait))), wait.signal);
  }

  async #acquire(wait: LockWait<S>, releaseFirst: boolean): Promise<Version> {
    const { session, key, signal } = wait;
    const { random = Math.random } = this.deps;
    const backoff = new Backoff({ firstMs: 100, maxMs: 2000, random });
    let toRelease = releaseFirst;
    for (;;) {
      try {
        if (toRelease) await session.releaseEarlier(key);
        toRelease = false;
        const answer = await this.attempt(wait);
        session.throwIfLost();
        if ('token' in answer) return answer.token;
        await answer.wait();
        backoff.reset();
      } catch (error) {
        session.throwIfLost();
        const unavailable = error instanceof VarveError && error.code === 'COORDINATOR_UNAVAILABLE';
        if (!unavailable || signal.aborted || this.leftMs(wait) <= 0) throw error;
        this.deps.log.warn({ error }, `the lock of ${key} is asked for again`);
        await this.sleep(wait, backoff.nextMs());
      }
    }
  }
}

/** Who was not granted it in time; `holder` is undefined while only a delay runs. */
export function lockTimeout({ key, options }: LockWait<unknown>, holder: string | undefined): VarveError {
  return new VarveError('LOCK_TIMEOUT', `the lock of ${key} was not granted within ${options.waitMs} ms`, {
    detail: `held by ${holder ?? 'nobody, but its delay runs'}`,
    hint: 'Wait for the holder, or find out why it does not finish.',
  });
}

class HeldLock implements Lock {
  readonly key: string;
  readonly token: Version;
  readonly #session: RenewedSession;
  readonly #inDoubt: boolean;
  #released = false;

  constructor(
    key: string,
    session: RenewedSession,
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
