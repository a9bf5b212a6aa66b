import type { Clock } from '../core/clock.ts';

/**
 * What a node asks of the coordinator, whichever kind it is. `testCoordinator` in `contract.suite.ts` is
 * this contract as tests. The guarantees:
 *
 * - **Sessions.** The coordinator ends a session no earlier than one TTL after its last renewal, and by two
 *   TTLs after it. `Session.lost` fires before the first of these: whoever listens stops in time. Only a
 *   process that was stopped as a whole (SIGSTOP, a paused machine) learns late.
 * - **Locks.** A lock can be lost at any time, with its session. Released explicitly, it is granted to the
 *   next at once; lost, only after the session's lock delay. (Consul forgets running delays when its own
 *   leader changes.)
 * - **Locks are advisory.** What may be done only under a lock is written in a `txn` that has `held(lock)`
 *   among its comparisons: then a former holder who does not know it yet is refused. Tokens of one key grow
 *   strictly from holder to holder.
 * - **The key of a lock holds nothing but the lock.** State lives in other keys: a plain write to the key of
 *   a lock invalidates the token, and so stops its holder.
 * - **Reads.** `get` and `list` show every write acknowledged before the call. What `watch` shows may be
 *   late and may skip values, and is never older than what it showed before.
 * - **Writes** are atomic and durable when they return. When one fails with COORDINATOR_UNAVAILABLE it may
 *   have taken effect or may yet: read before repeating it, or make it conditional. Nothing is repeated
 *   behind the caller's back but what may be repeated.
 */
export interface Coordinator extends AsyncDisposable {
  readonly kind: CoordinatorKind;
  readonly bounds: CoordinatorBounds;

  /**
   * Opens a session and keeps it alive until it is closed or lost.
   * @throws INVALID_ARGUMENT when a time is outside of `bounds`
   * @throws COORDINATOR_UNAVAILABLE, COORDINATOR_REFUSED
   */
  session(options: SessionOptions): Promise<Session>;

  /**
   * Releases the locks of a session that an earlier run of this same node left, and ends it: a node that
   * comes back need not wait for itself. Only for a session whose process is known to be dead.
   */
  endSession(sessionId: string): Promise<void>;

  /**
   * Carries on with the lock of `key` that an earlier run of this same node holds, under the token that it was
   * granted with: nobody else had it in between. Undefined when that session is over, does not hold it, or was
   * opened with other times; what is left of it is then ended, as by `endSession`. Only for a session whose
   * process is known to be dead.
   */
  resumeLock(key: string, sessionId: string, options: SessionOptions): Promise<ResumedLock | undefined>;

  /**
   * Takes the lock of `key`, waiting for others to give it up. No order among those who wait.
   * @throws LOCK_TIMEOUT when `waitMs` passed; the message names the holder
   * @throws SESSION_LOST when the session ended before the lock was granted
   * @throws INVALID_ARGUMENT when this session holds the lock or waits for it already: one holder within a
   *   process, too
   * @throws the reason of `signal` when that was aborted
   */
  lock(key: string, session: Session, options: LockOptions): Promise<Lock>;

  get(key: string): Promise<Entry | undefined>;
  /** All entries whose key starts with `prefix`, in the order of their keys. End it with a slash. */
  list(prefix: string): Promise<readonly Entry[]>;
  /**
   * False when `ifVersion` is not the key's version: a result, not an error.
   * @throws VALUE_TOO_LARGE before anything is sent
   */
  put(key: string, value: Value, options?: WriteOptions): Promise<boolean>;
  /** True when the key does not exist afterwards, gone before or not; false when `ifVersion` is not its version. */
  delete(key: string, options?: WriteOptions): Promise<boolean>;
  /**
   * All operations, or none when a comparison fails.
   * @throws VALUE_TOO_LARGE when it is beyond `bounds`, before anything is sent
   */
  txn(compare: readonly Comparison[], operations: readonly Operation[]): Promise<TxnResult>;

  /**
   * The entries under `prefix`, now and after each change, until `signal` is aborted (which ends the
   * iteration without an error). Level-triggered: the latest state, in between values may be skipped.
   * Outlives broken connections and restarts of the coordinator; those are told to `log`.
   * @throws COORDINATOR_REFUSED when the coordinator does not let us read
   */
  watch(prefix: string, signal: AbortSignal): AsyncIterable<readonly Entry[]>;

  /** Makes the service known and keeps its check up to date until it is deregistered. */
  register(service: Service, check: ServiceCheck): Promise<Registration>;
  /** Instances in the order of their ids. */
  services(name: string, options?: ServicesOptions): Promise<readonly ServiceInstance[]>;
  /** As `watch`, for `services`. */
  watchServices(
    name: string,
    options: ServicesOptions & { readonly signal: AbortSignal },
  ): AsyncIterable<readonly ServiceInstance[]>;

  /** Who answers, for `varve doctor` and status pages. */
  status(): Promise<CoordinatorStatus>;
}

export type CoordinatorKind = 'embedded' | 'consul' | 'etcd';

export interface CoordinatorBounds {
  readonly minTtlMs: number;
  readonly maxTtlMs: number;
  /** Of a session that asks for none. */
  readonly lockDelayMs: number;
  readonly maxLockDelayMs: number;
  readonly maxValueBytes: number;
  /** Comparisons and operations together. */
  readonly maxTxnOperations: number;
  /** Of a transaction as sent: a value takes 4/3 of its size there. */
  readonly maxTxnBytes: number;
}

