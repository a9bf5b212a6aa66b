import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootstrap, GroupStage, quiet } from '../../../test/group-nodes.ts';
import { systemClock } from '../../core/clock.ts';
import type { GroupContext } from '../bootstrap/context.ts';
import { controlSchemaPart, groupSchemaPart } from '../bootstrap/parts.ts';
import type { Migration } from './migration.ts';
import { MIGRATIONS } from './migrations.ts';
import { SchemaUpkeep } from './schema-upkeep.ts';

const CLUSTER = 'schema';
const SHAPE = { cluster: CLUSTER, kind: 'manager', replicated: true } as const;
/** Of later programs, each of which makes a table that tells. */
const LATER: readonly Migration[] = [1, 2, 3].map((n) => ({
  version: MIGRATIONS.length + n,
  name: `of program ${n}`,
  statements: [
    `alter table rdpg.events add column severity_${n} text`,
    `create table rdpg.added_${n} (n int primary key)`,
  ],
}));
const program = (n: number): Migration[] => [...MIGRATIONS, ...LATER.slice(0, n)];
const { signal } = new AbortController();

let stage: GroupStage;
let contexts: GroupContext[];
let master: number;

/** One group of three, which gets newer programs from test to test. */
beforeAll(async () => {
  stage = await GroupStage.open(3);
  contexts = [0, 1, 2].map((index) => stage.node(index, { cluster: CLUSTER }));
  await Promise.all(contexts.map((context) => bootstrap(context)));
  const node = (await at(0).keys.master.read())?.value.node;
  master = contexts.findIndex(({ self }) => self.node === node);
});

afterAll(async () => {
  await Promise.all(contexts.map((context) => context[Symbol.asyncDispose]()));
  await stage[Symbol.asyncDispose]();
});

const at = (index: number): GroupContext => contexts[index] as GroupContext;

/** Of a member that runs that program. */
function upkeep(index: number, isMaster: boolean, migrations: readonly Migration[]): SchemaUpkeep {
  const { keys, servers, self, databases } = at(index);
  return new SchemaUpkeep(
    {
      clock: systemClock,
      log: quiet,
      keys,
      servers,
      controlSchema: controlSchemaPart(SHAPE, 'test', migrations),
      groupSchema: groupSchemaPart,
    },
    {
      self,
      view: () => ({ databases, isMaster }),
      intervalMs: 50,
      lockTtlMs: 1500,
      arriveTimeoutMs: 30_000,
    },
  );
}

async function recorded(): Promise<string | undefined> {
  return (await at(0).keys.group.read())?.value.schemaVersion;
}

async function has(index: number, n: number): Promise<boolean> {
  return at(index).onSelf('rdpg', async (connection) => {
    const { there } = await connection.one<{ there: boolean }>(
      `select to_regclass('rdpg.added_${n}') is not null as there`,
    );
    return there;
  });
}

test('the write master of a newer program brings the schema up to date on all members, and tells them', async () => {
  const all = contexts.map((_, index) => upkeep(index, index === master, program(1)));
  const others = all.filter((_, index) => index !== master);
  const before = await recorded();
  // Members that were updated first wait for it.
  for (const other of others) {
    await other.round(signal);
    expect(other.status().trouble).toContain(`of version ${before}, until the write master`);
  }
  expect(await has(master, 1)).toBe(false);
  // One that still runs the present program is told.
  const last = upkeep((master + 1) % 3, false, program(0));
  await last.round(signal);
  expect(last.status().trouble).toBeUndefined();

  await all[master]?.round(signal);
  expect(all[master]?.status()).toEqual({ version: await recorded(), trouble: undefined });
  expect(await recorded()).not.toBe(before);
  // When the record says so it is everywhere.
  for (const index of [0, 1, 2]) expect(await has(index, 1)).toBe(true);
  for (const other of others) {
    await other.round(signal);
    expect(other.status().trouble).toBeUndefined();
  }
  await last.round(signal);
  expect(last.status().trouble).toContain('update Varve on this node');
  const { rows } = await at(master).onSelf('rdpg', (connection) =>
    connection.query(`select msg from rdpg.events where key = 'schema/updated'`),
  );
  expect(rows).toEqual([
    { msg: `the control schema is of version ${await recorded()}, no longer ${before}` },
  ]);
});

test('a write master of an older program leaves a newer schema alone and says so', async () => {
  const newer = await recorded();
  const older = upkeep(master, true, program(0));
  await older.round(signal);
  expect(older.status().trouble).toContain(`has version ${MIGRATIONS.length + 1}`);
  expect(await recorded()).toBe(newer);
  expect(await has(master, 1)).toBe(true);
});

test('it waits while somebody joins, and for members that do not have it yet', async () => {
  const updating = upkeep(master, true, program(2));
  const { keys } = at(master);
  const before = await recorded();
  const session = await keys.coordinator.session({ ttlMs: 5000, name: 'a joiner' });
  await keys.coordinator.lock(keys.bootstrapLock, session, { owner: 'n9', waitMs: 1000, signal });
  await updating.round(signal);
  expect(updating.status().trouble).toContain('n9');
  expect(await has(master, 2)).toBe(false);
  await session.close();

  // The stream to one of them stands still for a while.
  const slow = (master + 1) % 3;
  await subscriptions(slow, 'disable');
  const round = updating.round(signal);
  await expect.poll(() => has(master, 2), { timeout: 30_000 }).toBe(true);
  expect(await recorded()).toBe(before);
  await subscriptions(slow, 'enable');
  await round;
  expect(updating.status().trouble).toBeUndefined();
  expect(await has(slow, 2)).toBe(true);
  expect(await recorded()).not.toBe(before);
});

async function subscriptions(index: number, verb: 'enable' | 'disable'): Promise<void> {
  await at(index).onSelf('rdpg', async (connection) => {
    const { rows } = await connection.query<{ name: string }>(
      `select subname as name from pg_subscription
       where subdbid = (select oid from pg_database where datname = current_database())`,
    );
    for (const { name } of rows) await connection.query(`alter subscription "${name}" ${verb}`);
  });
}

test('two that take themselves for write master make one schema; a record that says less is made right', async () => {
  const two = [upkeep(master, true, program(3)), upkeep((master + 1) % 3, true, program(3))];
  await Promise.all(two.map((each) => each.round(signal)));
  await two[0]?.round(signal);
  expect(two[0]?.status().trouble).toBeUndefined();
  expect(await has(master, 3)).toBe(true);
  const right = await recorded();
  await at(master).keys.group.update((group) => group && { ...group, schemaVersion: '1-000000000000' });
  await upkeep(master, true, program(3)).round(signal);
  expect(await recorded()).toBe(right);
});

test('each member replaces what another version has made of the group’s machinery', async () => {
  await at(0).onSelf('varve', (connection) =>
    connection.query(`set varve_group.ddl = off; drop function varve_group.is_write_master() cascade;
      comment on schema varve_group is 'Varve: replication in a group, version of yesterday'`),
  );
  await upkeep(0, false, program(3)).round(signal);
  const { there } = await at(0).onSelf('varve', (connection) =>
    connection.one<{ there: boolean }>(
      `select to_regprocedure('varve_group.is_write_master()') is not null as there`,
    ),
  );
  expect(there).toBe(true);
});
