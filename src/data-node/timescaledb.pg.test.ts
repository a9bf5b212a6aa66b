import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { testAccessNode, traces, type TestAccessNode } from '../../test/access-node.ts';
import { connect, startTestServer, testDatabase, type TestServer } from '../../test/database.ts';
import { TEMP_PREFIX } from '../../test/leak-check.ts';
import { offerTimescale } from '../../test/timescaledb-stand-in.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';
import { writeExtensionFiles } from './extension-files.ts';

/**
 * Access databases that have TimescaleDB, with a stand-in for it: no package registry has the real extension.
 * See test/timescaledb-stand-in.ts for what the stand-in has of it.
 */
let folder: string;
let remote: TestServer;
let access: TestAccessNode;
let session: Connection;
const plain = { user: 'plain_ts', password: 'ppw' };

const here = (): string => join(folder, 'here');
const there = (): string => join(folder, 'there');

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}ts-`));
  // Both servers read it, as another user when we are root.
  await chmod(folder, 0o755);
  await writeExtensionFiles(join(folder, 'varve'));
  await offerTimescale(here(), ['2.14.0', '2.13.1']);
  await offerTimescale(there(), []);
  remote = await startTestServer(18, { extensionFolders: [join(folder, 'varve'), there()] });
  await using admin = await connect(at('postgres'));
  await admin.query(`create role ${plain.user} login createdb password '${plain.password}'`);
  await using mine = await connect();
  await mine.query(`create role ${plain.user} login password '${plain.password}'`);
});

afterAll(async () => {
  await remote?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
  await using connection = await connect();
  await connection.query(`drop role if exists ${plain.user}`);
});

function at(database: string): Endpoint {
  return { ...remote.server.admin(), database };
}

/** The run's server offers the stand-in to a session that asks for it. */
async function createTimescale(connection: Connection, version: string, schema: string): Promise<void> {
  await connection.query(
    `select set_config('extension_control_path', $1 || ':' || current_setting('extension_control_path'), false)`,
    [here()],
  );
  await connection.query(`create schema if not exists ${schema}`);
  await connection.query(`create extension timescaledb schema ${schema} version '${version}'`);
}

function add(caller: Connection, database: string, more = ''): Promise<object> {
  return caller.one(`select * from add_data_node('dn', '127.0.0.1', $1, $2${more})`, [
    database,
    remote.server.port,
  ]);
}

async function remove(drop: boolean): Promise<void> {
  await session.query(`select delete_data_node('dn', drop_database => $1)`, [drop]);
  await access.settled();
}

async function timescaleIn(database: string): Promise<object> {
  await using connection = await connect(at(database));
  return await connection.one(
    `select e.extversion as version, n.nspname as schema, pg_get_userbyid(n.nspowner) as schema_owner,
       pg_get_userbyid(e.extowner) as owner
     from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'timescaledb'`,
  );
}

/** What is wrong, before anything is written: no database made, no operation journalled. */
async function expectRefused(call: () => Promise<unknown>, error: object): Promise<void> {
  const before = await traces([at('postgres'), access.database.endpoint]);
  const operations = access.service.status().length;
  await expect(call()).rejects.toMatchObject(error);
  expect(await traces([at('postgres'), access.database.endpoint])).toEqual(before);
  expect(access.service.status()).toHaveLength(operations);
}

async function open(): Promise<void> {
  const admin = remote.server.admin();
  access = await testAccessNode({ logins: [admin, { ...admin, ...plain }] });
  session = await access.connect();
  await session.query(`grant usage on foreign data wrapper postgres_fdw to ${plain.user}`);
}

async function close(): Promise<void> {
  await session.close();
  await access[Symbol.asyncDispose]();
}

describe('an access database with timescaledb 2.13.1 in schema ts', () => {
  beforeAll(async () => {
    await open();
    await createTimescale(session, '2.13.1', 'ts');
  });
  afterAll(close);

  it.each([
    [
      'the access node’s own version where that is on offer',
      ['2.14.0', '2.13.5', '2.13.1', '2.12.2'],
      '2.13.1',
    ],
    ['else the newest compatible one', ['2.14.0', '2.11.2', '2.12.2', '2.9.3', '3.0.0'], '2.12.2'],
    ['also one with a newer patch level', ['2.13.10', '2.13.9', '2.12.0'], '2.13.10'],
  ])('gets on the data node: %s', async (_what, offers, version) => {
    await offerTimescale(there(), offers);
    expect(await add(session, 'new')).toMatchObject({ database_created: true, extension_created: true });
    const owner = remote.server.superuser;
    expect(await timescaleIn('new')).toEqual({ version, schema: 'ts', schema_owner: owner, owner });
    await remove(true);
  });

  it('gets it as an ordinary role, who then owns it', async () => {
    await offerTimescale(there(), ['2.13.1']);
    await using caller = await access.connect(plain);
    await add(caller, 'hers');
    expect(await timescaleIn('hers')).toMatchObject({
      schema: 'ts',
      schema_owner: plain.user,
      owner: plain.user,
    });
    await remove(true);
  });

  it.each([
    [
      'only incompatible versions are on offer',
      ['3.0.0', '2.14.0', '1.7.5'],
      'remote PostgreSQL instance has an incompatible timescaledb extension version',
      'Access node version: 2.13.1, available remote versions: 1.7.5, 2.14.0, 3.0.0.',
    ],
    [
      'it is not on offer at all',
      [],
      'extension "timescaledb" is not available on 127.0.0.1:',
      'Access node version: 2.13.1, available remote versions: none.',
    ],
  ])('is refused before a database is made where %s', async (_why, offers, message, detail) => {
    await offerTimescale(there(), offers);
    await expectRefused(() => add(session, 'new'), {
      sqlstate: 'TS174',
      message: expect.stringContaining(message) as string,
      detail,
    });
  });

  describe('and a database on the data node', () => {
    let database: string;
    let inside: Connection;

    beforeEach(async () => {
      await offerTimescale(there(), ['2.14.0', '2.13.1', '2.12.2']);
      await using made = await connect(at('postgres'));
      database = 'there';
      await made.query(`create database ${database} template template0`);
      inside = await connect(at(database));
    });

    afterEach(async () => {
      await inside.close();
      await using admin = await connect(at('postgres'));
      await admin.query(`drop database ${database} with (force)`);
    });

    async function expectTakenBack(): Promise<void> {
      const endpoints = [at(database), access.database.endpoint];
      const before = await traces(endpoints);
      await session.query('begin');
      await add(session, database);
      await session.query('rollback');
      await access.settled();
      expect(await traces(endpoints)).toEqual(before);
    }

    it('without it: it is made, and taken back when the caller rolls back', async () => {
      await expectTakenBack();
      await add(session, database);
      expect(await timescaleIn(database)).toMatchObject({ version: '2.13.1', schema: 'ts' });
      await remove(false);
    });

    it('with an older one: it is used as it is, and stays when the caller rolls back', async () => {
      await inside.query(`create schema ts; create extension timescaledb schema ts version '2.12.2'`);
      await expectTakenBack();
      await add(session, database);
      expect(await timescaleIn(database)).toMatchObject({ version: '2.12.2' });
      await remove(false);
    });

    it('with a newer one: it is refused', async () => {
      await inside.query(`create schema ts; create extension timescaledb schema ts version '2.14.0'`);
      await expectRefused(() => add(session, database), {
        sqlstate: 'TS174',
        message: 'remote PostgreSQL instance has an incompatible timescaledb extension version',
        detail: 'Access node version: 2.13.1, remote version: 2.14.0.',
      });
    });

    it('with one of another owner: it is refused', async () => {
      await inside.query(
        `grant create on database ${database} to ${plain.user}; set session authorization ${plain.user};
         create schema ts; create extension timescaledb schema ts version '2.13.1'; reset session authorization`,
      );
      const error = await add(session, database).catch((e: unknown) => e);
      expect(error).toMatchObject({ sqlstate: 'TS174', message: 'cannot add data node "dn": 2 problems' });
      const { detail } = error as { detail: string };
      expect(detail).toContain(`invalid owner of extension "timescaledb"`);
      expect(detail).toContain(`schema "ts" of extension "timescaledb"`);
    });

    it('with one in another schema: it is refused', async () => {
      await inside.query(`create extension timescaledb schema public version '2.13.1'`);
      const error = await add(session, database).catch((e: unknown) => e);
      expect((error as { detail: string }).detail).toContain(
        `Expected schema "ts", as on the access node, but it was "public".`,
      );
    });

    it('with a schema of that name: it is refused', async () => {
      await inside.query(`create schema ts`);
      await expectRefused(() => add(session, database), { sqlstate: '42P06' });
    });

    it('is only validated with bootstrap => false', async () => {
      await inside.query(`create extension varve`);
      await expectRefused(() => add(session, database, ', bootstrap => false'), {
        sqlstate: 'TS174',
        message: expect.stringContaining('does not have extension "timescaledb"') as string,
      });
    });
  });

  it('never has a mark in TimescaleDB’s catalog on either side, so that both can be updated to 2.14', async () => {
    await offerTimescale(there(), ['2.14.0', '2.13.1']);
    await add(session, 'marked');
    const trap = `alter extension timescaledb update to '2.14.0'`;
    await using node = await connect(at('marked'));
    for (const side of [node, session]) {
      expect((await side.query('select key from _timescaledb_catalog.metadata')).rows).toEqual([
        { key: 'uuid' },
      ]);
      expect(
        (
          await side.query(
            'select * from pg_shseclabel where objoid = (select oid from pg_database where datname = current_database())',
          )
        ).rows,
      ).toEqual([]);
      // The stand-in's update does refuse a mark.
      await side.query(`begin; insert into _timescaledb_catalog.metadata values ('dist_uuid', 'x', true)`);
      await expect(side.query(trap)).rejects.toMatchObject({
        sqlstate: '0A000',
        detail: 'This node appears to be part of a multi-node installation',
      });
      await side.query('rollback');
      await side.query(`begin; ${trap}; rollback`);
    }
    await node.close();
    await remove(true);
  });
});

describe('an access database without timescaledb', () => {
  beforeAll(open);
  afterAll(close);

  it('does not mind its absence, nor its presence on the data node', async () => {
    await offerTimescale(there(), []);
    await add(session, 'without');
    await remove(true);
    await offerTimescale(there(), ['2.14.0']);
    await using database = await testDatabase({ admin: at('postgres') });
    await using inside = await database.connect();
    await inside.query('create extension timescaledb');
    await add(session, database.name);
    expect(await timescaleIn(database.name)).toMatchObject({ version: '2.14.0' });
    await remove(false);
  });
});

describe('timescaledb before 2.14, which has an add_data_node of its own', () => {
  it('cannot share its schema with varve in an access database, and says where to put that', async () => {
    await using database = await testDatabase();
    await using connection = await database.connect();
    await createTimescale(connection, '2.13.1', 'public');
    await expect(connection.query('create extension varve')).rejects.toMatchObject({
      sqlstate: '42723',
      message: 'schema public has a function add_data_node already',
      hint: expect.stringContaining('CREATE EXTENSION varve SCHEMA varve') as string,
    });
    await connection.query('create schema varve; create extension varve schema varve');
  });

  it('is refused on a data node where both would share a schema', async () => {
    await open();
    try {
      await createTimescale(session, '2.14.0', 'public');
      await offerTimescale(there(), ['2.13.1', '2.12.2']);
      await expectRefused(() => add(session, 'shared'), {
        sqlstate: 'TS174',
        message: expect.stringContaining(
          'timescaledb 2.13.1 and varve cannot share schema "public"',
        ) as string,
      });
      await offerTimescale(there(), ['2.14.0', '2.13.1']);
      await add(session, 'shared');
      await remove(true);
    } finally {
      await close();
    }
  });
});
