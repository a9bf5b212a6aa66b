import { afterAll, beforeAll, expect, test } from 'vitest';
import { GroupStage, quiet } from '../../../test/group-nodes.ts';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { systemClock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { backupActions } from '../backup/backup-actions.ts';
import { listBackups } from '../backup/backup-folder.ts';
import { GroupServers } from '../mesh/group-servers.ts';
import { Mesh } from '../mesh/mesh.ts';
import { GroupWork } from '../tasks/group-work.ts';
import { DatabasePool } from './database-pool.ts';
import { stageOf } from './instances.ts';
import { poolActions } from './pool-actions.ts';
import { PoolDatabases } from './pool-databases.ts';
import { testServiceGroup, type TestServiceGroup } from './service-group.suite.ts';

/**
 * A worker that dies in the middle of making or dropping a database, at any of its calls to a server: before it,
 * or when the server has done it and the answer is under way. Another worker takes the task when the lease is over,
 * and what comes out is the same. The points are a sample that changes from run to run.
 */
let stage: GroupStage;
let group: TestServiceGroup;
const seed = Number(process.env['VARVE_TEST_SEED'] ?? Date.now() % 1_000_000);
const random = new SeededRandom(seed);
const SAMPLE = 2;

beforeAll(async () => {
  stage = await GroupStage.open(2);
  group = await testServiceGroup(stage, 2);
  await group.control.withConnection((connection) =>
    connection.query(
      `update rdpg.config set value = case key when 'poolSize' then '1' else 'pg_trgm' end
        where key in ('poolSize', 'databaseExtensions')`,
    ),
  );
});
afterAll(async () => {
  await group?.[Symbol.asyncDispose]();
  await stage[Symbol.asyncDispose]();
});

/** Connections of a process that dies at its `at`-th use of one. */
class MortalServers extends GroupServers {
  uses = 0;
  readonly #at: number;
  readonly #when: 'before' | 'after';

  constructor(at: number, when: 'before' | 'after') {
    super({ user: 'rdpg', password: stage.servers.password });
    this.#at = at;
    this.#when = when;
  }

  override async withConnection<T>(...args: Parameters<GroupServers['withConnection']>): Promise<T> {
    this.uses += 1;
    if (this.uses > this.#at || (this.uses === this.#at && this.#when === 'before')) throw death();
    const result = (await super.withConnection(...args)) as T;
    if (this.uses >= this.#at) throw death();
    return result;
  }
}

const death = (): VarveError => new VarveError('CONNECTION_LOST', `the worker died (seed ${seed})`);

/** Carries out the task that is due as a process that dies; how many uses it came to. */
async function workAndDie(at: number, when: 'before' | 'after'): Promise<number> {
  const [context] = group.contexts;
  if (!context) throw new Error('no member');
  await using servers = new MortalServers(at, when);
  const mesh = new Mesh({ clock: systemClock, servers });
  const databases = new PoolDatabases({ mesh, servers, keys: context.keys, log: quiet });
  const pool = new DatabasePool({ control: group.control, databases, log: quiet }, group.shape);
  const deps = {
    control: group.control,
    shape: group.shape,
    local: (database: string) => group.endpoint(0, database),
    master: (database: string) => group.endpoint(0, database),
    folder: group.folders[0] ?? '',
    pool,
    databases,
  };
  const work = new GroupWork(
    {
      log: quiet,
      clock: systemClock,
      control: group.control,
      actions: { ...backupActions(deps), ...poolActions(deps) },
      role: () => 'write',
      members: () => [],
    },
    { node: context.options.node, shape: group.shape },
  );
  await work.workOnce();
  // A process that is gone does not say that it failed: its lease ends.
  await group.control.withConnection((connection) =>
    connection.query(
      `update tasks.tasks set state = 'running', lease_token = gen_random_uuid(), run_after = now(),
              lease_until = now() - interval '1 s', attempt = 1`,
    ),
  );
  return servers.uses;
}

async function namesOn(index: number): Promise<string[]> {
  await using connection = await group.connect(index, 'rdpg');
  const { rows } = await connection.query<{ name: string }>(
    `select datname as name from pg_database where datname ~ '^d[0-9a-f]{32}$'
     union select rolname from pg_roles where rolname ~ '^[bu][0-9a-f]{32}$' order by 1`,
  );
  return rows.map(({ name }) => name);
}

async function give(): Promise<string> {
  const record = await group.pool.assign({
    instanceId: `i${random.below(1_000_000_000)}`,
    serviceId: 's',
    planId: 'p',
    organizationId: 'o',
    spaceId: 's',
    request: {},
  });
  if (!record) throw new Error('none was available');
  return record.database;
}

/** How many uses a whole run has: found by a life without an end. */
let makingUses = 0;
let droppingUses = 0;

test('undisturbed, and nothing is left', async () => {
  await group.works[0]?.queue.add({ action: 'PrecreateDatabases', nodeType: 'write' });
  makingUses = await workAndDie(Number.MAX_SAFE_INTEGER, 'before');
  await group.pool.release(await give());
  droppingUses = await workAndDie(Number.MAX_SAFE_INTEGER, 'before');
  expect(makingUses).toBeGreaterThan(8);
  expect(droppingUses).toBeGreaterThan(5);
  for (const index of [0, 1]) expect(await namesOn(index)).toEqual([]);
});

test.each(Array.from({ length: SAMPLE }, (_, i) => i))(
  `killed at some point, sample %i of seed ${seed}`,
  async () => {
    const when = random.pick<'before' | 'after'>(['before', 'after']);
    await group.works[0]?.queue.add({ action: 'PrecreateDatabases', nodeType: 'write' });
    const making = 1 + random.below(makingUses);
    await workAndDie(making, when);
    const available = async (): Promise<object> => {
      await group.work();
      return { making, when, available: (await group.pool.available()).length };
    };
    // An attempt that fails, because what the dead one began is still under way, is repeated after a while.
    await expect.poll(available, { timeout: 20_000 }).toEqual({ making, when, available: 1 });
    const database = await give();
    await using master = await group.connect(0, database);
    await master.query('create table public.t (n int primary key); insert into public.t values (1)');
    await group.databases.barrier(database);
    await master.close();

    await group.pool.release(database);
    const dropping = 1 + random.below(droppingUses);
    await workAndDie(dropping, when);
    const dropped = async (): Promise<object> => {
      await group.work();
      const record = await group.pool.database(database);
      return { dropping, when, stage: record && stageOf(record) };
    };
    await expect.poll(dropped, { timeout: 20_000 }).toEqual({ dropping, when, stage: 'gone' });
    for (const index of [0, 1]) expect(await namesOn(index)).toEqual([]);
    const backups = await listBackups(group.folders[0] ?? '', database);
    expect(backups.map(({ summary }) => summary?.end.rowCount)).toEqual([1]);
  },
);
