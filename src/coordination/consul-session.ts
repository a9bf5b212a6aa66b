import type { ConsulHttp } from './consul-http.ts';
import type { ConsulKv } from './consul-kv.ts';
import type { CoordinatorDeps, Version } from './coordinator.ts';
import { RenewedSession, type SessionLife } from './renewed-session.ts';

export interface SessionParts extends SessionLife {
  readonly http: ConsulHttp;
  readonly kv: ConsulKv;
}

/** A session of Consul's. Its server counts the TTL from when a renewal arrives. */
export class ConsulSession extends RenewedSession {
  readonly #parts: SessionParts;

  constructor(parts: SessionParts, deps: CoordinatorDeps) {
    super(parts, deps);
    this.#parts = parts;
  }

  protected async renewOnce(): Promise<void> {
    const sentMs = this.deps.clock.monotonicMs();
    const timeoutMs = Math.max(1, Math.min(this.endsMs - sentMs, this.ttlMs / 3));
    const path = `/v1/session/renew/${this.id}`;
    const options = { signal: this.over, timeoutMs, accept: [404 as const] };
    const answer = await this.#parts.http.request('PUT', path, options);
    if (answer.status === 404) this.lose('the coordinator does not know it any more');
    else this.extend(sentMs);
  }

  protected async endInStore(): Promise<void> {
    // Ended with its locks, it would hold them back for the lock delay.
    for (const key of this.lockKeys) await this.unlock(key);
    await this.#parts.http.request('PUT', `/v1/session/destroy/${this.id}`);
  }

  protected async unlock(key: string, token?: Version): Promise<void> {
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
}
