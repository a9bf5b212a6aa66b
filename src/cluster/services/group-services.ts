import type { Clock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';
import type { Registration } from '../../coordination/coordinator.ts';
import type { Connection } from '../../postgres/connection.ts';
import type { GroupKeys, MasterRecord, MemberRecord } from '../group-keys.ts';
import type { Haproxy, HaproxyWanted } from './haproxy.ts';
import { HEALTH_PATHS, type HealthPath } from './health-checks.ts';
import type { Pgbouncer, PgbouncerWanted } from './pgbouncer.ts';
import type { PooledRole } from './pgbouncer-config.ts';
import type { ProxyLog } from './proxy-process.ts';
import { proxyView } from './proxy-view.ts';
import { readServerCertificate, type ServerCertificate } from './server-certificate.ts';

export interface GroupServicesDeps {
  readonly clock: Clock;
  readonly log: ProxyLog;
  readonly keys: GroupKeys;
  /** Of this node's PostgreSQL. */
  readonly withAdmin: <T>(database: string, work: (connection: Connection) => Promise<T>) => Promise<T>;
  /** What the server shows clients, where that is not to be found out by asking it. */
  readonly certificate?: (() => Promise<ServerCertificate>) | undefined;
  /** Undefined where the program is not installed. */
  readonly haproxy: Haproxy | undefined;
  readonly pgbouncer: Pgbouncer | undefined;
}

export interface GroupServicesOptions {
  readonly node: string;
  /** The document registers services of service clusters only. */
  readonly kind: 'manager' | 'service';
  /** Under which peers and clients reach this node. */
  readonly host: string;
  readonly postgresPort: number;
  readonly httpUrl: string;
  readonly proxies: Pick<HaproxyWanted, 'bindHost' | 'writePort' | 'readPort' | 'maxConnections'>;
  readonly pooler: Omit<PgbouncerWanted, 'databases' | 'roles' | 'tls'>;
  /** Roles that clients do not log in as. */
  readonly internalRoles: readonly string[];
}

export interface GroupServicesStatus {
  readonly haproxy: ProxyStatus;
  readonly pgbouncer: ProxyStatus;
  /** To whom the write port leads. */
  readonly master: string | null;
  readonly readers: readonly string[];
  /** Why the last attempt to follow the group failed. */
  readonly error: string | null;
}

export interface ProxyStatus {
  readonly state: 'running' | 'down' | 'not installed';
  readonly pid: number | null;
  readonly restartCount: number;
}

/** Roles and databases come and go without a word to us. */
const LOOK_EVERY_MS = 2000;
const CHECK = { intervalMs: 10_000, timeoutMs: 5000 } as const;
const MASTER_TTL_MS = 10_000;

/**
 * The proxies in front of a group, on one node: they follow its members, its write master, its roles and
 * databases, and the services are known to the coordinator. Watches on both bring a change here at once; the
 * rest is looked at every two seconds.
 */
export class GroupServices implements AsyncDisposable {
  readonly #deps: GroupServicesDeps;
  readonly #options: GroupServicesOptions;
  readonly #registrations = new Map<string, Registration>();
  #members: readonly MemberRecord[] = [];
  #master: MasterRecord | undefined;
  #error: string | undefined;
  /** Why there is no certificate, as it was logged last. */
  #tlsTrouble: string | undefined;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(deps: GroupServicesDeps, options: GroupServicesOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /**
   * Brings both proxies to what the group is now.
   * @throws PROXY_CONFIG, PROXY_UNREACHABLE, and what the coordinator or PostgreSQL throws
   */
  async reconfigure(): Promise<void> {
    const { keys } = this.#deps;
    this.#members = [...(await keys.members.list()).values()].map(({ value }) => value);
    this.#master = (await keys.master.read())?.value;
    await this.#serially(() => this.#apply());
  }

  /** Makes the services of a service cluster known, with their health checks. */
  async register(): Promise<void> {
    const { kind, node, host, httpUrl, postgresPort, proxies, pooler } = this.#options;
    if (kind !== 'service') return;
    const ports: [HealthPath, number | undefined][] = [
      ['haproxy', this.#deps.haproxy && proxies.writePort],
      ['pgbouncer', this.#deps.pgbouncer && pooler.listenPort],
      ['postgres', postgresPort],
    ];
    const { cluster, coordinator } = this.#deps.keys;
    for (const [name, port] of ports) {
      if (port === undefined || this.#registrations.has(name)) continue;
      const service = { id: `${cluster}-${node}-${name}`, name, address: host, port, tags: [cluster, node] };
      const check = { kind: 'http', url: `${httpUrl}${HEALTH_PATHS[name]}`, ...CHECK } as const;
      this.#registrations.set(name, await coordinator.register(service, check));
    }
  }

  /** Follows the group until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { keys, log } = this.#deps;
    const follow = async <T>(
      what: string,
      source: AsyncIterable<T>,
      take: (seen: T) => void,
    ): Promise<void> => {
      try {
        for await (const seen of source) {
          take(seen);
          await this.#tryApply();
        }
      } catch (error) {
        if (!signal.aborted) log.warn({ error: messageOf(error) }, `the watch on ${what} has ended`);
      }
    };
    await Promise.all([
      this.#again(signal, () =>
        follow('members', keys.members.watch(signal), (members) => {
          this.#members = [...members.values()].map(({ value }) => value);
        }),
      ),
      this.#again(signal, () =>
        follow('the write master', keys.master.watch(signal), (master) => {
          this.#master = master?.value;
        }),
      ),
      this.#again(signal, () => this.#tryApply()),
    ]);
  }

  /** As the watch has seen them last. */
  get members(): readonly MemberRecord[] {
    return this.#members;
  }

  status(): GroupServicesStatus {
    const { haproxy, pgbouncer } = this.#deps;
    const view = proxyView(this.#members, this.#master);
    return {
      haproxy: proxyStatus(haproxy),
      pgbouncer: proxyStatus(pgbouncer),
      master: view.master?.node ?? null,
      readers: view.readers.map(({ node }) => node),
      error: this.#error ?? null,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tail.catch(() => {});
    const { haproxy, pgbouncer } = this.#deps;
    await Promise.all([...this.#registrations.values()].map((registration) => registration.deregister()));
    await Promise.all([haproxy?.[Symbol.asyncDispose](), pgbouncer?.[Symbol.asyncDispose]()]);
  }

  async #again(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    while (!signal.aborted) {
      await work();
      await this.#deps.clock.sleep(LOOK_EVERY_MS, signal).catch(() => {});
    }
  }

  /** The same trouble is said once, not every round. */
  async #tryApply(): Promise<void> {
    try {
      await this.#serially(() => this.#apply());
      this.#error = undefined;
    } catch (error) {
      const text = messageOf(error);
      if (text !== this.#error) this.#deps.log.warn({ error: text }, 'the proxies cannot follow the group');
      this.#error = text;
    }
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }

  /** HAProxy first: who must not be written to any more is cut off before anything else. */
  async #apply(): Promise<void> {
    const { haproxy, pgbouncer } = this.#deps;
    const { proxies, pooler } = this.#options;
    await haproxy?.apply({ ...proxies, ...proxyView(this.#members, this.#master) });
    if (pgbouncer) {
      const wanted = await this.#deps.withAdmin('postgres', async (admin) => ({
        ...(await this.#logins(admin)),
        tls: await this.#certificate(admin),
      }));
      await pgbouncer.apply({ ...pooler, ...wanted });
    }
    await this.#registerMaster();
  }

  async #logins(admin: Connection): Promise<{ databases: string[]; roles: PooledRole[] }> {
    const roles = await admin.query<PooledRole>(
      `select r.rolname::text as role, r.rolpassword as verifier from pg_catalog.pg_authid as r
       where r.rolcanlogin and r.rolpassword like 'SCRAM-SHA-256$%' and not r.rolname = any ($1::name[])
         and (r.rolvaliduntil is null or r.rolvaliduntil > now())
       order by 1`,
      [this.#options.internalRoles],
    );
    const databases = await admin.query<{ name: string }>(
      `select datname::text as name from pg_catalog.pg_database
       where datallowconn and not datistemplate order by 1`,
    );
    return { roles: roles.rows, databases: databases.rows.map(({ name }) => name) };
  }

  /** Clients that want TLS see the same server through the pooler as without it. */
  async #certificate(admin: Connection): Promise<ServerCertificate | undefined> {
    if (this.#deps.certificate) return this.#deps.certificate();
    const { certificate, trouble } = await readServerCertificate(admin);
    if (trouble !== undefined && trouble !== this.#tlsTrouble) {
      this.#deps.log.warn({ trouble }, 'clients of PgBouncer get no TLS, although PostgreSQL has it');
    }
    this.#tlsTrouble = trouble;
    return certificate;
  }

  /** The write master makes itself known under one name and id; the next one takes it over. */
  async #registerMaster(): Promise<void> {
    const { cluster, coordinator } = this.#deps.keys;
    const { node, host, postgresPort, proxies } = this.#options;
    const name = `${cluster}-master`;
    const registered = this.#registrations.get(name);
    const isMaster = this.#master?.state === 'active' && this.#master.node === node;
    if (isMaster && !registered) {
      const port = this.#deps.haproxy ? proxies.writePort : postgresPort;
      const service = { id: `${cluster}-write-${node}`, name, address: host, port, tags: [cluster, node] };
      const check = { kind: 'ttl', ttlMs: MASTER_TTL_MS, status: 'passing' } as const;
      this.#registrations.set(name, await coordinator.register(service, check));
    } else if (!isMaster && registered) {
      this.#registrations.delete(name);
      await registered.deregister();
    }
  }
}

function proxyStatus(proxy: Haproxy | Pgbouncer | undefined): ProxyStatus {
  if (!proxy) return { state: 'not installed', pid: null, restartCount: 0 };
  const { pid, restartCount } = proxy.process;
  return { state: pid === undefined ? 'down' : 'running', pid: pid ?? null, restartCount };
}
