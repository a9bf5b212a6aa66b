import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { Connection, PLAIN_SESSION, type Endpoint } from '../../postgres/connection.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import type { ControlDatabase } from '../tasks/control-database.ts';
import { TaskQueue } from '../tasks/task-queue.ts';
import type { Action, Actions, TaskContext } from '../tasks/task.ts';
import { localDatabases, type LocalEndpoint } from '../tasks/vacuum.ts';
import { verifyArchive } from './archive-reader.ts';
import { backupDatabase, type BackupFile } from './backup.ts';
import {
  backupFileName,
  backupFolder,
  listBackups,
  removeBackup,
  type ListedBackup,
} from './backup-folder.ts';
import { expiredBackups, type RetentionRule } from './retention.ts';

export interface BackupDeps {
  readonly control: ControlDatabase;
  readonly shape: GroupShape;
  /** This member's own server, as superuser. */
  readonly local: LocalEndpoint;
  /** The same database on the write master: sequences move only there. */
  readonly master: (database: string) => Promise<Endpoint> | Endpoint;
  /** Where this member keeps backups. */
  readonly folder: string;
}

/** Backups of a database that was dropped go after so many days, the last one, too. */
const FINAL_BACKUP_DAYS = 30;

export function backupActions(deps: BackupDeps): Actions {
  return {
    BackupDatabase: async (context) => {
      const file = await backupForTask(deps, context, context.task.data);
      return {
        result: { file: file.path, sizeBytes: file.sizeBytes, rows: file.end.rowCount },
        effects: (connection) => recordBackup(connection, context, file),
      };
    },
    BackupAllDatabases: backupAllDatabases(deps),
    EnforceFileRetention: enforceRetention(deps),
    ScheduleNewDatabaseBackups: scheduleNewBackups,
  };
}

/**
 * The backup of one task: repeated, it is the same file, which is not written twice. An attempt that fails leaves
 * a row in the history.
 */
export async function backupForTask(
  deps: BackupDeps,
  context: TaskContext,
  database: string,
): Promise<BackupFile> {
  const { task, cluster, node, control, signal, clock } = context;
  const fileName = backupFileName(task.createdAt, task.id);
  const path = join(backupFolder(deps.folder, database), fileName);
  const startedMs = clock.monotonicMs();
  if (await exists(path)) {
    const present = await verifyArchive(path, signal).catch(() => undefined);
    if (present) return { path, ...present };
  }
  try {
    return await backupDatabase(
      {
        source: deps.local(database),
        master: await deps.master(database),
        folder: deps.folder,
        fileName,
        cluster,
      },
      signal,
    );
  } catch (error) {
    signal.throwIfAborted();
    await control.withConnection((connection) =>
      connection.query(
        `insert into backups.file_history (cluster_id, dbname, node, file_name, action, status, params, duration_ms)
         values ($1, $2, $3, $4, 'CreateBackup', 'error', $5, $6)`,
        [
          cluster,
          database,
          node,
          fileName,
          JSON.stringify({ error: messageOf(error), attempt: task.attempt }),
          Math.round(clock.monotonicMs() - startedMs),
        ],
      ),
    );
    throw error;
  }
}

/** Once, however often it is said. */
export async function recordBackup(
  connection: Connection,
  { cluster, node }: Pick<TaskContext, 'cluster' | 'node'>,
  { path, manifest, end, sizeBytes }: BackupFile,
): Promise<void> {
  await connection.query(
    `insert into backups.file_history (cluster_id, dbname, node, file_name, action, status, params, size_bytes,
       sha256, created_at, duration_ms)
     values ($1, $2, $3, $4, 'CreateBackup', 'ok', $5, $6, $7, $8,
       (extract(epoch from clock_timestamp() - $8::timestamptz) * 1000)::bigint)
     on conflict (node, file_name) where action = 'CreateBackup' and status = 'ok' do nothing`,
    [
      cluster,
      manifest.database,
      node,
      path.slice(path.lastIndexOf('/') + 1),
      JSON.stringify({ tables: end.tableCount, rows: end.rowCount, leftOut: manifest.leftOut }),
      sizeBytes,
      end.sha256,
      manifest.createdAt,
    ],
  );
}

