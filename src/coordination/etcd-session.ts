import { setMaxListeners } from 'node:events';
import { messageOf, VarveError } from '../core/errors.ts';
import type { CoordinatorDeps, Session, Version } from './coordinator.ts';
import type { EtcdHttp } from './etcd-http.ts';
import { sessionKey } from './etcd-keys.ts';
import { type EtcdKv, leaseName, putOf, type TxnJson } from './etcd-kv.ts';
import { type EtcdLeases, newLeaseId } from './etcd-leases.ts';
import type { EtcdLockKeys, SessionLeases } from './etcd-lock-keys.ts';

/** What sessions work with. */
export interface SessionTools {
  readonly http: EtcdHttp;
  readonly kv: EtcdKv;
  readonly leases: EtcdLeases;
  readonly locks: EtcdLockKeys;
}

interface SessionParts extends SessionTools {
  readonly id: string;
  readonly ids: SessionLeases;
  readonly ttlMs: number;
  /** Monotonic, from before the request that created it was sent. */
  readonly createdMs: number;
  /** Of the leader who granted it. */
  readonly term: bigint;
  readonly onEnd: (session: EtcdSession) => void;
}

/** What a renewal, which takes two round trips, may take of the TTL. */
const RENEW_PART = 0.55;
/** When the next attempt follows one that failed. */
const RETRY_PART = 1 / 12;
const RENEWALS_PER_CALL = 3;

/** Creates the leases of a session, and its key, which names it. */
export async function openSession(
  tools: SessionTools,
  deps: CoordinatorDeps,
  options: {
    readonly ttlMs: number;
    readonly lockDelayMs: number;
    readonly name: string;
    readonly onEnd: (session: EtcdSession) => void;
  },
): Promise<EtcdSession> {
  const { leases, http } = tools;
  const { ttlMs: askedMs, lockDelayMs, name, onEnd } = options;
  const lock = newLeaseId();
  const id = leaseName(lock);
  const createdMs = deps.clock.monotonicMs();
  const ttlMs = await leases.grant(lock, askedMs);
  if (ttlMs >= askedMs + 1000) {
    deps.log.warn(
      { askedMs, ttlMs },
      `etcd grants sessions no less than ${ttlMs} ms: 1.5 of its election timeouts`,
    );
  }
  const guard = lockDelayMs === 0 ? undefined : guardLeaseOf(lock);
  if (guard !== undefined) await leases.grant(guard, ttlMs + lockDelayMs);
  const named = putOf(sessionKey(id), JSON.stringify({ name, ttlMs, lockDelayMs }), lock);
  const { header } = await http.request<TxnJson>('/v3/kv/txn', { success: [named] });
  const parts = {
    ...tools,
    id,
    ids: { lock, guard },
    ttlMs,
    createdMs,
    term: BigInt(header.raft_term),
    onEnd,
  };
  return new EtcdSession(parts, deps);
}

/** Ends a session by its id, and with it releases its locks; does nothing for what is no session of etcd. */
export async function endSession(leases: EtcdLeases, id: string): Promise<void> {
  if (!/^[0-9a-f]{16}$/.test(id)) return;
  const lock = BigInt(`0x${id}`);
  // The guards last: they must not go before the locks.
  await leases.revoke(lock);
  await leases.revoke(guardLeaseOf(lock));
}

function guardLeaseOf(lock: bigint): bigint {
  return lock + 1n;
}

/**
 * A session that renews itself every third of its TTL. Its life is counted from when the last successful
 * renewal was *sent*, so it is lost here before it can be lost there, where the TTL runs from when it arrived.
 *
 * A leader of etcd renews leases without asking the others, and one that is stuck goes on doing so after they
 * have chosen another, who lets the lease expire (etcd issue 15247). So a renewal counts only when a majority has
 * confirmed, by reads before and after it, that no other leader came in between.
 */
export class EtcdSession implements Session {
  readonly id: string;
  readonly ids: SessionLeases;
  readonly ttlMs: number;
  readonly #deps: CoordinatorDeps;
  readonly #parts: SessionParts;
  readonly #lost = new AbortController();
  /** Lost or closed. */
  readonly #over = new AbortController();
  readonly #loops: Promise<unknown>;
  #endsMs: number;
  #term: bigint;
  #closed = false;
  /** Keys whose lock is held or asked for, or has still to be released. */
  readonly #keys = new Map<string, 'used' | 'unreleased'>();
  readonly #releasing = new Map<string, Promise<void>>();

  constructor(parts: SessionParts, deps: CoordinatorDeps) {
    this.id = parts.id;
    this.ids = parts.ids;
    this.ttlMs = parts.ttlMs;
    this.#parts = parts;
    this.#deps = deps;
    this.#endsMs = parts.createdMs + parts.ttlMs;
    this.#term = parts.term;
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
    const { clock } = this.#deps;
    const untilMs = Math.min(this.#endsMs, clock.monotonicMs() + this.ttlMs * RENEW_PART);
    for (let tried = 1; ; tried += 1) {
      const termBefore = this.#term;
      const sentMs = clock.monotonicMs();
      await this.#renewOnce(untilMs).catch((error: unknown) => {
        this.throwIfLost();
        throw error;
      });
      this.throwIfLost();
      if (this.#term === termBefore) {
        this.#endsMs = Math.max(this.#endsMs, sentMs + this.ttlMs);
        return;
      }
      if (tried === RENEWALS_PER_CALL) throw this.#parts.http.unavailable('its leader changes all the time');
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#over.abort();
    await this.#loops;
    this.#parts.onEnd(this);
    if (this.#lost.signal.aborted) return;
    try {
      await endSession(this.#parts.leases, this.id);
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

  async #unlock(key: string, token?: Version): Promise<void> {
    const { locks } = this.#parts;
    const held = token ?? (await locks.tokenOf(key, this.ids));
    if (held !== undefined) await locks.release(key, held);
  }

  /** Leaves the term that a majority confirmed after the renewal. */
  async #renewOnce(untilMs: number): Promise<void> {
    const { leases, kv, id, ids } = this.#parts;
    const options = () => ({
      signal: this.#over.signal,
      timeoutMs: Math.max(1, untilMs - this.#deps.clock.monotonicMs()),
    });
    const both = ids.guard === undefined ? [ids.lock] : [ids.lock, ids.guard];
    if (!(await leases.keepAlive(both, options())))
      return this.lose('the coordinator does not know it any more');
    const { term, rows } = await kv.read({ key: sessionKey(id) }, options());
    if (rows.length === 0) this.lose('the coordinator does not know it any more');
    this.#term = term;
  }

  async #keepRenewed(): Promise<void> {
    const { random = Math.random, log, clock } = this.#deps;
    const everyMs = (): number => (this.ttlMs / 3) * (0.8 + 0.2 * random());
    let waitMs = everyMs();
    while (await this.#sleep(waitMs)) {
      const sentMs = clock.monotonicMs();
      try {
        await this.renew();
        waitMs = everyMs() - (clock.monotonicMs() - sentMs);
        for (const [key, use] of this.#keys) if (use === 'unreleased') await this.releaseKey(key, {});
      } catch (error) {
        if (this.#over.signal.aborted) return;
        const remainingMs = this.remainingMs();
        log.warn({ error, remainingMs }, `session ${this.id} was not renewed: ${messageOf(error)}`);
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
