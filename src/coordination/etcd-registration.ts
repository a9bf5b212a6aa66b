import { messageOf, VarveError } from '../core/errors.ts';
import {
  ABSENT,
  type CoordinatorDeps,
  type Registration,
  type Service,
  type ServiceCheck,
  type ServiceStatus,
  type Version,
} from './coordinator.ts';
import { type CheckResult, HttpChecks } from './embedded-checks.ts';
import { GRPC } from './etcd-answer.ts';
import type { EtcdHttp } from './etcd-http.ts';
import { serviceKeys } from './etcd-keys.ts';
import { deletionOf, type EtcdKv, putOf, rowOf, rowsAt, type TxnJson, versionIs } from './etcd-kv.ts';
import { type EtcdLeases, newLeaseId } from './etcd-leases.ts';
import type { ServiceRecord, StatusRecord } from './etcd-services.ts';

export interface RegistrationTools {
  readonly http: EtcdHttp;
  readonly kv: EtcdKv;
  readonly leases: EtcdLeases;
}

export interface Registered {
  readonly service: Service;
  readonly check: ServiceCheck;
  readonly onEnd: (registration: EtcdRegistration) => void;
}

/** So many intervals of an HTTP check may pass without a result before its service is critical. */
const INTERVALS = 3;
const WRITES_PER_CALL = 5;

/**
 * A service at etcd, which has none: a record that stays, and the status of its check, attached to a lease
 * that only this process keeps alive. URLs are asked by this process, too. With `deregisterAfterMs` the record
 * has a lease of its own, which is not kept alive while the service is critical.
 */
export class EtcdRegistration implements Registration {
  readonly service: Service;
  readonly #check: ServiceCheck;
  readonly #tools: RegistrationTools;
  readonly #deps: CoordinatorDeps;
  readonly #onEnd: (registration: EtcdRegistration) => void;
  readonly #ended = new AbortController();
  readonly #urls: HttpChecks;
  readonly #ttlMs: number;
  readonly #statusLease = newLeaseId();
  readonly #recordLease: bigint | undefined;
  #loop: Promise<void> = Promise.resolve();
  /** One request after the other: reports must not overtake each other. */
  #turn: Promise<unknown> = Promise.resolve();
  #status: ServiceStatus;
  #note = '';
  /** Not yet known to the coordinator as it is. */
  #untold = true;
  /** Of the record, as far as known. */
  #version: Version = ABSENT;

  private constructor(
    { service, check, onEnd }: Registered,
    tools: RegistrationTools,
    deps: CoordinatorDeps,
  ) {
    this.service = service;
    this.#check = check;
    this.#onEnd = onEnd;
    this.#tools = tools;
    this.#deps = deps;
    this.#status = check.status ?? 'critical';
    this.#ttlMs = check.kind === 'ttl' ? check.ttlMs : check.intervalMs * INTERVALS + check.timeoutMs;
    this.#recordLease = check.deregisterAfterMs === undefined ? undefined : newLeaseId();
    this.#urls = new HttpChecks(deps.clock, (_, result) => void this.#heard(result));
  }

  static async start(
    registered: Registered,
    tools: RegistrationTools,
    deps: CoordinatorDeps,
  ): Promise<EtcdRegistration> {
    const registration = new EtcdRegistration(registered, tools, deps);
    await registration.#publish();
    registration.#loop = registration.#repeat();
    registration.#askUrl();
    return registration;
  }

  async report(status: ServiceStatus, note = ''): Promise<void> {
    if (this.#check.kind !== 'ttl') {
      throw new VarveError('INVALID_ARGUMENT', `service ${this.service.id} is checked by its URL`, {
        hint: 'Register it with a TTL check to report its status.',
      });
    }
    this.#status = status;
    this.#note = note;
    await this.#inTurn(() => this.#publish());
  }

