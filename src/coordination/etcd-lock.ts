import type { CoordinatorDeps } from './coordinator.ts';
import type { EtcdHttp } from './etcd-http.ts';
import type { Attempt, EtcdLockKeys } from './etcd-lock-keys.ts';
import type { EtcdSession } from './etcd-session.ts';
import { changesAfter, WATCH_CHECK_MS } from './etcd-watch.ts';
import { LockQueue, lockTimeout, type LockAnswer, type LockWait } from './lock-queue.ts';

type Taken = Extract<Attempt, { kind: 'taken' }>;
type Wait = LockWait<EtcdSession>;

/** Asks for the keys of a lock until they are granted, and again whenever the one in the way has changed. */
export class EtcdLocks extends LockQueue<EtcdSession> {
  readonly #http: EtcdHttp;
  readonly #keys: EtcdLockKeys;

  constructor(http: EtcdHttp, keys: EtcdLockKeys, deps: CoordinatorDeps) {
    super(deps);
    this.#http = http;
    this.#keys = keys;
  }

  protected async attempt(wait: Wait): Promise<LockAnswer> {
    const { key, session, options, signal } = wait;
    wait.inDoubt += 1;
    const { result, moved } = await session.withLeases((leases) =>
      this.#keys.acquire(key, leases, { owner: options.owner, signal }),
    );
    // Whether what was granted has come along, the next attempt shows.
    if (moved) return { wait: () => Promise.resolve() };
    wait.inDoubt -= 1;
    if (result.kind === 'no-lease') {
      session.lose('the coordinator does not know it any more');
      session.throwIfLost();
    }
    if (result.kind === 'granted') return { token: result.token };
    return { wait: () => (result.kind === 'taken' ? this.#untilChanged(wait, result) : Promise.resolve()) };
  }

  /** Returns when it is worth asking again, and now and then besides: a watch may be dead and not know it. */
  async #untilChanged(wait: Wait, { holder, key, revision }: Taken): Promise<void> {
    const leftMs = this.leftMs(wait);
    if (leftMs <= 0) throw lockTimeout(wait, holder?.value.toString());
    const over = new AbortController();
    const end = (): void => over.abort();
    wait.signal.addEventListener('abort', end, { once: true });
    const { clock } = this.deps;
    const timer = clock.sleep(Math.min(leftMs, WATCH_CHECK_MS), over.signal).then(end, () => {});
    try {
      wait.signal.throwIfAborted();
      const changes = changesAfter(this.#http, { revision }, { range: { key }, signal: over.signal });
      for await (const _ of changes) break;
    } catch (error) {
      // Its time is over, which is no error.
      if (!over.signal.aborted || wait.signal.aborted) throw error;
    } finally {
      wait.signal.removeEventListener('abort', end);
      end();
      await timer;
    }
  }
}
