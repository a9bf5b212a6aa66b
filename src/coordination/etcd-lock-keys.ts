import type { Version } from './coordinator.ts';
import { GRPC } from './etcd-answer.ts';
import type { EtcdHttp } from './etcd-http.ts';
import { base64, guardKey } from './etcd-keys.ts';
import { deletionOf, putOf, type Row, rowOf, rowsAt, type TxnJson, versionIs } from './etcd-kv.ts';

/** The leases of a session. */
export interface SessionLeases {
  /** With it goes the lock. */
  readonly lock: bigint;
  /** Outlives the other by the lock delay; none when there is no delay. */
  readonly guard: bigint | undefined;
}

export type Attempt =
  | { readonly kind: 'granted'; readonly token: Version }
  | { readonly kind: 'no-session' }
  | {
      readonly kind: 'taken';
      readonly holder: Row | undefined;
      /** What has to change before it is worth another attempt, and since when. */
      readonly key: string;
      readonly revision: Version;
    };

/**
 * A lock as etcd can have it: two keys that one transaction creates when neither is held. The first is the
 * lock itself, attached to the session's lease. etcd has no lock delay, so the second, the guard, is attached to
 * a lease that is kept alive together with the first and lasts longer by the delay: it keeps the others away
 * when the first is lost, and is deleted with it when it is released. Both have the revision of that
 * transaction, which is the token.
 */
export class EtcdLockKeys {
  readonly #http: EtcdHttp;

  constructor(http: EtcdHttp) {
    this.#http = http;
  }

  async acquire(
    key: string,
    leases: SessionLeases,
    { owner, signal }: { readonly owner: string; readonly signal: AbortSignal },
  ): Promise<Attempt> {
    const guard = guardKey(key);
    const body = {
      // No lease: nobody's, even if somebody has written to it.
      compare: [{ key: base64(key), target: 'LEASE', result: 'EQUAL', lease: '0' }, versionIs(guard, 0n)],
      success: [
        putOf(key, owner, leases.lock),
        ...(leases.guard === undefined ? [] : [putOf(guard, owner, leases.guard)]),
      ],
      failure: [rowOf(key), rowOf(guard)],
    };
    const { code, items } = await this.#http.exchange('/v3/kv/txn', [body], {
      signal,
      accept: [GRPC.notFound],
    });
    if (code === GRPC.notFound) return { kind: 'no-session' };
    const answer = items[0] as TxnJson;
    const revision = BigInt(answer.header.revision);
    if (answer.succeeded) return { kind: 'granted', token: revision };
    const [holder] = rowsAt(answer, 0);
    // By an earlier request of this same wait, whose answer was lost.
    if (holder?.lease === leases.lock) return { kind: 'granted', token: holder.version };
    const held = holder !== undefined && holder.lease !== 0n;
    return { kind: 'taken', holder: held ? holder : undefined, key: held ? key : guard, revision };
  }

  /** Gives up what was granted with `token`, and nothing else: it may arrive late. */
  async release(key: string, token: Version): Promise<void> {
    const success = [key, guardKey(key)].map((each) => ({
      request_txn: { compare: [versionIs(each, token)], success: [deletionOf({ key: each })] },
    }));
    await this.#http.request('/v3/kv/txn', { success }, { repeatable: true });
  }

  /** The token of what these leases hold of the lock. */
  async tokenOf(key: string, leases: SessionLeases): Promise<Version | undefined> {
    const body = { success: [rowOf(key), rowOf(guardKey(key))] };
    const answer = await this.#http.request<TxnJson>('/v3/kv/txn', body, { repeatable: true });
    const [lock] = rowsAt(answer, 0);
    if (lock?.lease === leases.lock) return lock.version;
    const [guard] = rowsAt(answer, 1);
    return guard !== undefined && guard.lease === leases.guard ? guard.version : undefined;
  }
}
