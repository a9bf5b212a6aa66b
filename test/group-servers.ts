import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DAEMON_SESSION } from '../src/cluster/daemon-session.ts';
import { GroupServers, type ServerAddress } from '../src/cluster/mesh/group-servers.ts';
import { groupSettingsFor } from '../src/cluster/mesh/limits.ts';
import { Connection } from '../src/postgres/connection.ts';
import { startServer, type OwnServer, type ServerOptions } from '../src/postgres/server.ts';
import { quoteIdent, quoteLiteral } from '../src/postgres/sql.ts';
import { TEMP_PREFIX } from './leak-check.ts';
import { EMBEDDED_FROM } from './postgres-server.ts';

/** Servers of a group for tests, started side by side; the same superuser `rdpg` on each. */
export interface TestGroupServers extends AsyncDisposable {
  readonly own: readonly OwnServer[];
  readonly addresses: readonly ServerAddress[];
  readonly password: string;
  /** As `rdpg`. */
  readonly servers: GroupServers;
  /** A database with that name on every server, made anew. */
  makeDatabases(name: string): Promise<void>;
  /** As the administrator, as a daemon is. */
  connect(index: number, database: string): Promise<Connection>;
  /** Kills the server as a crash of its machine would, and starts it again on the same folder and port. */
  crash(index: number): Promise<void>;
}

export interface TestGroupOptions {
  readonly major?: number;
  readonly settings?: Readonly<Record<string, string>>;
  readonly databases?: number;
  /** Without it `rdpg` is made on each. */
  readonly withoutRole?: boolean;
}

export async function startGroupServers(
  count: number,
  options: TestGroupOptions = {},
): Promise<TestGroupServers> {
  const major = options.major ?? 18;
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}group-`));
  const password = randomBytes(12).toString('hex');
  const settings = {
    ...groupSettingsFor(major, { members: count, databases: options.databases ?? 4 }),
    max_connections: '100',
    shared_buffers: '16MB',
    autovacuum: 'off',
    ...options.settings,
  };
  const started = await Promise.allSettled(
    Array.from({ length: count }, (_, i) =>
      startServer(serverOptions(join(folder, `s${i}`), major, settings)),
    ),
  );
  const own = started.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const servers = new GroupServers({ user: 'rdpg', password });
  const dispose = async (): Promise<void> => {
    await servers[Symbol.asyncDispose]();
    await Promise.all(own.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  };
  const failed = started.find((result) => result.status === 'rejected');
  if (failed) {
    await dispose();
    throw failed.reason;
  }
  const connect = (index: number, database: string): Promise<Connection> => {
    const server = own[index];
    if (!server) throw new Error(`there is no server ${index}`);
    const settings = { ...DAEMON_SESSION, default_transaction_read_only: 'off' };
    return Connection.open(server.admin(database), { connectTimeoutMs: 10_000, settings });
  };
  const onAll = (sql: string): Promise<unknown> =>
    Promise.all(
      own.map(async (_, i) => {
        await using connection = await connect(i, 'postgres');
        await connection.query(sql);
      }),
    );
  if (!options.withoutRole) {
    await onAll(`create role rdpg login superuser password ${quoteLiteral(password)}`);
  }
  return {
    own,
    addresses: own.map(({ port }, i) => ({ node: `n${i + 1}`, host: '127.0.0.1', port })),
    password,
    servers,
    makeDatabases: async (name) => {
      await onAll(`create database ${quoteIdent(name)} template template0`);
    },
    connect,
    crash: async (index) => {
      const server = own[index];
      if (!server) throw new Error(`there is no server ${index}`);
      process.kill(server.pid, 'SIGKILL');
      // Its processes notice by themselves; with them it could not start.
      await server.stop();
      own[index] = await startServer(serverOptions(join(folder, `s${index}`), major, settings));
    },
    [Symbol.asyncDispose]: dispose,
  };
}

/** With the same options the same folder is found again. */
export function serverOptions(
  folder: string,
  major: number,
  settings: Readonly<Record<string, string>>,
): ServerOptions {
  return {
    folder,
    port: 0,
    binaries: { kind: 'auto', major, embeddedFrom: EMBEDDED_FROM },
    durable: false,
    settings,
  };
}
