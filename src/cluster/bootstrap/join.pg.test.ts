import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { serverFacts } from '../../../test/database.ts';
import { bootstrap, GroupStage } from '../../../test/group-nodes.ts';
import { sampleOf } from '../../../test/seeded-sample.ts';
import { Writers } from '../../../test/group-writers.ts';
import { Connection, type Endpoint } from '../../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../../postgres/sqlstate.ts';
import { gapSlotName } from '../master/gap-slot.ts';
import { NOBODY } from '../master/quorum.ts';
import { allLinks } from '../mesh/mesh.ts';
import { cancelRequest } from '../cancel-request.ts';
import { closeDatabase } from './closed-database.ts';
import type { GroupContext } from './context.ts';
import { markForJoining } from './joiner-databases.ts';
import { leaveGroup, reinitialise, replaceMember } from './leave.ts';
import { hasLeft } from './left.ts';
import { askMembers, tendMembership } from './requests.ts';

vi.setConfig({ testTimeout: 240_000 });

let stage: GroupStage;
const contexts: GroupContext[] = [];

beforeAll(async () => {
  stage = await GroupStage.open(4);
});

afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context[Symbol.asyncDispose]()));
  await stage.clean();
});

afterAll(() => stage[Symbol.asyncDispose]());

function node(...args: Parameters<GroupStage['node']>): GroupContext {
  const context = stage.node(...args);
  contexts.push(context);
  return context;
}

/** A group of the first servers, in which n1 takes the writes. */
async function group(count: number, cluster: string): Promise<GroupContext[]> {
  const nodes = Array.from({ length: count }, (_, i) => node(i, { cluster, size: count }));
  await Promise.all(nodes.map((one) => bootstrap(one)));
  await nodes[0]?.keys.master.update((master) => master && { ...master, node: 'n1' });
  return nodes;
}

/** Resolves when what was committed anywhere is everywhere. */
async function caughtUp(nodes: readonly GroupContext[]): Promise<void> {
  const [first] = nodes;
  for (const from of nodes) {
    await first?.mesh.barrier(
      from.self,
      nodes.filter((to) => to !== from).map(({ self }) => self),
      { database: 'varve', timeoutMs: 60_000 },
    );
  }
}

const work = { signal: new AbortController().signal, report: () => {} };

test('a joiner has every row of a group that takes writes, on its donor and elsewhere', async () => {
  const nodes = await group(3, 'joins');
  await using writers = await Writers.start(stage.servers, { rows: 3000, clients: 3, on: [0, 1, 2] });
  const joiner = node(3, { cluster: 'joins', size: 3 });
  await bootstrap(joiner);
  await writers.moreRows(100);
  await writers.stop();
  await caughtUp([...nodes, joiner]);
  const digests = await Promise.all([0, 1, 2, 3].map((i) => writers.digest(i)));
  expect(new Set(digests).size).toBe(1);
  expect(await joiner.keys.joinJournal.read()).toBeUndefined();
});

test('a donor that crashes while it is frozen is thawed, and the joiner begins anew', async () => {
  const nodes = await group(2, 'crash');
  const [n1, n2] = nodes as [GroupContext, GroupContext];
  const writers = await Writers.start(stage.servers, { rows: 3000, clients: 1 });
  await writers.stop();
  const joiner = node(2, { cluster: 'crash', size: 2 });
  const joining = bootstrap(joiner);
  while (!(await n1.keys.joinJournal.read())) await new Promise((resolve) => setTimeout(resolve, 2));
  await stage.servers.crash(0);
  await joining;
  await n2.servers.withConnection(n2.self, 'varve', (connection) =>
    connection.query(`insert into public.w values (77, 7, 7, 'of another than the donor')`),
  );
  await caughtUp([n1, n2, joiner]);
  expect(new Set(await Promise.all([0, 1, 2].map((i) => writers.digest(i)))).size).toBe(1);
  expect(await n1.keys.joinJournal.read()).toBeUndefined();
  const states = await n1.mesh.status(allLinks([n1.self, n2.self, joiner.self], ['rdpg', 'varve']));
  expect(states.map(({ state }) => state)).toEqual(Array.from({ length: 12 }, () => 'streaming'));
});

