import { expect, inject, test } from 'vitest';
import { testGroup } from './group-of-three.suite.ts';

const rows = async (c: { query: any }, sql: string): Promise<string[]> =>
  (await c.query(sql)).rows.map((r: object) => JSON.stringify(r));

test.for([18, 17, 16])('rows written right behind their DDL arrive, PostgreSQL %s', async (major) => {
  await using group = await testGroup(major, ['n1', 'n2', 'n3']);
  const m = group.master.connection;
  await m.query(
    `begin; create table a (id int primary key, t text); insert into a select i, 'x' from generate_series(1, 1000) i; commit`,
  );
  await m.query('create table b (id int)');
  await m.query('insert into b values (1)');
  await m.query('create schema s create table c (id int primary key)');
  await m.query('insert into s.c values (1)');
  await group.caughtUp();
  for (const { connection } of group.members) {
    expect(
      await rows(
        connection,
        'select count(*)::int from a union all select count(*)::int from b union all select count(*)::int from s.c',
      ),
    ).toEqual(['{"count":1000}', '{"count":1}', '{"count":1}']);
  }
});
