import { randomUUID } from 'node:crypto';
import { afterAll, expect, test } from 'vitest';
import { connect, testDatabase, type TestDatabase } from '../../../test/database.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { systemClock } from '../../core/clock.ts';
import type { Connection } from '../../postgres/connection.ts';
import { sqlStateOf } from '../../postgres/sqlstate.ts';
import { replayDdl } from '../bootstrap/replay.ts';
import { compactQueue, lastCarriedOut } from './compact-queue.ts';
import { testGroup } from './group-of-three.suite.ts';
import { installGroupSchema } from './install.ts';
import { StructureUpkeep } from './structure-upkeep.ts';

/** All that can be seen of a database's structure, as lines. */
const STRUCTURE = `
  with mine as (
    select c.oid::regclass::text as name, c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'varve_group'))
  select line from (
    select format('%s %s owner %s populated %s', relkind, name, pg_get_userbyid(relowner), relispopulated) as line from mine
    union all select format('%s: %s to %s', name, a.privilege_type, a.grantee::regrole)
      from mine, aclexplode(relacl) a where a.grantee <> relowner
    union all select format('%s is %s', name, obj_description(oid, 'pg_class')) from mine
    union all select format('%s.%s %s %s %s', name, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = a.attrelid and d.adnum = a.attnum))
      from mine join pg_attribute a on a.attrelid = mine.oid where a.attnum > 0 and not a.attisdropped and relkind <> 'S'
    union all select pg_get_indexdef(oid) from mine where relkind in ('i', 'I')
    union all select format('%s %s', conrelid::regclass, pg_get_constraintdef(k.oid))
      from pg_constraint k join mine on mine.oid = k.conrelid
    union all select format('%s %s', name, pg_get_viewdef(oid)) from mine where relkind in ('v', 'm')
    union all select format('%s in %s %s', name, (select inhparent::regclass from pg_inherits where inhrelid = oid),
        pg_get_expr(relpartbound, oid)) from mine where relispartition
    union all select pg_get_functiondef(p.oid) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'varve_group')
    union all select format('schema %s', nspname) from pg_namespace where nspname !~ '^pg_') l
  order by line`;

async function structureOf(connection: Connection): Promise<string[]> {
  const { rows } = await connection.query<{ line: string }>(STRUCTURE);
  return rows.map(({ line }) => line);
}

const databases: TestDatabase[] = [];
afterAll(async () => {
  for (const database of databases) await database[Symbol.asyncDispose]();
});

async function replicated(): Promise<Connection> {
  const database = await testDatabase();
  databases.push(database);
  const connection = await database.connect();
  await connection.query('set client_min_messages = error');
  await installGroupSchema(connection, { groupUuid: randomUUID(), node: 'n1' });
  return connection;
}

/** As a joiner. */
async function replayed(donor: Connection): Promise<string[]> {
  await using joiner = await replicated();
  await replayDdl(donor, joiner);
  return await structureOf(joiner);
}

async function queueOf(connection: Connection): Promise<object[]> {
  const { rows } = await connection.query('select * from varve_group.ddl_queue order by id');
  return rows;
}

/** What people do with few names. */
function statement(random: SeededRandom): string {
  const one = (...choices: string[]): string => choices[random.below(choices.length)] ?? '';
  const t = (): string => one('t1', 't2', 't3', 's1.t1', 's2.t1', '"T ""x"');
  const [v, m, p] = [one('v1', 'v2'), one('m1', 'm2'), one('1', '2', '3')];
  return one(
    `create table ${t()} (id int primary key, v text default 'x')`,
    `create table ${t()} (id serial primary key, v text)`,
    `create table ${t()} as select * from ${t()}`,
    `create table ${t()} (like ${t()} including all)`,
    `alter table ${t()} add column c${p} int`,
    `alter table ${t()} rename to ${one('t1', 't2', 't3')}`,
    `alter table ${t()} set schema ${one('public', 's1', 's2')}`,
    `alter table ${t()} add foreign key (id) references ${t()} (id)`,
    `create index on ${t()} (id)`,
    `create view ${v} as select id from ${t()}`,
    `create or replace view ${v} as select id from ${t()}`,
    `create materialized view ${m} as select id from ${t()}`,
    `create materialized view ${m} as select id from ${one('m1', 'm2')} with no data`,
    `refresh materialized view ${m}`,
    `refresh materialized view ${m}`,
    `grant select on ${t()} to pg_monitor`,
    `revoke select on ${t()} from pg_monitor`,
    `comment on table ${t()} is 'of ${t().replaceAll("'", '')}'`,
    `create table p${p} partition of parts for values in (${p})`,
    `alter table parts detach partition p${p}`,
    `alter table parts attach partition p${p} for values in (${p})`,
    `create function f${p}() returns bigint language sql as 'select count(*) from ${t()}'`,
    `drop function f${p}()`,
    `create schema ${one('s1', 's2')}`,
    `drop schema ${one('s1', 's2')} cascade`,
    `alter schema ${one('s1', 's2')} rename to ${one('s1', 's2')}`,
    `drop table ${t()}`,
    `drop table ${t()} cascade`,
    `drop table ${t()}, ${t()}`,
    `drop table p${p}`,
    `drop view ${v}`,
    `drop materialized view ${m}`,
    `drop materialized view ${m} cascade`,
  );
}

