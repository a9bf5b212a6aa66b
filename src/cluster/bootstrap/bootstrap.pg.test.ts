import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { bootstrap, GroupStage } from '../../../test/group-nodes.ts';
import { systemClock } from '../../core/clock.ts';
import { Connection } from '../../postgres/connection.ts';
import { RunEvents } from '../../run/events.ts';
import { runSteps } from '../../run/run.ts';
import { groupIdentity } from '../ddl/install.ts';
import { allLinks } from '../mesh/mesh.ts';
import { GroupContext } from './context.ts';
import { groupBootstrapSteps } from './group-steps.ts';

vi.setConfig({ testTimeout: 240_000 });

let stage: GroupStage;
const contexts: GroupContext[] = [];

beforeAll(async () => {
  stage = await GroupStage.open(3);
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

/** A superuser who is not of the group. */
async function client(i: number): Promise<Connection> {
  const server = stage.servers.own[i];
  if (!server) throw new Error(`there is no server ${i}`);
  return Connection.open(server.admin('varve'), { connectTimeoutMs: 10_000 });
}

const MEMBERS_ONLY = ['wait-for-nodes', 'wait-for-members'];

/** Without some of the steps. */
function bootstrapOnly(context: GroupContext, left: readonly string[]): Promise<void> {
  return runSteps(
    { clock: systemClock, events: new RunEvents() },
    {
      run: 'bootstrap',
      node: context.options.node,
      steps: groupBootstrapSteps()
        .filter(({ name }) => !left.includes(name))
        .slice(0, -5),
      context,
      signal: new AbortController().signal,
    },
  );
}

const single = { size: 1, kind: 'service', accessDatabase: undefined } as const;

/** What a server has of any group. */
async function traces(i: number): Promise<string[]> {
  await using connection = await stage.servers.connect(i, 'postgres');
  const { rows } = await connection.query<{ name: string }>(
    `select datname as name from pg_database where datname in ('rdpg', 'health', 'varve')
     union all select rolname from pg_roles where rolname in ('rdpg', 'health')
     union all select slot_name from pg_replication_slots order by 1`,
  );
  return rows.map(({ name }) => name);
}

test('three empty servers become one group with the control schema on each', async () => {
  const nodes = [0, 1, 2].map((i) => node(i, { cluster: 'three' }));
  await Promise.all(nodes.map((one) => bootstrap(one)));
  const { keys } = nodes[0] as GroupContext;
  expect((await keys.group.read())?.value).toMatchObject({
    state: 'complete',
    kind: 'manager',
    size: 3,
    accessDatabase: 'varve',
    schemaVersion: nodes[0]?.deps.controlSchema.version,
  });
  const members = [...(await keys.members.list()).values()].map(({ value }) => value);
  expect(members.map(({ node: name, state }) => [name, state])).toEqual([
    ['n1', 'member'],
    ['n2', 'member'],
    ['n3', 'member'],
  ]);
  expect((await keys.master.read())?.value.state).toBe('active');
  for (const one of nodes) {
    const { schedules, instances } = await one.onSelf('rdpg', (connection) =>
      connection.one<{ schedules: number; instances: boolean }>(
        `select count(*)::int4 as schedules, to_regclass('cfsb.instances') is not null as instances
           from tasks.schedules`,
      ),
    );
    expect(schedules).toBeGreaterThan(5);
    expect(instances).toBe(true);
    // As a walsender has it that serves a subscription.
    const givenUp = await one.onSelf('rdpg', (connection) => connection.one('show tcp_user_timeout'));
    expect(givenUp).toEqual({ tcp_user_timeout: '8000' });
  }
  // Again, as after a restart of all: nothing is to be done, and nobody is waited for.
  const again = nodes[1] as GroupContext;
  const events = new RunEvents();
  const applied = new Set<string>();
  events.subscribe(({ step, state }) => state === 'done' && step !== '' && applied.add(step));
  await bootstrap(again, { events });
  expect([...applied]).toEqual(['register-node', 'refresh-edges']);
});

test('a subscription whose slot went with somebody is made anew while the group forms', async () => {
  const first = node(0, { cluster: 'halves', size: 3 });
  const second = node(1, { cluster: 'halves', size: 3 });
  // The third is not there: the two are members, and the group is not complete.
  await Promise.all([first, second].map((one) => bootstrapOnly(one, MEMBERS_ONLY)));
  const { keys } = first;
  expect([...(await keys.members.list()).values()].map(({ value }) => value.state)).toEqual([
    'member',
    'member',
  ]);
  // One is thrown out, and the other has forgotten it.
  await keys.members.at('n2').update((record) => record && { ...record, state: 'joining' });
  await first.mesh.sweep(first.self, 'varve', ['n1']);
  await first.mesh.sweep(first.self, 'rdpg', ['n1']);
  const nodes = [0, 1, 2].map((i) => node(i, { cluster: 'halves' }));
  await keys.group.update((group) => group && { ...group, owner: 'n1', ownerUuid: first.options.nodeUuid });
  await Promise.all(nodes.map((one) => bootstrap(one)));
  const states = await first.mesh.status(
    allLinks(
      nodes.map(({ self }) => self),
      ['varve'],
    ),
  );
  expect(new Set(states.map(({ state }) => state))).toEqual(new Set(['streaming']));
});

test('the user for health checks sees nothing but that it is let in', async () => {
  const one = node(0, { cluster: 'health', ...single });
  await bootstrap(one);
  const login = { ...one.servers.endpoint(one.self, 'health'), user: 'health', password: 'of-health' };
  await using connection = await Connection.open(login, { connectTimeoutMs: 5000 });
  await connection.query('select 1');
  await expect(
    Connection.open({ ...login, database: 'rdpg' }, { connectTimeoutMs: 5000 }),
  ).rejects.toMatchObject({ sqlstate: '42501' });
});

test('a single PostgreSQL of a service cluster has schema and rows, and replicates nothing', async () => {
  const one = node(0, { cluster: 'single', ...single });
  await bootstrap(one);
  expect((await one.keys.group.read())?.value).toMatchObject({ state: 'complete', kind: 'service', size: 1 });
  expect(await traces(0)).toEqual(['health', 'health', 'rdpg', 'rdpg']);
});

test('a group of two for services comes up', async () => {
  const nodes = [0, 1].map((i) => node(i, { cluster: 'two', ...single, size: 2 }));
  await Promise.all(nodes.map((one) => bootstrap(one)));
  expect((await nodes[1]?.keys.group.read())?.value).toMatchObject({ state: 'complete', kind: 'service' });
});

test('a server of another group is left alone', async () => {
  const [one, two] = [node(0, { cluster: 'here', ...single }), node(1, { cluster: 'there', ...single })];
  await Promise.all([bootstrap(one), bootstrap(two)]);
  const moved = node(1, { cluster: 'here', ...single });
  await expect(bootstrap(moved)).rejects.toMatchObject({ code: 'GROUP_FOREIGN' });
  expect([...(await one.keys.members.list()).keys()]).toEqual(['n1']);
  expect(await two.onSelf('rdpg', groupIdentity)).toMatchObject({
    groupUuid: (await two.keys.group.read())?.value.uuid,
  });
});

test('a coordinator that has forgotten the group gets no second one', async () => {
  const one = node(0, { cluster: 'remembered', ...single });
  await bootstrap(one);
  const { coordinator, prefix } = one.keys;
  await coordinator.txn([], [{ kind: 'delete-prefix', prefix }]);
  const again = node(0, { cluster: 'remembered', ...single });
  await expect(bootstrap(again)).rejects.toMatchObject({ code: 'GROUP_FORGOTTEN' });
  expect(await again.keys.group.read()).toBeUndefined();
});

test('a group whose record is lost for good is recorded anew when somebody says so', async () => {
  const nodes = [0, 1].map((i) => node(i, { cluster: 'lost', ...single, size: 2 }));
  await Promise.all(nodes.map((one) => bootstrap(one)));
  const { keys } = nodes[0] as GroupContext;
  const uuid = (await keys.group.read())?.value.uuid ?? '';
  await keys.coordinator.txn([], [{ kind: 'delete-prefix', prefix: keys.prefix }]);
  await keys.coordinator.put(keys.recoverKey, uuid);
  await Promise.all(nodes.map((one) => bootstrap(one)));
  expect((await keys.group.read())?.value).toMatchObject({ uuid, state: 'complete', recovered: true });
  expect([...(await keys.members.list()).values()].map(({ value }) => value.state)).toEqual([
    'member',
    'member',
  ]);
});

test('a name that another node has is refused, and so is a copied folder', async () => {
  const one = node(0, { cluster: 'names', ...single });
  await bootstrap(one);
  const other = node(1, { cluster: 'names', ...single, node: 'n1' });
  await expect(bootstrap(other)).rejects.toMatchObject({
    code: 'GROUP_NAME_TAKEN',
    detail: expect.stringContaining(`${one.self.host}:${one.self.port}`) as string,
  });
  const copy = node(1, { cluster: 'names', ...single, nodeUuid: one.options.nodeUuid });
  await expect(bootstrap(copy)).rejects.toMatchObject({ code: 'GROUP_NAME_TAKEN' });
  expect((await one.keys.members.at('n1').read())?.value.port).toBe(one.self.port);
});

test('a server that allows too little, or whose clock is off, is told before anything is made', async () => {
  const large = node(0, { cluster: 'large', size: 60 });
  await expect(bootstrap(large)).rejects.toMatchObject({ code: 'GROUP_LIMITS' });
  const early = new GroupContext(
    { ...stage.deps(0, 'early'), clock: { ...systemClock, nowMs: () => Date.now() - 3_600_000 } },
    stage.options(0, single),
  );
  contexts.push(early);
  await expect(bootstrap(early)).rejects.toMatchObject({
    code: 'GROUP_CLOCKS_APART',
    message: expect.stringMatching(/^the clock of the server of n1 is 3[56]\d{5} ms ahead of/) as string,
  });
  expect(await traces(0)).toEqual([]);
});

test('another password than the group’s is told with the member that refuses it', async () => {
  const one = node(0, { cluster: 'secret', ...single });
  await bootstrap(one);
  const wrong = node(1, { cluster: 'secret', ...single, groupPassword: 'another' });
  await expect(bootstrap(wrong)).rejects.toMatchObject({
    code: 'LOGIN_FAILED',
    message: 'n1 does not let n2 in',
  });
  // And on its own server, where it is there with the first one.
  const changed = node(1, { cluster: 'secret', ...single });
  await expect(bootstrap(changed)).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
  expect((await one.keys.members.at('n2').read())?.value.state).toBe('joining');
});

test('a key that was edited by hand is told by its name', async () => {
  const one = node(0, { cluster: 'edited', ...single });
  await bootstrap(one);
  await one.keys.coordinator.put(one.keys.group.key, '{"uuid": "x"}');
  const again = node(0, { cluster: 'edited', ...single });
  await expect(bootstrap(again)).rejects.toMatchObject({
    code: 'GROUP_KEY_INVALID',
    message: expect.stringContaining('varve/cluster/edited/group') as string,
    detail: expect.stringContaining('uuid: ') as string,
  });
});

test('a node that is configured for something else than the group is told what it is', async () => {
  await bootstrap(node(0, { cluster: 'shape', ...single }));
  const other = node(1, { cluster: 'shape', kind: 'manager', size: 1, accessDatabase: 'varve' });
  await expect(bootstrap(other)).rejects.toMatchObject({ code: 'GROUP_SHAPE' });
});

test('tables that are in the way are not wiped', async () => {
  {
    await using admin = await stage.servers.connect(0, 'postgres');
    await admin.query('create database varve');
    await using connection = await stage.servers.connect(0, 'varve');
    await connection.query('create table mine (x int); insert into mine values (1)');
  }
  const nodes = [0, 1].map((i) => node(i, { cluster: 'full', size: 2, waitTimeoutMs: 3000 }));
  const [full] = await Promise.allSettled(nodes.map((one) => bootstrap(one)));
  expect(full).toMatchObject({
    status: 'rejected',
    reason: { code: 'GROUP_NOT_EMPTY', detail: 'Among others: public.mine.' },
  });
  await using connection = await stage.servers.connect(0, 'varve');
  expect(await connection.one('select x from mine')).toEqual({ x: 1 });
  // It is as it was, for its clients, too.
  await using user = await client(0);
  await user.query('insert into mine values (2)');
});

test('until there is a write master nobody writes into an access database, whoever made it', async () => {
  await using admin = await stage.servers.connect(0, 'postgres');
  await admin.query('create database varve');
  await using early = await client(0);
  const nodes = [0, 1].map((i) => node(i, { cluster: 'quiet', size: 3 }));
  await Promise.all(nodes.map((one) => bootstrapOnly(one, MEMBERS_ONLY)));
  await expect(early.query('create table mine (x int)')).rejects.toThrow();
  for (const i of [0, 1]) {
    await using late = await client(i);
    await expect(late.query('create table mine (x int)')).rejects.toMatchObject({ sqlstate: '25006' });
  }
});

test('a node without its peers says for whom it waited', async () => {
  const alone = node(0, { cluster: 'alone', waitTimeoutMs: 300, expectedNodes: ['n1', 'n2', 'n3'] });
  await expect(bootstrap(alone)).rejects.toMatchObject({
    code: 'DEADLINE_EXCEEDED',
    detail: 'Missing: n2, n3.',
  });
});

test('an older program does not start on a newer control schema', async () => {
  const one = node(0, { cluster: 'newer', ...single });
  await bootstrap(one);
  await one.onSelf('rdpg', (connection) =>
    connection.query(`insert into rdpg.schema_version (version, name, sha256) values (99, 'later', 'x')`),
  );
  await expect(bootstrap(one)).rejects.toMatchObject({ code: 'SCHEMA_NEWER' });
});
