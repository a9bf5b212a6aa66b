import { randomBytes, randomUUID } from 'node:crypto';
import { chown, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, serverEndpoint, startTestServer, type TestServer } from '../../test/database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { backupDatabase } from '../cluster/backup/backup.ts';
import { restoreDatabase } from '../cluster/backup/restore.ts';
import { installGroupSchema } from '../cluster/ddl/install.ts';
import { systemClock } from '../core/clock.ts';
import { installExtension } from '../data-node/install-extension.ts';
import { DataNodeService } from '../data-node/service.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteIdent } from '../postgres/sql.ts';
import { RunEvents } from '../run/events.ts';

/** An access database with a distributed hypertable is lost; its data nodes are not. */
const GROUP_UUID = randomUUID();
const DATABASE = 'app';
const nodeDatabases = ['dn1', 'dn2'].map((name) => `${name}_${randomBytes(4).toString('hex')}`);
let folder: string;
let access: TestServer;
let daemon: DataNodeService | undefined;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}registry-`));
  access = await startTestServer(18);
});
afterAll(async () => {
  await daemon?.[Symbol.asyncDispose]();
  await access[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
  await using connection = await connect();
  for (const name of nodeDatabases) {
    await connection.query(`drop database if exists ${quoteIdent(name)} with (force)`);
  }
});

const database = (name: string): Promise<Connection> => connect({ ...access.server.admin(), database: name });

/** As the bootstrap of an access node makes it. */
async function makeAccessDatabase(): Promise<void> {
  {
    await using connection = await database('postgres');
    await connection.query(`create database ${DATABASE} template template0`);
  }
  await using connection = await database(DATABASE);
  await installGroupSchema(connection, { groupUuid: GROUP_UUID, node: 'n1' });
  await connection.query(
    `set varve_group.ddl = off; create extension if not exists dblink; create extension if not exists postgres_fdw`,
  );
  await installExtension(connection, { schema: 'public' });
  await connection.query(`reset varve_group.ddl; select varve_group.adopt_tables()`);
}

async function startDaemon(): Promise<DataNodeService> {
  const there = serverEndpoint();
  const line = `${there.host}:${there.port}:*:${there.user}:${there.password ?? ''}\n`;
  const passfile = join(folder, 'passfile');
  const data = join(access.folder, 'data');
  await writeFile(passfile, line, { mode: 0o600 });
  await writeFile(join(data, 'passfile'), line, { mode: 0o600 });
  const { uid, gid } = await stat(data);
  await chown(join(data, 'passfile'), uid, gid);
  return DataNodeService.start(
    {
      clock: systemClock,
      events: new RunEvents(),
      log: { info: () => {}, warn: () => {}, error: () => {} },
      withAdmin: async (name, work) => {
        await using session = await database(name);
        return await work(session);
      },
    },
    {
      node: 'n1',
      folder: join(folder, 'n1'),
      listen: { host: '127.0.0.1', port: 0 },
      credentials: { passfile, serverPaths: { passfile: 'passfile' } },
      reconcile: { homeDatabase: 'postgres', host: '127.0.0.1', intervalMs: 200 },
    },
  );
}

const CONTENT = `select (select count(*) || ' ' || sum(v) from conditions) as hypertable,
  (select string_agg(d::text, ',' order by n) from devices d) as devices,
  (select string_agg(format('%s %s', number, node_name), ',' order by number) from varve.shard) as shards,
  (select string_agg(node_name, ',' order by node_name) from varve.data_node) as nodes,
  (select uuid from varve.identity) as identity`;

test('restored, it finds its data nodes, and the hypertable has its rows', async () => {
  await makeAccessDatabase();
  daemon = await startDaemon();
  let before: object;
  {
    await using connection = await database(DATABASE);
    const { host, port } = serverEndpoint();
    for (const [i, name] of nodeDatabases.entries()) {
      await connection.query('select * from add_data_node($1, $2, $3, $4)', [`dn${i + 1}`, host, name, port]);
    }
    await connection.query(
      'create table conditions (time timestamptz not null, device text, v double precision)',
    );
    await connection.query(
      `select create_distributed_hypertable('conditions', 'time', 'device', number_partitions => 4)`,
    );
    await connection.query('create index on conditions (device, time desc)');
    await connection.query(
      `insert into conditions select now() - g * interval '1 hour', 'd' || g % 17, g from generate_series(1, 300) g`,
    );
    await connection.query('create table devices (n int primary key, name text)');
    await connection.query(`insert into devices values (1, 'one'), (2, 'two')`);
    before = await connection.one(CONTENT);
  }
  const source = { ...access.server.admin(), database: DATABASE };
  const file = await backupDatabase({ source, folder, fileName: 'x.varvebackup', cluster: 'main' });
  expect(file.manifest.leftOut).toEqual([expect.stringContaining('4 foreign tables')]);

  await daemon[Symbol.asyncDispose]();
  {
    await using connection = await database('postgres');
    await connection.query(`drop database ${DATABASE} with (force)`);
  }
  await makeAccessDatabase();
  await restoreDatabase({ path: file.path, target: source });
  daemon = await startDaemon();
  await using connection = await database(DATABASE);
  // As a member does it that becomes write master.
  await connection.query('select varve._become_write_master()');
  // The daemon makes what is each access node's own: logins to the data nodes.
  await expect.poll(() => connection.one(CONTENT).catch(String), { timeout: 30_000 }).toEqual(before);
  await connection.query(`insert into conditions values (now(), 'new', 1000)`);
  expect(await connection.one('select count(*)::int as n, max(v) as v from conditions')).toEqual({
    n: 301,
    v: 1000,
  });
});
