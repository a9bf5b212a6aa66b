import { messageOf } from '../../core/errors.ts';
import type { Clock } from '../../core/clock.ts';
import type { Coordinator, CoordinatorLog, Lock, Session } from '../../coordination/coordinator.ts';

export interface MasterLockDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly coordinator: Coordinator;
  /** Where the session's id outlives this process, so that the next one need not wait for its end. */
  readonly memory?: SessionMemory | undefined;
  /** Something changed: held, lost. */
  readonly onChange: () => void;
}

export interface SessionMemory {
  load(): Promise<string | undefined>;
  save(sessionId: string): Promise<void>;
}

export interface MasterLockOptions {
  readonly key: string;
  readonly node: string;
  readonly ttlMs: number;
  readonly lockDelayMs: number;
}

/** The session of one member, and its part in who gets the master's lock. */
export class MasterLock implements AsyncDisposable {
  readonly #deps: MasterLockDeps;
  readonly #options: MasterLockOptions;
  #session: Session | undefined;
  #lock: Lock | undefined;
  #waiting: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;
  #loaded = false;

  constructor(deps: MasterLockDeps, options: MasterLockOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Whether the session certainly lives at this moment. */
  get alive(): boolean {
    return this.#session !== undefined && this.#session.remainingMs() > 0;
  }

  /** For how long it certainly does. */
  get remainingMs(): number {
    return this.#session?.remainingMs() ?? 0;
  }

  get held(): Lock | undefined {
    return this.alive && this.#lock && !this.#lock.lost.aborted ? this.#lock : undefined;
  }

  /** @throws COORDINATOR_UNAVAILABLE and the like */
  async connect(): Promise<void> {
    if (this.alive) return;
    await this.#stopWaiting();
    this.#lock = undefined;
    const { coordinator, memory, onChange } = this.#deps;
    if (!this.#loaded) {
      const former = await memory?.load();
      // Of a process that is dead: this one has the node's folder now.
      if (former !== undefined) await coordinator.endSession(former);
      this.#loaded = true;
    }
    const { ttlMs, lockDelayMs, node } = this.#options;
    const session = await coordinator.session({ ttlMs, lockDelayMs, name: `${node} write master` });
    session.lost.addEventListener('abort', () => onChange(), { once: true });
    this.#session = session;
    await memory?.save(session.id);
  }

  /** Waits for the lock from now on, or no more. */
  stand(wanted: boolean): void {
    if (!wanted) {
      this.#waiting?.stop.abort();
      return;
    }
    const session = this.#session;
    if (!session || !this.alive || this.held || this.#waiting) return;
    const stop = new AbortController();
    const done = this.#wait(session, stop.signal).finally(() => {
      this.#waiting = undefined;
    });
    this.#waiting = { stop, done };
  }

  /** The next may have it at once. */
  async release(): Promise<void> {
    await this.#stopWaiting();
    const lock = this.#lock;
    this.#lock = undefined;
    await lock?.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stopWaiting();
    await this.#session?.close();
    this.#session = undefined;
    this.#lock = undefined;
  }

  async #wait(session: Session, signal: AbortSignal): Promise<void> {
    const { coordinator, log, onChange, clock } = this.#deps;
    const { key, node } = this.#options;
    try {
      const lock = await coordinator.lock(key, session, { owner: node, signal });
      lock.lost.addEventListener('abort', () => onChange(), { once: true });
      this.#lock = lock;
      onChange();
    } catch (error) {
      if (signal.aborted || session.lost.aborted) return;
      log.warn({ error: messageOf(error) }, 'waiting for the lock of the write master failed');
      await clock.sleep(RETRY_MS, signal).catch(() => {});
    }
  }

  async #stopWaiting(): Promise<void> {
    this.#waiting?.stop.abort();
    await this.#waiting?.done;
  }
}

const RETRY_MS = 200;
