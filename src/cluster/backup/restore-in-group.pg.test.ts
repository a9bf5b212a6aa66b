import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import type { Connection } from '../../postgres/connection.ts';
import { testGroup, type TestGroup } from '../ddl/group-of-three.suite.ts';
import { backupDatabase } from './backup.ts';
import { restoreDatabase } from './restore.ts';

let group: TestGroup;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}restore-`));
  group = await testGroup(18, ['n1', 'n2']);
});

afterAll(async () => {
  await group?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/**
 * As extension varve does: in its schema there are tables of the group and of each member, and one of the latter
 * refers to one of the former.
 */
const REGISTRY = `set varve_group.ddl = off;
  create schema varve;
  create table varve.node (name text primary key);
  create table varve.call (id int primary key, node text references varve.node);
  create function varve._group_tables() returns table (relation regclass, columns text) language sql as
    $$ select 'varve.node'::regclass, null::text $$;
  reset varve_group.ddl;
  select varve_group.adopt_tables()`;

async function rows(connection: Connection, table: string): Promise<string[]> {
  const found = await connection.query<{ row: string }>(`select t::text as row from ${table} t order by 1`);
  return found.rows.map(({ row }) => row);
}

test('what is there already gives way on every member, also where tables of its own refer to it', async () => {
  for (const { connection } of group.members) await connection.query(REGISTRY);
  const { master } = group;
  const [, other] = group.members;
  if (!other) throw new Error('no second member');
  await master.connection.query(`insert into varve.node values ('old'), ('both');
    create table plain (n int primary key); insert into plain values (1), (2)`);
  await group.caughtUp();
  const source = { ...master.test.server.admin(), database: master.connection.endpoint.database };
  await master.connection.query(`update varve.node set name = 'new' where name = 'old'`);
  const file = await backupDatabase({ source, folder, fileName: 'x.varvebackup', cluster: 'main' });
  await master.connection.query(`drop table plain; update varve.node set name = 'later' where name = 'new'`);
  await group.caughtUp();
  await other.connection.query(`insert into varve.call values (1, 'both')`);

  await restoreDatabase({ path: file.path, target: source });
  await group.caughtUp();
  for (const { connection } of group.members) {
    expect(await rows(connection, 'varve.node')).toEqual(['(both)', '(new)']);
    expect(await rows(connection, 'plain')).toEqual(['(1)', '(2)']);
  }
  expect(await rows(other.connection, 'varve.call')).toEqual(['(1,both)']);
  // The stream goes on.
  await master.connection.query('insert into plain values (3)');
  await group.caughtUp();
  expect(await rows(other.connection, 'plain')).toHaveLength(3);
});
