import * as z from 'zod';
import type { CoordinatorDeps, Session, Version } from './coordinator.ts';
import type { EtcdHttp, EtcdRequest } from './etcd-http.ts';
import { sessionKeys } from './etcd-keys.ts';
import { type EtcdKv, putOf } from './etcd-kv.ts';
import {
  type EtcdLeases,
  generationOf,
  isSessionId,
  leasesOf,
  newSessionId,
  type SessionLeases,
} from './etcd-leases.ts';
import type { EtcdLockKeys } from './etcd-lock-keys.ts';
import { RenewedSession, type SessionLife } from './renewed-session.ts';

/** What sessions work with. */
export interface SessionTools {
  readonly http: EtcdHttp;
  readonly kv: EtcdKv;
  readonly granter: EtcdLeases;
  readonly locks: EtcdLockKeys;
}

interface SessionParts extends SessionTools, SessionLife {
  readonly leases: SessionLeases;
  readonly lockDelayMs: number;
  /** Of the leader, as a majority confirmed before the leases were granted. */
  readonly term: bigint;
  /** Of an earlier process with the same session: of no use any more. */
  readonly stale?: SessionLeases;
}

/** What a renewal may take of the TTL; others begin meanwhile. */
const RENEW_PART = 2 / 3;

/**
 * How far the leases of a process that carries on are ahead of those that it finds: the one before it may have
 * granted some on the way, about twelve in a TTL, and a request of its may still arrive.
 */
const GENERATIONS_AHEAD = 64;

/** Attached to a session's key, for people and for those who carry on. */
const sessionText = z.object({
  name: z.string(),
  /** As it was granted, and as it was asked for. */
  ttlMs: z.number(),
  askedMs: z.number(),
  lockDelayMs: z.number(),
});

