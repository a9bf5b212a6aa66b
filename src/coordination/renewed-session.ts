import { setMaxListeners } from 'node:events';
import { messageOf, VarveError } from '../core/errors.ts';
import type { CoordinatorDeps, Session, Version } from './coordinator.ts';

export interface SessionLife {
  readonly id: string;
  readonly ttlMs: number;
  /** Monotonic, from before the request that created it was sent. */
  readonly createdMs: number;
  readonly onEnd: (session: Session) => void;
}

/** When the next attempt follows one that failed, as a part of the TTL. */
const RETRY_PART = 1 / 12;

/**
 * A session that renews itself every third of its TTL, whichever store keeps it. Its life is counted from when
 * the last successful renewal was *sent*, so it is lost here before it can be lost there, where the TTL runs
 * from when it arrived.
 *
 * It knows the keys whose locks it holds or asks for: one caller at a time, and what could not be released is
 * released with a later renewal.
 */
export abstract class RenewedSession implements Session {
  readonly id: string;
  readonly ttlMs: number;
  protected readonly deps: CoordinatorDeps;
  readonly #onEnd: (session: Session) => void;
  readonly #lost = new AbortController();
  /** Lost or closed. */
  readonly #over = new AbortController();
  readonly #loops: Promise<unknown>;
  #endsMs: number;
  #closed = false;
  /** Keys whose lock is held or asked for, or has still to be released. */
  readonly #keys = new Map<string, 'used' | 'unreleased'>();
  readonly #releasing = new Map<string, Promise<void>>();

