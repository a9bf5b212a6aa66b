import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Connection } from '../../postgres/connection.ts';
import { connect } from '../../../test/database.ts';
import { testGroup, type TestGroup } from './group-of-three.suite.ts';

/** The newest, and in turn one of the others. */
const MAJORS = [18, process.pid % 2 === 0 ? 17 : 16];

describe.each(MAJORS)('on a write master of PostgreSQL %s', (major) => {
  let group: TestGroup;
  let user: Connection;

  beforeAll(async () => {
    group = await testGroup(major, ['n1', 'n2']);
    const { connection, test } = group.master;
    await connection.query(`create role alice login password 'a'; create role staff; grant staff to alice;
      create role bob login password 'b'; grant create on database app to alice`);
    await connection.query(`create schema work authorization alice`);
    user = await connect({ ...test.server.admin(), database: 'app', user: 'alice', password: 'a' });
    await user.query(`set search_path = work, public`);
  });
  afterAll(async () => {
    await user?.close();
    await group?.[Symbol.asyncDispose]();
  });

  const admin = (): Connection => group.master.connection;

  /** What the other member has, after everything has arrived. */
  async function there(sql: string): Promise<string[]> {
    await group.caughtUp();
    const [result] = (await group.members[1]?.connection.queryText(sql)) ?? [];
    const [here] = await admin().queryText(sql);
    const text = (result?.rows ?? []).map((row) => row.join(' '));
    expect(text).toEqual((here?.rows ?? []).map((row) => row.join(' ')));
    return text;
  }

  async function queued(connection: Connection, ...statements: string[]): Promise<string[]> {
    const { rows: before } = await admin().query<{ id: string }>(
      'select coalesce(max(id), 0)::text as id from varve_group.ddl_queue',
    );
    for (const statement of statements) await connection.query(statement);
    const { rows } = await admin().query<{ statement: string }>(
      'select statement from varve_group.ddl_queue where id > $1 order by id',
      [before[0]?.id],
    );
    return rows.map(({ statement }) => statement);
  }

  test('a statement is carried out as the role and with the search_path that it was typed with', async () => {
    expect(
      await queued(user, 'create table mine (id int primary key, at timestamptz default now())'),
    ).toHaveLength(1);
    await user.query(`set timezone = 'Asia/Tokyo'`);
    await user.query(`alter table mine add column t timestamptz default '2020-01-01 00:00'`);
    await user.query(`insert into mine (id) values (1)`);
    await user.query('grant select on mine to bob');
    await user.query(`comment on table mine is 'it''s; mine'`);
    expect(
      await there(
        `select relnamespace::regnamespace, relowner::regrole, relacl, obj_description(oid) from pg_class where relname = 'mine'`,
      ),
    ).toEqual([`work alice {alice=arwdDxt${major > 16 ? 'm' : ''}/alice,bob=r/alice} it's; mine`]);
    expect(await there(`select t at time zone 'UTC' from work.mine`)).toEqual(['2019-12-31 15:00:00']);
  });

  test('each statement of a string of many is carried out by itself', async () => {
    const script = `
      -- one; two
      create table m1 (id int primary key, t text default 'a;b'); insert into m1 values (1);
      /* create table no (); /* nested; */ */
      create unique index on m1 (t);
      create function f1() returns int language plpgsql as $x$ begin create temp table z(); return 1; end $x$;
      create function f2() returns int begin atomic select 1; select case when true then 2 end; end;
      create or replace view v1 as select 'x''; create table no()' as "a;b", E'\\'; ' as c;
      comment on database app is 'no event'; comment on table m1 is E'back\\'slash;';
      create table if not exists m1 (id int); drop table if exists never;
      create type t1 as enum ('a', 'b'); create table m2 as select g as n, 'a'::t1 as t from generate_series(1, 5) g;
      grant staff to bob; grant select on m1, m2 to staff; insert into m2 values (6, 'b')`;
    expect(await queued(admin(), `set search_path = work; ${script}`)).toEqual([
      expect.stringMatching(/^create table m1/),
      'create unique index on m1 (t)',
      expect.stringMatching(/^create function f1/),
      expect.stringMatching(/^create function f2.*end$/s),
      expect.stringMatching(/^create or replace view v1/),
      `comment on table m1 is E'back\\'slash;'`,
      `create type t1 as enum ('a', 'b')`,
      'create  table work.m2 (n integer, t work.t1) using heap',
      'grant select on m1, m2 to staff',
    ]);
    await admin().query('reset search_path');
    expect(
      await there(
        `select work.f2(), (select count(*) from work.m2), (select "a;b" from work.v1), obj_description('work.m1'::regclass)`,
      ),
    ).toEqual([`2 6 x'; create table no() back'slash;`]);
  });

  test('statements in functions and DO blocks are carried out one by one', async () => {
    expect(
      await queued(
        user,
        `do $$ declare i int; begin
           for i in 1 .. 3 loop execute format('create table d%s (id int primary key)', i);
             execute format('insert into d%s values (%s)', i, i); end loop;
           create table d_static (v int);
           insert into d_static values (1);
         end $$`,
        `create function make(n text) returns void language plpgsql as $$ begin execute format('create table %I ()', n); end $$`,
        `select make('by "function"')`,
      ),
    ).toEqual([
      'create table d1 (id int primary key)',
      'create table d2 (id int primary key)',
      'create table d3 (id int primary key)',
      'create table d_static (v int)',
      expect.stringMatching(/^create function make/),
      'create table "by ""function""" ()',
    ]);
    expect(await there(`select id from work.d2 union all select v from work.d_static`)).toEqual(['2', '1']);
  });

  test('a savepoint takes what followed it out of the queue', async () => {
    expect(
      await queued(
        user,
        'begin',
        'create table kept ()',
        'savepoint s',
        'create table gone ()',
        'rollback to s',
        'create table kept2 ()',
        'commit',
      ),
    ).toEqual(['create table kept ()', 'create table kept2 ()']);
  });

  test('temporary objects are nobody else’s matter', async () => {
    expect(
      await queued(
        user,
        'create temp table tt (id int primary key)',
        'create index on tt (id)',
        'alter table tt add column x int',
        'create temp view tv as select * from tt',
        'create temp table t3 as select 1 as x',
        'select 1 as x into temp t4',
        'create table pg_temp.t5 ()',
        'grant select on tt to bob',
        'comment on table tt is $$x$$',
        'drop table tt cascade',
      ),
    ).toEqual([]);
    await user.query(
      'create table shadow (id int); create temp table shadow (id int); create table real_one ()',
    );
    await expect(user.query('drop table shadow, real_one')).rejects.toMatchObject({ sqlstate: '0A000' });
    expect(await queued(user, 'drop table shadow')).toEqual([]);
    expect(await there(`select to_regclass('work.shadow')`)).toEqual(['work.shadow']);
  });

  test('what cannot run in a transaction is carried out there in its other form', async () => {
    await user.query('create table ci (id int, v int)');
    expect(
      await queued(
        user,
        'create index concurrently ci_v on ci (v)',
        'drop index concurrently ci_v',
        'reindex table ci',
      ),
    ).toEqual(['create index  ci_v on ci (v)', 'drop index if exists ci_v']);
    await user.query('create table parts (id int) partition by list (id)');
    await user.query('create table parts_1 partition of parts for values in (1)');
    expect(await queued(user, 'alter table parts detach partition parts_1 concurrently')).toEqual([
      'alter table parts detach partition parts_1',
    ]);
    await user.query('create materialized view mv as select count(*) as n from parts_1');
    await user.query('create unique index on mv (n)');
    await user.query('insert into parts_1 values (1)');
    await user.query('refresh materialized view concurrently mv');
    expect(await there('select n from work.mv')).toEqual(['1']);
  });

  test('a new column has in old rows what it has on the write master', async () => {
    await user.query('create table old_rows (id int primary key); insert into old_rows values (1), (2)');
    await user
      .query('alter table old_rows add column at timestamptz not null default clock_timestamp()')
      .catch(() => {});
    await user.query(
      `alter table old_rows add column made timestamptz not null default now(), add column n numeric default 1.50, add column j jsonb default '{"a": ["b, c"]}'`,
    );
    expect(await there('select * from work.old_rows order by id')).toHaveLength(2);
  });

  test.for([
    [
      'a default that gives each row another value',
      'alter table v add column u uuid default gen_random_uuid()',
    ],
    ['serial on rows that are there', 'alter table v add column s serial'],
    [
      'DDL in a function of language SQL',
      `create function sqlf() returns void language sql as 'create table w ()'; select sqlf()`,
    ],
    ['DDL beside a rollback in one string', 'begin; create table w1 (); rollback; create table w2 ()'],
    [
      'several statements in one EXECUTE',
      `do $$ begin execute 'create table w1 (); create table w2 ()'; end $$`,
    ],
    ['an unlogged table that gets durable', 'alter table ul set logged'],
  ])('%s is refused, with what to do instead', async ([, statement]) => {
    await user.query(
      'create table if not exists v (id int primary key); insert into v values (1) on conflict do nothing',
    );
    await user.query('create unlogged table if not exists ul (id int); insert into ul values (1)');
    await expect(user.query(statement ?? '')).rejects.toMatchObject({
      sqlstate: '0A000',
      hint: expect.stringMatching(/\S/),
    });
    await user.query('rollback');
    await user.query('deallocate all; drop function if exists sqlf()');
    expect(await there(`select count(*) from pg_class where relname in ('w', 'w1', 'w2')`)).toEqual(['0']);
  });

  test('tables made from queries have their rows everywhere', async () => {
    await user.query(`select g as a, 'x'::varchar(5) as "B b" into into1 from generate_series(1, 3) g`);
    await user.query('prepare q as select now() as x; create table into2 as execute q');
    await user.query(
      'do $$ declare z int := 7; begin create table into3 with (fillfactor = 50) as select z as x; end $$',
    );
    await user.query('create unlogged table into4 as select 1 as x');
    await user.query('create table into5 as select 1 as x with no data');
    await user.query('insert into into3 values (8)');
    expect(await there(`select a, "B b" from work.into1 union all select x, '' from work.into3`)).toEqual([
      '1 x',
      '2 x',
      '3 x',
      '7 ',
      '8 ',
    ]);
    await there('select x from work.into2');
    await there(
      `select relname, relpersistence, reloptions, relowner::regrole from pg_class where relname ~ '^into' order by 1`,
    );
  });

  test('an extension is made with the version that the write master has, its tables are not replicated', async () => {
    expect(
      await queued(
        admin(),
        'create extension if not exists pg_trgm',
        'create extension if not exists pg_trgm',
      ),
    ).toEqual([expect.stringMatching(/^create extension if not exists pg_trgm version '1\.\d'$/)]);
    expect(
      await there(`select extname, extversion from pg_extension where extname = 'pg_trgm'`),
    ).toHaveLength(1);
    await admin().query(
      `insert into varve_group.member (node, server_version, extensions) values ('n2', 180000, '{"hstore": ["0.1"]}')`,
    );
    await expect(admin().query('create extension hstore')).rejects.toMatchObject({
      sqlstate: '0A000',
      detail: 'It is missing on: n2.',
    });
    await admin().query('delete from varve_group.member');
    // Its script drops things that it made, and is an extension's matter.
    expect(
      await queued(
        admin(),
        `create extension hstore; create function after_it() returns int language sql as 'select 1'; drop function after_it();
         create extension if not exists hstore; create function after_it() returns int language sql as 'select 2'`,
        `do $$ begin create extension citext; end $$`,
        'drop extension citext; drop extension hstore',
      ),
    ).toEqual([
      expect.stringMatching(/^create extension hstore version/),
      expect.stringMatching(/^create function after_it.*1'$/),
      'drop function if exists after_it()',
      expect.stringMatching(/^create function after_it.*2'$/),
      expect.stringMatching(/^create extension citext version/),
      'drop extension if exists citext',
      'drop extension if exists hstore',
    ]);
    expect(await there('select after_it()')).toEqual(['2']);
    expect(await queued(admin(), 'drop extension pg_trgm')).toEqual(['drop extension if exists pg_trgm']);
  });

  test('a role that was made just before is there when its statement arrives', async () => {
    await admin().query('create role fresh; grant staff to fresh');
    await admin().query('create table of_fresh (); alter table of_fresh owner to fresh; set role fresh');
    await admin().query('reset role');
    expect(
      await there(
        `select relowner::regrole, pg_has_role('fresh', 'staff', 'member') from pg_class where relname = 'of_fresh'`,
      ),
    ).toEqual(['fresh t']);
  });

  test('a statement cannot take on another role on its way', async () => {
    await user.query(`create function climb() returns int language plpgsql as $$ begin
      if current_setting('session_replication_role') = 'replica' then
        perform set_config('role', 'postgres', false);
        execute 'alter role alice superuser';
      end if;
      return 1;
    end $$`);
    await user.query('create table prey (id int primary key)');
    await user.query('insert into prey values (1)');
    await user.query('alter table prey alter column id type bigint using id * climb()');
    const other = group.members[1]?.connection;
    await expect
      .poll(
        () => other?.one('select sum(apply_error_count)::int as errors from pg_stat_subscription_stats'),
        { timeout: 10_000 },
      )
      .not.toEqual({ errors: 0 });
    expect(await other?.one(`select rolsuper from pg_roles where rolname = 'alice'`)).toEqual({
      rolsuper: false,
    });
    // The obstacle is removed there, and replication goes on by itself.
    await other?.query(
      `set varve_group.ddl = off; create or replace function work.climb() returns int language plpgsql as 'begin return 1; end'; reset varve_group.ddl`,
    );
    expect(await there('select id from work.prey')).toEqual(['1']);
  });

  test('after REASSIGN OWNED, which nobody sees, the new owner’s statements go through all the same', async () => {
    await admin().query(`create role former; create schema moved authorization former; set role former;
      create table moved.t (id int primary key); create function moved.f() returns int language sql as 'select 1';
      create view moved.v as select 1 as x; reset role; grant create on database app to former`);
    await admin().query('reassign owned by former to alice');
    await user.query('alter table moved.t add column n int');
    await user.query('create index on moved.t (n)');
    await user.query(`create or replace function moved.f() returns int language sql as 'select 2'`);
    await user.query(
      'comment on view moved.v is $$seen$$; grant select on moved.t to bob; drop view moved.v',
    );
    await user.query('create table moved.u (id int)');
    expect(
      await there(
        `select relname, relowner::regrole from pg_class where relnamespace = 'moved'::regnamespace and relkind = 'r' order by 1`,
      ),
    ).toEqual(['t alice', 'u alice']);
    expect(await there('select moved.f()')).toEqual(['2']);
  });

  test('a long string is taken apart, whatever its statements hold', async () => {
    const body = `begin ${"perform 1; -- it's $$;\n".repeat(2000)} end`;
    const parts = Array.from(
      { length: 40 },
      (_, i) => `create table long_${i} (id int primary key, "semi;colon" text);
      insert into long_${i} values (${i}, ';create table no ();'); drop table if exists never_${i};
      drop table if exists long_${(i + 39) % 40};`,
    );
    await user.query(`${parts.join('\n')} create function long_body() returns void language plpgsql as $long$${body}$long$;
      create table long_last ();`);
    expect(
      await there(`select relname from pg_class where relname ~ '^long_' and relkind = 'r' order by 1`),
    ).toEqual(['long_39', 'long_last']);
    expect(await there(`select length(prosrc) from pg_proc where proname = 'long_body'`)).toEqual([
      String(body.length),
    ]);
    await expect(
      admin().query(
        'set varve_group.ddl = off; create table o1 (); reset varve_group.ddl; create table o2 ()',
      ),
    ).rejects.toMatchObject({ sqlstate: '0A000' });
    await admin().query('rollback; reset varve_group.ddl');
  });

  test('objects that are said to be local stay here', async () => {
    await admin().query(
      `set varve_group.ddl = local; create table here_only (id int primary key); insert into here_only values (1); reset varve_group.ddl; create table after_it (id int primary key)`,
    );
    await group.caughtUp();
    const [result] =
      (await group.members[1]?.connection.queryText(
        `select to_regclass('here_only'), to_regclass('after_it')`,
      )) ?? [];
    expect(result?.rows).toEqual([[null, 'after_it']]);
  });

  test('replicate_ddl carries a text of several statements out as one', async () => {
    await admin().query(
      `select varve_group.replicate_ddl('create schema control; create table control.c (id int primary key); create index on control.c (id)')`,
    );
    await admin().query('insert into control.c values (1)');
    expect(await there('select count(*) from control.c')).toEqual(['1']);
    await expect(user.query(`select varve_group.replicate_ddl('create table x ()')`)).rejects.toMatchObject({
      sqlstate: '42501',
    });
  });
});

test('a member that is not write master refuses, and names it', async () => {
  await using group = await testGroup(18, ['n1', 'n2']);
  const other = group.members[1]?.connection;
  await expect(other?.query('create table x ()')).rejects.toMatchObject({
    sqlstate: '25006',
    hint: expect.stringContaining('"n1"'),
  });
  await other?.query('create temp table x ()');
  await other?.query('set varve_group.ddl = local; create table y (); reset varve_group.ddl');
});