/** One task for each database of the group but `rdpg`, which has a schedule of its own. */
function backupAllDatabases(deps: BackupDeps): Action {
  const queue = new TaskQueue(deps.control, deps.shape);
  return async ({ signal }) => {
    const databases: string[] = [];
    for (const database of await localDatabases(deps.local, signal)) {
      if (database !== 'rdpg' && (await isReplicated(deps.local(database), signal))) databases.push(database);
    }
    return {
      result: { databases },
      effects: async (connection) => {
        const nodeType = deps.shape.replicated ? 'read' : 'write';
        for (const data of databases)
          await queue.addIn(connection, { action: 'BackupDatabase', data, nodeType });
      },
    };
  };
}

async function isReplicated(endpoint: Endpoint, signal: AbortSignal): Promise<boolean> {
  await using connection = await Connection.open(endpoint, {
    connectTimeoutMs: 5_000,
    signal,
    settings: PLAIN_SESSION,
  });
  const { there } = await connection.one<{ there: boolean }>(
    `select to_regclass('varve_group.local') is not null as there`,
  );
  return there;
}

/** Databases that were assigned get an hourly backup; those that are gone have none any more. */
const scheduleNewBackups: Action = ({ cluster }) =>
  Promise.resolve({
    effects: async (connection) => {
      await connection.query(
        `insert into tasks.schedules (cluster_id, cluster_service, role, action, data, frequency, node_type)
         select i.cluster_id, i.cluster_service, 'service', 'BackupDatabase', i.dbname, interval '1 hour',
                case i.cluster_service when 'replicated' then 'read' else 'write' end
           from cfsb.instances i
          where i.cluster_id = $1 and i.instance_id is not null and i.ineffective_at is null
         on conflict do nothing`,
        [cluster],
      );
      await connection.query(
        `delete from tasks.schedules s using cfsb.instances i
          where s.cluster_id = $1 and s.action = 'BackupDatabase' and s.data = i.dbname
            and i.cluster_id = $1 and i.ineffective_at is not null`,
        [cluster],
      );
    },
  });

/** Each member for its own folder. */
function enforceRetention(deps: BackupDeps): Action {
  return async ({ control, cluster, node, clock, signal }) => {
    const { rules, dropped } = await control.withConnection(async (connection) => {
      const found = await connection.query<RetentionRule>(
        `select dbname as database, hours, keep_count as "keepCount" from backups.retention_rules
          where not is_remote_rule`,
      );
      const gone = await connection.query<{ name: string }>(
        `select dbname as name from cfsb.instances
          where cluster_id = $1 and decommissioned_at < now() - $2 * interval '1 day'`,
        [cluster, FINAL_BACKUP_DAYS],
      );
      return { rules: found.rows, dropped: new Set(gone.rows.map(({ name }) => name)) };
    }, signal);
    const backups = await listBackups(deps.folder);
    const removed: string[] = [];
    for (const [database, files] of byDatabase(backups)) {
      const expired = dropped.has(database)
        ? files.map(({ fileName }) => fileName)
        : expiredBackups(files.map(aged), database, rules, clock.nowMs());
      for (const fileName of expired) {
        signal.throwIfAborted();
        await removeBackup(deps.folder, database, fileName);
        removed.push(`${database}/${fileName}`);
      }
    }
    const left = (await listBackups(deps.folder)).map(({ fileName }) => fileName);
    return {
      result: { removed },
      // What is not in the folder any more, whoever removed it and whenever.
      effects: async (connection) => {
        await connection.query(
          `with gone as (
             update backups.file_history set removed_at = now()
              where cluster_id = $1 and node = $2 and action = 'CreateBackup' and status = 'ok'
                and removed_at is null and file_name <> all ($3)
             returning cluster_id, dbname, node, file_name
           )
           insert into backups.file_history (cluster_id, dbname, node, file_name, action, status, removed_at)
           select cluster_id, dbname, node, file_name, 'RemoveBackup', 'ok', now() from gone`,
          [cluster, node, left],
        );
      },
    };
  };
}

const aged = ({
  fileName,
  summary,
}: ListedBackup): { fileName: string; createdAtMs: number | undefined } => ({
  fileName,
  createdAtMs: summary && Date.parse(summary.manifest.createdAt),
});

function byDatabase(backups: readonly ListedBackup[]): Map<string, ListedBackup[]> {
  const groups = new Map<string, ListedBackup[]>();
  for (const backup of backups) {
    groups.set(backup.database, [...(groups.get(backup.database) ?? []), backup]);
  }
  return groups;
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
