import { setMaxListeners } from 'node:events';
import { messageOf, VarveError } from '../core/errors.ts';
import type { ConsulHttp } from './consul-http.ts';
import type { ConsulKv } from './consul-kv.ts';
import type { CoordinatorDeps, Session, Version } from './coordinator.ts';

export interface SessionParts {
  readonly http: ConsulHttp;
  readonly kv: ConsulKv;
  readonly id: string;
  readonly ttlMs: number;
  /** Monotonic, from before the request that created it was sent. */
  readonly createdMs: number;
  readonly onEnd: (session: ConsulSession) => void;
}

/** When the next attempt follows one that failed, as a part of the TTL. */
const RETRY_PART = 1 / 12;

/**
 * A session that renews itself every third of its TTL. Its life is counted from when the last successful
 * renewal was *sent*, so it is lost here before it can be lost there, where the TTL runs from when it arrived.
 */
export class ConsulSession implements Session {
  readonly id: string;
  readonly ttlMs: number;
  readonly #deps: CoordinatorDeps;
  readonly #parts: SessionParts;
  readonly #lost = new AbortController();
  /** Lost or closed. */
  readonly #over = new AbortController();
  readonly #loops: Promise<unknown>;
  #endsMs: number;
  #closed = false;
  /** Keys whose lock is held or asked for, or has still to be released. */
  readonly #keys = new Map<string, 'used' | 'unreleased'>();
  readonly #releasing = new Map<string, Promise<void>>();

  constructor(parts: SessionParts, deps: CoordinatorDeps) {
    this.id = parts.id;
    this.ttlMs = parts.ttlMs;
    this.#parts = parts;
    this.#deps = deps;
    this.#endsMs = parts.createdMs + parts.ttlMs;
    setMaxListeners(0, this.#over.signal, this.#lost.signal);
    this.#loops = Promise.all([this.#keepRenewed(), this.#watchEnd()]);
  }

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Fires when it is lost or closed. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  remainingMs(): number {
    return this.#over.signal.aborted ? 0 : Math.max(0, this.#endsMs - this.#deps.clock.monotonicMs());
  }

  async renew(): Promise<void> {
    this.throwIfLost();
    const sentMs = this.#deps.clock.monotonicMs();
    const timeoutMs = Math.max(1, Math.min(this.#endsMs - sentMs, this.ttlMs / 3));
    const path = `/v1/session/renew/${this.id}`;
    const options = { signal: this.#over.signal, timeoutMs, accept: [404 as const] };
    const answer = await this.#parts.http.request('PUT', path, options).catch((error: unknown) => {
      this.throwIfLost();
      throw error;
    });
    if (answer.status === 404) this.lose('the coordinator does not know it any more');
    this.throwIfLost();
    this.#endsMs = Math.max(this.#endsMs, sentMs + this.ttlMs);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#over.abort();
    await this.#loops;
    this.#parts.onEnd(this);
    if (this.#lost.signal.aborted) return;
    try {
      // Ended with its locks, it would hold them back for the lock delay.
      for (const key of this.#keys.keys()) await this.#unlock(key);
      await this.#parts.http.request('PUT', `/v1/session/destroy/${this.id}`);
    } catch (error) {
      this.#deps.log.warn({ error }, `session ${this.id} could not be ended and will expire`);
    }
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
    this.#parts.onEnd(this);
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
    await this.#unlock(key);
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
    const released = this.#unlock(key, options.token).then(
      () => {
        if (!options.inDoubt && this.#keys.get(key) === 'unreleased') this.#keys.delete(key);
      },
      (error: unknown) => {
        this.#deps.log.warn({ error }, `the lock of ${key} could not be released and will be tried again`);
      },
    );
    this.#releasing.set(key, released);
    await released;
    if (this.#releasing.get(key) === released) this.#releasing.delete(key);
  }

  /** Only what is held now: a request that arrives late must not release what was granted since. */
  async #unlock(key: string, token?: Version): Promise<void> {
    const { kv } = this.#parts;
    let version = token;
    if (version === undefined) {
      const entry = await kv.get(key);
      if (entry?.holder !== this.id) return;
      version = entry.version;
    }
    await kv.send([
      { Verb: 'check-index', Key: key, Index: Number(version) },
      { Verb: 'unlock', Key: key, Session: this.id },
    ]);
  }

  async #keepRenewed(): Promise<void> {
    const { random = Math.random, log } = this.#deps;
    let waitMs = (this.ttlMs / 3) * (0.8 + 0.2 * random());
    while (await this.#sleep(waitMs)) {
      waitMs = (this.ttlMs / 3) * (0.8 + 0.2 * random());
      try {
        await this.renew();
        for (const [key, use] of this.#keys) if (use === 'unreleased') await this.releaseKey(key, {});
      } catch (error) {
        if (this.#over.signal.aborted) return;
        log.warn(
          { error, remainingMs: this.remainingMs() },
          `session ${this.id} was not renewed: ${messageOf(error)}`,
        );
        waitMs = this.ttlMs * RETRY_PART * (0.5 + 0.5 * random());
      }
    }
  }

  /** Apart from the renewals, because one of them may hang. */
  async #watchEnd(): Promise<void> {
    while (await this.#sleep(this.#endsMs - this.#deps.clock.monotonicMs())) {
      if (this.remainingMs() === 0) this.lose('it was not renewed in time');
    }
  }

  /** False when the session is over. */
  async #sleep(ms: number): Promise<boolean> {
    await this.#deps.clock.sleep(Math.max(1, ms), this.#over.signal).catch(() => {});
    return !this.#over.signal.aborted;
  }
}

function lostError(id: string, why: string): VarveError {
  return new VarveError('SESSION_LOST', `session ${id} is lost: ${why}`, {
    hint: 'Stop what was done under it, and start again with a new session.',
  });
}
