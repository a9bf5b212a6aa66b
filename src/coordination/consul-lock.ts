import { assert } from '../core/errors.ts';
import type { ConsulKv, TxnJson } from './consul-kv.ts';
import type { ConsulSession } from './consul-session.ts';
import { WATCH_WAIT_MS } from './consul-watch.ts';
import type { CoordinatorDeps, Version } from './coordinator.ts';
import { LockQueue, lockTimeout, type LockAnswer, type LockWait } from './lock-queue.ts';

/** While a lock delay runs nothing tells when it is over. */
const DELAY_POLL_MS = 300;

type Wait = LockWait<ConsulSession>;

/**
 * Locks as Consul has them: `lock` in a transaction, whose answer holds the index of the change that granted
 * it. That index is the token: it is drawn from one counter for all changes, so it grows from holder to
 * holder even when the key is deleted in between, and it stops being the key's index with any other write to
 * it. (Consul's LockIndex starts again at 1 after a deletion, and at 0 after a plain write.)
 */
export class ConsulLocks extends LockQueue<ConsulSession> {
  readonly #kv: ConsulKv;

  constructor(kv: ConsulKv, deps: CoordinatorDeps) {
    super(deps);
    this.#kv = kv;
  }

  protected async attempt(wait: Wait): Promise<LockAnswer> {
    const { key, session, options, signal } = wait;
    const Value = Buffer.from(options.owner).toString('base64');
    wait.inDoubt += 1;
    const answer = await this.#kv.send([{ Verb: 'lock', Key: key, Value, Session: session.id }], signal);
    wait.inDoubt -= 1;
    if (answer.Errors?.some(({ What }) => What.includes('invalid session'))) {
      session.lose('the coordinator does not know it any more');
    }
    session.throwIfLost();
    const token = tokenOf(answer);
    // Somebody else has the lock, or its delay runs.
    return token === undefined ? { wait: () => this.#untilFree(wait) } : { token };
  }

  /** Returns when it is worth asking again. */
  async #untilFree(wait: Wait): Promise<void> {
    const { key, session, signal } = wait;
    let index = 0;
    for (;;) {
      const leftMs = this.leftMs(wait);
      const waitMs = Math.min(WATCH_WAIT_MS, Math.max(1, leftMs));
      const reading = await this.#kv.read({ key }, { index, waitMs, signal });
      const entry = reading.entries[0];
      if (leftMs <= 0)
        throw lockTimeout(wait, entry?.holder === undefined ? undefined : entry.value.toString('utf8'));
      if (entry?.holder === undefined || entry.holder === session.id) break;
      index = reading.index < index ? 0 : Math.max(1, reading.index);
    }
    if (index === 0) await this.sleep(wait, DELAY_POLL_MS * (0.5 + (this.deps.random ?? Math.random)()));
  }
}

function tokenOf(answer: TxnJson): Version | undefined {
  if (answer.Errors && answer.Errors.length > 0) return undefined;
  const row = answer.Results?.[0]?.KV;
  assert(row !== undefined, 'a lock that was granted comes with its key');
  return BigInt(row.ModifyIndex);
}
