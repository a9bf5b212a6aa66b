import { setMaxListeners } from 'node:events';
import { messageOf, VarveError } from '../core/errors.ts';
import type { CoordinatorDeps, Session, Version } from './coordinator.ts';
import type { EtcdHttp, EtcdRequest } from './etcd-http.ts';
import { sessionKeys } from './etcd-keys.ts';
import { type EtcdKv, putOf } from './etcd-kv.ts';
import { type EtcdLeases, isSessionId, leasesOf, newSessionId, type SessionLeases } from './etcd-leases.ts';
import type { EtcdLockKeys } from './etcd-lock-keys.ts';

/** What sessions work with. */
export interface SessionTools {
  readonly http: EtcdHttp;
  readonly kv: EtcdKv;
  readonly granter: EtcdLeases;
  readonly locks: EtcdLockKeys;
}

interface SessionParts extends SessionTools {
  readonly id: string;
  readonly leases: SessionLeases;
  readonly ttlMs: number;
  readonly lockDelayMs: number;
  /** Monotonic, from before the request that created it was sent. */
  readonly createdMs: number;
  /** Of the leader, as a majority confirmed before the leases were granted. */
  readonly term: bigint;
  readonly onEnd: (session: EtcdSession) => void;
}

/** What a renewal may take of the TTL; others begin meanwhile. */
const RENEW_PART = 2 / 3;
/** When the next attempt follows one that failed. */
const RETRY_PART = 1 / 12;

/** Creates the leases of a session, and the keys that tell what they are. */
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
  const { granter, http, kv } = tools;
  const { ttlMs: askedMs, lockDelayMs, name, onEnd } = options;
  const id = newSessionId();
  const keys = sessionKeys(id);
  const leases = leasesOf(id, 0, lockDelayMs > 0);
  const { term } = await kv.read({ key: keys.lock });
  const createdMs = deps.clock.monotonicMs();
  const ttlMs = await granter.grant(leases.lock, askedMs);
  if (ttlMs >= askedMs + 1000) {
    const why = `etcd grants sessions no less than ${ttlMs} ms: 1.5 of its election timeouts`;
    deps.log.warn({ askedMs, ttlMs }, why);
  }
  const text = JSON.stringify({ name, ttlMs, lockDelayMs });
  const success = [putOf(keys.lock, text, leases.lock)];
  if (leases.guard !== undefined) {
    await granter.grant(leases.guard, ttlMs + lockDelayMs);
    success.push(putOf(keys.guard, text, leases.guard));
  }
  await http.request('/v3/kv/txn', { success });
  return new EtcdSession({ ...tools, id, leases, ttlMs, lockDelayMs, createdMs, term, onEnd }, deps);
}

/** Ends a session by its id, and with it releases its locks; does nothing for what is no session of etcd. */
export async function endSession({ kv, granter }: SessionTools, id: string): Promise<void> {
  if (!isSessionId(id)) return;
  const keys = sessionKeys(id);
  // The guards last: they must not go before the locks.
  for (const key of [keys.lock, keys.guard]) {
    const { rows } = await kv.read({ key });
    for (const { lease } of rows) if (lease !== 0n) await granter.revoke(lease);
  }
}

/**
 * A session that renews itself every third of its TTL. Its life is counted from when the last successful
 * renewal was *sent*, so it is lost here before it can be lost there, where the TTL runs from when it arrived.
 *
 * A leader of etcd renews leases, and ends them, without asking the others. One that hangs goes on with both
 * after they have chosen another: it renews leases that its successor lets expire, and when it wakes up it ends
 * leases that its successor has renewed (etcd issues 12528 and 15247). Therefore
 *
 * - a renewal counts only when a majority has confirmed, by reads before and after it, that no other leader came
 *   in between;
 * - once there is another leader, the keys of the session are moved to new leases, which the one before does
 *   not know, before the session is taken to be renewed. Those it knows are of no use any more when it can
 *   first take them to be over.
 */
