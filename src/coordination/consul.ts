import { VarveError } from '../core/errors.ts';
import { type ConsulEndpoint, ConsulHttp } from './consul-http.ts';
import { ConsulKv } from './consul-kv.ts';
import { ConsulLocks } from './consul-lock.ts';
import { ConsulRegistration, readServices } from './consul-services.ts';
import { ConsulSession } from './consul-session.ts';
import type { SessionLife } from './renewed-session.ts';
import { checkedTimes } from './session-times.ts';
import { follow, WATCH_WAIT_MS } from './consul-watch.ts';
import type {
  Comparison,
  Coordinator,
  CoordinatorBounds,
  CoordinatorDeps,
  CoordinatorKind,
  CoordinatorStatus,
  Entry,
  Lock,
  LockOptions,
  Operation,
  Registration,
  ResumedLock,
  Service,
  ServiceCheck,
  ServiceInstance,
  ServicesOptions,
  Session,
  SessionOptions,
  TxnResult,
  Value,
  WriteOptions,
} from './coordinator.ts';
import { formatDurationMs, parseDurationMs } from './duration.ts';
import { checkKey, checkPrefix } from './key.ts';

/** As renewals answer it. */
interface SessionJson {
  readonly TTL: string;
  /** Nanoseconds. */
  readonly LockDelay: number;
}

const NS_PER_MS = 1e6;

/** Consul answers anything else with an error of its own. */
function isSessionId(text: string): boolean {
  return /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text);
}

/** The contract over Consul 1.10's HTTP API, which the embedded coordinator serves as well. */
export class ConsulCoordinator implements Coordinator {
  readonly kind: CoordinatorKind;
  readonly bounds: CoordinatorBounds;
  readonly #deps: CoordinatorDeps;
  readonly #http: ConsulHttp;
  readonly #kv: ConsulKv;
  readonly #locks: ConsulLocks;
  readonly #open = new Set<Session | Registration>();

  /** Opens no connection. @throws INVALID_ARGUMENT for a wrong URL */
  constructor(
    what: { readonly kind: CoordinatorKind; readonly bounds: CoordinatorBounds },
    endpoint: ConsulEndpoint,
    deps: CoordinatorDeps,
  ) {
    this.kind = what.kind;
    this.bounds = what.bounds;
    this.#deps = deps;
    this.#http = new ConsulHttp(endpoint, deps);
    this.#kv = new ConsulKv(this.#http, what.bounds);
    this.#locks = new ConsulLocks(this.#kv, deps);
  }

  async session(options: SessionOptions): Promise<Session> {
    const { ttlMs, lockDelayMs } = checkedTimes(this.bounds, options);
    const createdMs = this.#deps.clock.monotonicMs();
    const body = JSON.stringify({
      Name: options.name,
      TTL: formatDurationMs(ttlMs),
      LockDelay: formatDurationMs(lockDelayMs),
      Behavior: 'release',
      // Only the TTL ends it: with checks of the node it could end at any time.
      Checks: [],
    });
    const answer = await this.#http.request('PUT', '/v1/session/create', { body });
    const { ID: id } = this.#http.parse<{ readonly ID: string }>(answer);
    return this.#opened({ id, ttlMs, createdMs });
  }

