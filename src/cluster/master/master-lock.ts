import { messageOf } from '../../core/errors.ts';
import type { Clock } from '../../core/clock.ts';
import { untilDeadline } from '../../core/deadline.ts';
import type {
  Coordinator,
  CoordinatorLog,
  Lock,
  Session,
  SessionOptions,
} from '../../coordination/coordinator.ts';

export interface MasterLockDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly coordinator: Coordinator;
  /** What outlives this process: the next one carries on, or at least need not wait for the session's end. */
  readonly memory?: LeaseMemory | undefined;
  /** Which life of the server the lock is held for, as in `Lease`. */
  readonly readServer: () => Promise<string>;
  /** Something changed: held, lost. */
  readonly onChange: () => void;
}

/** The session of one process of a node. */
export interface Lease {
  readonly sessionId: string;
  /**
   * While the lock may be held: the life of the server that it is held for, from one start to the next. A process
   * that finds the server in another life does not carry on: what was acknowledged there may be gone.
   */
  readonly server?: string | undefined;
}

export interface LeaseMemory {
  load(): Promise<Lease | undefined>;
  save(lease: Lease): Promise<void>;
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
  #server: string | undefined;
  #saved = '';
  #saving: Promise<unknown> = Promise.resolve();

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

  /**
   * What `work` gives; while the session lives, only until it may be over: whoever is write master has to keep clients
   * out by then, whatever he waits for.
   * @throws DEADLINE_EXCEEDED
   */
  async untilLost<T>(waitingFor: string, work: () => Promise<T>): Promise<T> {
    if (!this.alive) return work();
    return untilDeadline({ waitingFor, timeoutMs: this.remainingMs, clock: this.#deps.clock }, work);
  }

  get held(): Lock | undefined {
    return this.alive && this.#lock && !this.#lock.lost.aborted ? this.#lock : undefined;
  }

  /**
   * Before `connect`, of a process whose predecessor was killed: carries on with the lock that it held, under the same
   * token, if nobody had it in between and the server is still in the same life. Otherwise what that process left is
   * given up, so that others need not wait for it. Never throws: what fails here, `connect` gives up.
   */
  async resume(): Promise<boolean> {
    const { coordinator, memory, log, readServer } = this.#deps;
    const { key, node } = this.#options;
    try {
      const former = await memory?.load();
      if (former?.server === undefined || former.server !== (await readServer())) {
        await this.#endFormer();
        return false;
      }
      const resumed = await coordinator.resumeLock(key, former.sessionId, this.#sessionOptions);
      this.#loaded = true;
      if (!resumed) return false;
      this.#server = former.server;
      this.#adopt(resumed.session);
      this.#hold(resumed.lock);
      log.info({ node, term: String(resumed.lock.token) }, 'carries on with the lock of the write master');
      return true;
    } catch (error) {
      log.warn({ error: messageOf(error) }, 'a former lease is not carried on with');
      return false;
    }
  }

  /** @throws COORDINATOR_UNAVAILABLE and the like */
  async connect(): Promise<void> {
    if (this.alive) return;
    await this.#stopWaiting();
    this.#lock = undefined;
    await this.#endFormer();
    this.#adopt(await this.#deps.coordinator.session(this.#sessionOptions));
    await this.#save();
  }

  /** Now and then, while the lock is held: for the process that comes after this one. Never throws. */
  async remember(): Promise<void> {
    if (!this.held) return;
    try {
      this.#server = await this.#deps.readServer();
      await this.#save();
    } catch (error) {
      this.#deps.log.warn({ error: messageOf(error) }, 'the lease of the write master is not remembered');
    }
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
    if (!lock) return;
    await this.#forgetLock();
    await lock.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stopWaiting();
    if (this.#lock) {
      this.#lock = undefined;
      await this.#forgetLock();
    }
    await this.#session?.close();
    this.#session = undefined;
  }

  get #sessionOptions(): SessionOptions {
    const { ttlMs, lockDelayMs, node } = this.#options;
    return { ttlMs, lockDelayMs, name: `${node} write master` };
  }

  /** Of a process that is dead: this one has the node's folder now. */
  async #endFormer(): Promise<void> {
    if (this.#loaded) return;
    const former = await this.#deps.memory?.load();
    if (former !== undefined) await this.#deps.coordinator.endSession(former.sessionId);
    this.#loaded = true;
  }

  #adopt(session: Session): void {
    session.lost.addEventListener('abort', () => this.#deps.onChange(), { once: true });
    this.#session = session;
  }

  #hold(lock: Lock): void {
    lock.lost.addEventListener('abort', () => this.#deps.onChange(), { once: true });
    this.#lock = lock;
    this.#deps.onChange();
  }

  /** Before it is given up: nobody carries on with what is on its way to others. */
  async #forgetLock(): Promise<void> {
    await this.#save().catch((error: unknown) => {
      this.#deps.log.warn({ error: messageOf(error) }, 'the lease of the write master is not forgotten');
    });
  }

  /** One after the other; what is the same as before is not written again. */
  async #save(): Promise<void> {
    const { memory } = this.#deps;
    const session = this.#session;
    if (!memory || !session) return;
    const server = this.held ? this.#server : undefined;
    const lease: Lease = { sessionId: session.id, ...(server === undefined ? {} : { server }) };
    const text = JSON.stringify(lease);
    const turn = this.#saving.then(async () => {
      if (this.#saved === text) return;
      await memory.save(lease);
      this.#saved = text;
    });
    this.#saving = turn.catch(() => {});
    await turn;
  }

  async #wait(session: Session, signal: AbortSignal): Promise<void> {
    const { coordinator, log, clock } = this.#deps;
    const { key, node } = this.#options;
    try {
      this.#hold(await coordinator.lock(key, session, { owner: node, signal }));
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
