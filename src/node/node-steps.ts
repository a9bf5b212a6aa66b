import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { assert, VarveError } from '../core/errors.ts';
import { writeExtensionFiles } from '../data-node/extension-files.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import type { Endpoint } from '../postgres/connection.ts';
import { endpointFromUrl } from '../postgres/existing-server.ts';
import { ServerContext, serverSteps } from '../postgres/server.ts';
import { quoteIdent } from '../postgres/sql.ts';
import { memberHba, memberSettings } from './group-server.ts';
import { isLoopback } from '../core/loopback.ts';
import { done, todo, type Step } from '../run/step.ts';
import { AdminPools } from './admin-pools.ts';
import { NodeCertificates } from './certificates.ts';
import { createExtensions, missingExtensions } from './extension-setup.ts';
import type { NodeOptions, OwnPostgres } from './node-options.ts';
import type { RunningPostgres } from './postgres-service.ts';
import { SUPERUSER } from './system-folder.ts';

const OLDEST_SERVER = 150_000;

/** What the steps that bring one node's PostgreSQL up share. */
export interface NodeContext extends AsyncDisposable {
  readonly clock: Clock;
  readonly options: NodeOptions;
  /** Of a server that the node runs. */
  readonly server: ServerContext | undefined;
  /** The administrator's login of a server that somebody else runs. */
  readonly remote: Endpoint | undefined;
  readonly certificates: NodeCertificates | undefined;
  /** Sessions of the administrator, which the steps pass on to each other. */
  readonly withAdmin: AdminPools['withConnection'];
}

/** @throws INVALID_ARGUMENT when the URL of the server is wrong */
export async function nodeContext(
  { clock }: { readonly clock: Clock },
  options: NodeOptions,
): Promise<NodeContext> {
  const { postgres } = options;
  const certificates = postgres.own ? NodeCertificates.of(options, serverFolderOf(options)) : undefined;
  const server = postgres.own ? ownServerContext(clock, { ...options, postgres }, certificates) : undefined;
  const remote = postgres.own ? undefined : await endpointFromUrl(postgres.url);
  const admins = new AdminPools(() => adminEndpoint({ options, server, remote }));
  return {
    clock,
    options,
    server,
    remote,
    certificates,
    withAdmin: (...asked) => admins.withConnection(...asked),
    [Symbol.asyncDispose]: () => admins[Symbol.asyncDispose](),
  };
}

/** The folder of the server within the node's. */
export function serverFolderOf(options: Pick<NodeOptions, 'folder'>): string {
  return join(options.folder, 'pg');
}

function ownServerContext(
  clock: Clock,
  options: NodeOptions & { readonly postgres: OwnPostgres },
  certificates: NodeCertificates | undefined,
): ServerContext {
  const { postgres, name, kind, group, startTimeoutMs, stopTimeoutMs } = options;
  return new ServerContext(
    { clock },
    {
      folder: serverFolderOf(options),
      port: postgres.port,
      binaries: { kind: postgres.programs },
      superuser: SUPERUSER,
      extensionFolders: [extensionFolder(options)],
      settings: (major) => ({
        cluster_name: name,
        // Replicas between data nodes and transactions over several of them need these, and a change of
        // either would need a restart.
        wal_level: 'logical',
        max_prepared_transactions: '64',
        // A statement over a distributed hypertable locks each of its shards, on data nodes each of their chunks.
        max_locks_per_transaction: '256',
        // Grouped figures are made where the rows are.
        ...(kind === 'access' ? { enable_partitionwise_aggregate: 'on' } : {}),
        ...(group ? memberSettings(major, group) : {}),
      }),
      hba: kind === 'data' && certificates ? DATA_NODE_HBA : group && memberHba(group),
      listenAddresses: group && !isLoopback(group.host) ? [group.host] : undefined,
      tls: certificates?.server,
      // A data node may be another database of the access node's own server.
      socketPeers: kind === 'access',
      startTimeoutMs,
      // The supervisor's patience has to cover what follows the stop, too.
      stopTimeoutMs: Math.ceil(stopTimeoutMs / 2),
    },
  );
}

/** Over TLS a client shows a certificate that names its role; without, it knows the password. */
const DATA_NODE_HBA: readonly string[] = [
  'local     all all              scram-sha-256',
  'hostssl   all all 127.0.0.1/32 cert',
  'hostssl   all all ::1/128      cert',
  'hostnossl all all 127.0.0.1/32 scram-sha-256',
  'hostnossl all all ::1/128      scram-sha-256',
];

/** From nothing, or from wherever an earlier run stopped, to a PostgreSQL that this node can work with. */
export function nodeSteps(context: NodeContext): Step<NodeContext>[] {
  const { server, options, certificates } = context;
  const own = server
    ? [
        sharePassword,
        ...(certificates ? [certificateStep] : []),
        extensionFiles,
        ...serverSteps().map((step) => onServer(step, server)),
      ]
    : [reachServer];
  return options.kind === 'access' ? [...own, createDatabase, createExtensionsStep] : own;
}