const SEEDS = process.env['VARVE_SOAK'] === '1' ? 40 : 1;
const STATEMENTS = 150;

test(
  `histories say the same when they are made shorter (${SEEDS})`,
  { timeout: SEEDS * 60_000 },
  async () => {
    const base = Date.now() % 100_000;
    let removed = 0;
    for (let seed = base; seed < base + SEEDS; seed += 1) {
      const random = new SeededRandom(seed);
      await using master = await replicated();
      await master.query(`create table parts (id int) partition by list (id)`);
      for (let i = 0; i < STATEMENTS; i += 1) {
        // Many make no sense, and are refused.
        await master.query(statement(random)).catch((error: unknown) => {
          if (sqlStateOf(error) === undefined) throw error;
        });
      }
      const structure = await structureOf(master);
      expect(await replayed(master), `seed ${seed}: the whole history`).toEqual(structure);
      const done = await compactQueue(master, await lastCarriedOut(master));
      removed += done?.removed ?? 0;
      expect(await replayed(master), `seed ${seed}: shorter by ${done?.removed}`).toEqual(structure);
    }
    expect(removed).toBeGreaterThan(0);
  },
);

test('roles that only a removed statement told of are told of by the next', async () => {
  await using master = await replicated();
  const role = `r_${randomUUID().slice(0, 8)}`;
  await master.query(`create role ${role}`);
  try {
    await master.query('create table a (id int); drop table a');
    await master.query('create table b (id int)');
    await compactQueue(master, await lastCarriedOut(master));
    expect(await queueOf(master)).toMatchObject([
      { tag: 'CREATE TABLE', statement: 'create table b (id int)', roles: expect.anything() },
    ]);
  } finally {
    await master.query(`drop role ${role}`);
  }
});

test('while DDL is held for a join nothing is removed', async () => {
  await using master = await replicated();
  await master.query('create table a (id int); drop table a; create table b (id int)');
  {
    await using other = await connect(master.endpoint);
    await other.query('select varve_group.hold_ddl()');
    expect(await compactQueue(master, await lastCarriedOut(master))).toBeUndefined();
    expect(await queueOf(master)).toHaveLength(3);
  }
  await expect
    .poll(async () => compactQueue(master, await lastCarriedOut(master)))
    .toMatchObject({ removed: 2 });
});

test('the write master makes the queue shorter once all members have it, on all of them', async () => {
  await using group = await testGroup(18, ['n1', 'n2']);
  const at = (node: string) => ({ node, host: '127.0.0.1', port: 1 });
  const said: object[] = [];
  const connectionOf = (node: string): Connection => {
    const found = group.members.find((member) => member.node === node);
    if (!found) throw new Error(`no member ${node}`);
    return found.connection;
  };
  const upkeep = new StructureUpkeep(
    {
      clock: systemClock,
      log: { info: (facts) => said.push(facts), warn: (facts) => said.push(facts) },
      servers: { withConnection: ({ node }, _database, work) => work(connectionOf(node)) },
    },
    {
      self: at('n1'),
      view: () => ({ master: at('n1'), databases: ['app'], others: [at('n2')] }),
      intervalMs: 1000,
      compactEveryMs: 0,
    },
  );
  const [one, two] = [connectionOf('n1'), connectionOf('n2')];
  await group.caughtUp();
  await two.query('alter subscription varve_n1_app disable');
  await one.query('create table a (id int); drop table a; create table b (id int); insert into b values (1)');
  await upkeep.round();
  expect(await queueOf(one)).toHaveLength(3);
  await two.query('alter subscription varve_n1_app enable');
  await group.caughtUp();
  await upkeep.round();
  await group.caughtUp();
  expect(await queueOf(one)).toMatchObject([{ statement: 'create table b (id int)' }]);
  expect(await queueOf(two)).toEqual(await queueOf(one));
  expect(said).toEqual([{ database: 'app', statements: 3, removed: 2 }]);
  // What comes later goes on behind it.
  await one.query('alter table b add column v int');
  await group.caughtUp();
  expect(await two.one('select count(*)::int as n from b where v is null')).toEqual({ n: 1 });
});