  async deregister(): Promise<void> {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort();
    this.#onEnd(this);
    await this.#urls[Symbol.asyncDispose]();
    await this.#loop;
    try {
      await this.#inTurn(() => this.#remove());
    } catch (error) {
      this.#deps.log.warn({ error }, `service ${this.service.id} could not be deregistered`);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.deregister();
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  #askUrl(): void {
    const check = this.#check;
    if (check.kind !== 'http') return;
    const { id } = this.service;
    const asked = { id, serviceId: id, name: id, notes: '', method: check, deregisterAfterMs: 0 };
    const nothingYet = { status: this.#status, output: '', createIndex: 0, modifyIndex: 0 };
    this.#urls.follow([{ ...asked, ...nothingYet }]);
  }

  async #heard({ status, output }: CheckResult): Promise<void> {
    const changed = status !== this.#status;
    this.#status = status;
    this.#note = output;
    if (!changed || this.#ended.signal.aborted) return;
    await this.#inTurn(() => this.#publish()).catch((error: unknown) => this.#warn(error));
  }

  async #repeat(): Promise<void> {
    const { clock, random = Math.random } = this.#deps;
    let part = 1;
    while (!this.#ended.signal.aborted) {
      const waitMs = (this.#ttlMs / 3) * part * (0.8 + 0.2 * random());
      await clock.sleep(waitMs, this.#ended.signal).catch(() => {});
      if (this.#ended.signal.aborted) return;
      try {
        await this.#inTurn(() => this.#feed());
        part = 1;
      } catch (error) {
        part = 1 / 4;
        this.#warn(error);
      }
    }
  }

  #warn(error: unknown): void {
    if (this.#ended.signal.aborted) return;
    this.#deps.log.warn({ error }, `service ${this.service.id} could not be reported: ${messageOf(error)}`);
  }

  /** Keeps it as it was reported last; registers anew what the coordinator has lost. */
  async #feed(): Promise<void> {
    const { leases, kv } = this.#tools;
    const options = { signal: this.#ended.signal };
    const ids = this.#recordLease === undefined || this.#status === 'critical' ? [] : [this.#recordLease];
    const alive = await leases.keepAlive([this.#statusLease, ...ids], options);
    const keys = serviceKeys(this.service.name, this.service.id);
    const [record, status] = await Promise.all([
      kv.read({ key: keys.record }, options),
      kv.read({ key: keys.status }, options),
    ]);
    const removed = record.rows.length === 0 && this.#recordLease !== undefined;
    // It was critical for too long, and is known again when it is reported to be better.
    if (removed && this.#status === 'critical') return;
    if (!alive || this.#untold || removed || status.rows.length === 0) await this.#publish();
  }

  /** Writes both keys, with leases that live. */
  async #publish(): Promise<void> {
    this.#untold = true;
    for (let tried = 0; tried < WRITES_PER_CALL; tried += 1) {
      const outcome = await this.#write();
      if (outcome === 'done') {
        this.#untold = false;
        return;
      }
      if (outcome === 'no-lease') {
        for (const [lease, ms] of this.#leases())
          await this.#tools.leases.ensure(lease, ms, this.#ended.signal);
      }
    }
    throw this.#tools.http.unavailable(`service ${this.service.id} changes all the time`);
  }

  #leases(): (readonly [bigint, number])[] {
    const { deregisterAfterMs = 0 } = this.#check;
    const record = this.#recordLease;
    return [
      [this.#statusLease, this.#ttlMs],
      ...(record === undefined ? [] : [[record, this.#ttlMs + deregisterAfterMs] as const]),
    ];
  }

  /** Only over what is known to be there: a request that arrives late must not undo a later one. */
  async #write(): Promise<'done' | 'no-lease' | 'changed'> {
    const { id, name, address, port, tags = [], meta = {} } = this.service;
    const keys = serviceKeys(name, id);
    const record: ServiceRecord = { id, name, address, port, tags, meta };
    const status: StatusRecord = { status: this.#status, note: this.#note };
    const body = {
      compare: [versionIs(keys.record, this.#version)],
      success: [
        putOf(keys.record, JSON.stringify(record), this.#recordLease),
        putOf(keys.status, JSON.stringify(status), this.#statusLease),
      ],
      failure: [rowOf(keys.record)],
    };
    const options = { signal: this.#ended.signal, accept: [GRPC.notFound] };
    const { code, items } = await this.#tools.http.exchange('/v3/kv/txn', [body], options);
    if (code === GRPC.notFound) return 'no-lease';
    const answer = items[0] as TxnJson;
    this.#version = answer.succeeded
      ? BigInt(answer.header.revision)
      : (rowsAt(answer, 0)[0]?.version ?? ABSENT);
    return answer.succeeded ? 'done' : 'changed';
  }

  /** Unless another process has registered it since. */
  async #remove(): Promise<void> {
    const { record, status } = serviceKeys(this.service.name, this.service.id);
    await this.#tools.kv.send({
      compare: [versionIs(record, this.#version)],
      success: [record, status].map((key) => deletionOf({ key })),
    });
    for (const [lease] of this.#leases()) await this.#tools.leases.revoke(lease);
  }
}
