import { expect, test } from 'vitest';
import type { Connection } from '../../postgres/connection.ts';
import { connect } from '../../../test/database.ts';
import { testEdge, testGroup, testMember, type TestGroup } from './group-of-three.suite.ts';

/** The newest, and in turn one of the others. */
const MAJORS = [18, process.pid % 2 === 0 ? 17 : 16];

/** The rows of a query on every member, which have to be the same. */
async function everywhere(group: TestGroup, sql: string): Promise<string[]> {
  await group.caughtUp();
  const seen = await Promise.all(group.members.map(({ connection }) => lines(connection, sql)));
  for (const other of seen) expect(other).toEqual(seen[0]);
  return seen[0] ?? [];
}

async function lines(connection: Connection, sql: string): Promise<string[]> {
  const [result] = await connection.queryText(sql);
  return (result?.rows ?? []).map((row) => row.join(' '));
}

const STRUCTURE = `
  select c.oid::regclass || ' ' || c.relkind::text || ' ' || c.relowner::regrole || ' ' || coalesce(c.relacl::text, '')
    || ' ' || c.relreplident::text || ' ' || (exists (select from pg_publication_rel r where r.prrelid = c.oid))::text
    || coalesce((select ' ' || string_agg(a.attname || ':' || format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then '!' else '' end, ',' order by a.attnum)
       from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '') as line
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname !~ '^(pg_|information_schema|varve)' order by 1`;

/** Every table of the publication is taken from every other member, ready. */
async function expectNoGaps(group: TestGroup): Promise<void> {
  await group.caughtUp();
  for (const { connection } of group.members) {
    expect(
      await lines(
        connection,
        `select s.subname, r.prrelid::regclass from pg_subscription s, pg_publication_rel r
         where not exists (select from pg_subscription_rel x
           where x.srsubid = s.oid and x.srrelid = r.prrelid and x.srsubstate = 'r')`,
      ),
    ).toEqual([]);
    expect(
      await lines(
        connection,
        `select subname, apply_error_count from pg_stat_subscription_stats where apply_error_count > 0`,
      ),
    ).toEqual([]);
  }
}

test.for([18, 17, 16])('rows written right behind their DDL arrive, PostgreSQL %s', async (major) => {
  await using group = await testGroup(major, ['n1', 'n2', 'n3']);
  const { connection } = group.master;
  const run = (sql: string): Promise<unknown> => connection.query(sql);

  await run(`begin; create table a (id int primary key, t text);
    insert into a select i, 'x' from generate_series(1, 1000) i; commit`);
  await run('create table b (id int, at timestamptz)');
  await run('insert into b values (1, now())');
  await run('create schema s create table c (id int primary key)');
  await run('insert into s.c values (1)');
  expect(
    await everywhere(
      group,
      'select count(*) from a union all select count(*) from b union all select count(*) from s.c',
    ),
  ).toEqual(['1000', '1', '1']);

  await run(`begin; alter table a add column u int default 7; insert into a values (1001, 'y', 8);
    update a set u = 9 where id = 1; alter table a add column at timestamptz not null default now();
    insert into a values (1002, 'z', 8); alter table a drop column t; delete from a where id = 2; commit`);
  expect(await everywhere(group, `select count(*), sum(u), count(distinct at) from a`)).toEqual([
    '1001 7011 1',
  ]);
  await everywhere(group, 'select * from a order by id');
  await run(`update b set id = 2 where id = 1`);
  expect(await everywhere(group, 'select id from b')).toEqual(['2']);

  await run(`create table p (id int, k text, primary key (id, k)) partition by list (k)`);
  await run(`create table p_x partition of p for values in ('x')`);
  await run(`begin; insert into p values (1, 'x'); create table p_rest partition of p default;
    insert into p values (2, 'y'); commit`);
  await run(`create table p_z (id int, k text, primary key (id, k)); `);
  await run(`insert into p_z values (3, 'z'); `);
  await run(`alter table p attach partition p_z for values in ('z')`);
  await run(`insert into p values (4, 'z')`);
  expect(await everywhere(group, 'select tableoid::regclass, id from p order by id')).toEqual([
    'p_x 1',
    'p_rest 2',
    'p_z 3',
    'p_z 4',
  ]);
  await run('alter table p detach partition p_x');

  await run(
    `begin; alter table a rename to a2; alter table a2 rename column u to v; insert into a2 (id, v) values (2000, 1); commit`,
  );
  await run('alter table a2 set schema s');
  await run('insert into s.a2 (id, v) values (2001, 1)');
  expect(await everywhere(group, 'select count(*) from s.a2 where id >= 2000')).toEqual(['2']);
  await run('truncate b, s.c');
  await run(`begin; drop table b; create table b (x int primary key); insert into b values (5); commit`);
  expect(await everywhere(group, 'select x from b union all select count(*) from s.c')).toEqual(['5', '0']);
  await run('drop schema s cascade');
  await everywhere(group, STRUCTURE);
  await expectNoGaps(group);

  // Another master: its rows are taken as well, also of tables that were made before.
  await group.setMaster('n2');
  await group.master.connection.query(`insert into b values (6); create table later (id int primary key)`);
  await group.master.connection.query(`insert into later values (1)`);
  expect(await everywhere(group, 'select x from b union all select id from later')).toEqual(['5', '6', '1']);
  await expectNoGaps(group);
});

