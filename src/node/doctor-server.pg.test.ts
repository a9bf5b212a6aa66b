import { afterEach, beforeEach, expect, test } from 'vitest';
import { testDatabase, type TestDatabase } from '../../test/database.ts';
import { examineServer } from './doctor-server.ts';

let database: TestDatabase;

beforeEach(async () => {
  database = await testDatabase();
});

afterEach(() => database[Symbol.asyncDispose]());

const url = (parts: { password?: string } = {}): string => {
  const { user, password, host, port } = database.endpoint;
  const secret = encodeURIComponent(parts.password ?? password ?? '');
  return `postgresql://${user}:${secret}@${host}:${port}/${database.name}`;
};

/** Stands in for TimescaleDB, whose packages the tests do not have: the tables that its multi-node left. */
async function pretendTimescale(): Promise<void> {
  await using connection = await database.connect();
  await connection.query(`
    create schema _timescaledb_catalog;
    create table _timescaledb_catalog.metadata (key name primary key, value text not null, include_in_telemetry boolean);
    create table _timescaledb_catalog.hypertable (id int, replication_factor smallint);
    insert into _timescaledb_catalog.metadata values ('uuid', 'u-1', true), ('dist_uuid', 'u-2', true);
    set allow_system_table_mods = on;
    insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
      select 4294900000, 'timescaledb', 10, oid, false, '2.13.1' from pg_namespace where nspname = 'public'`);
}

async function finding(options: { removeLeftovers?: boolean } = {}) {
  const findings = await examineServer(url(), options);
  return findings.find(({ check }) => check === 'old-multi-node');
}

test('a server of the right version lets us in and is looked at from every side', async () => {
  const findings = await examineServer(url());
  expect(findings.map(({ check }) => check)).toEqual(
    expect.arrayContaining([
      'login',
      'server-version',
      'extensions',
      'wal-level',
      'old-multi-node',
    ]) as string[],
  );
  expect(findings.filter(({ state }) => state === 'fail')).toEqual([]);
});

test('a wrong password is the only finding, and is not shown', async () => {
  const findings = await examineServer(url({ password: 'wrong-secret' }));
  expect(findings.map(({ check, state }) => [check, state])).toEqual([['login', 'fail']]);
  expect(JSON.stringify(findings)).not.toContain('wrong-secret');
});

test('the mark of the old multi-node is explained, and removed only on request', async () => {
  await pretendTimescale();
  for (let i = 0; i < 2; i += 1) {
    expect(await finding()).toMatchObject({
      state: 'warn',
      found: 'TimescaleDB 2.13.1: left from being a data node (dist_uuid u-2)',
      remedy: expect.stringContaining('--remove-leftovers') as string,
    });
  }
  expect(await finding({ removeLeftovers: true })).toMatchObject({
    state: 'ok',
    found: 'TimescaleDB 2.13.1, without traces of it; the mark has been removed',
  });
  expect(await finding({ removeLeftovers: true })).toMatchObject({
    found: 'TimescaleDB 2.13.1, without traces of it',
  });
});

test('a mark that is in use stays, whatever is asked', async () => {
  await pretendTimescale();
  await using connection = await database.connect();
  await connection.query('insert into _timescaledb_catalog.hypertable values (1, -1), (2, 2), (3, null)');
  expect(await finding({ removeLeftovers: true })).toMatchObject({
    state: 'warn',
    found: 'TimescaleDB 2.13.1: multi-node is in use (2 distributed hypertables)',
  });
  await connection.query(
    'truncate _timescaledb_catalog.hypertable; create foreign data wrapper timescaledb_fdw; create server old foreign data wrapper timescaledb_fdw',
  );
  expect(await finding({ removeLeftovers: true })).toMatchObject({
    found: 'TimescaleDB 2.13.1: multi-node is in use (data nodes old)',
  });
  const { rows } = await connection.query(
    "select 1 from _timescaledb_catalog.metadata where key = 'dist_uuid'",
  );
  expect(rows).toHaveLength(1);
});

test('a database with a later TimescaleDB, whose catalog has no such columns, is fine', async () => {
  await pretendTimescale();
  await using connection = await database.connect();
  await connection.query(
    "alter table _timescaledb_catalog.hypertable drop column replication_factor; delete from _timescaledb_catalog.metadata where key = 'dist_uuid'",
  );
  expect(await finding()).toMatchObject({ state: 'ok' });
});
