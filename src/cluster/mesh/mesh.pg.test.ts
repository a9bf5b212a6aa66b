import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startGroupServers, type TestGroupServers } from '../../../test/group-servers.ts';
import { systemClock } from '../../core/clock.ts';
import type { Connection } from '../../postgres/connection.ts';
import { edgeNames } from './edge.ts';
import { checkLimits } from './limits.ts';
import { allLinks, edgeOf, Mesh, type Link } from './mesh.ts';
import { readSlots } from './slots.ts';
import { advanceOrigin, createSubscription, originProgress, readSubscription } from './subscription.ts';

let group: TestGroupServers;
let mesh: Mesh;

beforeAll(async () => {
  group = await startGroupServers(3);
  mesh = new Mesh({ clock: systemClock, servers: group.servers });
});

afterAll(() => group[Symbol.asyncDispose]());

/** What the group's own schema has of the mesh's concern. */
const GROUP_SQL = `
  create schema varve_group;
  create table varve_group.ddl_queue (id bigint primary key);
  create table varve_group.barrier (token uuid primary key, node text not null, at timestamptz not null default now());
  create table public.t (id int primary key, v text);
  create publication varve for table varve_group.ddl_queue, varve_group.barrier, public.t;`;

async function prepared(database: string): Promise<Link[]> {
  await group.makeDatabases(database);
  await Promise.all(
    group.addresses.map((server) =>
      group.servers.withConnection(server, database, async (connection) => {
        await connection.query(GROUP_SQL);
      }),
    ),
  );
  return allLinks(group.addresses, [database]);
}

async function connected(database: string): Promise<Link[]> {
  const links = await prepared(database);
  await Promise.all(links.map((link) => mesh.connect(link, FRESH)));
  return links;
}

const FRESH = { enabled: true, copyData: false, foundSlot: 'keep' } as const;

const on = <T>(i: number, database: string, work: (connection: Connection) => Promise<T>): Promise<T> => {
  const server = group.addresses[i];
  if (!server) throw new Error('no such server');
  return group.servers.withConnection(server, database, work);
};

function linkOf(links: readonly Link[], from: string, to: string): Link {
  const link = links.find((one) => one.from.node === from && one.to.node === to);
  if (!link) throw new Error(`no link ${from} to ${to}`);
  return link;
}

async function barriers(database: string): Promise<void> {
  await Promise.all(
    group.addresses.map((from) =>
      mesh.barrier(
        from,
        group.addresses.filter((to) => to !== from),
        { database, timeoutMs: 10_000 },
      ),
    ),
  );
}

const rowsOf = (i: number, database: string): Promise<number[]> =>
  on(i, database, async (connection) => {
    const { rows } = await connection.query<{ id: number }>('select id from public.t order by id');
    return rows.map(({ id }) => id);
  });

test('rows written anywhere arrive everywhere, once', async () => {
  const links = await connected('everywhere');
  await Promise.all(
    [0, 1, 2].map((i) =>
      on(i, 'everywhere', (connection) => connection.query('insert into public.t values ($1)', [i])),
    ),
  );
  await barriers('everywhere');
  for (const i of [0, 1, 2]) expect(await rowsOf(i, 'everywhere')).toEqual([0, 1, 2]);
  const status = await mesh.status(links);
  expect(status.map(({ state }) => state)).toEqual(Array.from({ length: 6 }, () => 'streaming'));
  expect(status.every(({ lagBytes }) => lagBytes !== undefined)).toBe(true);
});

test('edges may be made again and again, and by several at once', async () => {
  const links = await connected('again');
  await Promise.all([...links, ...links].map((link) => mesh.connect(link, FRESH)));
  await on(0, 'again', (connection) => connection.query('insert into public.t values (1)'));
  await barriers('again');
  expect(await rowsOf(2, 'again')).toEqual([1]);
});

test('a slot whose subscription was never made is kept or renewed', async () => {
  const links = await prepared('halfway');
  const link = linkOf(links, 'n1', 'n2');
  const { slot } = edgeNames(edgeOf(link));
  const make = (connection: Connection): Promise<unknown> =>
    connection.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
  await on(0, 'halfway', make);
  await on(0, 'halfway', (connection) => connection.query('insert into public.t values (1)'));
  await mesh.connect(link, FRESH);
  await mesh.barrier(link.from, [link.to], { database: 'halfway', timeoutMs: 10_000 });
  expect(await rowsOf(1, 'halfway')).toEqual([1]);

  const other = linkOf(links, 'n1', 'n3');
  await on(0, 'halfway', (connection) =>
    connection.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [
      edgeNames(edgeOf(other)).slot,
    ]),
  );
  await on(0, 'halfway', (connection) => connection.query('insert into public.t values (2)'));
  await mesh.connect(other, { ...FRESH, foundSlot: 'renew' });
  await mesh.barrier(other.from, [other.to], { database: 'halfway', timeoutMs: 10_000 });
  expect(await rowsOf(2, 'halfway')).toEqual([]);
});