export class EtcdSession implements Session {
  readonly id: string;
  readonly ttlMs: number;
  readonly #deps: CoordinatorDeps;
  readonly #parts: SessionParts;
  readonly #lost = new AbortController();
  /** Lost or closed. */
  readonly #over = new AbortController();
  readonly #loops: Promise<unknown>;
  #endsMs: number;
  /** Of the leader before whom its leases were granted, as a majority confirmed. */
  #term: bigint;
  #leases: SessionLeases;
  /** Of the leases granted last, even if the keys were perhaps not moved to them. */
  #generation = 0;
  /** Leases that are of no use any more. */
  #stale: SessionLeases[] = [];
  /** Counts the beginnings and the ends of moves. */
  #moves = 0;
  #moving: Promise<unknown> = Promise.resolve();
  #move: Promise<void> | undefined;
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
    this.#term = parts.term;
    this.#leases = parts.leases;
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
    await this.#renew().catch((error: unknown) => {
      this.throwIfLost();
      throw error;
    });
    this.throwIfLost();
  }

  /**
   * Works with the leases that its keys have, when they are not being moved. `moved` is true when they were
   * meanwhile: what was done with the former ones may not last.
   */
  async withLeases<T>(
    work: (leases: SessionLeases) => Promise<T>,
  ): Promise<{ readonly result: T; readonly moved: boolean }> {
    do await this.#moving;
    while (this.#moves % 2 === 1);
    const before = this.#moves;
    const result = await work(this.#leases);
    return { result, moved: this.#moves !== before };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#over.abort();
    await this.#loops;
    this.#parts.onEnd(this);
    if (this.#lost.signal.aborted) return;
    try {
      const { granter } = this.#parts;
      const all = [...this.#stale, this.#leases];
      for (const { lock } of all) await granter.revoke(lock);
      // The guards last: they must not go before the locks.
      for (const { guard } of all) if (guard !== undefined) await granter.revoke(guard);
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
    const held = token ?? (await locks.tokenOf(key, this.id));
    if (held !== undefined) await locks.release(key, held);
  }

  async #renew(): Promise<void> {
    const { granter, kv, id } = this.#parts;
    const leases = this.#leases;
    const sentMs = this.#deps.clock.monotonicMs();
    const untilMs = Math.min(this.#endsMs, sentMs + this.ttlMs * RENEW_PART);
    const ids = leases.guard === undefined ? [leases.lock] : [leases.lock, leases.guard];
    const alive = await granter.keepAlive(ids, this.#until(untilMs));
    const { term, rows } = await kv.read({ key: sessionKeys(id).lock }, this.#until(untilMs));
    // It has others by now, which another renewal has got.
    if (this.#leases !== leases) return;
    if (!alive || rows.length === 0) return this.lose('the coordinator does not know it any more');
    if (term === this.#term) this.#endsMs = Math.max(this.#endsMs, sentMs + this.ttlMs);
    else await (this.#move ??= this.#moveTo(term).finally(() => (this.#move = undefined)));
    await this.#revokeStale();
  }

  /** To new leases, of which only leaders from that term on know. */
  async #moveTo(term: bigint): Promise<void> {
    const { granter, locks, id, lockDelayMs } = this.#parts;
    const options = this.#until(this.#endsMs);
    const sentMs = this.#deps.clock.monotonicMs();
    this.#generation += 1;
    const leases = leasesOf(id, this.#generation, lockDelayMs > 0);
    this.#moves += 1;
    // Of no use either, unless the keys come to be theirs.
    this.#stale.push(leases);
    const moving = (async () => {
      await Promise.all([
        granter.grant(leases.lock, this.ttlMs, options),
        leases.guard === undefined ? 0 : granter.grant(leases.guard, this.ttlMs + lockDelayMs, options),
      ]);
      await locks.move(this.#keys.keys(), leases, options);
    })();
    this.#moving = moving.catch(() => {});
    try {
      await moving;
      this.#stale = [...this.#stale.filter((other) => other !== leases), this.#leases];
      this.#leases = leases;
      this.#term = term;
      this.#endsMs = Math.max(this.#endsMs, sentMs + this.ttlMs);
    } finally {
      this.#moves += 1;
    }
  }

  /** Once the keys are attached to others: a request that was under way with them then comes to nothing. */
  async #revokeStale(): Promise<void> {
    const { granter } = this.#parts;
    for (const leases of this.#stale) {
      // Of later ones it is not known whether the keys are theirs.
      if (leases.lock >= this.#leases.lock) continue;
      try {
        await granter.revoke(leases.lock);
        if (leases.guard !== undefined) await granter.revoke(leases.guard);
        this.#stale = this.#stale.filter((other) => other !== leases);
      } catch (error) {
        this.#deps.log.warn({ error }, `session ${this.id} could not end a lease it no longer needs`);
      }
    }
  }

  #until(untilMs: number): EtcdRequest {
    const timeoutMs = Math.max(1, untilMs - this.#deps.clock.monotonicMs());
    return { signal: this.#over.signal, timeoutMs };
  }

  /** A renewal that hangs is not waited for: the next may come through. */
  async #keepRenewed(): Promise<void> {
    const { random = Math.random, clock } = this.#deps;
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
      if (!this.#over.signal.aborted) this.#deps.log.warn({ error, remainingMs }, why);
      return 'failed';
    }
  }

  async #outcomeBy<T>(dueMs: number, attempt: Promise<T>): Promise<T | 'late'> {
    const { clock } = this.#deps;
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