test.for(MAJORS)('many sessions that create and fill tables lose no row, PostgreSQL %s', async (major) => {
  await using group = await testGroup(major, ['n1', 'n2', 'n3']);
  const { test } = group.master;
  await Promise.all(
    Array.from({ length: 4 }, async (_, session) => {
      await using connection = await connect({ ...test.server.admin(), database: 'app' });
      for (let i = 0; i < 8; i += 1) {
        await connection.query(`create table t_${session}_${i} (id int primary key)`);
        await connection.query(`insert into t_${session}_${i} select generate_series(1, 50)`);
        await connection.query(`alter table t_${session}_${i} add column v int`);
        await connection.query(`insert into t_${session}_${i} select g, g from generate_series(51, 60) g`);
      }
    }),
  );
  const names = await lines(
    group.master.connection,
    `select relname from pg_class where relname ~ '^t_' and relkind = 'r'`,
  );
  expect(names).toHaveLength(32);
  const sum = names.map((name) => `select count(*), sum(id), sum(v) from ${name}`).join(' union all ');
  expect(await everywhere(group, sum)).toEqual(names.map(() => '60 1830 555'));
  await expectNoGaps(group);
});

test.for(MAJORS)(
  'a table made while a joiner copies the others arrives whole, PostgreSQL %s',
  async (major) => {
    await using group = await testGroup(major, ['n1']);
    const { master } = group;
    await master.connection.query('create table filled (id int primary key, pad text)');
    await master.connection.query(
      `insert into filled select i, repeat('x', 300) from generate_series(1, 100000) i`,
    );
    const joiner = await testMember(major, 'n2', group.groupUuid);
    try {
      await joiner.connection.query(
        `set varve_group.ddl = off; create table filled (id int primary key, pad text)`,
      );
      await joiner.connection.query(`select varve_group.adopt_tables()`);
      await joiner.connection.query('update varve_group.local set replayed = (select 1)');
      await testEdge(master, joiner, { copyData: true });
      for (let i = 0; i < 10; i += 1) {
        await master.connection.query(
          `begin; create table during_${i} (id int primary key); insert into during_${i} values (1); commit`,
        );
        await master.connection.query(`insert into during_${i} values (2)`);
        await master.connection.query(`insert into filled values (${200_000 + i})`);
      }
      const expected = Array.from({ length: 10 }, (_, i) => `select count(*)::int from during_${i}`).join(
        ' union all ',
      );
      await expect
        .poll(
          () =>
            lines(joiner.connection, `${expected} union all select count(*)::int from filled`).catch(
              () => [],
            ),
          { timeout: 30_000 },
        )
        .toEqual([...Array.from({ length: 10 }, () => '2'), '100010']);
    } finally {
      await joiner.connection.query('drop subscription varve_n1_app').catch(() => {});
      await joiner.connection.close();
      await joiner.test[Symbol.asyncDispose]();
    }
  },
);
