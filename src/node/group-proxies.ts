import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GROUP_ROLE, HEALTH_ROLE } from '../cluster/bootstrap/context.ts';
import type { GroupKeys } from '../cluster/group-keys.ts';
import { GroupServices } from '../cluster/services/group-services.ts';
import { Haproxy, haproxyCommand } from '../cluster/services/haproxy.ts';
import { Pgbouncer, pgbouncerCommand } from '../cluster/services/pgbouncer.ts';
import { endLeftProxy } from '../cluster/services/proxy-process.ts';
import { findProxyProgram } from '../cluster/services/proxy-programs.ts';
import type { Clock } from '../core/clock.ts';
import { blockedAt, resolveRunAs, type RunAs } from '../postgres/run-as.ts';
import type { AdminPools } from './admin-pools.ts';
import type { GroupSettings } from './group-settings.ts';
import type { Log } from './log.ts';
import { isLoopback } from '../core/loopback.ts';
import type { RunningPostgres } from './postgres-service.ts';

export interface ProxyDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly keys: GroupKeys;
  readonly admins: AdminPools;
  readonly postgres: () => RunningPostgres;
}

export interface ProxyOptions {
  readonly node: string;
  /** The node's. */
  readonly folder: string;
  readonly httpPort: number;
  readonly group: GroupSettings;
}

/** HAProxy makes the socket under a longer name first. */
const SOCKET_PATH_MAX_LENGTH = 85;
const MAX_CLIENTS = 2000;
/** What is left of PostgreSQL's 100 for replication, the daemon and administrators. */
const MAX_SERVER_CONNECTIONS = 60;

/**
 * The proxies of one member, as far as their programs are installed and their ports are set; what is left out is
 * said in the log and in the status.
 */
export async function openGroupServices(deps: ProxyDeps, options: ProxyOptions): Promise<GroupServices> {
  const { log, clock, keys, admins, postgres } = deps;
  const { node, httpPort, group } = options;
  const { writePort, readPort, poolerPort } = group.proxies;
  const { port } = postgres().endpoint;
  return new GroupServices(
    {
      clock,
      log,
      keys,
      withAdmin: (database, work) => admins.withConnection(database, work),
      certificate: postgres().certificates?.shown,
      haproxy: writePort === undefined ? undefined : await openHaproxy(deps, options),
      pgbouncer: poolerPort === undefined ? undefined : await openPgbouncer(deps, options),
    },
    {
      node,
      kind: group.kind,
      host: group.host,
      postgresPort: port,
      httpUrl: `http://${group.host}:${httpPort}`,
      proxies: {
        bindHost: listenHost(group),
        writePort: writePort ?? 0,
        readPort: readPort ?? 0,
        maxConnections: MAX_CLIENTS,
      },
      pooler: {
        listenHost: listenHost(group),
        listenPort: poolerPort ?? 0,
        postgres: { host: '127.0.0.1', port },
        maxServerConnections: MAX_SERVER_CONNECTIONS,
        maxClientConnections: MAX_CLIENTS,
        statsUsers: [],
      },
      internalRoles: [GROUP_ROLE],
    },
  );
}

/** Where role `health` logs in, each way, to be asked whether this node serves. */
export function healthEndpoints(
  { group }: Pick<ProxyOptions, 'group'>,
  parts: { readonly port: number; readonly password: string },
) {
  const { writePort, poolerPort } = group.proxies;
  const login = { host: '127.0.0.1', database: 'health', user: HEALTH_ROLE, password: parts.password };
  return {
    haproxy: writePort === undefined ? undefined : { ...login, port: writePort },
    pgbouncer: poolerPort === undefined ? undefined : { ...login, port: poolerPort },
    postgres: { ...login, port: parts.port },
  };
}

/** Ends the proxies that a killed daemon left running. */
export async function endLeftProxies(clock: Clock, nodeFolder: string): Promise<void> {
  const haproxy = haproxyCommand({ program: '', folder: haproxyFolder(nodeFolder) });
  const pooler = (folder: string) => pgbouncerCommand({ program: '', folder, runAs: undefined });
  const commands = [haproxy, pooler(pgbouncerFolder(nodeFolder)), pooler(elsewhere(nodeFolder, 'pgbouncer'))];
  await Promise.all(commands.map((command) => endLeftProxy(clock, command)));
}

async function openHaproxy(deps: ProxyDeps, { folder, group }: ProxyOptions): Promise<Haproxy | undefined> {
  const program = await findProxyProgram('haproxy', { wanted: group.proxies.haproxy });
  if (program === undefined)
    return leftOut(deps, 'haproxy', 'clients have to find the write master themselves');
  const own = haproxyFolder(folder);
  await mkdir(own, { recursive: true, mode: 0o700 });
  let socketPath = join(own, 'haproxy.sock');
  if (socketPath.length > SOCKET_PATH_MAX_LENGTH) {
    await mkdir(elsewhere(folder, 'haproxy'), { recursive: true, mode: 0o700 });
    socketPath = join(elsewhere(folder, 'haproxy'), 'socket');
  }
  return new Haproxy(deps, { program, folder: own, socketPath });
}

async function openPgbouncer(
  deps: ProxyDeps,
  { folder, group }: ProxyOptions,
): Promise<Pgbouncer | undefined> {
  const program = await findProxyProgram('pgbouncer', { wanted: group.proxies.pgbouncer });
  if (program === undefined) return leftOut(deps, 'pgbouncer', 'clients share no connections');
  const runAs = await resolveRunAs();
  return new Pgbouncer(deps, { program, folder: await reachableFolder(folder, runAs), runAs });
}

function leftOut({ log }: ProxyDeps, name: string, what: string): undefined {
  log.warn({}, `${name} is not installed: ${what}`);
  return undefined;
}

/** PgBouncer runs as an ordinary user, who may not be let into the node's folder. */
async function reachableFolder(folder: string, runAs: RunAs | undefined): Promise<string> {
  const closed = runAs && (await blockedAt(folder, runAs));
  return closed === undefined ? pgbouncerFolder(folder) : elsewhere(folder, 'pgbouncer');
}

function haproxyFolder(nodeFolder: string): string {
  return join(nodeFolder, 'haproxy');
}

function pgbouncerFolder(nodeFolder: string): string {
  return join(nodeFolder, 'pgbouncer');
}

function elsewhere(nodeFolder: string, name: string): string {
  const place = createHash('sha256').update(nodeFolder).digest('hex').slice(0, 12);
  return join(tmpdir(), `varve-${name}-${place}`);
}

/** On this machine only, unless the member is to be reached from others. */
function listenHost({ host }: GroupSettings): string {
  return isLoopback(host) ? '127.0.0.1' : '0.0.0.0';
}