test('a member leaves and keeps its content; a node with content is not joined until that was asked for', async () => {
  const nodes = await group(3, 'leaves');
  const [n1, n2, n3] = nodes as [GroupContext, GroupContext, GroupContext];
  await using writers = await Writers.start(stage.servers, { rows: 10, clients: 1 });
  // As its daemon has it.
  {
    await using admin = await stage.servers.connect(2, 'varve');
    await admin.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [gapSlotName('varve')]);
    await admin.query(`alter system set synchronous_standby_names = 'ANY 1 ("${NOBODY}")'`);
    await admin.query('select pg_reload_conf()');
  }
  await leaveGroup(n2, 'n3', work);
  expect([...(await n1.keys.members.list()).keys()]).toEqual(['n1', 'n2']);
  await writers.moreRows(10);
  await writers.stop();
  await caughtUp([n1, n2]);
  expect(await writers.digest(1)).toBe(await writers.digest(0));
  expect(await writers.digest(2)).not.toBe(await writers.digest(0));
  {
    await using left = await stage.servers.connect(2, 'varve');
    const { rows } = await left.query(
      `select slot_name from pg_replication_slots union all select nspname from pg_namespace where nspname = 'varve_group'`,
    );
    expect(rows).toEqual([]);
    expect(await left.one(`select current_setting('synchronous_standby_names') as names`)).toEqual({
      names: '',
    });
  }
  for (const i of [0, 1]) {
    await using connection = await stage.servers.connect(i, 'varve');
    const { rows } = await connection.query<{ name: string }>(
      `select slot_name as name from pg_replication_slots where database = 'varve' and slot_name not like '%gap%'`,
    );
    expect(rows.map(({ name }) => name)).toEqual([`varve_n${2 - i}_varve`]);
  }

  await n3[Symbol.asyncDispose]();
  const returning = node(2, { cluster: 'leaves' });
  expect(await hasLeft(returning)).toBe(true);
  await expect(bootstrap(returning)).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' });
  expect(await writers.digest(2)).not.toMatch(/^0:/);
  await n1.keys.coordinator.delete(n1.keys.members.at('n3').key);

  // And now it is asked for, of a node that does not come up.
  const id = await askMembers(n1.keys, { kind: 'reinit', node: 'n3' }, { by: 'test', nowMs: Date.now() });
  expect(await hasLeft(returning)).toBe(false);
  await bootstrap(returning);
  expect(await hasLeft(returning)).toBe(false);
  const { joinedAt, state } = (await n1.keys.members.at('n3').read())?.value ?? {};
  expect(state).toBe('member');
  await caughtUp([n1, n2, returning]);
  expect(await writers.digest(2)).toBe(await writers.digest(0));
  // Done is done.
  await tendMembership(returning, work);
  expect((await n1.keys.requests.at(id).read())?.value).toMatchObject({ state: 'done', detail: '' });
  expect((await n1.keys.members.at('n3').read())?.value.joinedAt).toBe(joinedAt);

  // Of one that has left and runs on it can be asked, too.
  await leaveGroup(n2, 'n3', work);
  // That it followed; nobody here but joiners says so.
  await n1.keys.coordinator.delete(n1.keys.fences('1').at('n3').key);
  const again = await askMembers(n1.keys, { kind: 'reinit', node: 'n3' }, { by: 'test', nowMs: Date.now() });
  await tendMembership(returning, work);
  expect((await n1.keys.requests.at(again).read())?.value).toMatchObject({ state: 'done', worker: 'n3' });
  expect((await n1.keys.members.at('n3').read())?.value.state).toBe('member');
  await caughtUp([n1, n2, returning]);
  expect(await writers.digest(2)).toBe(await writers.digest(0));
});