/** What the steps have brought up. */
export async function runningPostgres(context: NodeContext): Promise<RunningPostgres> {
  const { certificates, server } = context;
  const endpoint = adminEndpoint(context, context.options.kind === 'access' ? undefined : homeOf(context));
  const own = context.server?.server;
  const folder = certificates && (await server?.folder());
  const credentials = folder && certificates ? certificates.credentials(folder) : {};
  if (own) {
    const kept = folder &&
      certificates && {
        renew: (peers: readonly string[]) => certificates.install(folder, peers),
        shown: () => certificates.shown(),
      };
    return { version: own.version, endpoint, own, credentials, certificates: kept };
  }
  const { version } = await context.withAdmin(endpoint.database, (connection) =>
    connection.one<{ version: string }>("select pg_catalog.current_setting('server_version') as version"),
  );
  return { version, endpoint, own: undefined, credentials, certificates: undefined };
}

function adminEndpoint(
  { server, remote, options }: Pick<NodeContext, 'server' | 'remote' | 'options'>,
  database = options.database,
): Endpoint {
  if (server?.server) return server.server.admin(database);
  assert(remote, 'a server of our own is up when its login is asked for');
  return { ...remote, database };
}

function onServer(step: Step<ServerContext>, server: ServerContext): Step<NodeContext> {
  return {
    name: step.name,
    check: (_context, work) => step.check(server, work),
    apply: (_context, work) => step.apply(server, work),
  };
}

/** All nodes of a system have the same superuser password: it is put where the server's bring-up looks for it. */
const sharePassword: Step<NodeContext> = {
  name: 'share-password',
  check: async (context) => {
    const { postgres } = context.options;
    if (!postgres.own || postgres.passwordFile === undefined || !context.server) return done;
    const folder = await context.server.folder();
    const present = await readFile(folder.passwordFile, 'utf8').catch(() => '');
    return present.trim() === '' ? todo('the server has no password yet') : done;
  },
  apply: async (context) => {
    const { postgres } = context.options;
    if (!postgres.own || postgres.passwordFile === undefined || !context.server) return;
    const folder = await context.server.folder();
    await folder.make();
    const password = await readFile(postgres.passwordFile, 'utf8');
    await writeFileAtomic(folder.passwordFile, password, { owner: folder.runAs });
  },
};

const certificateStep: Step<NodeContext> = {
  name: 'issue-certificates',
  check: ({ clock, certificates }) => certificates?.check(clock.nowMs()) ?? Promise.resolve(done),
  apply: async ({ server, certificates }) => {
    if (!server || !certificates) return;
    const folder = await server.folder();
    await folder.make();
    await certificates.install(folder);
  },
};

function extensionFolder(options: Pick<NodeOptions, 'folder'>): string {
  return join(serverFolderOf(options), 'varve-extension');
}

/** Written at each start, so that they are those of this version of Varve. */
const extensionFiles: Step<NodeContext> = {
  name: 'write-extension-files',
  check: () => Promise.resolve(todo('those of this version')),
  apply: async ({ options, server }) => {
    await (await server?.folder())?.make();
    await writeExtensionFiles(extensionFolder(options));
  },
};

const reachServer: Step<NodeContext> = {
  name: 'reach-server',
  check: async (context) => {
    const { number, version } = await context.withAdmin(homeOf(context), (connection) =>
      connection.one<{ number: number; version: string }>(
        `select pg_catalog.current_setting('server_version_num')::int4 as number,
                pg_catalog.current_setting('server_version') as version`,
      ),
    );
    if (number >= OLDEST_SERVER) return done;
    throw new VarveError('CONFIG_INVALID', `the server is PostgreSQL ${version}, older than 15`, {
      hint: 'Use a server of version 15 to 18.',
    });
  },
  apply: () => Promise.resolve(),
};

const NOT_UP = todo('once the server runs');

const createDatabase: Step<NodeContext> = {
  name: 'create-database',
  check: async (context) => {
    if (!isUp(context)) return NOT_UP;
    return (await hasDatabase(context)) ? done : todo(`there is no database ${context.options.database}`);
  },
  apply: async (context) => {
    const name = quoteIdent(context.options.database);
    await context.withAdmin(homeOf(context), (connection) =>
      connection.query(`create database ${name} template template0`),
    );
  },
};

async function hasDatabase(context: NodeContext): Promise<boolean> {
  const sql = 'select 1 from pg_catalog.pg_database where datname = $1';
  const found = await context.withAdmin(homeOf(context), (connection) =>
    connection.maybeOne(sql, [context.options.database]),
  );
  return found !== undefined;
}

const createExtensionsStep: Step<NodeContext> = {
  name: 'create-extensions',
  check: async (context) => {
    if (!isUp(context)) return NOT_UP;
    if (!(await hasDatabase(context))) return todo('once the database is there');
    const missing = await context.withAdmin(context.options.database, missingExtensions);
    return missing === '' ? done : todo(missing);
  },
  apply: (context) => context.withAdmin(context.options.database, createExtensions),
};

/** Always, but in a plan: that starts no server. */
function isUp({ server, remote }: NodeContext): boolean {
  return remote !== undefined || server?.server !== undefined;
}

/** A database that exists: of a server by URL, that of the URL. */
function homeOf({ remote }: NodeContext): string {
  return remote?.database ?? 'postgres';
}
