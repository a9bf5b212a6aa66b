import { messageOf, VarveError } from '../core/errors.ts';
import { formatDurationMs } from './duration.ts';
import type { ConsulHttp } from './consul-http.ts';
import { indexQuery } from './consul-kv.ts';
import type {
  CoordinatorDeps,
  Registration,
  Service,
  ServiceCheck,
  ServiceInstance,
  ServicesOptions,
  ServiceStatus,
} from './coordinator.ts';

interface HealthJson {
  readonly Service: {
    readonly ID: string;
    readonly Service: string;
    readonly Address: string;
    readonly Port: number;
    readonly Tags: readonly string[] | null;
    readonly Meta: Readonly<Record<string, string>> | null;
  };
  readonly Node: { readonly Address: string };
  readonly Checks: readonly { readonly Status: ServiceStatus | 'maintenance' }[];
}

/** Registrations that nobody needs to report on are renewed so often, should the coordinator lose them. */
const REPEAT_MS = 30_000;

export async function readServices(
  http: ConsulHttp,
  name: string,
  options: ServicesOptions & {
    readonly index: number;
    readonly waitMs: number;
    readonly signal?: AbortSignal;
  },
): Promise<{ readonly index: number; readonly state: readonly ServiceInstance[] }> {
  const { index, waitMs, signal, passing } = options;
  const answer = await http.request('GET', `/v1/health/service/${encodeURIComponent(name)}`, {
    query: { ...(passing ? { passing: '' } : {}), ...indexQuery(index) },
    ...(signal ? { signal } : {}),
    ...(index === 0 ? {} : { waitMs }),
  });
  const state = http
    .parse<readonly HealthJson[]>(answer)
    .map(instanceOf)
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  return { index: answer.index, state };
}

function instanceOf({ Service, Node, Checks }: HealthJson): ServiceInstance {
  return {
    id: Service.ID,
    name: Service.Service,
    address: Service.Address === '' ? Node.Address : Service.Address,
    port: Service.Port,
    tags: Service.Tags ?? [],
    meta: Service.Meta ?? {},
    status: worst(Checks.map(({ Status }) => (Status === 'maintenance' ? 'critical' : Status))),
  };
}

function worst(statuses: readonly ServiceStatus[]): ServiceStatus {
  if (statuses.includes('critical')) return 'critical';
  return statuses.includes('warning') ? 'warning' : 'passing';
}

/** A service that is kept registered, and its TTL check fed. */
export class ConsulRegistration implements Registration {
  readonly service: Service;
  readonly #check: ServiceCheck;
  readonly #http: ConsulHttp;
  readonly #deps: CoordinatorDeps;
  readonly #ended = new AbortController();
  readonly #onEnd: (registration: ConsulRegistration) => void;
  #loop: Promise<void> = Promise.resolve();
  #status: ServiceStatus;
  #note = '';

  private constructor(
    what: { readonly service: Service; readonly check: ServiceCheck },
    http: ConsulHttp,
    deps: CoordinatorDeps,
    onEnd: (registration: ConsulRegistration) => void,
  ) {
    this.service = what.service;
    this.#check = what.check;
    this.#status = what.check.status ?? 'critical';
    this.#http = http;
    this.#deps = deps;
    this.#onEnd = onEnd;
  }

  static async start(
    what: { readonly service: Service; readonly check: ServiceCheck },
    http: ConsulHttp,
    deps: CoordinatorDeps,
    onEnd: (registration: ConsulRegistration) => void,
  ): Promise<ConsulRegistration> {
    const registration = new ConsulRegistration(what, http, deps, onEnd);
    await registration.#register();
    registration.#loop = registration.#repeat();
    return registration;
  }

  async report(status: ServiceStatus, note = ''): Promise<void> {
    if (this.#check.kind !== 'ttl') {
      throw new VarveError('INVALID_ARGUMENT', `the coordinator itself checks service ${this.service.id}`, {
        hint: 'Register it with a TTL check to report its status.',
      });
    }
    this.#status = status;
    this.#note = note;
    await this.#feed();
  }

  async deregister(): Promise<void> {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort();
    this.#onEnd(this);
    await this.#loop;
    try {
      // A 404 says that it is gone already.
      const path = `/v1/agent/service/deregister/${encodeURIComponent(this.service.id)}`;
      await this.#http.request('PUT', path, { accept: [404] });
    } catch (error) {
      this.#deps.log.warn({ error }, `service ${this.service.id} could not be deregistered`);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.deregister();
  }

  async #repeat(): Promise<void> {
    const { clock, log, random = Math.random } = this.#deps;
    const everyMs = this.#check.kind === 'ttl' ? this.#check.ttlMs / 3 : REPEAT_MS;
    let part = 1;
    while (!this.#ended.signal.aborted) {
      await clock.sleep(everyMs * part * (0.8 + 0.2 * random()), this.#ended.signal).catch(() => {});
      if (this.#ended.signal.aborted) return;
      try {
        if (this.#check.kind === 'ttl') await this.#feed();
        else await this.#register();
        part = 1;
      } catch (error) {
        if (this.#ended.signal.aborted) return;
        part = 1 / 4;
        log.warn({ error }, `service ${this.service.id} could not be reported: ${messageOf(error)}`);
      }
    }
  }

  /** Tells the status; registers anew when the coordinator has forgotten the service. */
  async #feed(): Promise<void> {
    const [Status, Output] = [this.#status, this.#note];
    const path = `/v1/agent/check/update/${encodeURIComponent(this.#checkId())}`;
    const options = { body: JSON.stringify({ Status, Output }), signal: this.#ended.signal };
    const first = await this.#http.request('PUT', path, { ...options, accept: [404] }).catch(unknownCheck);
    if (first.status !== 404) return;
    await this.#register();
    await this.#http.request('PUT', path, options);
  }

  async #register(): Promise<void> {
    const { id, name, address, port, tags, meta } = this.service;
    const body = JSON.stringify({
      ID: id,
      Name: name,
      Address: address,
      Port: port,
      Tags: tags ?? [],
      Meta: meta ?? {},
      Check: this.#checkJson(),
    });
    await this.#http.request('PUT', '/v1/agent/service/register', { body, signal: this.#ended.signal });
  }

  #checkJson(): object {
    const check = this.#check;
    return {
      CheckID: this.#checkId(),
      Status: this.#status,
      ...(check.kind === 'ttl'
        ? { TTL: formatDurationMs(check.ttlMs) }
        : {
            HTTP: check.url,
            Interval: formatDurationMs(check.intervalMs),
            Timeout: formatDurationMs(check.timeoutMs),
          }),
      ...(check.deregisterAfterMs === undefined
        ? {}
        : { DeregisterCriticalServiceAfter: formatDurationMs(check.deregisterAfterMs) }),
    };
  }

  #checkId(): string {
    return `service:${this.service.id}`;
  }
}

/** Before 1.11 or so Consul said with a 500 that it does not know the check. */
function unknownCheck(error: unknown): { readonly status: 404 } {
  const unknown =
    error instanceof VarveError && /Unknown check|does not have associated TTL/.test(error.message);
  if (unknown) return { status: 404 };
  throw error;
}
