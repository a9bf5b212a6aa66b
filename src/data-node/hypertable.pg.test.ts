import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect } from '../../test/database.ts';
import { distributedDatabase, type DistributedDatabase } from '../../test/distributed-database.ts';
import type { VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';

/** Distributed hypertables as a user of SQL sees them: one access database, three data nodes. */
let bed: DistributedDatabase;
let session: Connection;

const ROLES = ['ht_owner', 'ht_reader'];

beforeAll(async () => {
  bed = await distributedDatabase({ service: { lockTimeoutMs: 1_000 } });
  session = await bed.access.connect();
  for (const role of ROLES) await session.query(`create role ${role} login`);
});

afterAll(async () => {
  await session?.close();
  await bed?.[Symbol.asyncDispose]();
  await using connection = await connect();
  for (const role of ROLES) await connection.query(`drop role if exists ${role}`);
});

async function begin(): Promise<void> {
  await session.query('create schema t; set search_path = t, public');
}

/** Nothing of a dropped schema may be left anywhere. */
async function end(): Promise<void> {
  await session.query('rollback; reset role; drop schema t cascade');
  await bed.access.settled();
  expect(await bed.remains()).toEqual([]);
  expect(await rowsOf('select * from varve.hypertables')).toEqual([]);
  expect(await rowsOf('select * from varve.shards')).toEqual([]);
}

/** Each test in a schema of its own, or all of them in one where they change nothing. */
function inSchema(of: 'each test' | 'all tests', prepare: () => Promise<void> = async () => {}): void {
  const [before, after] = of === 'each test' ? [beforeEach, afterEach] : [beforeAll, afterAll];
  before(async () => {
    await begin();
    await prepare();
  });
  after(end);
}

async function rowsOf<R extends object>(sql: string, params: readonly unknown[] = []): Promise<R[]> {
  return (await session.query<R>(sql, params)).rows;
}

async function valueOf(sql: string, params: readonly unknown[] = []): Promise<unknown> {
  const [row] = await rowsOf(sql, params);
  return row && Object.values(row)[0];
}

async function failure(sql: string, params: readonly unknown[] = []): Promise<VarveError> {
  const outcome = await session.query(sql, params).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(outcome, `expected to fail: ${sql}`).toBeDefined();
  return outcome as VarveError;
}

async function onNode<R extends object>(node: string, sql: string): Promise<R[]> {
  await using connection = await connect(bed.at(node));
  return (await connection.query<R>(sql)).rows;
}

const METRICS = `create table host_metrics (time timestamptz not null, host text not null, metric text not null,
  labels jsonb, value double precision) partition by hash (host, metric)`;

async function createMetrics(more = ''): Promise<void> {
  await session.query(METRICS);
  await session.query(
    `select * from create_distributed_hypertable('host_metrics', 'time', number_partitions => 6${more})`,
  );
}

describe('create_distributed_hypertable', () => {
  inSchema('each test');

  it('spreads a table with a partition key of its own over all data nodes', async () => {
    await session.query(METRICS);
    const [made] = await rowsOf<{ hypertable_id: number }>(
      `select * from create_distributed_hypertable('host_metrics', 'time')`,
    );
    expect(made).toMatchObject({ schema_name: 't', table_name: 'host_metrics', created: true });
    expect(
      await rowsOf('select node_name, count(*)::int as shards from varve.shards group by 1 order by 1'),
    ).toEqual([
      { node_name: 'dn1', shards: 11 },
      { node_name: 'dn2', shards: 11 },
      { node_name: 'dn3', shards: 10 },
    ]);
    expect(await rowsOf('select *, data_nodes::text[] from varve.hypertables')).toMatchObject([
      {
        hypertable_schema: 't',
        hypertable_name: 'host_metrics',
        id: made?.hypertable_id,
        time_column: 'time',
        partition_key: 'HASH (host, metric)',
        shard_count: 32,
        replication_factor: 1,
        data_nodes: ['dn1', 'dn2', 'dn3'],
      },
    ]);
    const [shard] = await onNode<{ chunks: string[]; key: string; indexes: string[] }>(
      'dn2',
      `select array(select regexp_replace(inhrelid::regclass::text, '^.*\\.', '') from pg_inherits
           where inhparent = c.oid order by inhrelid) as chunks,
         pg_get_partkeydef(c.oid) as key,
         array(select pg_get_indexdef(indexrelid) from pg_index where indrelid = c.oid) as indexes
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname like 'varve\\_host\\_metrics\\_%' and c.relname = 's01'`,
    );
    expect(shard?.chunks).toHaveLength(4);
    expect(shard?.chunks).toContain('s01_default');
    expect(shard?.key).toBe(`RANGE (timezone('UTC'::text, "time"))`);
    expect(shard?.indexes).toEqual([
      expect.stringMatching(/CREATE INDEX s01_i1 .* USING btree \("time" DESC\)$/),
    ]);
  });

  it('makes of an ordinary table a partitioned one that has everything it had', async () => {
    await session.query(`
      create table conditions (
        id bigserial, n int generated by default as identity (start 40 increment 2), time timestamptz,
        location text not null default 'somewhere', temperature real, gone int, note varchar(20) collate "C",
        constraint plausible check (temperature > -300));
      alter table conditions drop column gone;
      alter table conditions alter column note set storage external, alter column location set statistics 500;
      create index hot on conditions (temperature desc nulls last) where temperature > 30;
      create index lower_note on conditions (lower(note));
      comment on table conditions is 'what it is like';
      comment on column conditions.temperature is 'degrees Celsius';
      comment on constraint plausible on conditions is 'above absolute zero';
      comment on index hot is 'for alarms';
      alter table conditions owner to ht_owner;
      grant select on conditions to ht_reader with grant option;
      grant insert (time, location) on conditions to public;
      select nextval('conditions_id_seq'), nextval('conditions_n_seq')`);
    const facts = `select
        (select jsonb_agg(jsonb_build_object('name', attname, 'type', format_type(atttypid, atttypmod),
            'collation', attcollation::regcollation, 'not null', attnotnull, 'identity', attidentity,
            'storage', attstorage, 'target', to_jsonb(a) ->> 'attstattarget', 'acl', attacl::text,
            'default', pg_get_expr(adbin, adrelid), 'comment', col_description(attrelid, attnum)) order by attnum)
          from pg_attribute a left join pg_attrdef on adrelid = attrelid and adnum = attnum
          where attrelid = c.oid and attnum > 0 and not attisdropped) as columns,
        (select jsonb_agg(jsonb_build_array(conname, pg_get_constraintdef(oid), obj_description(oid)) order by conname)
          from pg_constraint where conrelid = c.oid and contype = 'c') as constraints,
        (select jsonb_agg(jsonb_build_array(indexrelid::regclass, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', ''),
            obj_description(indexrelid)) order by indexrelid::regclass::text)
          from pg_index where indrelid = c.oid and indexrelid::regclass::text in ('hot', 'lower_note')) as indexes,
        obj_description(c.oid) as comment, pg_get_userbyid(relowner) as owner, relacl::text as acl,
        pg_get_serial_sequence('conditions', 'id') as serial,
        (select relowner::regrole::text from pg_class where oid = 'conditions_id_seq'::regclass) as sequence_owner
      from pg_class c where c.oid = 'conditions'::regclass`;
    const [before] = await rowsOf<{ columns: { name: string }[] }>(facts);
    const notNull = before?.columns.map((column) =>
      column.name === 'time' ? { ...column, 'not null': true } : column,
    );
    await session.query(`select * from create_distributed_hypertable('conditions', 'time', 'location', 4)`);
    expect(await rowsOf(facts)).toEqual([{ ...before, columns: notNull }]);
    expect(await valueOf(`select pg_get_partkeydef('conditions'::regclass)`)).toBe('HASH (location)');
    await session.query(`insert into conditions (time, temperature) values (now(), 31), (now(), 1)`);
    expect(await rowsOf('select id, n, location from conditions order by id')).toEqual([
      { id: '2', n: 42, location: 'somewhere' },
      { id: '3', n: 44, location: 'somewhere' },
    ]);
    expect(await failure(`insert into conditions (time, temperature) values (now(), -301)`)).toMatchObject({
      sqlstate: '23514',
      message: expect.stringContaining('"plausible"'),
    });
    expect(await failure('insert into conditions (time) values (null)')).toMatchObject({ sqlstate: '23502' });
  });

  it('takes the first column that can tell series apart when none is named, and says so', async () => {
    const notices: string[] = [];
    await using caller = await connect(bed.access.database.endpoint, {
      onNotice: ({ message }) => notices.push(message),
    });
    await caller.query(
      'create table t.plain (v float, time timestamptz not null, at date, device uuid, name text)',
    );
    await caller.query(`select * from create_distributed_hypertable('t.plain', 'time')`);
    expect(notices).toEqual(['table "t.plain" is spread over the data nodes by column "device"']);
    await session.query('create table numbers (time timestamptz not null, v float)');
    expect(await failure(`select * from create_distributed_hypertable('numbers', 'time')`)).toMatchObject({
      sqlstate: '22023',
      hint: expect.stringContaining('partitioning_column'),
    });
  });

  it('says what is stored when the table is distributed already', async () => {
    await createMetrics();
    const id = await valueOf('select id from varve.hypertables');
    expect(
      await rowsOf(
        `select * from create_distributed_hypertable('host_metrics', 'labels', if_not_exists => true)`,
      ),
    ).toEqual([{ hypertable_id: id, schema_name: 't', table_name: 'host_metrics', created: false }]);
    expect(
      await failure(`select * from create_distributed_hypertable('host_metrics', 'time')`),
    ).toMatchObject({
      sqlstate: 'TS110',
    });
  });

  it.each([
    ['primary key', 'create table x (time timestamptz, k text, primary key (time, k))'],
    ['unique constraint', 'create table x (time timestamptz, k text unique)'],
    ['unique index', 'create table x (time timestamptz, k text); create unique index on x (k)'],
    ['exclusion constraint', 'create table x (time timestamptz, k text, exclude (k with =))'],
    [
      'foreign key',
      'create table y (k text primary key); create table x (time timestamptz, k text references y)',
    ],
    [
      'generated column',
      'create table x (time timestamptz, k text, g text generated always as (lower(k)) stored)',
    ],
    [
      'row level security',
      'create table x (time timestamptz, k text); alter table x enable row level security',
    ],
    [
      'column "m" of type t.mood',
      `create type mood as enum ('a'); create table x (time timestamptz, k text, m mood)`,
    ],
    [
      'column "m" of type t.mood[]',
      `create type mood as enum ('a'); create table x (time timestamptz, k text, m mood[])`,
    ],
    [
      'collation of column "k"',
      `create collation mine from "C"; create table x (time timestamptz, k text collate mine)`,
    ],
    ['publication "ht_p"', 'create table x (time timestamptz, k text); create publication ht_p for table x'],
    ['unlogged table', 'create unlogged table x (time timestamptz, k text)'],
    ['temporary table', 'create temporary table x (time timestamptz, k text)'],
    ['inheritance', 'create table x (time timestamptz, k text); create table y () inherits (x)'],
    ['inheritance', 'create table y (time timestamptz, k text); create table x () inherits (y)'],
    [
      'no inherit',
      'create table x (time timestamptz, k text, constraint "no inherit" check (k > \'\') no inherit)',
    ],
    ['composite type', 'create type y as (time timestamptz, k text); create table x of y'],
    [
      'trigger "tr"',
      `create table x (time timestamptz, k text);
      create trigger tr before insert on x for each row execute function suppress_redundant_updates_trigger()`,
    ],
    [
      'rule "r"',
      'create table x (time timestamptz, k text); create rule r as on insert to x do also nothing',
    ],
    [
      'rule _RETURN on view t.v',
      'create table x (time timestamptz, k text); create view v as select * from x',
    ],
    [
      'function t.f()',
      `create table x (time timestamptz, k text);
      create function f() returns bigint begin atomic select count(*) from x; end`,
    ],
    ['table t.y, which uses it', 'create table x (time timestamptz, k text); create table y (c x)'],
    [
      'statistics object "st"',
      'create table x (time timestamptz, k text, l text); create statistics st on k, l from x',
    ],
    ['storage parameters', 'create table x (time timestamptz, k text) with (fillfactor = 50)'],
    ['replica identity', 'create table x (time timestamptz, k text); alter table x replica identity full'],
    ['primary key', 'create table x (time timestamptz, k text primary key) partition by hash (k)'],
  ])('refuses a table with what would be lost: %s', async (what, sql) => {
    await session.query(sql);
    expect(await failure(`select * from create_distributed_hypertable('x', 'time', 'k')`)).toMatchObject({
      sqlstate: '0A000',
      detail: expect.stringContaining(what),
      hint: expect.stringContaining('Nothing was changed'),
    });
    await session.query('drop publication if exists ht_p; drop table if exists pg_temp.x cascade');
  });

  it('names everything that is in the way at once', async () => {
    await session.query('create table x (time timestamptz, k text primary key) with (fillfactor = 50)');
    const { detail } = await failure(`select * from create_distributed_hypertable('x', 'time', 'k')`);
    expect(detail?.split('\n')).toHaveLength(2);
  });

  it.each([
    [`'x', null`, '22023', 'time column'],
    [`'x', 'nope'`, '42703', 'column "nope" does not exist'],
    [`'x', 'k'`, '22023', 'invalid type "text" for time column "k"'],
    [`'x', 'time', 'nope'`, '42703', 'column "nope" does not exist'],
    [`'x', 'time', 'time'`, '22023', 'cannot be the time column'],
    [`'x', 'time', 'p'`, '42704', 'no default operator class for access method "hash"'],
    [`'x', 'time', 'k', 0`, '22023', 'invalid number_partitions 0'],
    [`'x', 'time', 'k', 4097`, '22023', 'invalid number_partitions 4097'],
    [`'x', 'time', 'k', chunk_time_interval => interval '0'`, '22023', 'invalid chunk_time_interval'],
    [`'x', 'time', 'k', chunk_time_interval => interval '200 years'`, '22023', 'invalid chunk_time_interval'],
    [`'x', 'time', 'k', chunk_time_interval => 'a'::text`, '22023', 'invalid type "text"'],
    [`'x', 'day', 'k', chunk_time_interval => interval '1 hour'`, '22023', 'whole days'],
    [`'x', 'i', 'k'`, '22023', 'explicit interval'],
    [`'x', 'i', 'k', chunk_time_interval => interval '1 day'`, '22023', 'must be a number'],
    [`'x', 's', 'k', chunk_time_interval => 40000`, '22023', 'invalid chunk_time_interval'],
    [`'x', 'time', 'k', replication_factor => 2`, '0A000', 'replication_factor > 1'],
    [`'x', 'time', 'k', replication_factor => 0`, '22023', 'invalid replication_factor'],
    [`'x', 'time', 'k', partitioning_func => 'hashtext'`, '0A000', 'partitioning_func'],
    [`'x', 'time', 'k', time_partitioning_func => 'hashtext'`, '0A000', 'time_partitioning_func'],
    [`'x', 'time', 'k', chunk_target_size => '1GB'`, '0A000', 'adaptive chunk size'],
    [`'x', 'time', 'k', chunk_sizing_func => 'hashtext'`, '0A000', 'adaptive chunk size'],
    [`'x', 'time', 'k', associated_schema_name => 'nope'`, '3F000', 'schema "nope" does not exist'],
    [`'x', 'time', 'k', data_nodes => '{}'`, '22023', 'data_nodes must name'],
    [`'x', 'time', 'k', data_nodes => '{dn1,null}'`, '22023', 'data_nodes must name'],
    [`'x', 'time', 'k', data_nodes => '{dn1,nope}'`, '42704', 'data node "nope" does not exist'],
    [`null, 'time'`, '22023', 'relation cannot be NULL'],
    [`'v', 'time'`, '42809', 'is not a table'],
    [`'ranged', 'time'`, '0A000', 'not partitioned by the hash'],
    [`'by_expression', 'time'`, '0A000', 'not partitioned by the hash'],
    [`'hashed', 'time', 'time'`, '22023', 'has a partition key of its own'],
    [`'filled', 'time', 'k'`, '0A000', 'is not empty'],
    [`'filled', 'time', 'k', migrate_data => true`, '0A000', 'migrate_data is not supported'],
  ])('refuses create_distributed_hypertable(%s) with %s', async (args, sqlstate, message) => {
    await session.query(`
      create table x (time timestamptz, k text, p point, day date, i integer, s smallint);
      create view v as select now() as time;
      create table ranged (time timestamptz) partition by range (time);
      create table by_expression (time timestamptz, k text) partition by hash (lower(k));
      create table hashed (time timestamptz, k text) partition by hash (k);
      create table filled as select now() as time, 'k' as k`);
    const error = await failure(`select * from create_distributed_hypertable(${args})`);
    expect(error).toMatchObject({ sqlstate, message: expect.stringContaining(message) });
    expect(await valueOf(`select relkind from pg_class where oid = 'x'::regclass`)).toBe('r');
  });

  it('refuses whoever does not own the table, a read-only transaction, and a database without data nodes', async () => {
    await session.query(
      'create table x (time timestamptz, k text); grant usage on schema t to ht_reader; set role ht_reader',
    );
    expect(await failure(`select * from create_distributed_hypertable('x', 'time', 'k')`)).toMatchObject({
      sqlstate: '42501',
      message: 'must be owner of table t.x',
    });
    await session.query('reset role');
    await session.query('begin read only');
    expect(await failure(`select * from create_distributed_hypertable('x', 'time', 'k')`)).toMatchObject({
      sqlstate: '25006',
    });
    await session.query(
      'rollback; grant all on schema t to ht_owner; alter table x owner to ht_owner; set role ht_owner',
    );
    expect(await failure(`select * from create_distributed_hypertable('x', 'time', 'k')`)).toMatchObject({
      sqlstate: 'TS170',
      detail: 'Data nodes exist, but none is available to this role.',
    });
    expect(
      await failure(`select * from create_distributed_hypertable('x', 'time', 'k', data_nodes => '{dn1}')`),
    ).toMatchObject({ sqlstate: '42501', hint: expect.stringContaining('GRANT USAGE ON FOREIGN SERVER') });
  });

  it('leaves out data nodes that are not available, and refuses one that is asked for', async () => {
    await session.query(`select alter_data_node('dn2', available => false)`);
    try {
      await createMetrics();
      expect(await rowsOf('select distinct node_name from varve.shards order by 1')).toEqual([
        { node_name: 'dn1' },
        { node_name: 'dn3' },
      ]);
      await session.query('create table x (time timestamptz, k text)');
      expect(
        await failure(`select * from create_distributed_hypertable('x', 'time', 'k', data_nodes => '{dn2}')`),
      ).toMatchObject({ sqlstate: '55000', message: 'data node "dn2" is not available' });
    } finally {
      await session.query(`select alter_data_node('dn2', available => true)`);
    }
  });

  it('puts the foreign tables where it is told, in as many shards as it is told', async () => {
    await session.query('create schema elsewhere; create table x (time timestamptz, k text)');
    try {
      await session.query(`select * from create_distributed_hypertable('x', 'time', 'k', 3, 'elsewhere', 'part',
        chunk_time_interval => interval '1 hour', create_default_indexes => false, data_nodes => '{dn3,dn1}')`);
      expect(await rowsOf('select partition::text, node_name from varve.shards order by shard')).toEqual([
        { partition: 'elsewhere.part_s00', node_name: 'dn1' },
        { partition: 'elsewhere.part_s01', node_name: 'dn3' },
        { partition: 'elsewhere.part_s02', node_name: 'dn1' },
      ]);
      expect(await valueOf(`select chunk_interval::text from varve.hypertables`)).toBe('01:00:00');
      expect(await onNode('dn1', `select 1 from pg_indexes where schemaname like 'varve\\_%'`)).toEqual([]);
    } finally {
      await session.query('drop table x; drop schema elsewhere cascade');
    }
  });

  it('takes any name', async () => {
    const table = `"Wörter, 'viele' ""Zeichen"" $1 %s ${'ü'.repeat(10)}"`;
    await session.query(`create table ${table} ("when ""it"" was" timestamptz, "it's" text, "V%I" float,
      constraint "c'k" check ("V%I" > 0))`);
    await session.query('select * from create_distributed_hypertable($1, $2, $3, 2)', [
      `t.${table}`,
      'when "it" was',
      "it's",
    ]);
    await session.query(`insert into ${table} select now(), i, i from generate_series(1, 10) i`);
    await session.query(`update ${table} set "V%I" = 5 where "it's" = '3'`);
    await session.query(`delete from ${table} where "V%I" > 8`);
    expect(await valueOf(`select sum("V%I")::text from ${table}`)).toBe('38');
  });

  it.each([
    ['timestamptz', `interval '1 day'`, `now() + i * interval '10 hours'`, 5],
    ['timestamp', `interval '12 hours'`, `timestamp '1969-12-28' + i * interval '10 hours'`, 9],
    ['timestamp(3) with time zone', `86400000000`, `date_trunc('second', now()) - i * interval '1 month'`, 1],
    ['date', `interval '2 days'`, `date '1969-12-28' + i`, 6],
    ['bigint', '1000', 'i * 400 - 2000', 5],
    ['integer', '10', 'i - 5', 2],
    ['smallint', '10::smallint', '(i - 5)::smallint', 2],
  ])('partitions by a time column of type %s', async (type, interval, value, leastChunks) => {
    await session.query(`create table x (at ${type} not null, k text)`);
    await session.query(
      `select * from create_distributed_hypertable('x', 'at', 'k', 1, chunk_time_interval => ${interval}, data_nodes => '{dn1}')`,
    );
    await session.query(`create table oracle as select ${value} as at from generate_series(1, 10) i`);
    await session.query(`insert into x select at, 'k' from oracle`);
    await bed.access.service.lookAfterHypertables(bed.access.database.name);
    const [seen] = await onNode<{ left: string; chunks: number }>(
      'dn1',
      `select (select count(*)::int from pg_inherits where inhparent = c.oid) as chunks,
         (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from only %I.s00_default', n.nspname), false, true, '')))[1]::text as left
       from pg_class c join pg_namespace n on n.oid = c.relnamespace where nspname like 'varve\\_%' and relname = 's00'`,
    );
    expect(seen?.left).toBe('0');
    expect(seen?.chunks).toBeGreaterThan(leastChunks);
    expect(await rowsOf('select at from x except all select at from oracle')).toEqual([]);
    expect(await valueOf('select count(*)::int from x')).toBe(10);
    expect(
      await valueOf(`select count(*)::int = (select count(*) from oracle where at > (select min(at) from oracle))
        from x where at > (select min(at) from oracle)`),
    ).toBe(true);
  });

  it('may be called twice at once: one makes it, the other is told', async () => {
    await session.query('create table x (time timestamptz, k text)');
    await using other = await bed.access.connect();
    const call = `select created from create_distributed_hypertable('t.x', 'time', 'k', 4, if_not_exists => true)`;
    const both = await Promise.all([session.query(call), other.query(call)]);
    expect(both.map(({ rows }) => rows[0])).toEqual(
      expect.arrayContaining([{ created: true }, { created: false }]),
    );
  });

  it('lets an insert that comes meanwhile wait and succeed', async () => {
    await session.query('create table x (time timestamptz, k text)');
    await session.query('begin');
    await session.query(`select * from create_distributed_hypertable('x', 'time', 'k', 4)`);
    await using other = await bed.access.connect();
    const inserted = other.query(`insert into t.x select now(), i from generate_series(1, 100) i`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await session.query('commit');
    await inserted;
    expect(await valueOf('select count(*)::int from x')).toBe(100);
    expect(await valueOf('select count(distinct tableoid)::int from x')).toBe(4);
  });

  it('works in one transaction with the table, its rows, and its end', async () => {
    await session.query('begin');
    await createMetrics();
    await session.query(`insert into host_metrics select now(), i, i, '{}', i from generate_series(1, 50) i`);
    expect(await valueOf('select count(*)::int from host_metrics')).toBe(50);
    await session.query('drop table host_metrics');
    await session.query('commit');
  });

  it('works in PL/pgSQL', async () => {
    await session.query(`do $$
      declare id integer;
      begin
        create table t.x (time timestamptz, k text);
        select hypertable_id into strict id from public.create_distributed_hypertable('t.x', 'time', 'k', 2);
        insert into t.x values (now(), 'a');
      end $$`);
    expect(await valueOf('select count(*)::int from x')).toBe(1);
  });
});

describe('rows', () => {
  inSchema('each test');

  it('are those of an ordinary table after any statements', async () => {
    await createMetrics(`, chunk_time_interval => interval '1 day'`);
    await session.query('create table oracle (like host_metrics including defaults)');
    const statements = [
      `insert into $T select '2025-01-01Z'::timestamptz + i * interval '1 hour', 'h' || i % 7, 'm' || i % 13, jsonb_build_object('i', i), i from generate_series(1, 500) i`,
      `insert into $T (time, host, metric) values ('2025-03-01Z', '', ''), ('infinity', 'h1', 'm1'), ('-infinity', 'h1', 'm1')`,
      `update $T set value = value * 2 where host = 'h3'`,
      `update $T set value = 7 where metric = 'm5' and time < '2025-01-10Z'`,
      `update $T set time = '2025-02-01Z' where host = 'h2' and metric = 'm2'`,
      `delete from $T where value between 100 and 150`,
      `delete from $T where time < (select timestamptz '2025-01-03Z' + interval '1 hour')`,
      `update $T set labels = null where host in ('h4', 'h5') returning host`,
      `insert into $T select * from $T where host = 'h6' on conflict do nothing`,
      `delete from $T where host = 'h6' and metric = any ('{m1,m2,m3}')`,
    ];
    const compare = async (): Promise<void> => {
      expect(await rowsOf('table host_metrics except all table oracle')).toEqual([]);
      expect(await rowsOf('table oracle except all table host_metrics')).toEqual([]);
    };
    for (const statement of statements) {
      const there = await session.query(statement.replaceAll('$T', 'host_metrics'));
      const here = await session.query(statement.replaceAll('$T', 'oracle'));
      expect(there.rowCount, statement).toBe(here.rowCount);
      await compare();
      await bed.access.service.lookAfterHypertables(bed.access.database.name);
      await compare();
    }
    const { rowCount } = await session.query('delete from host_metrics where time < $1 and value > $2', [
      new Date('2025-01-08Z'),
      3,
    ]);
    expect(rowCount).toBeGreaterThan(10);
    const grouping =
      'select host, metric, count(*), sum(value), max(time) from % group by 1, 2 order by 1, 2';
    await session.query('truncate oracle; insert into oracle table host_metrics');
    expect(await rowsOf(grouping.replace('%', 'host_metrics'))).toEqual(
      await rowsOf(grouping.replace('%', 'oracle')),
    );
    await session.query('truncate host_metrics');
    expect(await rowsOf('table host_metrics')).toEqual([]);
  });

  it('come in by COPY', async () => {
    await createMetrics();
    await session.query(`copy host_metrics (time, host, metric, value)
      from program 'for i in $(seq 2500); do echo 2025-01-01,$i,$i,$i; done' (format csv)`);
    expect(await valueOf('select sum(value)::int from host_metrics')).toBe((2500 * 2501) / 2);
    expect(await valueOf(`select count(*)::int from host_metrics where host = '77' and metric = '77'`)).toBe(
      1,
    );
  });

  it('are gone with a rolled back transaction, on every data node', async () => {
    await createMetrics();
    await session.query('begin');
    await session.query(
      `insert into host_metrics select now(), i, i, null, i from generate_series(1, 100) i`,
    );
    await session.query('savepoint s');
    await session.query('delete from host_metrics where value > 10');
    await session.query('rollback to s');
    expect(await valueOf('select count(*)::int from host_metrics')).toBe(100);
    await session.query('rollback');
    expect(await valueOf('select count(*)::int from host_metrics')).toBe(0);
  });

  it('are found on one data node when the key is given, and aggregated there', async () => {
    await createMetrics();
    const plan = async (sql: string): Promise<string> =>
      (await rowsOf<{ 'QUERY PLAN': string }>(`explain (verbose, costs off) ${sql}`))
        .map((row) => row['QUERY PLAN'])
        .join('\n');
    const one = await plan(
      `select value from host_metrics where host = 'a' and metric = 'b' and time > '2025-01-01Z'`,
    );
    expect(one.match(/Foreign Scan/g)).toHaveLength(1);
    expect(one).toMatch(
      /Remote SQL: SELECT value FROM .* WHERE \(\("time" > .*\) AND \(\(host = 'a'\)\) AND \(\(metric = 'b'\)\)/,
    );
    await session.query('set enable_partitionwise_aggregate = on');
    const grouped = await plan('select host, metric, avg(value) from host_metrics group by 1, 2');
    expect(grouped.match(/Remote SQL: SELECT host, metric, avg\(value\) .* GROUP BY 1, 2/g)).toHaveLength(6);
    await session.query('reset enable_partitionwise_aggregate');
  });
});

describe('rows are never silently wrong:', () => {
  inSchema('all tests', async () => {
    await createMetrics(`, chunk_time_interval => interval '1 day'`);
    await session.query(`insert into host_metrics
      select now() - i * interval '8 hours', 'h' || i, 'm', '{}', i from generate_series(1, 30) i`);
  });

  it.each([
    [
      'an update of the partition key',
      `update host_metrics set host = 'h2' where host = 'h1'`,
      'cannot update the partition key',
    ],
    [
      'an update of it by itself',
      `update host_metrics set metric = metric`,
      'cannot update the partition key',
    ],
    [
      'a write into a shard',
      `insert into host_metrics_s04 values (now(), 'h1', 'm', '{}', 1)`,
      'cannot write to "host_metrics_s04"',
    ],
    ['an update in a shard', `update host_metrics_s04 set host = 'x'`, 'cannot write to "host_metrics_s04"'],
    [
      'a delete by a condition that needs the access node',
      `delete from host_metrics where time < now() - interval '1 day'`,
      'this DELETE on a distributed hypertable',
    ],
    [
      'an update with a value that needs it',
      'update host_metrics set value = random()',
      'this UPDATE on a distributed hypertable',
    ],
    [
      'an update that joins',
      'update host_metrics m set value = s.n from (values (1), (2)) s(n) where s.n = m.value',
      'this UPDATE on a distributed hypertable',
    ],
    [
      'a delete that joins and returns',
      `delete from host_metrics m using (values ('h1'), ('h2')) s(h) where m.host = s.h returning m.*`,
      'this DELETE on a distributed hypertable',
    ],
    [
      'an upsert',
      `insert into host_metrics values (now(), 'h1', 'm') on conflict (host) do nothing`,
      'no unique or exclusion constraint',
    ],
    [
      'a merge',
      `merge into host_metrics m using (values (1)) s(n) on m.value = s.n when matched then update set value = 3`,
      'cannot execute MERGE',
    ],
  ])('%s is refused', async (_what, sql, message) => {
    const sum = await valueOf('select sum(value)::int from host_metrics');
    expect(await failure(sql)).toMatchObject({ message: expect.stringContaining(message) });
    expect(await valueOf('select sum(value)::int from host_metrics')).toBe(sum);
  });

  it('and a row trigger, which makes updates go row by row, has them refused', async () => {
    await session.query(`create function tr() returns trigger language plpgsql as $$ begin return new; end $$;
      create trigger tr before insert or update on host_metrics for each row execute function tr()`);
    await session.query(`insert into host_metrics values (now(), 'h1', 'm', '{}', 1)`);
    expect(await failure('update host_metrics set value = 3')).toMatchObject({ sqlstate: '0A000' });
  });
});

describe('refused is, because parent and shards would differ,', () => {
  inSchema('all tests', createMetrics);

  it.each([
    ['add column x int', 'columns'],
    ['drop column labels', 'columns'],
    ['rename column value to v', 'columns'],
    ['alter column value type real', 'columns'],
    ['alter column labels set not null', 'columns'],
    ['alter column time drop not null', 'columns'],
    ['add constraint c check (value > 0)', 'constraints'],
    ['enable row level security', 'row level security'],
    ['detach partition host_metrics_s03', 'guard triggers, partitions'],
    ['disable trigger all', 'guard triggers'],
  ])('ALTER TABLE … %s', async (change, what) => {
    expect(await failure(`alter table host_metrics ${change}`)).toMatchObject({
      sqlstate: '0A000',
      message: 'this change of distributed hypertable "t.host_metrics" is not supported',
      detail: `It would change: ${what}.`,
    });
  });

  it.each([
    [`alter foreign table host_metrics_s03 options (set table_name 's04')`, '0A000'],
    ["alter foreign table host_metrics_s03 alter column value options (column_name 'x')", '0A000'],
    ['create publication ht_p for table host_metrics', '0A000'],
    ['drop trigger varve_key on host_metrics', '0A000'],
    ['alter table host_metrics_s03 disable trigger varve_shard', '0A000'],
    ['drop foreign table host_metrics_s03', '0A000'],
    ['drop server dn1 cascade', '0A000'],
    ['drop extension postgres_fdw cascade', '0A000'],
    ['create unique index on host_metrics (host, metric)', '42809'],
    ['alter table host_metrics add primary key (host, metric)', '42809'],
    [
      'create table r (k text primary key); alter table host_metrics add foreign key (host) references r',
      '42809',
    ],
    [
      `create table outer_ (like host_metrics) partition by list (host);
      alter table outer_ attach partition host_metrics for values in ('a')`,
      '0A000',
    ],
  ])('%s', async (sql, sqlstate) => {
    expect(await failure(sql)).toMatchObject({ sqlstate });
  });
});

describe('other commands', () => {
  inSchema('each test');

  it('what changes nothing on the data nodes goes on as ever', async () => {
    await createMetrics();
    await session.query(`
      alter table host_metrics alter column labels set default '{"d": 1}';
      comment on table host_metrics is 'of hosts';
      alter table host_metrics alter column value set statistics 200;
      create view v as select * from host_metrics;
      alter table host_metrics rename to hm;
      create schema t2; alter table hm set schema t2;
      create table other (id int); alter table other add column x int; create index on other (x);
      grant select on other to ht_reader; drop table other;
      analyze t2.hm`);
    await session.query(`insert into t2.hm (time, host, metric) values (now(), 'a', 'b')`);
    expect(await rowsOf('select labels from v')).toEqual([{ labels: { d: 1 } }]);
    expect(await rowsOf('select hypertable_schema, hypertable_name from varve.hypertables')).toEqual([
      { hypertable_schema: 't2', hypertable_name: 'hm' },
    ]);
    await session.query('drop schema t2 cascade');
  });

  describe('CREATE INDEX', () => {
    const twins = (): Promise<{ tablename: string; indexdef: string }[]> =>
      onNode(
        'dn1',
        `select tablename, regexp_replace(indexdef, '^.* USING', '') as indexdef from pg_indexes
        where schemaname like 'varve\\_%' and tablename ~ '^s[0-9]+$' and indexname !~ '_i1$' order by 1, 2`,
      );

    it('makes the index on every shard', async () => {
      await createMetrics();
      await session.query('create index high on host_metrics (value desc, lower(host)) where value > 5');
      const made = await twins();
      expect(made).toHaveLength(2);
      expect(new Set(made.map(({ indexdef }) => indexdef))).toEqual(
        new Set([` btree (value DESC, lower(host)) WHERE (value > (5)::double precision)`]),
      );
    });

    it('leaves nothing after a rollback, to a savepoint too', async () => {
      await createMetrics();
      await session.query('begin; create index on host_metrics (value); rollback');
      await bed.access.settled();
      expect(await twins()).toEqual([]);
      await session.query('begin; savepoint s; create index on host_metrics (value); rollback to s; commit');
      await bed.access.settled();
      expect(await twins()).toEqual([]);
    });

    it('gives the data node’s error, and leaves nothing', async () => {
      await createMetrics();
      await session.query(`create function here(text) returns text immutable language sql return $1`);
      expect(await failure('create index on host_metrics (here(host))')).toMatchObject({
        sqlstate: expect.stringMatching(/42883|3F000/),
        message: expect.stringMatching(/^\[dn\d\]: |data nodes failed; \[dn\d\]: /),
      });
      expect(await twins()).toEqual([]);
    });

    it('is refused after a while where its own transaction has written to the table', async () => {
      await createMetrics();
      await session.query('begin');
      await session.query(`insert into host_metrics select now(), i, i from generate_series(1, 100) i`);
      expect(await failure('create index on host_metrics (value)')).toMatchObject({
        sqlstate: '55P03',
        hint: expect.stringContaining('a transaction of its own'),
      });
    });

    it('follows a new name, and is dropped by DROP INDEX when that is committed', async () => {
      await createMetrics();
      await session.query('create index a on host_metrics (value); alter index a rename to b');
      await session.query('begin; drop index b; rollback');
      await bed.access.settled();
      expect(await twins()).toHaveLength(2);
      await session.query('drop index b');
      await bed.access.settled();
      expect(await twins()).toEqual([]);
      await session.query('create index b on host_metrics (metric)');
      expect(await twins()).toHaveLength(2);
    });
  });

  it.each([
    ['DROP TABLE', 'drop table host_metrics'],
    ['DROP SCHEMA CASCADE', 'drop schema t cascade; create schema t'],
    ['DROP OWNED BY', 'alter table host_metrics owner to ht_owner; drop owned by ht_owner'],
  ])('%s drops the shards when it is committed, and not before', async (_what, sql) => {
    await createMetrics();
    await session.query(`insert into host_metrics values (now(), 'a', 'b', '{}', 1)`);
    const before = await bed.remains();
    await session.query(`begin; ${sql}; rollback`);
    await session.query(`begin; savepoint s; ${sql}; rollback to s; commit`);
    await bed.access.settled();
    expect(await bed.remains()).toEqual(before);
    expect(await valueOf('select sum(value)::int from host_metrics')).toBe(1);
    await session.query(sql);
    await bed.access.settled();
    expect(await bed.remains()).toEqual([]);
  });

  it('a table of the same name can be made at once', async () => {
    await createMetrics();
    await session.query('begin; drop table host_metrics');
    await createMetrics();
    await session.query('commit');
    await session.query(`insert into host_metrics values (now(), 'a', 'b', '{}', 1)`);
    await bed.access.settled();
    expect(await valueOf('select count(*)::int from host_metrics')).toBe(1);
  });
});
