import { expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import type { Connection, Endpoint } from '../../postgres/connection.ts';
import { connect } from '../../../test/database.ts';
import type { ServerAddress } from '../mesh/group-servers.ts';
import { testGroup } from './group-of-three.suite.ts';
import { StructureUpkeep } from './structure-upkeep.ts';

test('a statement that fails on a member is seen there, with its error, and goes through when the obstacle is gone', async () => {
  await using group = await testGroup(18, ['n1', 'n2']);
  const at = (node: string): ServerAddress => ({ node, host: '127.0.0.1', port: 1 });
  const said: object[] = [];
  const upkeep = new StructureUpkeep(
    {
      clock: systemClock,
      log: { info: () => {}, warn: (facts) => said.push(facts) },
      servers: {
        withConnection: ({ node }, _database, work) =>
          work(group.members.find((member) => member.node === node)?.connection as Connection),
      },
    },
    {
      self: at('n2'),
      view: () => ({ master: at('n1'), databases: ['app'], others: [at('n1')] }),
      intervalMs: 1000,
      readerPatienceMs: 200,
    },
  );
  await group.setMaster('n1');
  const { connection } = group.master;
  const member = group.members[1]?.connection as Connection;
  await connection.query('create role someone login; create sequence s; select nextval($$s$$)');
  await group.caughtUp();
  await upkeep.round();
  expect(upkeep.status()).toEqual([{ database: 'app', problems: [], pending: undefined }]);
  expect(await member.one(`select last_value::int as v from s`)).toEqual({ v: 1 });
  expect(
    await connection.one(`select extensions -> 'pg_trgm' is not null as told from varve_group.member`),
  ).toEqual({ told: true });

  // A reader on the member may hold the stream up for a while, and no longer.
  await connection.query('create table read_there (id int primary key)');
  await group.caughtUp();
  await using reader = await connect({
    ...group.members[1]?.test.server.admin(),
    database: 'app',
  } as Endpoint);
  await reader.query('begin; select * from read_there');
  await connection.query('alter table read_there add column x int');
  await expect
    .poll(
      async () => {
        await upkeep.round();
        return said.length;
      },
      { timeout: 10_000 },
    )
    .toBe(1);
  await group.caughtUp();
  expect(said.splice(0)).toMatchObject([{ role: 'postgres', query: expect.stringContaining('read_there') }]);
  await expect(reader.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });

  await member.query(`set varve_group.ddl = off; create table here_first (x int); reset varve_group.ddl`);
  await connection.query('create table here_first (id int primary key)');
  await connection.query('create table behind_it (id int primary key); insert into behind_it values (1)');
  await expect
    .poll(
      async () => {
        await upkeep.round();
        return upkeep.status()[0]?.pending;
      },
      { timeout: 10_000 },
    )
    .toMatchObject({
      count: 2,
      tag: 'CREATE TABLE',
      statement: 'create table here_first (id int primary key)',
      error: 'relation "here_first" already exists',
    });
  expect(said).toHaveLength(1);
  await member.query(`set varve_group.ddl = off; drop table here_first; reset varve_group.ddl`);
  await group.caughtUp();
  await upkeep.round();
  expect(upkeep.status()[0]?.pending).toBeUndefined();
  expect(await member.one('select count(*)::int as n from behind_it')).toEqual({ n: 1 });
});
