import { afterAll, beforeAll, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import type { Connection } from '../../postgres/connection.ts';
import { payDebt } from './filling.ts';
import { fillGap } from './gap-fill.ts';
import { advanceGapSlot, ensureGapSlot, isPast, markGap, type GapMark } from './gap-slot.ts';
import { formatLsn, parseLsn, type Lsn } from './lsn.ts';
import { TestMesh, type MeshNode } from './mesh.suite.ts';
import { confirmedBy, readOrigins, readProgress } from './progress.ts';

let mesh: TestMesh;
let x: MeshNode;
let y: MeshNode;
let z: MeshNode;
const DATABASE = 'varve';
const NODES = ['n1', 'n2', 'n3'];

beforeAll(async () => {
  mesh = await TestMesh.start(3, [DATABASE]);
  [x, y, z] = [mesh.at(0), mesh.at(1), mesh.at(2)];
  for (const node of mesh.nodes) {
    // Made on each as it is, without the queue.
    const text = `set varve_group.ddl = 'off'; ${TABLES}; select varve_group.adopt_tables(); reset varve_group.ddl`;
    await mesh.sql(node, DATABASE, text);
    await ensure(node);
  }
});

afterAll(() => mesh[Symbol.asyncDispose]());

const TABLES = `
  create type public.mood as enum ('sad', 'happy');
  create domain public.percent as numeric(5, 2) check (value between 0 and 100);
  create table public.kinds (
    id uuid primary key, n bigint generated always as identity, twice bigint generated always as (length(t) * 2) stored,
    t text, v varchar(20), c char(4), b bytea, j json, jb jsonb, a int[], texts text[], m public.mood, p public.percent,
    f float8, ts timestamptz, i interval, r int4range, pt point, o boolean, mo money, x xml);
  create table public.bag (k int, j jsonb, note text);
  alter table public.bag replica identity full;
  create table public."Odd ""Name" ("Key ""x" int, "second" text, v text, primary key ("Key ""x", "second"));
  create table public.parts (id int, part int, primary key (id, part)) partition by list (part);
  create table public.parts_1 partition of public.parts for values in (1);
  create table public.parts_2 partition of public.parts for values in (2);
  create table public.child (id int primary key, parent int);`;

async function ensure(node: MeshNode): Promise<boolean> {
  return mesh.group.servers.withConnection(node.direct, DATABASE, (connection) =>
    ensureGapSlot(connection, DATABASE, () =>
      readOrigins(connection, { node: node.node, database: DATABASE }, NODES),
    ),
  );
}

async function progress(on: MeshNode, from: MeshNode): Promise<Lsn> {
  return parseLsn((await mesh.mesh.progress(mesh.link(from, on, DATABASE))) ?? '0/0');
}

async function until(what: () => Promise<boolean>): Promise<void> {
  while (!(await what())) await systemClock.sleep(10);
}

const tables = [
  'public.rows',
  'public.kinds',
  'public.bag',
  'public."Odd ""Name"',
  'public.parts',
  'public.child',
];

async function digests(node: MeshNode): Promise<string[]> {
  return Promise.all(tables.map((table) => mesh.digest(node, DATABASE, table)));
}

const WRITES = [
  `insert into public.kinds (id, t, v, c, b, j, jb, a, texts, m, p, f, ts, i, r, pt, o, mo, x)
   select md5(g::text)::uuid, case when g % 3 = 0 then null else repeat('täxt\\''', g) end, 'v' || g, 'c' || g % 9,
          decode(md5(g::text), 'hex'), ('{"b": [1, ' || g || '], "b": 2}')::json, jsonb_build_object('g', g),
          array[g, null, g + 1], array['a,b', '"', null, ''], (array['sad', 'happy'])[1 + g % 2]::public.mood,
          g % 100, case g % 4 when 0 then 'NaN' when 1 then '-Infinity' when 2 then -0.0 else 1.0 / g end::float8,
          timestamptz '2026-01-01 12:00:00.123456+02' + g * interval '1 day', g * interval '1 month 2 hours',
          int4range(g, g + 5), point(g, 0.1), g % 2 = 0, g::text::money, '<a>&amp;</a>'::xml
     from generate_series(1, 700) g`,
  // A value beyond the page that the next update leaves as it is, and is therefore not sent.
  `insert into public.kinds (id, t, v) select md5('toast')::uuid, string_agg(md5(g::text), ''), 'big' from generate_series(1, 3000) g`,
  `update public.kinds set v = 'touched' where id = md5('toast')::uuid`,
  `update public.kinds set f = f * 2, o = not o where id in (select id from public.kinds order by id limit 50)`,
  `update public.kinds set id = md5('moved')::uuid where id = md5('5')::uuid`,
  `delete from public.kinds where id in (select id from public.kinds where v like 'v1%' limit 30)`,
  `insert into public.bag select g % 3, '{"same": 1}', null from generate_series(1, 9) g`,
  `delete from public.bag where ctid in (select ctid from public.bag where k = 1 limit 1)`,
  `update public.bag set note = 'once' where ctid in (select ctid from public.bag where k = 2 limit 1)`,
  `insert into public."Odd ""Name" select g, 'ö' || g, null from generate_series(1, 20) g`,
  `update public."Odd ""Name" set v = 'x', second = second || '!' where "Key ""x" > 10`,
  `insert into public.parts select g, 1 + g % 2 from generate_series(1, 50) g`,
  `update public.parts set part = 2 where id = 2`,
  `begin; insert into public.child values (1, 1); savepoint a; insert into public.child values (2, 1);
   rollback to a; insert into public.child values (3, 1); commit`,
  `truncate public.child`,
  `insert into public.child values (4, 2)`,
  `insert into public.rows select g, 'x', repeat('n', g % 50), now() from generate_series(1, 1500) g`,
];

test('a gap of every kind of change is filled from another member, exactly to the end', async () => {
  // z takes nothing of x any more, y does.
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  for (const text of WRITES) await mesh.sql(x, DATABASE, text);
  await mesh.mesh.barrier(x.direct, [y.direct], { database: DATABASE, timeoutMs: 5_000 });
  await mesh.mesh.disable(mesh.link(x, y, DATABASE));
  const upTo = await progress(y, x);
  expect(await progress(z, x)).toBeLessThan(upTo);
  expect(await digests(z)).not.toEqual(await digests(y));

  const route = { database: DATABASE, origin: 'n1', from: y.direct, to: z.direct, upTo };
  const deps = { clock: systemClock, servers: mesh.group.servers };
  // Every write is a transaction, and so is the barrier.
  expect(await fillGap(deps, route)).toMatchObject({ transactions: WRITES.length + 1, missing: 0 });

  expect(await progress(z, x)).toBe(upTo);
  expect(await digests(y)).toEqual(await digests(x));
  expect(await digests(z)).toEqual(await digests(x));
  // A second time there is nothing to do.
  expect(await fillGap(deps, route)).toEqual({ transactions: 0, rows: 0, missing: 0 });

  // And the subscription carries on behind it: nothing comes twice, nothing is left out.
  for (const to of [y, z]) await mesh.mesh.enable(mesh.link(x, to, DATABASE));
  await mesh.sql(x, DATABASE, `insert into public.rows values (5000, 'after')`);
  await mesh.mesh.barrier(x.direct, [y.direct, z.direct], { database: DATABASE, timeoutMs: 5_000 });
  expect(await digests(z)).toEqual(await digests(x));
  expect(await digests(y)).toEqual(await digests(x));
});

/** What x made itself, up to now, to z. */
async function fillFromX(): Promise<{
  readonly applied: Awaited<ReturnType<typeof fillGap>>;
  readonly upTo: Lsn;
}> {
  const [at] = await mesh.sql<{ lsn: string }>(
    x,
    DATABASE,
    `select pg_switch_wal(), pg_current_wal_flush_lsn()::text as lsn`,
  );
  const upTo = parseLsn(at?.lsn ?? '');
  const route = { database: DATABASE, origin: 'n1', from: x.direct, to: z.direct, upTo };
  const applied = await fillGap({ clock: systemClock, servers: mesh.group.servers }, route);
  return { applied, upTo };
}

test('a former master fills others from its own slot, with what it made itself only', async () => {
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  await mesh.sql(x, DATABASE, `insert into public.rows values (6000, 'own'), (6001, 'own')`);
  await mesh.sql(y, DATABASE, `insert into public.rows values (6002, 'of y')`);
  await mesh.mesh.barrier(y.direct, [x.direct, z.direct], { database: DATABASE, timeoutMs: 5_000 });
  const { applied, upTo } = await fillFromX();
  expect(applied).toEqual({ transactions: 1, rows: 2, missing: 0 });
  expect(await progress(z, x)).toBe(upTo);
  await mesh.mesh.enable(mesh.link(x, z, DATABASE));
  await mesh.mesh.barrier(x.direct, [y.direct, z.direct], { database: DATABASE, timeoutMs: 5_000 });
  expect(await digests(z)).toEqual(await digests(x));
});

test('a change that cannot be applied leaves what was before it, and says where it stands', async () => {
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  for (const id of [7000, 7001, 7002]) {
    await mesh.sql(x, DATABASE, `insert into public.rows values (${id}, 'x')`);
  }
  await mesh.mesh.barrier(x.direct, [y.direct], { database: DATABASE, timeoutMs: 5_000 });
  await mesh.mesh.disable(mesh.link(x, y, DATABASE));
  const onZ = (text: string): Promise<unknown> =>
    mesh.sql(z, DATABASE, `set varve_group.ddl = 'off'; ${text}; reset varve_group.ddl`);
  await onZ(`alter table public.rows add constraint stop check (id <> 7001)`);
  const upTo = await progress(y, x);
  const route = { database: DATABASE, origin: 'n1', from: y.direct, to: z.direct, upTo };
  const deps = { clock: systemClock, servers: mesh.group.servers };
  await expect(fillGap(deps, route)).rejects.toMatchObject({ sqlstate: '23514' });
  expect(await progress(z, x)).toBeLessThan(upTo);
  const ids = await mesh.sql<{ id: string }>(
    z,
    DATABASE,
    `select id from public.rows where id between 7000 and 7002 order by 1`,
  );
  expect(ids.map(({ id }) => id)).toEqual(['7000']);
  await onZ(`alter table public.rows drop constraint stop`);
  expect(await fillGap(deps, route)).toMatchObject({ transactions: 3 });
  expect(await progress(z, x)).toBe(upTo);
  for (const to of [y, z]) await mesh.mesh.enable(mesh.link(x, to, DATABASE));
});

test('definitions come with a gap, and the rows behind them', async () => {
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  await mesh.sql(
    x,
    DATABASE,
    `begin; create table public.later (id int primary key, v text); insert into public.later values (1, 'a'); commit`,
  );
  await mesh.sql(x, DATABASE, `alter table public.later add column more int default 7`);
  await mesh.sql(x, DATABASE, `insert into public.later values (2, 'b', 3)`);
  await mesh.mesh.barrier(x.direct, [y.direct], { database: DATABASE, timeoutMs: 5_000 });
  const route = { database: DATABASE, origin: 'n1', from: y.direct, to: z.direct };
  const upTo = await progress(y, x);
  await fillGap({ clock: systemClock, servers: mesh.group.servers }, { ...route, upTo });
  expect(await mesh.digest(z, DATABASE, 'public.later')).toBe(await mesh.digest(x, DATABASE, 'public.later'));
  await mesh.mesh.enable(mesh.link(x, z, DATABASE));
  await mesh.sql(x, DATABASE, `insert into public.later values (3, 'c', 4)`);
  await mesh.mesh.barrier(x.direct, [z.direct], { database: DATABASE, timeoutMs: 5_000 });
  expect(await mesh.digest(z, DATABASE, 'public.later')).toBe(await mesh.digest(x, DATABASE, 'public.later'));
});

test('what is given up is what all members have, and a gap before it is refused', async () => {
  await mesh.sql(x, DATABASE, `insert into public.rows values (8000, 'before')`);
  await mesh.mesh.barrier(x.direct, [y.direct, z.direct], { database: DATABASE, timeoutMs: 5_000 });
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  await mesh.sql(x, DATABASE, `insert into public.rows values (8001, 'after')`);
  await mesh.mesh.barrier(x.direct, [y.direct], { database: DATABASE, timeoutMs: 5_000 });

  const mark = await on<GapMark>(y, (connection) =>
    markGap(connection, () => readOrigins(connection, { node: 'n2', database: DATABASE }, NODES)),
  );
  expect(mark.origins.get('n1')?.lsn).toBe(await progress(y, x));
  expect(await past(mark, x)).toBe(true);
  expect(await past(mark, z)).toBe(false);

  // Given up all the same, it must be told.
  await on(y, (connection) => advanceGapSlot(connection, DATABASE, mark));
  const upTo = await progress(y, x);
  const deps = { clock: systemClock, servers: mesh.group.servers };
  const route = { database: DATABASE, origin: 'n1', from: y.direct, to: z.direct, upTo };
  await expect(fillGap(deps, route)).rejects.toMatchObject({ code: 'GAP_NOT_COVERED' });
  // x itself still has it.
  expect(await fillGap(deps, { ...route, from: x.direct })).toMatchObject({ rows: 2 });
  expect(await past(mark, z)).toBe(true);
  await mesh.mesh.enable(mesh.link(x, z, DATABASE));
});

test('a slot that PostgreSQL gave up is made anew, and covers nothing that was before', async () => {
  expect(await ensure(y)).toBe(false);
  await mesh.sql(
    y,
    DATABASE,
    `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'varve_gap%'`,
  );
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  await mesh.sql(x, DATABASE, `insert into public.rows values (9000, 'x')`);
  await mesh.mesh.barrier(x.direct, [y.direct], { database: DATABASE, timeoutMs: 5_000 });
  expect(await ensure(y)).toBe(true);
  const route = {
    database: DATABASE,
    origin: 'n1',
    from: y.direct,
    to: z.direct,
    upTo: await progress(y, x),
  };
  await expect(fillGap({ clock: systemClock, servers: mesh.group.servers }, route)).rejects.toMatchObject({
    code: 'GAP_NOT_COVERED',
    detail: expect.stringContaining(formatLsn(route.upTo)),
  });
  await mesh.mesh.enable(mesh.link(x, z, DATABASE));
});

test('of a database in which nothing happens the former master knows that nothing is missing', async () => {
  await mesh.mesh.barrier(x.direct, [y.direct, z.direct], { database: DATABASE, timeoutMs: 5_000 });
  // What other databases write moves the WAL along, and idle subscribers confirm it.
  await mesh.sql(x, 'postgres', 'create table public.moved (x int); drop table public.moved');
  const mark = await on<GapMark>(x, (connection) =>
    markGap(connection, () => readOrigins(connection, { node: 'n1', database: DATABASE }, NODES)),
  );
  const confirmed = (): Promise<Lsn | undefined> =>
    on(x, (connection) => confirmedBy(connection, { node: 'n3', database: DATABASE }));
  await until(async () => ((await confirmed()) ?? 0n) >= mark.lsn);
  await on(x, (connection) => advanceGapSlot(connection, DATABASE, mark));
  expect(await progress(z, x)).toBeLessThan(mark.lsn);
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  const { applied, upTo } = await fillFromX();
  expect(applied).toEqual({ transactions: 0, rows: 0, missing: 0 });
  expect(await progress(z, x)).toBe(upTo);
  await mesh.mesh.enable(mesh.link(x, z, DATABASE));
});

test('one database that nobody can give does not keep the others from being paid', async () => {
  const debt = {
    reign: '1',
    origin: 'n1',
    upTo: new Map([
      ['no-such-database', 1n],
      [DATABASE, 0n],
    ]),
  };
  await mesh.mesh.disable(mesh.link(x, z, DATABASE));
  await mesh.sql(x, DATABASE, `insert into public.rows values (8500, 'owed')`);
  await mesh.mesh.barrier(x.direct, [y.direct], { database: DATABASE, timeoutMs: 5_000 });
  const upTo = await progress(y, x);
  debt.upTo.set(DATABASE, upTo);
  const deps = { clock: systemClock, servers: mesh.group.servers, log: silent };
  expect(await payDebt(deps, z.direct, debt, [y.direct])).toMatchObject({
    kind: 'later',
    databases: ['no-such-database'],
  });
  expect(await progress(z, x)).toBe(upTo);
  await mesh.mesh.enable(mesh.link(x, z, DATABASE));
});

test('changes of a node that comes again under its name are kept by a slot of their own', async () => {
  expect(await ensure(y)).toBe(false);
  await mesh.mesh.drop(mesh.link(x, y, DATABASE));
  await mesh.mesh.connect(mesh.link(x, y, DATABASE), {
    enabled: true,
    copyData: false,
    foundSlot: 'renew',
  });
  // With the floor of its earlier life it would promise what it does not have.
  expect(await ensure(y)).toBe(true);
  expect(await ensure(y)).toBe(false);
});

const silent = { info: () => {}, warn: () => {}, error: () => {} };

function on<T>(node: MeshNode, work: (connection: Connection) => Promise<T>): Promise<T> {
  return mesh.group.servers.withConnection(node.direct, DATABASE, work);
}

/** Whether `node` has what is before the mark of n2. */
async function past(mark: GapMark, node: MeshNode): Promise<boolean> {
  const confirmed = async (): Promise<Lsn | undefined> =>
    on<Lsn | undefined>(y, (connection) => confirmedBy(connection, { node: node.node, database: DATABASE }));
  // An idle slot moves with the next sign of life.
  await until(async () => ((await confirmed()) ?? 0n) >= mark.lsn);
  const theirs = await on<ReadonlyMap<string, Lsn>>(node, (connection) =>
    readProgress(connection, { node: node.node, database: DATABASE }, NODES),
  );
  return isPast(mark, { node: node.node, progress: theirs, confirmed: await confirmed() });
}