/** Creates the leases of a session, and the keys that tell what they are. */
export async function openSession(
  tools: SessionTools,
  deps: CoordinatorDeps,
  options: {
    readonly ttlMs: number;
    readonly lockDelayMs: number;
    readonly name: string;
    readonly onEnd: (session: Session) => void;
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
  const told: z.infer<typeof sessionText> = { name, ttlMs, askedMs, lockDelayMs };
  const text = JSON.stringify(told);
  const success = [putOf(keys.lock, text, leases.lock)];
  if (leases.guard !== undefined) {
    await granter.grant(leases.guard, ttlMs + lockDelayMs);
    success.push(putOf(keys.guard, text, leases.guard));
  }
  await http.request('/v3/kv/txn', { success });
  return new EtcdSession({ ...tools, id, leases, ttlMs, lockDelayMs, createdMs, term, onEnd }, deps);
}

/**
 * Carries on with the session of a process that is dead, when it has these times and holds the lock of `key`. Its
 * keys are moved to leases which that process never had: whatever it asked for last, and may still arrive, concerns
 * others.
 */
export async function resumeSession(
  tools: SessionTools,
  deps: CoordinatorDeps,
  former: {
    readonly id: string;
    readonly key: string;
    readonly ttlMs: number;
    readonly lockDelayMs: number;
    readonly onEnd: (session: Session) => void;
  },
): Promise<{ readonly session: EtcdSession; readonly token: Version } | undefined> {
  const { kv, granter, locks } = tools;
  const { id, key, ttlMs: askedMs, lockDelayMs, onEnd } = former;
  if (!isSessionId(id)) return undefined;
  const keys = sessionKeys(id);
  const { term, rows } = await kv.read({ key: keys.lock });
  const [row] = rows;
  const told = row && toldBy(row.value);
  if (!row || told?.askedMs !== askedMs || told.lockDelayMs !== lockDelayMs) return undefined;
  const { ttlMs } = told;
  const hasGuard = lockDelayMs > 0;
  const generation = generationOf(row.lease);
  const leases = leasesOf(id, generation + GENERATIONS_AHEAD, hasGuard);
  const createdMs = deps.clock.monotonicMs();
  await grantBoth(granter, leases, { ttlMs, lockDelayMs });
  await locks.move([key], leases, {});
  const [moved] = (await kv.read({ key: keys.lock })).rows;
  const token = moved?.lease === leases.lock ? await locks.tokenOf(key, id) : undefined;
  const stale = leasesOf(id, generation, hasGuard);
  if (token === undefined) {
    await revokeAll(granter, [stale, leases]);
    return undefined;
  }
  const life = { id, ttlMs, createdMs, onEnd };
  return { session: new EtcdSession({ ...tools, ...life, leases, lockDelayMs, term, stale }, deps), token };
}

function toldBy(value: Buffer): z.infer<typeof sessionText> | undefined {
  try {
    return sessionText.safeParse(JSON.parse(value.toString('utf8'))).data;
  } catch {
    return undefined; // Somebody has written over it.
  }
}

async function grantBoth(
  granter: EtcdLeases,
  { lock, guard }: SessionLeases,
  { ttlMs, lockDelayMs, ...request }: { readonly ttlMs: number; readonly lockDelayMs: number } & EtcdRequest,
): Promise<void> {
  await Promise.all([
    granter.grant(lock, ttlMs, request),
    guard === undefined ? 0 : granter.grant(guard, ttlMs + lockDelayMs, request),
  ]);
}

/** The guards last: they must not go before the locks. */
async function revokeAll(granter: EtcdLeases, leases: readonly SessionLeases[]): Promise<void> {
  for (const { lock } of leases) await granter.revoke(lock);
  for (const { guard } of leases) if (guard !== undefined) await granter.revoke(guard);
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
 * A session of etcd's: leases.
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
export class EtcdSession extends RenewedSession {
  readonly #parts: SessionParts;
  /** Of the leader before whom its leases were granted, as a majority confirmed. */
  #term: bigint;
  #leases: SessionLeases;
  /** Of the leases granted last, even if the keys were perhaps not moved to them. */
  #generation: number;
  /** Leases that are of no use any more. */
  #stale: SessionLeases[];
  /** Counts the beginnings and the ends of moves. */
  #moves = 0;
  #moving: Promise<unknown> = Promise.resolve();
  #move: Promise<void> | undefined;

  constructor(parts: SessionParts, deps: CoordinatorDeps) {
    super(parts, deps);
    this.#parts = parts;
    this.#term = parts.term;
    this.#leases = parts.leases;
    this.#generation = generationOf(parts.leases.lock);
    this.#stale = parts.stale ? [parts.stale] : [];
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

  protected async endInStore(): Promise<void> {
    await revokeAll(this.#parts.granter, [...this.#stale, this.#leases]);
  }

  protected async unlock(key: string, token?: Version): Promise<void> {
    const { locks } = this.#parts;
    const held = token ?? (await locks.tokenOf(key, this.id));
    if (held !== undefined) await locks.release(key, held);
  }

  protected async renewOnce(): Promise<void> {
    const { granter, kv } = this.#parts;
    const leases = this.#leases;
    const sentMs = this.deps.clock.monotonicMs();
    const untilMs = Math.min(this.endsMs, sentMs + this.ttlMs * RENEW_PART);
    const ids = leases.guard === undefined ? [leases.lock] : [leases.lock, leases.guard];
    const alive = await granter.keepAlive(ids, this.#until(untilMs));
    const { term, rows } = await kv.read({ key: sessionKeys(this.id).lock }, this.#until(untilMs));
    // It has others by now, which another renewal has got.
    if (this.#leases !== leases) return;
    if (!alive || rows.length === 0) return this.lose('the coordinator does not know it any more');
    if (term === this.#term) this.extend(sentMs);
    else await (this.#move ??= this.#moveTo(term).finally(() => (this.#move = undefined)));
    await this.#revokeStale();
  }

  /** To new leases, of which only leaders from that term on know. */
  async #moveTo(term: bigint): Promise<void> {
    const { granter, locks, lockDelayMs } = this.#parts;
    const options = this.#until(this.endsMs);
    const sentMs = this.deps.clock.monotonicMs();
    this.#generation += 1;
    const leases = leasesOf(this.id, this.#generation, lockDelayMs > 0);
    this.#moves += 1;
    // Of no use either, unless the keys come to be theirs.
    this.#stale.push(leases);
    const moving = (async () => {
      await grantBoth(granter, leases, { ...options, ttlMs: this.ttlMs, lockDelayMs });
      await locks.move(this.lockKeys, leases, options);
    })();
    this.#moving = moving.catch(() => {});
    try {
      await moving;
      this.#stale = [...this.#stale.filter((other) => other !== leases), this.#leases];
      this.#leases = leases;
      this.#term = term;
      this.extend(sentMs);
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
        await revokeAll(granter, [leases]);
        this.#stale = this.#stale.filter((other) => other !== leases);
      } catch (error) {
        this.deps.log.warn({ error }, `session ${this.id} could not end a lease it no longer needs`);
      }
    }
  }

  #until(untilMs: number): EtcdRequest {
    const timeoutMs = Math.max(1, untilMs - this.deps.clock.monotonicMs());
    return { signal: this.over, timeoutMs };
  }
}
