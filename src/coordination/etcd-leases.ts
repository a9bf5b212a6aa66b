import { randomBytes } from 'node:crypto';
import { GRPC } from './etcd-answer.ts';
import type { EtcdHttp, EtcdRequest } from './etcd-http.ts';

interface LeaseJson {
  readonly ID: string;
  /** Seconds; left out when there is no such lease. */
  readonly TTL?: string;
}

/** Leases in pairs of our own naming: who knows the first (even) knows the second. */
export function newLeaseId(): bigint {
  return (randomBytes(8).readBigUInt64BE() >> 3n) * 2n + 2n;
}

export class EtcdLeases {
  readonly #http: EtcdHttp;

  constructor(http: EtcdHttp) {
    this.#http = http;
  }

  /** For how long: at least `ttlMs`, in whole seconds, and no less than etcd's own least (1.5 election timeouts). */
  async grant(id: bigint, ttlMs: number): Promise<number> {
    const body = { ID: String(id), TTL: String(Math.ceil(ttlMs / 1000)) };
    const { TTL = '0' } = await this.#http.request<LeaseJson>('/v3/lease/grant', body);
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
    const { items } = await this.#http.exchange('/v3/lease/keepalive', bodies, {
      ...options,
      repeatable: true,
    });
    const alive = (items as readonly { readonly result: LeaseJson }[]).filter(
      ({ result }) => Number(result.TTL ?? 0) > 0,
    );
    if (items.length < ids.length) throw this.#http.unavailable('not all leases were kept alive');
    return alive.length === ids.length;
  }

  /** Ends it, and deletes the keys that are attached to it. */
  async revoke(id: bigint): Promise<void> {
    const body = { ID: String(id) };
    // Gone before is gone.
    const options = { repeatable: true, accept: [GRPC.notFound] };
    await this.#http.exchange('/v3/lease/revoke', [body], options);
  }
}
