import { VarveError } from '../../core/errors.ts';
import { Connection, PLAIN_SESSION } from '../../postgres/connection.ts';
import { backupForTask, recordBackup, type BackupDeps } from '../backup/backup-actions.ts';
import type { Actions, Action, TaskContext } from '../tasks/task.ts';
import { TaskQueue } from '../tasks/task-queue.ts';
import { writeAudit } from './audit.ts';
import { unknownDatabase, type DatabasePool } from './database-pool.ts';
import type { PoolDatabases } from './pool-databases.ts';

export interface PoolActionDeps extends BackupDeps {
  readonly pool: DatabasePool;
  readonly databases: PoolDatabases;
}

/** What a service group does for its pool. All of it runs on the write master. */
export function poolActions(deps: PoolActionDeps): Actions {
  return {
    PrecreateDatabases: precreate(deps),
    DecommissionDatabases: decommissionAll(deps),
    DecommissionDatabase: decommission(deps),
  };
}

/** Fills the pool up to its size; what an earlier attempt began is finished first. */
function precreate({ pool }: PoolActionDeps): Action {
  return async ({ signal }) => {
    const made: string[] = [];
    for (const record of await pool.begin()) {
      signal.throwIfAborted();
      await pool.make(record);
      made.push(record.database);
    }
    return { result: { made } };
  };
}

/** For those whose own task was lost, or given up. */
function decommissionAll(deps: PoolActionDeps): Action {
  const queue = new TaskQueue(deps.control, deps.shape);
  return ({ cluster }) =>
    Promise.resolve({
      effects: async (connection) => {
        const { rows } = await connection.query<{ data: string }>(
          `select dbname as data from cfsb.instances where cluster_id = $1 and ineffective_at is not null
              and decommissioned_at is null order by ineffective_at`,
          [cluster],
        );
        for (const { data } of rows) {
          await queue.addIn(connection, {
            action: 'DecommissionDatabase',
            data,
            nodeType: 'write',
            ttlSeconds: 86_400,
            maxAttempts: 20,
          });
        }
      },
    });
}

/**
 * Takes a database out of service: nobody logs in any more, a last backup is taken and recorded, then it is
 * dropped on all members, then its row says so. The order is the one in which each step can be repeated, and no
 * step is done before what it needs is durable: a database is dropped only with a backup that was read back.
 */
function decommission(deps: PoolActionDeps): Action {
  const { pool, databases } = deps;
  return async (context) => {
    const { task, cluster, node, signal } = context;
    const record = await pool.database(task.data);
    if (!record || record.cluster !== cluster) throw unknownDatabase(task.data);
    if (record.decommissionedAt !== null) return { result: { already: true } };
    await pool.shutOutAll(record);
    // One that nobody ever had is not worth a backup.
    if (record.instanceId !== null) await finalBackup(deps, context);
    signal.throwIfAborted();
    await databases.drop(record.database, record.owner);
    return {
      effects: async (connection) => {
        await connection.query(
          'update cfsb.instances set decommissioned_at = now() where dbname = $1 and decommissioned_at is null',
          [record.database],
        );
        await connection.query(
          `delete from tasks.schedules where cluster_id = $1 and action = 'BackupDatabase' and data = $2`,
          [cluster, record.database],
        );
        await writeAudit(connection, {
          cluster,
          node,
          actor: 'task',
          action: 'decommission',
          target: record.database,
          outcome: 'ok',
          detail: { instance: record.instanceId, task: task.id },
        });
      },
    };
  };
}

/** @throws DATABASE_NOT_DROPPED when it can be neither made nor found */
async function finalBackup(deps: PoolActionDeps, context: TaskContext): Promise<void> {
  const { task, control, signal } = context;
  const state = await stateOn(deps, task.data, signal);
  if (state === 'open') {
    const file = await backupForTask(deps, context, task.data);
    await control.withConnection((connection) => recordBackup(connection, context, file));
    return;
  }
  // An earlier attempt came as far as the drop, so it has made and recorded the backup.
  const made = await control.withConnection((connection) =>
    connection.query(
      `select from backups.file_history f join cfsb.instances i on i.dbname = f.dbname
        where f.dbname = $1 and f.action = 'CreateBackup' and f.status = 'ok'
          and f.created_at >= i.ineffective_at`,
      [task.data],
    ),
  );
  if (made.rowCount > 0 || state === 'absent') return;
  throw new VarveError('DATABASE_NOT_DROPPED', `database ${task.data} is closed and has no last backup`, {
    hint: `Open it for the backup: alter database ${task.data} allow_connections true.`,
  });
}

async function stateOn(
  deps: PoolActionDeps,
  database: string,
  signal: AbortSignal,
): Promise<'open' | 'closed' | 'absent'> {
  await using connection = await Connection.open(deps.local('rdpg'), {
    connectTimeoutMs: 5_000,
    signal,
    settings: PLAIN_SESSION,
  });
  const row = await connection.maybeOne<{ open: boolean }>(
    'select datallowconn as open from pg_database where datname = $1',
    [database],
  );
  if (!row) return 'absent';
  return row.open ? 'open' : 'closed';
}