test('a member that was away for too long is told to rejoin, and reinit has it join anew', async () => {
  const [n1, n2] = (await group(2, 'away')) as [GroupContext, GroupContext];
  await using writers = await Writers.start(stage.servers, { rows: 10, clients: 1 });
  await writers.moreRows(10);
  // As the server does when a slot is too far behind.
  await n2[Symbol.asyncDispose]();
  const edge = { from: n1.self, to: n2.self, database: 'varve' };
  await n1.mesh.disable(edge);
  await n1.servers.withConnection(n1.self, 'varve', (connection) =>
    n1.mesh.dropSlots(connection, ['varve_n2_varve']),
  );
  const back = node(1, { cluster: 'away', size: 2 });
  await bootstrap(back);
  expect((await n1.keys.members.at('n2').read())?.value).toMatchObject({
    state: 'rejoin-needed',
    reason: 'n1 has not kept the changes of varve that n2 lacks',
  });
  const id = await askMembers(n1.keys, { kind: 'reinit', node: 'n2' }, { by: 'test', nowMs: Date.now() });
  await tendMembership(n1, work);
  expect((await n1.keys.requests.at(id).read())?.value.state).toBe('asked');
  await tendMembership(back, work);
  expect((await n1.keys.requests.at(id).read())?.value).toMatchObject({ state: 'done', worker: 'n2' });
  await writers.stop();
  await caughtUp([n1, back]);
  expect(await writers.digest(1)).toBe(await writers.digest(0));
});