export interface CoordinatorDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  /** Uniform in [0, 1). */
  readonly random?: () => number;
}

/** A pino logger is one. */
export interface CoordinatorLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export type Value = string | Uint8Array;

/** Grows with every change of a key, also across deletion and new creation. */
export type Version = bigint;

/** The version of a key that does not exist: `ifVersion: ABSENT` creates, and never overwrites. */
export const ABSENT: Version = 0n;

export interface Entry {
  readonly key: string;
  readonly value: Buffer;
  readonly version: Version;
  /** The session that holds this key's lock. */
  readonly holder: string | undefined;
}

export interface WriteOptions {
  readonly ifVersion?: Version;
}

export type Comparison =
  | { readonly kind: 'version'; readonly key: string; readonly version: Version }
  | { readonly kind: 'absent'; readonly key: string }
  | { readonly kind: 'held'; readonly key: string; readonly token: Version };

export type Operation =
  | { readonly kind: 'put'; readonly key: string; readonly value: Value }
  | { readonly kind: 'delete'; readonly key: string }
  | { readonly kind: 'delete-prefix'; readonly prefix: string };

export type TxnResult =
  | {
      readonly committed: true;
      /** Of the keys that were put. */ readonly versions: ReadonlyMap<string, Version>;
    }
  | {
      readonly committed: false;
      /** Positions in `compare`, ascending. */ readonly failed: readonly number[];
    };

export interface SessionOptions {
  readonly ttlMs: number;
  /** For people who look at the coordinator. */
  readonly name: string;
  /** How long the locks of this session, once lost, are granted to nobody; `bounds.lockDelayMs` by default. */
  readonly lockDelayMs?: number;
}

export interface Session extends AsyncDisposable {
  readonly id: string;
  readonly ttlMs: number;
  /** Fires once, with SESSION_LOST as its reason; not when the session is closed. */
  readonly lost: AbortSignal;
  /** For how long the session certainly lives from now on; 0 when it is lost. */
  remainingMs(): number;
  /**
   * Renews now rather than when the next renewal is due.
   * @throws SESSION_LOST, COORDINATOR_UNAVAILABLE
   */
  renew(): Promise<void>;
  /** Releases its locks, then ends it: they are granted to others at once. Never throws. */
  close(): Promise<void>;
}

export interface LockOptions {
  /** Who holds it, for people and for LOCK_TIMEOUT's message. */
  readonly owner: string;
  /** 0 tries once; without it the wait ends only by `signal` or with the session. */
  readonly waitMs?: number;
  readonly signal?: AbortSignal;
}

export interface Lock extends AsyncDisposable {
  readonly key: string;
  readonly sessionId: string;
  /** Greater than that of every earlier holder of this key. */
  readonly token: Version;
  /** That of the session. */
  readonly lost: AbortSignal;
  /**
   * Gives the lock up; the next may have it at once. Does nothing when it is lost or released already. When
   * the coordinator cannot be reached this resolves all the same, and the session repeats it until it is done.
   */
  release(): Promise<void>;
}

export interface ResumedLock {
  readonly session: Session;
  readonly lock: Lock;
}

/** The comparison that only the holder of `lock` passes, and only until it is released or lost. */
export function held(lock: Pick<Lock, 'key' | 'token'>): Comparison {
  return { kind: 'held', key: lock.key, token: lock.token };
}

export interface Service {
  /** Unique among all services of the coordinator. */
  readonly id: string;
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly tags?: readonly string[];
  readonly meta?: Readonly<Record<string, string>>;
}

export type ServiceStatus = 'passing' | 'warning' | 'critical';

export type ServiceCheck = (
  | {
      /** Critical unless this process is alive: what was reported last is repeated every third of `ttlMs`. */
      readonly kind: 'ttl';
      readonly ttlMs: number;
    }
  | {
      /** The coordinator asks: 2xx is passing, 429 a warning, anything else critical. */
      readonly kind: 'http';
      readonly url: string;
      readonly intervalMs: number;
      readonly timeoutMs: number;
    }
) & {
  /** Until the first report, or the first request; critical by default. */
  readonly status?: ServiceStatus;
  /** A service critical for so long is deregistered. Consul: at least a minute. */
  readonly deregisterAfterMs?: number;
};

export interface Registration extends AsyncDisposable {
  readonly service: Service;
  /**
   * Sets the status of a TTL check, now and in the repetitions.
   * @throws COORDINATOR_UNAVAILABLE when it was not told; the repetitions will
   */
  report(status: ServiceStatus, note?: string): Promise<void>;
  /** Removes the service, and ends the repetitions even when the coordinator does not answer. */
  deregister(): Promise<void>;
}

export interface ServicesOptions {
  /** Only those whose every check passes. */
  readonly passing?: boolean;
}

export interface ServiceInstance {
  readonly id: string;
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly tags: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
  /** The worst of its checks. */
  readonly status: ServiceStatus;
}

export interface CoordinatorStatus {
  readonly kind: CoordinatorKind;
  /** `host:port` of the leading server; undefined while there is none. */
  readonly leader: string | undefined;
  readonly version: string;
}