  async endSession(sessionId: string): Promise<void> {
    if (!isSessionId(sessionId)) return;
    for (const { key, holder, version } of await this.#kv.list('')) {
      if (holder !== sessionId) continue;
      await this.#kv.send([
        { Verb: 'check-index', Key: key, Index: Number(version) },
        { Verb: 'unlock', Key: key, Session: sessionId },
      ]);
    }
    await this.#http.request('PUT', `/v1/session/destroy/${sessionId}`);
  }

  async resumeLock(
    key: string,
    sessionId: string,
    options: SessionOptions,
  ): Promise<ResumedLock | undefined> {
    checkKey(key);
    const { ttlMs, lockDelayMs } = checkedTimes(this.bounds, options);
    const createdMs = this.#deps.clock.monotonicMs();
    if (!isSessionId(sessionId)) return undefined;
    const answer = await this.#http.request('PUT', `/v1/session/renew/${sessionId}`, { accept: [404] });
    const [renewed] = answer.status === 404 ? [] : this.#http.parse<readonly SessionJson[]>(answer);
    const same =
      renewed !== undefined &&
      parseDurationMs(renewed.TTL) === ttlMs &&
      renewed.LockDelay === lockDelayMs * NS_PER_MS;
    const entry = same ? await this.#kv.get(key) : undefined;
    if (entry?.holder !== sessionId) {
      await this.endSession(sessionId);
      return undefined;
    }
    const session = this.#opened({ id: sessionId, ttlMs, createdMs });
    return { session, lock: this.#locks.resumed(key, session, entry.version) };
  }

  async lock(key: string, session: Session, options: LockOptions): Promise<Lock> {
    if (!(session instanceof ConsulSession)) {
      throw new VarveError('INVALID_ARGUMENT', 'the session is not one of this coordinator');
    }
    return this.#locks.lock(key, session, options);
  }

  get(key: string): Promise<Entry | undefined> {
    return this.#kv.get(key);
  }

  list(prefix: string): Promise<readonly Entry[]> {
    return this.#kv.list(prefix);
  }

  put(key: string, value: Value, options: WriteOptions = {}): Promise<boolean> {
    return this.#kv.put(key, value, options);
  }

  delete(key: string, options: WriteOptions = {}): Promise<boolean> {
    return this.#kv.delete(key, options);
  }

  txn(compare: readonly Comparison[], operations: readonly Operation[]): Promise<TxnResult> {
    return this.#kv.txn(compare, operations);
  }

  watch(prefix: string, signal: AbortSignal): AsyncIterable<readonly Entry[]> {
    checkPrefix(prefix);
    return follow(this.#deps, {
      what: `the watch of ${prefix}`,
      signal,
      read: async (index) => {
        const reading = await this.#kv.read({ prefix }, { index, waitMs: WATCH_WAIT_MS, signal });
        return { index: reading.index, state: reading.entries };
      },
      fingerprint: (entries) => entries.map(({ key, version }) => `${key}@${version}`).join('\n'),
    });
  }

  async register(service: Service, check: ServiceCheck): Promise<Registration> {
    const onEnd = (registration: Registration): void => void this.#open.delete(registration);
    const registration = await ConsulRegistration.start({ service, check }, this.#http, this.#deps, onEnd);
    this.#open.add(registration);
    return registration;
  }

  async services(name: string, options: ServicesOptions = {}): Promise<readonly ServiceInstance[]> {
    const { state } = await readServices(this.#http, name, { ...options, index: 0, waitMs: 0 });
    return state;
  }

  watchServices(
    name: string,
    options: ServicesOptions & { readonly signal: AbortSignal },
  ): AsyncIterable<readonly ServiceInstance[]> {
    return follow(this.#deps, {
      what: `the watch of service ${name}`,
      signal: options.signal,
      read: (index) => readServices(this.#http, name, { ...options, index, waitMs: WATCH_WAIT_MS }),
      fingerprint: (instances) => JSON.stringify(instances),
    });
  }

  async status(): Promise<CoordinatorStatus> {
    const leader = this.#http.parse<string>(await this.#http.request('GET', '/v1/status/leader'));
    const self = await this.#http.request('GET', '/v1/agent/self');
    const { Config } = this.#http.parse<{ readonly Config?: { readonly Version?: string } }>(self);
    const version = Config?.Version ?? 'unknown';
    return { kind: this.kind, leader: leader === '' ? undefined : leader, version };
  }

  #opened(life: Omit<SessionLife, 'onEnd'>): ConsulSession {
    const onEnd = (ended: Session): void => void this.#open.delete(ended);
    const session = new ConsulSession({ http: this.#http, kv: this.#kv, ...life, onEnd }, this.#deps);
    this.#open.add(session);
    return session;
  }

  /** Closes its sessions and deregisters its services. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#open].map((resource) => resource[Symbol.asyncDispose]()));
  }
}
