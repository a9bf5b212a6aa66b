import { VarveError } from '../core/errors.ts';
import type {
  Comparison,
  Coordinator,
  CoordinatorBounds,
  CoordinatorDeps,
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
import { type EtcdEndpoint, EtcdHttp } from './etcd-http.ts';
import { rangeBelow, rangeOfPrefix, servicesFolder } from './etcd-keys.ts';
import { EtcdKv, entryOf } from './etcd-kv.ts';
import { EtcdLeases } from './etcd-leases.ts';
import { EtcdLocks } from './etcd-lock.ts';
import { EtcdLockKeys } from './etcd-lock-keys.ts';
import { EtcdRegistration } from './etcd-registration.ts';
import { instancesOf } from './etcd-services.ts';
import { endSession, EtcdSession, openSession, resumeSession, type SessionTools } from './etcd-session.ts';
import { follow } from './etcd-watch.ts';
import { checkKey } from './key.ts';
import { checkedTimes } from './session-times.ts';

/** The contract over etcd 3.4's API, as its JSON gateway serves it. */
export class EtcdCoordinator implements Coordinator {
  readonly kind = 'etcd';
  readonly bounds: CoordinatorBounds;
  readonly #deps: CoordinatorDeps;
  readonly #http: EtcdHttp;
  readonly #kv: EtcdKv;
  readonly #leases: EtcdLeases;
  readonly #lockKeys: EtcdLockKeys;
  readonly #locks: EtcdLocks;
  readonly #open = new Set<Session | Registration>();
  readonly #onEnd = (ended: Session): void => void this.#open.delete(ended);

  /** Opens no connection. */
  constructor(bounds: CoordinatorBounds, endpoint: EtcdEndpoint, deps: CoordinatorDeps) {
    this.bounds = bounds;
    this.#deps = deps;
    this.#http = new EtcdHttp(endpoint, deps);
    this.#kv = new EtcdKv(this.#http, bounds);
    this.#leases = new EtcdLeases(this.#http);
    this.#lockKeys = new EtcdLockKeys(this.#http);
    this.#locks = new EtcdLocks(this.#http, this.#lockKeys, deps);
  }

  async session(options: SessionOptions): Promise<Session> {
    const times = checkedTimes(this.bounds, options);
    const session = await openSession(this.#sessionTools(), this.#deps, {
      ...times,
      name: options.name,
      onEnd: this.#onEnd,
    });
    this.#open.add(session);
    return session;
  }

  endSession(sessionId: string): Promise<void> {
    return endSession(this.#sessionTools(), sessionId);
  }

  async resumeLock(
    key: string,
    sessionId: string,
    options: SessionOptions,
  ): Promise<ResumedLock | undefined> {
    checkKey(key);
    const former = { ...checkedTimes(this.bounds, options), id: sessionId, key };
    const tools = this.#sessionTools();
    const resumed = await resumeSession(tools, this.#deps, { ...former, onEnd: this.#onEnd });
    if (!resumed) {
      await this.endSession(sessionId);
      return undefined;
    }
    const { session, token } = resumed;
    this.#open.add(session);
    return { session, lock: this.#locks.resumed(key, session, token) };
  }

  async lock(key: string, session: Session, options: LockOptions): Promise<Lock> {
    if (!(session instanceof EtcdSession)) {
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
    const what = `the watch of ${prefix}`;
    return this.#watchEntries({ what, range: rangeOfPrefix(prefix), signal });
  }

  async register(service: Service, check: ServiceCheck): Promise<Registration> {
    const onEnd = (ended: Registration): void => void this.#open.delete(ended);
    const tools = { http: this.#http, kv: this.#kv, leases: this.#leases };
    const registration = await EtcdRegistration.start({ service, check, onEnd }, tools, this.#deps);
    this.#open.add(registration);
    return registration;
  }

  async services(name: string, options: ServicesOptions = {}): Promise<readonly ServiceInstance[]> {
    const { rows } = await this.#kv.read(rangeBelow(servicesFolder(name)));
    return instancesOf(rows, options, this.#deps.log);
  }

  async *watchServices(
    name: string,
    options: ServicesOptions & { readonly signal: AbortSignal },
  ): AsyncGenerator<readonly ServiceInstance[], void, void> {
    const { signal } = options;
    const range = rangeBelow(servicesFolder(name));
    let shown: string | undefined;
    const what = `the watch of service ${name}`;
    for await (const rows of follow(this.#kv, this.#http, this.#deps, { what, range, signal })) {
      const instances = instancesOf(rows, options, this.#deps.log);
      const now = JSON.stringify(instances);
      if (now === shown) continue;
      shown = now;
      yield instances;
    }
  }

  async status(): Promise<CoordinatorStatus> {
    const options = { repeatable: true };
    const [state, { members = [] }] = await Promise.all([
      this.#http.request<{ readonly version?: string; readonly leader?: string }>(
        '/v3/maintenance/status',
        {},
        options,
      ),
      this.#http.request<{
        readonly members?: readonly { readonly ID: string; readonly clientURLs?: readonly string[] }[];
      }>('/v3/cluster/member/list', {}, options),
    ]);
    const [url] = members.find(({ ID }) => ID === state.leader)?.clientURLs ?? [];
    const leader = url !== undefined && URL.canParse(url) ? new URL(url).host : undefined;
    return { kind: this.kind, leader, version: state.version ?? 'unknown' };
  }

  /** Closes its sessions and deregisters its services. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#open].map((resource) => resource[Symbol.asyncDispose]()));
    this.#http.close();
  }

  #sessionTools(): SessionTools {
    return { http: this.#http, kv: this.#kv, granter: this.#leases, locks: this.#lockKeys };
  }

  async *#watchEntries(followed: Parameters<typeof follow>[3]): AsyncGenerator<readonly Entry[], void, void> {
    for await (const rows of follow(this.#kv, this.#http, this.#deps, followed)) yield rows.map(entryOf);
  }
}