test('a disabled edge applies nothing, and carries on where it was told to', async () => {
  const links = await connected('freeze');
  const link = linkOf(links, 'n1', 'n2');
  const insert = (id: number): Promise<unknown> =>
    on(0, 'freeze', (connection) => connection.query('insert into public.t values ($1)', [id]));
  await insert(1);
  await mesh.barrier(link.from, [link.to], { database: 'freeze', timeoutMs: 10_000 });
  await mesh.disable(link);
  const frozen = await mesh.progress(link);
  await insert(2);
  const passed = await on(0, 'freeze', (connection) =>
    connection.one<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn'),
  );
  await insert(3);
  expect(await mesh.progress(link)).toBe(frozen);
  expect((await mesh.status([link]))[0]?.state).toBe('disabled');
  await on(1, 'freeze', (connection) => advanceOrigin(connection, edgeOf(link), passed.lsn));
  expect(await on(1, 'freeze', (connection) => originProgress(connection, edgeOf(link)))).toBe(passed.lsn);
  await mesh.enable(link);
  await mesh.barrier(link.from, [link.to], { database: 'freeze', timeoutMs: 10_000 });
  expect(await rowsOf(1, 'freeze')).toEqual([1, 3]);
});

test('dropping an edge leaves nothing on either side, also when it was dropped before', async () => {
  const links = await connected('gone');
  for (const _ of [1, 2]) {
    for (const link of links) expect(await mesh.drop(link)).toEqual([]);
  }
  for (const i of [0, 1, 2]) {
    expect([...(await on(i, 'gone', readSlots)).keys()]).toEqual([]);
    const link = links.find(({ to }) => to === group.addresses[i]);
    if (!link) throw new Error('no link');
    expect(await on(i, 'gone', (connection) => readSubscription(connection, edgeOf(link)))).toBeUndefined();
  }
});

test('an edge whose publisher cannot be reached is dropped on its subscriber', async () => {
  const links = await connected('dead');
  const link = linkOf(links, 'n1', 'n2');
  const nowhere = { ...link, from: { ...link.from, port: 1 } };
  // As the publisher’s address was before it went.
  await mesh.readdress(nowhere);
  const left = await mesh.drop(nowhere);
  expect(left).toHaveLength(1);
  expect(left[0]).toContain('n1 → n2');
  expect(await on(1, 'dead', (connection) => readSubscription(connection, edgeOf(link)))).toBeUndefined();
  // It comes back, and n2 is no member any more.
  await mesh.sweep(link.from, 'dead', ['n1', 'n3']);
  expect([...(await on(0, 'dead', readSlots)).keys()]).toEqual(['varve_n3_dead']);
});

test('a subscription that finds its slot gone is told, not made again', async () => {
  const links = await connected('lost');
  const link = linkOf(links, 'n1', 'n2');
  await on(0, 'lost', (connection) => mesh.dropSlots(connection, [edgeNames(edgeOf(link)).slot]));
  await expect(mesh.connect(link, FRESH)).rejects.toMatchObject({ code: 'GROUP_EDGE_LOST' });
  expect((await mesh.status([link]))[0]?.state).toBe('missing');
});

test('an edge waits for a write transaction that began before it', async () => {
  const links = await prepared('patient');
  const link = linkOf(links, 'n1', 'n2');
  await using writer = await group.connect(0, 'patient');
  await writer.query('begin; insert into public.t values (1)');
  let made = false;
  const making = mesh.connect(link, FRESH).then(() => (made = true));
  await systemClock.sleep(300);
  expect(made).toBe(false);
  await writer.query('commit');
  await making;
});

test('passwords stand in no log of a server, even of statements that failed', async () => {
  const links = await connected('secret');
  const link = linkOf(links, 'n1', 'n2');
  const conninfo = group.servers.conninfo(link.from, 'secret', 'x');
  await on(1, 'secret', (connection) =>
    createSubscription(connection, edgeOf(link), { conninfo, enabled: true, copyData: false }),
  );
  const folder = group.own[1]?.dataDir ?? '';
  const log = await readFile(join(dirname(folder), 'postgres.log'), 'utf8');
  expect(log).toContain('already exists');
  expect(log.includes(group.password)).toBe(false);
});

test('a server that allows too little is told with each setting', async () => {
  const check = on(0, 'postgres', (connection) =>
    checkLimits(connection, 'n1', { members: 9, databases: 20 }),
  );
  await expect(check).rejects.toMatchObject({
    code: 'GROUP_LIMITS',
    detail: expect.stringMatching(/max_replication_slots is \d+, must be at least 220/),
  });
  await on(0, 'postgres', (connection) => checkLimits(connection, 'n1', { members: 3, databases: 2 }));
});
