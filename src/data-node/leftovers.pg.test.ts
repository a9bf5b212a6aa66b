import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect, testDatabase, type TestDatabase } from '../../test/database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { offerTimescale } from '../../test/timescaledb-stand-in.ts';
import type { Connection } from '../postgres/connection.ts';
import { findLeftovers, removeLeftovers, type Leftover } from './leftovers.ts';

/**
 * With a stand-in for TimescaleDB, because no package registry has the real one. It has no SECURITY LABEL
 * provider, so labels are written into the catalog here, and removed there: the statement that the real
 * extension allows is tried first and seen to fail.
 */
let folder: string;
let database: TestDatabase;
let session: Connection;

const UPDATE = `alter extension timescaledb update to '2.14.0'`;
const REFUSED = {
  sqlstate: '0A000',
  message: 'cannot upgrade because multi-node has been removed in 2.14.0',
  detail: 'This node appears to be part of a multi-node installation',
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}ts-`));
  await chmod(folder, 0o755);
  await offerTimescale(join(folder, 'ts'), ['2.14.0', '2.13.1']);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

beforeEach(async () => {
  database = await testDatabase();
  session = await database.connect();
  await session.query(
    `select set_config('extension_control_path', $1 || ':' || current_setting('extension_control_path'), false)`,
    [join(folder, 'ts')],
  );
});

afterEach(async () => {
  await session.close();
  await database[Symbol.asyncDispose]();
});

function create(): Promise<unknown> {
  return session.query(`create extension timescaledb version '2.13.1'`);
}

/** As being an access node, or the data node of another database, leaves it. */
async function mark(whose: 'own' | 'other'): Promise<string> {
  const { uuid } = await session.one<{ uuid: string }>(
    `insert into _timescaledb_catalog.metadata
       select 'dist_uuid', case when $1 = 'own' then value else gen_random_uuid()::text end, true
       from _timescaledb_catalog.metadata where key = 'uuid' returning value as uuid`,
    [whose],
  );
  return uuid;
}

async function label(uuid: string): Promise<void> {
  await session.query(
    `set allow_system_table_mods = on;
     insert into pg_shseclabel (objoid, classoid, provider, label)
       select oid, 'pg_database'::regclass, 'timescaledb', 'dist_uuid:${uuid}'
       from pg_database where datname = current_database();
     reset allow_system_table_mods`,
  );
}

function short(leftovers: readonly Leftover[]): [string, string, boolean][] {
  return leftovers.map(({ kind, name, removable }) => [kind, name, removable]);
}

it('a database without TimescaleDB, or with one that never was multi-node, has none', async () => {
  expect(await findLeftovers(session)).toEqual([]);
  await create();
  expect(await findLeftovers(session)).toEqual([]);
  await session.query(UPDATE);
  expect(await findLeftovers(session)).toEqual([]);
});

it.each(['own', 'other'] as const)(
  'a mark (%s) keeps TimescaleDB from 2.14 until it is removed, with the label beside it',
  async (whose) => {
    await create();
    const uuid = await mark(whose);
    await label(uuid);
    await expect(session.query(UPDATE)).rejects.toMatchObject(REFUSED);
    const leftovers = await findLeftovers(session);
    expect(short(leftovers)).toEqual([
      ['dist-uuid', uuid, true],
      ['security-label', `dist_uuid:${uuid}`, true],
    ]);
    const removals = await removeLeftovers(session, leftovers);
    expect(removals.map(({ removed, how }) => [removed, how])).toEqual([
      [true, `delete from _timescaledb_catalog.metadata where key = 'dist_uuid'`],
      [true, expect.stringContaining('delete from pg_catalog.pg_shseclabel') as string],
    ]);
    expect(await findLeftovers(session)).toEqual([]);
    expect((await session.query('select key from _timescaledb_catalog.metadata')).rows).toEqual([
      { key: 'uuid' },
    ]);
    await session.query(UPDATE);
  },
);

it('removes what was asked for and nothing else', async () => {
  await create();
  const uuid = await mark('own');
  await label(uuid);
  const leftovers = await findLeftovers(session);
  await removeLeftovers(
    session,
    leftovers.filter(({ kind }) => kind === 'dist-uuid'),
  );
  expect(short(await findLeftovers(session))).toEqual([['security-label', `dist_uuid:${uuid}`, true]]);
  const again = await removeLeftovers(session, leftovers);
  expect(again.map(({ removed, how }) => [removed, how])).toEqual([
    [false, 'it is no longer there'],
    [true, expect.any(String) as string],
  ]);
});

it('a label outlives the extension, and is found and removed without it', async () => {
  await create();
  await label('u-1');
  await session.query('drop extension timescaledb; drop schema if exists _timescaledb_catalog');
  const leftovers = await findLeftovers(session);
  expect(short(leftovers)).toEqual([['security-label', 'dist_uuid:u-1', true]]);
  expect(await removeLeftovers(session, leftovers)).toMatchObject([{ removed: true }]);
  expect(await findLeftovers(session)).toEqual([]);
});

describe('what is in use is never removed', () => {
  it.each([
    ['a data node', 'create server dn1 foreign data wrapper timescaledb_fdw', 'data-node', 'dn1'],
    [
      'a distributed hypertable',
      `insert into _timescaledb_catalog.hypertable values (1, 'public', 'Big', 2)`,
      'distributed-hypertable',
      'public."Big"',
    ],
    [
      'the part of one on a data node',
      `insert into _timescaledb_catalog.hypertable values (1, 'public', 't', -1), (2, 'public', 'plain', null)`,
      'member-hypertable',
      'public.t',
    ],
    [
      'a transaction in doubt',
      `begin; create table public.t(); prepare transaction 'ts-1-815-16390-10'`,
      'prepared-transaction',
      'ts-1-815-16390-10',
    ],
  ])('%s keeps the mark and the label', async (_what, statements, kind, name) => {
    await create();
    const uuid = await mark('own');
    await label(uuid);
    const believed = await findLeftovers(session);
    await session.query(statements);
    try {
      const found = await findLeftovers(session);
      expect(short(found)).toEqual([
        ['dist-uuid', uuid, false],
        ['security-label', `dist_uuid:${uuid}`, false],
        [kind, name, false],
      ]);
      // Also for one who looked before it came.
      for (const asked of [believed, found]) {
        for (const { removed, how } of await removeLeftovers(session, asked)) {
          expect(removed).toBe(false);
          expect(how).not.toBe('');
        }
      }
      expect(await findLeftovers(session)).toEqual(found);
    } finally {
      if (kind === 'prepared-transaction') await session.query(`rollback prepared '${name}'`);
    }
  });

  it('sessions of an access node do, too', async () => {
    await create();
    await mark('other');
    await using _access = await connect(database.endpoint, { applicationName: 'timescaledb' });
    expect((await findLeftovers(session)).map(({ kind, removable }) => [kind, removable])).toEqual([
      ['dist-uuid', false],
      ['access-node-session', false],
    ]);
  });
});

it('a role without the right removes nothing and is told who can', async () => {
  await create();
  await label(await mark('own'));
  const role = `poor_${database.name}`;
  await session.query(`create role ${role} login; grant delete on _timescaledb_catalog.metadata to ${role}`);
  try {
    await session.query(`set session authorization ${role}`);
    const leftovers = await findLeftovers(session);
    expect(leftovers).toHaveLength(2);
    // The mark alone it could delete, but not the label.
    await expect(removeLeftovers(session, leftovers)).rejects.toMatchObject({
      code: 'PERMISSION_DENIED',
      hint: 'Repeat it as a superuser. Nothing was removed.',
    });
    expect(await findLeftovers(session)).toEqual(leftovers);
  } finally {
    await session.query(`reset session authorization; drop owned by ${role}; drop role ${role}`);
  }
});
