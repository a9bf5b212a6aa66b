import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/core/clock.ts';
import { writeExtensionFiles } from '../src/data-node/extension-files.ts';
import { createDatabaseSql } from '../src/data-node/provision.ts';
import { databaseSchema, type DatabaseDescription } from '../src/data-node/request.ts';
import { DataNodeService } from '../src/data-node/service.ts';
import { Connection, PLAIN_SESSION, type Endpoint } from '../src/postgres/connection.ts';
import { Pool } from '../src/postgres/pool.ts';
import { writePassfileEntry } from '../src/postgres/passfile.ts';
import { startServer } from '../src/postgres/server.ts';
import { RunEvents } from '../src/run/events.ts';
import { ratio, report, sideBySide } from './measure.ts';

/**
 * `add_data_node` against bare SQL that writes the same, on two PostgreSQL 18 servers with fsync on:
 *   npm run bench -- data-node
 */
const ROUNDS = Number(process.argv[2] ?? 15);
const CONCURRENT = 50;

const folder = await mkdtemp(join(tmpdir(), 'varve-bench-'));
const extensions = join(folder, 'extensions');
await writeExtensionFiles(extensions);
const common = {
  port: 0,
  binaries: { kind: 'embedded', major: 18 },
  extensionFolders: [extensions],
} as const;
const settings = { max_connections: '300' };
const accessServer = await startServer({ ...common, settings, folder: join(folder, 'access') });
const dataServer = await startServer({ ...common, settings, folder: join(folder, 'data') });
const passfile = join(folder, 'passfile');
const remote = dataServer.admin();
await writePassfileEntry(passfile, { ...remote, database: '*' }, remote.password ?? '');

const open = (endpoint: Endpoint): Promise<Connection> =>
  Connection.open(endpoint, { connectTimeoutMs: 10_000, settings: PLAIN_SESSION, lockTimeoutMs: 10_000 });
const admin = await open(accessServer.admin());
await admin.query('create database app template template0');
const access = accessServer.admin('app');
const log = { info: () => {}, warn: () => {}, error: (facts: object) => console.error(facts) };
const pool = new Pool({
  endpoint: access,
  connect: { connectTimeoutMs: 10_000 },
  maxCount: 8,
  idleTimeoutMs: 1_000,
  waitTimeoutMs: 30_000,
});
const service = await DataNodeService.start(
  {
    clock: systemClock,
    events: new RunEvents(),
    log,
    withAdmin: (_database, work, signal) => pool.withConnection(work, signal),
  },
  {
    node: 'an1',
    folder: join(folder, 'daemon'),
    listen: { host: '127.0.0.1', port: 0 },
    credentials: { passfile },
  },
);
const session = await open(access);
await session.query('create extension dblink schema public; create extension postgres_fdw schema public');
await session.query('create extension varve schema public');
await session.query('insert into varve.endpoint (host, port, secret) values ($1, $2, $3)', [
  '127.0.0.1',
  service.addressPort,
  service.secret,
]);
const { description } = await session.one<{ description: unknown }>(
  'select varve._describe_database() as description',
);
const here: DatabaseDescription = databaseSchema.parse(description);

async function settled(): Promise<void> {
  while (service.status().some(({ state }) => state === 'begun')) await systemClock.sleep(5);
}

/** What the call writes, by hand: two connections to the data node's server, one to the access node's. */
async function bareAdd(database: string, connection: Connection, oid: number): Promise<void> {
  const maintenance = await open(remote);
  await maintenance.query(createDatabaseSql(here, database, remote.user, oid));
  const inside = await open({ ...remote, database });
  await inside.query('begin; create extension varve schema public');
  await inside.query(`select varve.set_dist_id($1, gen_random_uuid(), 'bare', '{}', null)`, [here.uuid]);
  await inside.query('commit');
  await connection.query(
    `begin; create server ${database} foreign data wrapper postgres_fdw options (host '127.0.0.1', dbname '${database}');
     create user mapping for current_user server ${database} options (user '${remote.user}', password_required 'false')`,
  );
  await connection.query(
    `insert into varve.data_node (node_name, host, port, database, node_uuid, owner, token)
     values ($1, '127.0.0.1', $2, $1, gen_random_uuid(), current_user, gen_random_uuid())`,
    [database, remote.port],
  );
  await connection.query('commit');
  void inside.close();
  void maintenance.close();
}