  constructor(life: SessionLife, deps: CoordinatorDeps) {
    this.id = life.id;
    this.ttlMs = life.ttlMs;
    this.deps = deps;
    this.#onEnd = life.onEnd;
    this.#endsMs = life.createdMs + life.ttlMs;
    setMaxListeners(0, this.#over.signal, this.#lost.signal);
    this.#loops = Promise.all([this.#keepRenewed(), this.#watchEnd()]);
  }

  /** One renewal: ends with `extend`, with `lose`, or with an error when nobody knows. */
  protected abstract renewOnce(): Promise<void>;

  /** Ends it in the store, and with it its locks, so that others may have them at once. */
  protected abstract endInStore(): Promise<void>;

  /**
   * Releases the lock of `key` if this session holds it, under that token when one is given: a request that
   * arrives late must not release what was granted since.
   */
  protected abstract unlock(key: string, token?: Version): Promise<void>;

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Fires when it is lost or closed. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** On the monotonic clock: until then it certainly lives. */
  protected get endsMs(): number {
    return this.#endsMs;
  }

  protected get lockKeys(): Iterable<string> {
    return this.#keys.keys();
  }

  remainingMs(): number {
    return this.#over.signal.aborted ? 0 : Math.max(0, this.#endsMs - this.deps.clock.monotonicMs());
  }

  async renew(): Promise<void> {
    this.throwIfLost();
    await this.renewOnce().catch((error: unknown) => {
      this.throwIfLost();
      throw error;
    });
    this.throwIfLost();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#over.abort();
    await this.#loops;
    this.#onEnd(this);
    if (this.#lost.signal.aborted) return;
    await this.endInStore().catch((error: unknown) =>
      this.deps.log.warn({ error }, `session ${this.id} could not be ended and will expire`),
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @throws SESSION_LOST also when it was closed */
  throwIfLost(): void {
    if (this.remainingMs() === 0) this.lose('it was not renewed in time');
    this.#lost.signal.throwIfAborted();
    if (this.#closed) throw lostError(this.id, 'it was closed');
  }

  lose(why: string): void {
    if (this.#over.signal.aborted) return;
    this.#lost.abort(lostError(this.id, why));
    this.#over.abort();
    this.#onEnd(this);
  }

  /** A renewal that was sent then has succeeded. */
  protected extend(sentMs: number): void {
    this.#endsMs = Math.max(this.#endsMs, sentMs + this.ttlMs);
  }

  /**
   * Reserves the lock of `key` for one caller in this process; true when an earlier one's must be released
   * first.
   * @throws INVALID_ARGUMENT
   */
  claimKey(key: string): boolean {
    const before = this.#keys.get(key);
    if (before === 'used') {
      throw new VarveError(
        'INVALID_ARGUMENT',
        `session ${this.id} holds or waits for the lock of ${key} already`,
        { hint: 'Release it first, or use another session.' },
      );
    }
    this.#keys.set(key, 'used');
    return before !== undefined || this.#releasing.has(key);
  }

  /** The lock of `key` was certainly not granted. */
  forgetKey(key: string): void {
    this.#keys.delete(key);
  }

  /** @throws COORDINATOR_UNAVAILABLE */
  async releaseEarlier(key: string): Promise<void> {
    await this.#releasing.get(key);
    await this.unlock(key);
  }

  /**
   * Never throws: what could not be released now is released with a later renewal. With `inDoubt` (a request
   * for the lock may still be under way) it is so in any case.
   */
  async releaseKey(
    key: string,
    options: { readonly token?: Version; readonly inDoubt?: boolean },
  ): Promise<void> {
    if (this.#over.signal.aborted) return;
    this.#keys.set(key, 'unreleased');
    const released = this.unlock(key, options.token).then(
      () => {
        if (!options.inDoubt && this.#keys.get(key) === 'unreleased') this.#keys.delete(key);
      },
      (error: unknown) => {
        this.deps.log.warn({ error }, `the lock of ${key} could not be released and will be tried again`);
      },
    );
    this.#releasing.set(key, released);
    await released;
    if (this.#releasing.get(key) === released) this.#releasing.delete(key);
  }

  /** A renewal that hangs is not waited for: the next may come through. */
  async #keepRenewed(): Promise<void> {
    const { random = Math.random, clock } = this.deps;
    const everyMs = (): number => (this.ttlMs / 3) * (0.8 + 0.2 * random());
    const underWay = new Set<Promise<unknown>>();
    let waitMs = everyMs();
    while (await this.#sleep(waitMs)) {
      const dueMs = clock.monotonicMs() + everyMs();
      const attempt = this.#attempt();
      underWay.add(attempt);
      void attempt.then(() => underWay.delete(attempt));
      const outcome = await this.#outcomeBy(dueMs, attempt);
      const retryMs = this.ttlMs * RETRY_PART * (0.5 + 0.5 * random());
      waitMs = outcome === 'failed' ? retryMs : dueMs - clock.monotonicMs();
    }
    await Promise.all(underWay);
  }

  async #attempt(): Promise<'renewed' | 'failed'> {
    try {
      await this.renew();
      for (const [key, use] of this.#keys) if (use === 'unreleased') await this.releaseKey(key, {});
      return 'renewed';
    } catch (error) {
      const remainingMs = this.remainingMs();
      const why = `session ${this.id} was not renewed: ${messageOf(error)}`;
      if (!this.#over.signal.aborted) this.deps.log.warn({ error, remainingMs }, why);
      return 'failed';
    }
  }

  async #outcomeBy<T>(dueMs: number, attempt: Promise<T>): Promise<T | 'late'> {
    const { clock } = this.deps;
    const known = new AbortController();
    const late = clock.sleep(Math.max(1, dueMs - clock.monotonicMs()), known.signal).then(
      () => 'late' as const,
      () => 'late' as const,
    );
    const outcome = await Promise.race([attempt, late]);
    known.abort();
    await late;
    return outcome;
  }

  /** Apart from the renewals, because one of them may hang. */
  async #watchEnd(): Promise<void> {
    while (await this.#sleep(this.#endsMs - this.deps.clock.monotonicMs())) {
      if (this.remainingMs() === 0) this.lose('it was not renewed in time');
    }
  }

  /** False when the session is over. */
  async #sleep(ms: number): Promise<boolean> {
    await this.deps.clock.sleep(Math.max(1, ms), this.#over.signal).catch(() => {});
    return !this.#over.signal.aborted;
  }
}

function lostError(id: string, why: string): VarveError {
  return new VarveError('SESSION_LOST', `session ${id} is lost: ${why}`, {
    hint: 'Stop what was done under it, and start again with a new session.',
  });
}
