import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { SystemProcess } from '../../test/system-process.ts';
import { Connection } from '../postgres/connection.ts';

/** Data nodes through the front door: a system of processes, an SQL client, kills. */
let dir: string;
let system: SystemProcess;
let session: Connection;
let port: number;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}nodes-`));
  system = await SystemProcess.up(dir, ['--access', '1', '--data', '1', '--no-metrics']);
  port = system.connections().data[0]?.pgPort ?? 0;
  session = await open();
});

afterAll(async () => {
  await session?.close();
  await system?.stop();
  await rm(dir, { recursive: true, force: true });
});

async function open(database = 'varve', at?: number): Promise<Connection> {
  const [access] = system.connections().access;
  if (!access) throw new Error('no access node');
  const password = (await readFile(access.passwordFile, 'utf8')).trim();
  const { host, user } = access;
  return Connection.open(
    { host, port: at ?? access.port, database, user, password },
    { connectTimeoutMs: 10_000 },
  );
}

async function eventually(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 50));
}

it('the system’s own data node is registered and healthy', async () => {
  const { rows } = await session.query('select node_name, healthy, error from health()');
  expect(rows).toEqual([
    { node_name: null, healthy: true, error: null },
    { node_name: 'dn1', healthy: true, error: null },
  ]);
});

it('a user’s tables are made in schema public', async () => {
  await session.query('create table plain ()');
  expect(
    await session.one(
      `select relnamespace::regnamespace::text as schema from pg_class where relname = 'plain'`,
    ),
  ).toEqual({
    schema: 'public',
  });
  await session.query('drop table plain');
});

it('roles log in to data nodes by certificate: who adds a node, and who is granted its use', async () => {
  await using there = await open('postgres', port);
  for (const connection of [session, there]) {
    await connection.query(`create role alice login createdb; create role bob login`);
  }
  await session.query(
    'grant usage on foreign data wrapper postgres_fdw to alice; grant create on schema public to alice',
  );
  await session.query('set role alice');
  await session.query(`select add_data_node('hers', '127.0.0.1', 'alices', $1)`, [port]);
  await session.query(`create foreign table public.them (datname name) server hers
    options (schema_name 'pg_catalog', table_name 'pg_database')`);
  expect((await session.query(`select datname from public.them where datname = 'alices'`)).rowCount).toBe(1);
  await session.query('grant usage on foreign server hers to bob; grant select on public.them to bob');
  await session.query('reset role');
  await eventually(async () => {
    const { rows } = await session.query(
      `select 1 from pg_user_mappings where srvname = 'hers' and usename = 'bob'`,
    );
    return rows.length === 1;
  });
  await session.query('set role bob');
  expect((await session.query(`select datname from public.them where datname = 'alices'`)).rowCount).toBe(1);
  await session.query(
    `reset role; drop foreign table public.them; select delete_data_node('hers', drop_database => true)`,
  );
});

it.each(['commit', 'rollback'])(
  'the daemon killed with a call open: %s decides after its restart',
  async (end) => {
    await using caller = await open();
    await caller.query('begin');
    await caller.query(`select add_data_node('open', '127.0.0.1', 'open', $1)`, [port]);
    const before = system.daemonPid('an1');
    await system.kill([before]);
    await caller.query(end);
    await system.allReady('an1', before);
    await using there = await open('postgres', port);
    const exists = async (): Promise<boolean> =>
      (await there.query(`select 1 from pg_database where datname = 'open'`)).rowCount === 1;
    if (end === 'rollback') await eventually(async () => !(await exists()));
    const { rows } = await session.query(
      `select state from varve.runs where target = 'open' order by begun_at desc limit 1`,
    );
    expect(rows).toEqual([{ state: end === 'commit' ? 'confirmed' : 'undone' }]);
    expect(await exists()).toBe(end === 'commit');
    if (end === 'commit') await session.query(`select delete_data_node('open', drop_database => true)`);
    await eventually(async () => !(await exists()));
  },
);

it('another database becomes an access database by creating the extension, and may use its own server', async () => {
  await session.query('create database other');
  await using other = await open('other');
  await other.query('create extension dblink; create extension postgres_fdw; create extension varve');
  expect(await other.one(`select * from add_data_node('here', '127.0.0.1', 'other_dn')`)).toMatchObject({
    database: 'other_dn',
    database_created: true,
  });
  const selfAdd = other.query(`select add_data_node('me', '127.0.0.1')`);
  await expect(selfAdd).rejects.toMatchObject({ sqlstate: 'TS174' });
  await other.close();
  await session.query('drop database other');
});