async function forgetBare(database: string): Promise<void> {
  await session.query(
    `begin; drop server ${database} cascade; delete from varve.data_node where node_name = '${database}'; commit`,
  );
  await using connection = await open(remote);
  await connection.query(`drop database ${database} with (force)`);
}

async function add(connection: Connection, name: string): Promise<void> {
  await connection.query(`select public.add_data_node($1, '127.0.0.1', $1, $2)`, [name, remote.port]);
}

async function forget(name: string): Promise<void> {
  await session.query('select public.delete_data_node($1, drop_database => true)', [name]);
  await settled();
}

let oid = 4_000_000_000;
console.log(`add_data_node with a new database, ${ROUNDS} rounds, fsync on`);
const created = await sideBySide(
  [
    {
      name: 'bare SQL',
      run: (round) => bareAdd(`bare${round}`, session, (oid += 1)),
      after: (round) => forgetBare(`bare${round}`),
    },
    {
      name: 'add_data_node',
      run: (round) => add(session, `dn${round}`),
      after: (round) => forget(`dn${round}`),
    },
  ],
  ROUNDS,
);
report(created);
console.log(`  ratio ${ratio(created, 'add_data_node', 'bare SQL').toFixed(2)} (at most 1.5)\n`);

await add(session, 'fit');
await session.query(`select public.delete_data_node('fit')`);
await settled();
console.log(`add_data_node (bootstrap => false) against opening a connection to the same server`);
const validated = await sideBySide(
  [
    {
      name: 'bare connection',
      run: async () => {
        const connection = await open({ ...remote, database: 'fit' });
        void connection.close();
      },
    },
    {
      name: 'add_data_node, validating only',
      run: () =>
        session.query(
          `select public.add_data_node('fit', '127.0.0.1', port => $1, database => 'fit', bootstrap => false)`,
          [remote.port],
        ),
      after: async () => {
        await session.query(`select public.delete_data_node('fit')`);
        await settled();
      },
    },
  ],
  ROUNDS,
);
report(validated);
console.log(
  `  ratio ${ratio(validated, 'add_data_node, validating only', 'bare connection').toFixed(2)} (at most 5)\n`,
);

const sessions = await Promise.all(Array.from({ length: CONCURRENT }, () => open(access)));
const CONCURRENT_ROUNDS = Math.max(3, Math.floor(ROUNDS / 5));
console.log(`${CONCURRENT} databases on one server at once, ${CONCURRENT_ROUNDS} rounds`);
const many = await sideBySide(
  [
    {
      name: 'bare SQL',
      run: () => Promise.all(sessions.map((connection, i) => bareAdd(`many${i}`, connection, (oid += 1)))),
      after: async () => {
        for (let i = 0; i < CONCURRENT; i++) await forgetBare(`many${i}`);
      },
    },
    {
      name: 'add_data_node',
      run: () => Promise.all(sessions.map((connection, i) => add(connection, `many${i}`))),
      after: async () => {
        for (let i = 0; i < CONCURRENT; i++) await forget(`many${i}`);
      },
    },
  ],
  CONCURRENT_ROUNDS,
);
report(many);
console.log(`  ratio ${ratio(many, 'add_data_node', 'bare SQL').toFixed(2)} (at most 1.2)`);

await Promise.all([...sessions, session, admin].map((connection) => connection.close()));
await service[Symbol.asyncDispose]();
await pool.close();
await accessServer.stop();
await dataServer.stop();
await rm(folder, { recursive: true, force: true });
