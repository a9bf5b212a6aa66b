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

/** Stands in for TimescaleDB, whose packages the tests do not have: the table with the mark. */
async function leaveMark(): Promise<void> {
  await using connection = await database.connect();
  await connection.query(`
    create schema _timescaledb_catalog;
    create table _timescaledb_catalog.metadata (key name primary key, value text not null, include_in_telemetry boolean);
    insert into _timescaledb_catalog.metadata values ('uuid', 'u-1', true), ('dist_uuid', 'u-2', true)`);
}

/** What is told of the old multi-node. */
async function told(options: { removeLeftovers?: boolean } = {}) {
  const findings = await examineServer(url(), options);
  return findings.filter(({ check }) => check === 'old-multi-node');
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

test('a mark of the old multi-node is explained, and removed only on request', async () => {
  expect(await told()).toMatchObject([{ state: 'ok', found: 'no traces of it' }]);
  await leaveMark();
  for (let i = 0; i < 2; i += 1) {
    expect(await told()).toMatchObject([
      {
        state: 'warn',
        found: 'dist uuid u-2',
        why: expect.stringContaining('of the access node with uuid u-2') as string,
        remedy: expect.stringContaining('--remove-leftovers') as string,
      },
    ]);
  }
  expect(await told({ removeLeftovers: true })).toMatchObject([
    { state: 'ok', found: expect.stringContaining('removed dist uuid u-2: delete from ') as string },
  ]);
  expect(await told({ removeLeftovers: true })).toMatchObject([{ state: 'ok', found: 'no traces of it' }]);
});

test('a mark that is in use stays, whatever is asked', async () => {
  await leaveMark();
  await using connection = await database.connect();
  await connection.query('create foreign data wrapper timescaledb_fdw');
  await connection.query('create server old foreign data wrapper timescaledb_fdw');
  expect(await told({ removeLeftovers: true })).toMatchObject([
    { state: 'warn', found: 'dist uuid u-2', remedy: 'It is in use and stays: data node old.' },
    { state: 'warn', found: 'data node old' },
  ]);
});
