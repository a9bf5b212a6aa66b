import { randomBytes } from 'node:crypto';
import { GRPC } from './etcd-answer.ts';
import type { EtcdHttp, EtcdRequest } from './etcd-http.ts';

interface LeaseJson {
  readonly ID: string;
  /** Seconds; left out when there is no such lease. */
  readonly TTL?: string;
}

/** The leases of a session. */
export interface SessionLeases {
  /** With it go the locks. */
  readonly lock: bigint;
  /** Outlives the other by the lock delay; none when there is no delay. */
  readonly guard: bigint | undefined;
}

/**
 * The numbers of leases are ours to choose, so that they say whose they are, whichever a session has by now:
 *
 *     62            17 16                1  0
 *     ┌───────────────┬──────────────────┬───┐
 *     │ session       │ generation       │ g │   g: for guards
 *     └───────────────┴──────────────────┴───┘
 */
const GENERATION_BITS = 16n;
const NUMBERS = 1n << (GENERATION_BITS + 1n);

/** Twelve hexadecimal digits, not all of them 0. */
export function newSessionId(): string {
  const number = (randomBytes(8).readBigUInt64BE() >> (64n - 45n)) + 1n;
  return number.toString(16).padStart(12, '0');
}

export function isSessionId(text: string): boolean {
  return /^[0-9a-f]{12}$/.test(text);
}

/** Of its lease, or of that of its guards. */
export function sessionIdOf(lease: bigint): string {
  return (lease / NUMBERS).toString(16).padStart(12, '0');
}

/** The least of the numbers that the leases of a session have. */
export function firstLeaseOf(id: string): bigint {
  return BigInt(`0x${id}`) * NUMBERS;
}

/** Of the leases that `lease` is one of. */
export function generationOf(lease: bigint): number {
  return Number((lease % NUMBERS) >> 1n);
}

export function leasesOf(id: string, generation: number, hasGuard: boolean): SessionLeases {
  const lock = firstLeaseOf(id) + (BigInt(generation) % (1n << GENERATION_BITS)) * 2n;
  return { lock, guard: hasGuard ? lock + 1n : undefined };
}

/** Of no session. */
export function newLeaseId(): bigint {
  return (randomBytes(8).readBigUInt64BE() >> 2n) + 1n;
}

export class EtcdLeases {
  readonly #http: EtcdHttp;

  constructor(http: EtcdHttp) {
    this.#http = http;
  }

  /** For how long: at least `ttlMs`, in whole seconds, and no less than etcd's own least (1.5 election timeouts). */
  async grant(id: bigint, ttlMs: number, options: EtcdRequest = {}): Promise<number> {
    const body = { ID: String(id), TTL: String(Math.ceil(ttlMs / 1000)) };
    const { TTL = '0' } = await this.#http.request<LeaseJson>('/v3/lease/grant', body, options);
    return Number(TTL) * 1000;
  }

  /** Grants it, or keeps it alive if it lives. */
  async ensure(id: bigint, ttlMs: number, signal: AbortSignal): Promise<void> {
    const body = { ID: String(id), TTL: String(Math.ceil(ttlMs / 1000)) };
    const options = { signal, repeatable: true, accept: [GRPC.failedPrecondition] };
    const { code } = await this.#http.exchange('/v3/lease/grant', [body], options);
    if (code !== GRPC.ok) await this.keepAlive([id], { signal });
  }

  /** True when all of them live, and live anew for their TTL. */
  async keepAlive(ids: readonly bigint[], options: EtcdRequest): Promise<boolean> {
    const bodies = ids.map((id) => ({ ID: String(id) }));
    const repeatable = { ...options, repeatable: true };
    const { items } = await this.#http.exchange('/v3/lease/keepalive', bodies, repeatable);
    if (items.length < ids.length) throw this.#http.unavailable('not all leases were kept alive');
    const answers = items as readonly { readonly result: LeaseJson }[];
    return answers.every(({ result }) => Number(result.TTL ?? 0) > 0);
  }

  /** Ends it, and deletes the keys that are attached to it. */
  async revoke(id: bigint): Promise<void> {
    const body = { ID: String(id) };
    // Gone before is gone.
    const options = { repeatable: true, accept: [GRPC.notFound] };
    await this.#http.exchange('/v3/lease/revoke', [body], options);
  }
}
