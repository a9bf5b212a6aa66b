import { Backoff } from '../core/backoff.ts';
import { assert, VarveError } from '../core/errors.ts';
import type { ConsulKv, TxnJson } from './consul-kv.ts';
import type { ConsulSession } from './consul-session.ts';
import { WATCH_WAIT_MS } from './consul-watch.ts';
import type { CoordinatorDeps, Entry, Lock, LockOptions, Version } from './coordinator.ts';
import { checkKey } from './key.ts';

/** While a lock delay runs nothing tells when it is over. */
const DELAY_POLL_MS = 300;

interface Wait {
  readonly key: string;
  readonly session: ConsulSession;
  readonly options: LockOptions;
  /** Monotonic. */
  readonly untilMs: number;
  /** Fires with the caller's signal and with the session. */
  readonly signal: AbortSignal;
  /** Requests for the lock whose answer did not arrive: they may have been granted it, or may yet be. */
  inDoubt: number;
}

/**
 * Locks as Consul has them: `lock` in a transaction, whose answer holds the index of the change that granted
 * it. That index is the token: it is drawn from one counter for all changes, so it grows from holder to
 * holder even when the key is deleted in between, and it stops being the key's index with any other write to
 * it. (Consul's LockIndex starts again at 1 after a deletion, and at 0 after a plain write.)
 */
export class ConsulLocks {
  readonly #kv: ConsulKv;
  readonly #deps: CoordinatorDeps;

  constructor(kv: ConsulKv, deps: CoordinatorDeps) {
    this.#kv = kv;
    this.#deps = deps;
  }

  /** As in the contract. */
  async lock(key: string, session: ConsulSession, options: LockOptions): Promise<Lock> {
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
      return new ConsulLock(key, session, await this.#acquire(wait, releaseFirst));
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
    const backoff = new Backoff({ firstMs: 100, maxMs: 2000, ...this.#random() });
    let toRelease = releaseFirst;
    for (;;) {
      try {
        if (toRelease) await session.releaseEarlier(key);
        toRelease = false;
        const token = await this.#attempt(wait);
        if (token !== undefined) return token;
        await this.#untilFree(wait);
        backoff.reset();
      } catch (error) {
        session.throwIfLost();
        const unavailable = error instanceof VarveError && error.code === 'COORDINATOR_UNAVAILABLE';
        if (!unavailable || signal.aborted || this.#leftMs(wait) <= 0) throw error;
        this.#deps.log.warn({ error }, `the lock of ${key} is asked for again`);
        await this.#sleep(wait, backoff.nextMs());
      }
    }
  }

  /** The token; undefined when somebody else has the lock or its delay runs. */
  async #attempt(wait: Wait): Promise<Version | undefined> {
    const { key, session, options, signal } = wait;
    const Value = Buffer.from(options.owner).toString('base64');
    wait.inDoubt += 1;
    const answer = await this.#kv.send([{ Verb: 'lock', Key: key, Value, Session: session.id }], signal);
    wait.inDoubt -= 1;
    if (answer.Errors?.some(({ What }) => What.includes('invalid session'))) {
      session.lose('the coordinator does not know it any more');
    }
    session.throwIfLost();
    return tokenOf(answer);
  }

  /** Returns when it is worth asking again. */
  async #untilFree(wait: Wait): Promise<void> {
    const { key, session, signal } = wait;
    let index = 0;
    for (;;) {
      const leftMs = this.#leftMs(wait);
      const waitMs = Math.min(WATCH_WAIT_MS, Math.max(1, leftMs));
      const reading = await this.#kv.read({ key }, { index, waitMs, signal });
      const entry = reading.entries[0];
      if (leftMs <= 0) throw timedOut(wait, entry);
      if (entry?.holder === undefined || entry.holder === session.id) break;
      index = reading.index < index ? 0 : Math.max(1, reading.index);
    }
    if (index === 0) await this.#sleep(wait, DELAY_POLL_MS * (0.5 + (this.#deps.random ?? Math.random)()));
  }

  async #sleep(wait: Wait, ms: number): Promise<void> {
    await this.#deps.clock.sleep(Math.max(1, Math.min(ms, this.#leftMs(wait))), wait.signal);
  }

  #leftMs(wait: Wait): number {
    return wait.untilMs - this.#deps.clock.monotonicMs();
  }

  #random(): { random?: () => number } {
    return this.#deps.random ? { random: this.#deps.random } : {};
  }
}

class ConsulLock implements Lock {
  readonly key: string;
  readonly token: Version;
  readonly #session: ConsulSession;
  #released = false;

  constructor(key: string, session: ConsulSession, token: Version) {
    this.key = key;
    this.token = token;
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
    await this.#session.releaseKey(this.key, { token: this.token });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

function tokenOf(answer: TxnJson): Version | undefined {
  if (answer.Errors && answer.Errors.length > 0) return undefined;
  const row = answer.Results?.[0]?.KV;
  assert(row !== undefined, 'a lock that was granted comes with its key');
  return BigInt(row.ModifyIndex);
}

function timedOut({ key, options }: Wait, entry: Entry | undefined): VarveError {
  const who = entry?.holder === undefined ? 'nobody, but its delay runs' : entry.value.toString('utf8');
  return new VarveError('LOCK_TIMEOUT', `the lock of ${key} was not granted within ${options.waitMs} ms`, {
    detail: `held by ${who}`,
    hint: 'Wait for the holder, or find out why it does not finish.',
  });
}
