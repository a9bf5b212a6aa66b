import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, inject } from 'vitest';
import { Connection, type ConnectOptions, type Endpoint } from '../src/postgres/connection.ts';
import { startServer, type OwnServer, type ServerOptions } from '../src/postgres/server.ts';
import type { ServerSettings } from '../src/postgres/server-options.ts';
import { quoteIdent } from '../src/postgres/sql.ts';
import { TEMP_PREFIX } from './leak-check.ts';
import { EMBEDDED_FROM, MAJORS, TEST_SETTINGS, type TestServerFacts } from './postgres-server.ts';

/** The superuser's login on the run's server. */
export function serverEndpoint(database = 'postgres'): Endpoint {
  return { ...inject('postgres').admin, database };
}

export function serverFacts(): TestServerFacts {
  return inject('postgres');
}

/** A connection of a test, as the superuser of the run's server where nothing else is said. */
export function connect(
  endpoint: Endpoint = serverEndpoint(),
  options: Partial<ConnectOptions> = {},
): Promise<Connection> {
  return Connection.open(endpoint, { connectTimeoutMs: 10_000, ...options });
}

export interface TestDatabase extends AsyncDisposable {
  readonly name: string;
  /** The superuser's login to it. */
  readonly endpoint: Endpoint;
  connect(options?: Partial<ConnectOptions>): Promise<Connection>;
}

export interface TestDatabaseOptions {
  /** The server: the run's. */
  readonly admin?: Endpoint;
  readonly name?: string;
  /** What follows `create database x template template0`. */
  readonly clauses?: string | undefined;
}

/** A new database, dropped with all of its connections when it is disposed of. */
export async function testDatabase(options: TestDatabaseOptions = {}): Promise<TestDatabase> {
  const admin = options.admin ?? serverEndpoint();
  const name = options.name ?? `t_${randomBytes(6).toString('hex')}`;
  const run = async (sql: string): Promise<void> => {
    await using connection = await connect(admin);
    await connection.query(sql);
  };
  await run(`create database ${quoteIdent(name)} template template0 ${options.clauses ?? ''}`);
  const endpoint = { ...admin, database: name };
  return {
    name,
    endpoint,
    connect: (more) => connect(endpoint, more),
    [Symbol.asyncDispose]: () => run(`drop database if exists ${quoteIdent(name)} with (force)`),
  };
}

export interface TestServer extends AsyncDisposable {
  readonly server: OwnServer;
  /** Of its own; goes with it. */
  readonly folder: string;
}

/** A further server, of any installed major, stopped and removed when it is disposed of. */
export async function startTestServer(
  major: number,
  options: Partial<Omit<ServerOptions, 'settings'>> & { readonly settings?: ServerSettings } = {},
): Promise<TestServer> {
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}pg${major}-`));
  try {
    const server = await startServer({
      folder,
      port: 0,
      binaries: { kind: 'auto', major, embeddedFrom: EMBEDDED_FROM },
      durable: false,
      ...options,
      settings: { ...TEST_SETTINGS, ...options.settings },
    });
    return {
      server,
      folder,
      [Symbol.asyncDispose]: async () => {
        await server.stop();
        await rm(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

/**
 * Declares `body` once for each major, of which those between the oldest and the newest are left to the soak; those
 * that this machine lacks count as skipped.
 */
export function describeEachMajor(title: string, body: (major: number) => void): void {
  const { majors } = inject('postgres');
  const wanted = process.env['VARVE_SOAK'] === '1' ? MAJORS : [Math.min(...MAJORS), Math.max(...MAJORS)];
  for (const major of wanted) {
    describe.skipIf(!majors.includes(major))(`${title}, PostgreSQL ${major}`, () => body(major));
  }
}