test('nobody logs in to a database that is being filled, whatever he sets; then it is read-only', async () => {
  const [n1, n2] = (await group(2, 'closed')) as [GroupContext, GroupContext];
  await using writers = await Writers.start(stage.servers, { rows: 10, clients: 0 });
  await n1.onSelf('varve', (connection) =>
    connection.query(`create role alice login password 'of-alice'; grant all on public.w to alice`),
  );
  await caughtUp([n1, n2]);
  {
    // A loop of the daemons would bring the password.
    await using admin = await stage.servers.connect(1, 'postgres');
    await admin.query(`alter role alice password 'of-alice'`);
  }
  const [server] = stage.servers.own.slice(1);
  if (!server) throw new Error('there is a second server');
  const asAdmin: Endpoint = server.admin('varve');
  const asAlice: Endpoint = { ...asAdmin, host: '127.0.0.1', user: 'alice', password: 'of-alice' };
  const settings = { default_transaction_read_only: 'off' };
  const open = (endpoint: Endpoint): Promise<Connection> =>
    Connection.open(endpoint, { connectTimeoutMs: 5_000, settings });
  await using before = await open(asAlice);

  const refusal = async (endpoint: Endpoint): Promise<string | undefined> => {
    try {
      await using _ = await open(endpoint);
      return undefined;
    } catch (error) {
      return sqlStateOf(error);
    }
  };

  // The copy waits for this lock.
  const holder = await n1.servers.session(n1.self, 'varve');
  await holder.query('begin; lock table public.w in access exclusive mode');
  const joining = reinitialise(n2, work);
  await expect.poll(() => refusal(asAdmin), { timeout: 60_000 }).toBe(SqlState.cannotConnectNow);
  await expect(before.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  expect(await refusal(asAlice)).toBe(SqlState.tooManyConnections);
  await holder.query('commit');
  await holder.close();
  await joining;

  // As a crash right behind the join leaves it; nobody has to start the node again.
  await markForJoining(n2, (await n1.keys.group.read())?.value.uuid ?? '', ['varve']);
  await closeDatabase(n2, 'varve');
  expect(await refusal(asAlice)).toBe(SqlState.tooManyConnections);
  await tendMembership(n2, work);

  await using after = await Connection.open(asAlice, { connectTimeoutMs: 5_000 });
  await expect(after.query('insert into public.w values (5, 5, 5)')).rejects.toMatchObject({
    sqlstate: SqlState.readOnlySqlTransaction,
  });
  expect(await writers.digest(1)).toBe(await writers.digest(0));
  await using admin = await open(asAdmin);
  expect(
    await admin.one(
      `select datconnlimit as limit, (select count(*)::int4 from pg_event_trigger where evtevent = 'login') as gates
         from pg_database where datname = 'varve'`,
    ),
  ).toEqual({ limit: -1, gates: 0 });
});

test('a dead member is replaced by another node', async () => {
  const nodes = await group(3, 'replaced');
  const [n1, , n3] = nodes as [GroupContext, GroupContext, GroupContext];
  await using writers = await Writers.start(stage.servers, { rows: 10, clients: 1 });
  await n3[Symbol.asyncDispose]();
  // Nothing listens where it was.
  await n1.keys.members.at('n3').update((record) => record && { ...record, port: 1 });
  const successor = node(3, { cluster: 'replaced' });
  const request = { kind: 'replace', node: 'n3', successor: 'n4' } as const;
  const id = await askMembers(n1.keys, request, { by: 'test', nowMs: Date.now() });
  await Promise.all([bootstrap(successor), tendMembership(n1, work)]);
  expect((await n1.keys.requests.at(id).read())?.value).toMatchObject({ state: 'done', detail: '' });
  expect([...(await n1.keys.members.list()).keys()]).toEqual(['n1', 'n2', 'n4']);
  await writers.stop();
  await caughtUp([n1, nodes[1] as GroupContext, successor]);
  expect(await writers.digest(3)).toBe(await writers.digest(0));
});

test.skipIf(process.env['VARVE_SOAK'] !== '1')(
  'a machine that is lost is replaced by another under its name',
  async () => {
    const nodes = await group(3, 'same-name');
    const [n1, n2, n3] = nodes as [GroupContext, GroupContext, GroupContext];
    await using writers = await Writers.start(stage.servers, { rows: 10, clients: 1 });
    const asker = { by: 'test', nowMs: Date.now() };
    const request = { kind: 'replace', node: 'n3', successor: 'n3' } as const;
    const refused = async (why: string): Promise<void> => {
      const id = await askMembers(n1.keys, request, asker);
      await tendMembership(n1, work);
      expect((await n1.keys.requests.at(id).read())?.value).toMatchObject({
        state: 'failed',
        detail: expect.stringContaining(why) as string,
      });
    };
    await refused('n3 lives');
    await n3[Symbol.asyncDispose]();
    await refused('the former server of n3 still runs');
    // As if it had stopped: it takes nothing any more, and does not answer.
    for (const from of [n1, n2]) {
      for (const database of ['rdpg', 'varve']) {
        await n1.mesh.disable({ from: from.self, to: n3.self, database });
      }
    }
    await n1.keys.members.at('n3').update((record) => record && { ...record, port: 1 });
    const address = stage.servers.addresses[3];
    const successor = node(3, { cluster: 'same-name', node: 'n3', port: address?.port ?? 0 });
    await expect(bootstrap(successor)).rejects.toMatchObject({ code: 'GROUP_NAME_TAKEN' });
    const id = await askMembers(n1.keys, request, asker);
    const tended = tendMembership(n1, work);
    await expect.poll(async () => n1.keys.members.at('n3').read(), { timeout: 60_000 }).toBeUndefined();
    await Promise.all([bootstrap(successor), tended]);
    expect((await n1.keys.requests.at(id).read())?.value).toMatchObject({ state: 'done', detail: '' });
    expect((await n1.keys.members.at('n3').read())?.value.nodeUuid).toBe(stage.nodeUuid(3));
    await writers.stop();
    await caughtUp([n1, n2, successor]);
    expect(await writers.digest(3)).toBe(await writers.digest(0));
  },
);

test('what was asked can be given up until it has done what cannot be taken back', async () => {
  const [n1] = (await group(2, 'cancels')) as [GroupContext, GroupContext];
  const { keys } = n1;
  const asker = { by: 'test', nowMs: Date.now() };
  const [ann, state] = [
    { by: 'ann', nowMs: Date.now() },
    async (id: string) => (await keys.requests.at(id).read())?.value,
  ];
  const given = { state: 'failed', detail: 'it was cancelled by ann' };

  const asked = await askMembers(keys, { kind: 'leave', node: 'n2' }, asker);
  await cancelRequest(keys, asked, ann);
  await tendMembership(n1, work);
  expect(await state(asked)).toMatchObject(given);

  // One that waits for somebody who never comes.
  await keys.members.at('n9').create({
    node: 'n9',
    nodeUuid: stage.nodeUuid(3),
    host: '127.0.0.1',
    port: 1,
    state: 'joining',
    tags: {},
    databases: [],
    joinedAt: new Date().toISOString(),
  });
  const waits = await askMembers(keys, { kind: 'replace', node: 'n2', successor: 'n9' }, asker);
  const tended = tendMembership(n1, work);
  await expect.poll(async () => (await state(waits))?.detail, { timeout: 20_000 }).toContain('n9');
  expect((await cancelRequest(keys, waits, ann)).state).toBe('running');
  await tended;
  expect(await state(waits)).toMatchObject(given);
  expect((await keys.members.at('n2').read())?.value.state).toBe('member');

  // One whose worker has died is nobody's any more.
  const left = await askMembers(keys, { kind: 'leave', node: 'n2' }, asker);
  await keys.requests.at(left).update((was) => was && { ...was, state: 'running', worker: 'n7' });
  expect(await cancelRequest(keys, left, ann)).toMatchObject(given);

  const gone = await askMembers(keys, { kind: 'leave', node: 'n2' }, asker);
  await keys.requests
    .at(gone)
    .update((was) => was && { ...was, state: 'running', worker: 'n1', irrevocable: true });
  for (const id of [gone, waits]) {
    await expect(cancelRequest(keys, id, ann)).rejects.toMatchObject({ code: 'GROUP_REQUEST_TOO_LATE' });
  }
  await expect(cancelRequest(keys, 'nobody-asked', ann)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  // It goes on all the same, and is forgotten a day later.
  await tendMembership(n1, work);
  expect(await state(gone)).toMatchObject({ state: 'done' });
  await keys.requests.at(gone).update((was) => was && { ...was, at: '2026-01-01T00:00:00Z' });
  await tendMembership(n1, work);
  expect(await state(gone)).toBeUndefined();
  expect([...(await keys.members.list()).keys()]).toEqual(['n1', 'n9']);
});

test('the write master cannot leave or be reinitialised, and nobody makes place for one who was not started', async () => {
  const [n1, n2] = (await group(2, 'master')) as [GroupContext, GroupContext];
  await expect(leaveGroup(n2, 'n1', work)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(reinitialise(n1, work)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(replaceMember(n1, { former: 'n2', successor: 'n9' }, work)).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    hint: expect.stringContaining('Start n9') as string,
  });
});

const OLDER = [16, 17].filter((major) => serverFacts().majors.includes(major));
test.each(sampleOf(OLDER, 1))('a group of PostgreSQL %i comes up and is joined', async (major) => {
  await using older = await GroupStage.open(3, major);
  const nodes = [0, 1].map((i) => older.node(i, { cluster: `of-${major}`, size: 2 }));
  const joiner = older.node(2, { cluster: `of-${major}`, size: 2 });
  try {
    await Promise.all(nodes.map((one) => bootstrap(one)));
    const writers = await Writers.start(older.servers, { rows: 100, clients: 1 });
    await bootstrap(joiner);
    await writers.stop();
    await caughtUp([...nodes, joiner]);
    expect(new Set(await Promise.all([0, 1, 2].map((i) => writers.digest(i)))).size).toBe(1);
  } finally {
    await Promise.all([...nodes, joiner].map((one) => one[Symbol.asyncDispose]()));
  }
});
