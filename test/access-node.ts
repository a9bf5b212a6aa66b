import { randomBytes } from 'node:crypto';
import { chown, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/core/clock.ts';
import { installExtension } from '../src/data-node/install-extension.ts';
import type { Log } from '../src/data-node/log.ts';
import { DataNodeService, type DataNodeServiceOptions } from '../src/data-node/service.ts';
import type { Connection, Endpoint } from '../src/postgres/connection.ts';
import { RunEvents } from '../src/run/events.ts';
import { connect, serverEndpoint, serverFacts, testDatabase, type TestDatabase } from './database.ts';
import { TEMP_PREFIX } from './leak-check.ts';

export interface AccessNodeOptions {
  /** Where the access database is: the run's server. */
  readonly admin?: Endpoint;
  /** Data folder of that server, for the password file of its sessions. */
  readonly dataDir?: string;
  /** Logins for the password file, which the daemon and the server's sessions use. */
  readonly logins: readonly Endpoint[];
  /** What follows `create database x template template0`. */
  readonly clauses?: string | undefined;
  /** Schema of the extension. */
  readonly schema?: string;
  readonly service?: Partial<DataNodeServiceOptions>;
}

/** An access database with its daemon in this process. */
export interface TestAccessNode extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly events: RunEvents;
  readonly service: DataNodeService;
  /** For a daemon in another process on the same folder, when the one here is stopped. */
  readonly serviceOptions: DataNodeServiceOptions;
  /** Writes the daemon's address into the database. */
  tell(port: number, secret: string): Promise<void>;
  connect(more?: Partial<Endpoint>): Promise<Connection>;
  /** Stops the daemon and starts it on the same folder. */
  restart(): Promise<void>;
  /** Resolves when no operation is open. */
  settled(): Promise<void>;
}

export async function testAccessNode(options: AccessNodeOptions): Promise<TestAccessNode> {
  const admin = options.admin ?? serverEndpoint();
  const dataDir = options.dataDir ?? join(serverFacts().folder, 'data');
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}daemon-`));
  const passfile = await writePassfiles(folder, dataDir, options.logins);
  const database = await testDatabase({ admin, clauses: options.clauses });
  const events = new RunEvents();
  const serviceOptions: DataNodeServiceOptions = {
    node: 'an1',
    folder,
    listen: { host: '127.0.0.1', port: 0 },
    credentials: { passfile: join(folder, 'passfile'), serverPaths: { passfile } },
    ...options.service,
  };
  const start = (): Promise<DataNodeService> =>
    DataNodeService.start(
      {
        clock: systemClock,
        events,
        log: quiet,
        withAdmin: async (name, work) => {
          await using connection = await connect({ ...admin, database: name });
          return await work(connection);
        },
      },
      serviceOptions,
    );
  let service = await start();
  await makeAccessDatabase(database, service, options.schema);
  const tell = async (port: number, secret: string): Promise<void> => {
    await using connection = await connect(database.endpoint);
    await connection.query('update varve.endpoint set port = $1, secret = $2', [port, secret]);
  };
  return {
    database,
    events,
    get service() {
      return service;
    },
    serviceOptions,
    tell,
    connect: (more = {}) => connect({ ...database.endpoint, ...more }, { statementTimeoutMs: 60_000 }),
    restart: async () => {
      await service[Symbol.asyncDispose]();
      service = await start();
      await tell(service.addressPort, service.secret);
    },
    settled: async () => {
      while (service.status().some(({ state }) => state === 'begun')) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    [Symbol.asyncDispose]: async () => {
      await service[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
      await rm(folder, { recursive: true, force: true });
      await rm(join(dataDir, passfile), { force: true });
    },
  };
}

async function makeAccessDatabase(
  database: TestDatabase,
  service: DataNodeService,
  schema = 'public',
): Promise<void> {
  await using connection = await connect(database.endpoint);
  await connection.query('create extension dblink; create extension postgres_fdw');
  await installExtension(connection, { schema });
  await connection.query('insert into varve.endpoint (host, port, secret) values ($1, $2, $3)', [
    '127.0.0.1',
    service.addressPort,
    service.secret,
  ]);
}

/** One for the daemon, one that the server's sessions can read; returns the name by which they find it. */
async function writePassfiles(folder: string, dataDir: string, logins: readonly Endpoint[]): Promise<string> {
  const lines = logins
    .map(({ host, port, user, password = '' }) => `${host}:${port}:*:${user}:${password}\n`)
    .join('');
  await writeFile(join(folder, 'passfile'), lines, { mode: 0o600 });
  const name = `passfile-${randomBytes(4).toString('hex')}`;
  await writeFile(join(dataDir, name), lines, { mode: 0o600 });
  const { uid, gid } = await stat(dataDir);
  await chown(join(dataDir, name), uid, gid);
  return name;
}

const quiet: Log = { info: () => {}, warn: () => {}, error: (facts) => console.error(facts) };

/**
 * Everything in a server and one of its databases that a failed call could have left. The run's server has many
 * users at once: of its databases only those count whose name starts with this one's.
 */
export async function traces(endpoints: readonly Endpoint[]): Promise<string[]> {
  const lines: string[] = [];
  for (const endpoint of endpoints) {
    await using connection = await connect(endpoint);
    const shared = endpoint.port === serverEndpoint().port;
    const { rows } = await connection.query<{ line: string }>(
      `
      select 'database ' || datname || ' ' || oid || ' ' || datdba::regrole as line from pg_database
        where not $1 or starts_with(datname, current_database())
      union all select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_(temp|toast_temp)'
      union all select 'extension ' || extname || ' ' || extversion from pg_extension
      union all select 'relation ' || oid::regclass from pg_class where relnamespace::regnamespace::text !~ '^pg_'
      union all select 'function ' || oid::regprocedure from pg_proc where pronamespace::regnamespace::text !~ '^pg_'
      union all select 'server ' || srvname || ' ' || array_to_string(srvoptions, ' ') from pg_foreign_server
      union all select 'mapping ' || srvname || ' ' || usename from pg_user_mappings
      union all select 'prepared ' || gid from pg_prepared_xacts
        where not $1 or database = current_database()
      order by 1`,
      [shared],
    );
    lines.push(...rows.map(({ line }) => `${endpoint.port}/${endpoint.database} ${line}`));
    const { varve } = await connection.one<{ varve: boolean }>(
      `select to_regclass('varve.identity') is not null as varve`,
    );
    if (!varve) continue;
    const { rows: members } = await connection.query<{ line: string }>(`
      select 'identity ' || to_jsonb(i)::text as line from varve.identity i
      union all select 'node ' || to_jsonb(n)::text from varve.data_node n
      union all select 'operation ' || id from varve.operation order by 1`);
    lines.push(...members.map(({ line }) => `${endpoint.port}/${endpoint.database} ${line}`));
  }
  return lines;
}
