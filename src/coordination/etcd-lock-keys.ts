import { ABSENT, type Version } from './coordinator.ts';
import { GRPC } from './etcd-answer.ts';
import type { EtcdHttp, EtcdRequest } from './etcd-http.ts';
import { base64, guardKey, sessionKeys } from './etcd-keys.ts';
import { createdAt, deletionOf, putOf, type Row, rowOf, rowsAt, type TxnJson, versionIs } from './etcd-kv.ts';
import { firstLeaseOf, type SessionLeases, sessionIdOf } from './etcd-leases.ts';

export type Attempt =
  | { readonly kind: 'granted'; readonly token: Version }
  | { readonly kind: 'no-lease' }
  | {
      readonly kind: 'taken';
      readonly holder: Row | undefined;
      /** What has to change before it is worth another attempt, and since when. */
      readonly key: string;
      readonly revision: Version;
    };

/** Of a transaction of etcd's: it takes 128 operations. */
const KEYS_PER_MOVE = 50;

/**
 * A lock as etcd can have it: two keys that one transaction creates when neither is there. The first is the
 * lock itself, attached to the session's lease. etcd has no lock delay, so the second, the guard, is attached to
 * a lease that is kept alive together with the first and lasts longer by the delay: it keeps the others away
 * when the first is lost, and is deleted with it when it is released. The revision that created them is the
 * token; it stays when they are moved to other leases of the session.
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
      compare: [versionIs(key, ABSENT), versionIs(guard, ABSENT)],
      success: [
        putOf(key, owner, leases.lock),
        ...(leases.guard === undefined ? [] : [putOf(guard, owner, leases.guard)]),
      ],
      failure: [rowOf(key), rowOf(guard)],
    };
    const options = { signal, accept: [GRPC.notFound] };
    const { code, items } = await this.#http.exchange('/v3/kv/txn', [body], options);
    if (code === GRPC.notFound) return { kind: 'no-lease' };
    const answer = items[0] as TxnJson;
    const revision = BigInt(answer.header.revision);
    if (answer.succeeded) return { kind: 'granted', token: revision };
    const [[lock], [guarded]] = [rowsAt(answer, 0), rowsAt(answer, 1)];
    if (lock === undefined || lock.lease === 0n) {
      // Somebody has written over it: nobody's lock, and in the way.
      if (lock !== undefined && guarded === undefined) await this.#clear(lock, signal);
      return { kind: 'taken', holder: undefined, key: guarded ? guard : key, revision };
    }
    // By an earlier request of this same wait, whose answer was lost. (With an earlier lease it soon ends.)
    if (lock.lease === leases.lock) return { kind: 'granted', token: lock.created };
    return { kind: 'taken', holder: lock, key, revision };
  }

  /** Gives up what was granted with `token`, and nothing else: it may arrive late. */
  async release(key: string, token: Version): Promise<void> {
    const success = [key, guardKey(key)].map((each) => ({
      request_txn: { compare: [createdAt(each, token)], success: [deletionOf({ key: each })] },
    }));
    await this.#http.request('/v3/kv/txn', { success }, { repeatable: true });
  }

  /** The token of what a session holds of the lock. */
  async tokenOf(key: string, sessionId: string): Promise<Version | undefined> {
    const body = { success: [rowOf(key), rowOf(guardKey(key))] };
    const answer = await this.#http.request<TxnJson>('/v3/kv/txn', body, { repeatable: true });
    return [...rowsAt(answer, 0), ...rowsAt(answer, 1)].find(
      ({ lease }) => lease !== 0n && sessionIdOf(lease) === sessionId,
    )?.created;
  }

  /** Attaches the keys of a session, and of those locks that it holds among `keys`, to these later leases. */
  async move(keys: Iterable<string>, leases: SessionLeases, options: EtcdRequest): Promise<void> {
    const sessionId = sessionIdOf(leases.lock);
    const own = sessionKeys(sessionId);
    const first = firstLeaseOf(sessionId);
    const moves = [
      [own.lock, leases.lock] as const,
      [own.guard, leases.guard] as const,
      ...[...keys].flatMap((key) => [[key, leases.lock] as const, [guardKey(key), leases.guard] as const]),
    ].flatMap(([key, lease]) => {
      if (lease === undefined) return [];
      const compare = { key: base64(key), target: 'LEASE' };
      return {
        request_txn: {
          compare: [
            { ...compare, result: 'GREATER', lease: String(first - 1n) },
            // Only forwards: a request that arrives late must not undo a later one.
            { ...compare, result: 'LESS', lease: String(lease) },
          ],
          success: [{ request_put: { key: base64(key), ignore_value: true, lease: String(lease) } }],
        },
      };
    });
    for (let from = 0; from < moves.length; from += KEYS_PER_MOVE) {
      const success = moves.slice(from, from + KEYS_PER_MOVE);
      await this.#http.request('/v3/kv/txn', { success }, { ...options, repeatable: true });
    }
  }

  async #clear({ key, version }: Row, signal: AbortSignal): Promise<void> {
    const body = { compare: [versionIs(key, version)], success: [deletionOf({ key })] };
    await this.#http.request('/v3/kv/txn', body, { signal, repeatable: true });
  }
}
