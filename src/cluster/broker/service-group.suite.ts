import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bootstrap, quiet, type GroupStage } from '../../../test/group-nodes.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { systemClock } from '../../core/clock.ts';
import { Connection, type Endpoint } from '../../postgres/connection.ts';
import { backupActions } from '../backup/backup-actions.ts';
import { GroupContext } from '../bootstrap/context.ts';
import { controlSchemaPart } from '../bootstrap/parts.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import { SecretKey } from '../schema/secret-key.ts';
import { MasterControlDatabase } from '../tasks/control-database.ts';
import { GroupWork } from '../tasks/group-work.ts';
import type { Actions } from '../tasks/task.ts';
import { upkeepActions } from '../tasks/upkeep-actions.ts';
import { DatabasePool } from './database-pool.ts';
import { poolActions } from './pool-actions.ts';
import { PoolDatabases } from './pool-databases.ts';

/** A service group that has bootstrapped itself, with what its members do for it. Member 0 is write master. */
export interface TestServiceGroup extends AsyncDisposable {
  readonly shape: GroupShape;
  readonly key: SecretKey;
  readonly control: MasterControlDatabase;
  readonly databases: PoolDatabases;
  readonly pool: DatabasePool;
  readonly contexts: readonly GroupContext[];
  readonly works: readonly GroupWork[];
  /** Where member i keeps backups. */
  readonly folders: readonly string[];
  endpoint(index: number, database: string): Endpoint;
  connect(index: number, database: string): Promise<Connection>;
  /** Carries out tasks on all members until none is left that is due. */
  work(): Promise<void>;
  /** Adds a task and works. The outcome that the history has. */
  task(
    action: string,
    data?: string,
    nodeType?: 'read' | 'write',
  ): Promise<{ outcome: string; error: string | null; result: unknown }>;
}

export async function testServiceGroup(
  stage: GroupStage,
  members: number,
  cluster = 'service',
): Promise<TestServiceGroup> {
  const shape: GroupShape = { cluster, kind: 'service', replicated: members > 1 };
  const key = new SecretKey(Buffer.alloc(32, 7));
  const all = Array.from(
    { length: members },
    (_, i) =>
      new GroupContext(
        { ...stage.deps(i, cluster), controlSchema: controlSchemaPart(shape, key.fingerprint) },
        stage.options(i, { kind: 'service', size: members, accessDatabase: undefined }),
      ),
  );
  await Promise.all(all.map((context) => bootstrap(context)));
  const master = (await all[0]?.keys.master.read())?.value.node;
  const contexts = all.toSorted(
    (a, b) => Number(b.options.node === master) - Number(a.options.node === master),
  );
  const [first] = contexts;
  if (!first) throw new Error('a group has a member');
  const { keys, mesh, servers } = first;
  const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}backups-`));
  const endpoint = (index: number, database: string): Endpoint => {
    const context = contexts[index];
    if (!context) throw new Error('no such member');
    return servers.endpoint(context.self, database);
  };
  const control = new MasterControlDatabase({ master: () => endpoint(0, 'rdpg') });
  const databases = new PoolDatabases({ mesh, servers, keys, log: quiet });
  const pool = new DatabasePool({ control, databases, log: quiet }, shape);
  const folders = contexts.map((_, i) => join(folder, `n${i + 1}`));
  const works = contexts.map((context, i) => {
    const local = (database: string): Endpoint => endpoint(i, database);
    const deps = {
      control,
      shape,
      local,
      master: (database: string) => endpoint(0, database),
      folder: folders[i] ?? '',
    };
    const actions: Actions = {
      ...upkeepActions(deps),
      ...backupActions(deps),
      ...poolActions({ ...deps, pool, databases }),
    };
    return new GroupWork(
      {
        log: quiet,
        clock: systemClock,
        control,
        actions,
        role: () => (i === 0 ? 'write' : 'read'),
        members: () => contexts.map(({ options }) => options.node),
      },
      { node: context.options.node, shape },
    );
  });
  await control.withConnection((connection) =>
    connection.query('update tasks.schedules set enabled = false'),
  );
  const work = async (): Promise<void> => {
    for (let found = true; found;) {
      found = false;
      for (const one of works) found = (await one.workOnce()) || found;
    }
  };
  return {
    shape,
    key,
    control,
    databases,
    pool,
    contexts,
    works,
    folders,
    endpoint,
    connect: (index, database) => Connection.open(endpoint(index, database), { connectTimeoutMs: 10_000 }),
    work,
    task: async (action, data = '', nodeType = 'write') => {
      await works[0]?.queue.add({ action, data, nodeType });
      await work();
      return control.withConnection((connection) =>
        connection.one(
          `select outcome, error, result from tasks.history where action = $1 and data = $2
            order by finished_at desc limit 1`,
          [action, data],
        ),
      );
    },
    async [Symbol.asyncDispose]() {
      await control[Symbol.asyncDispose]();
      await Promise.all(contexts.map((context) => context[Symbol.asyncDispose]()));
      await rm(folder, { recursive: true, force: true });
    },
  };
}
