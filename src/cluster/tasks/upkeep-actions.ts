import { Connection, PLAIN_SESSION } from '../../postgres/connection.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import { readConfig } from './config.ts';
import type { ControlDatabase } from './control-database.ts';
import { TaskQueue } from './task-queue.ts';
import type { Action, Actions } from './task.ts';
import { vacuumAction, type LocalEndpoint } from './vacuum.ts';

export interface UpkeepDeps {
  readonly control: ControlDatabase;
  readonly shape: GroupShape;
  /** This member's own server, as superuser. */
  readonly local: LocalEndpoint;
  /** Rewrites and reloads what stands in front of PostgreSQL on this member; left out where nothing does. */
  readonly reconfigure?: (signal: AbortSignal) => Promise<void>;
}

/** What keeps members and the control database in order. */
export function upkeepActions(deps: UpkeepDeps): Actions {
  return {
    Vacuum: vacuumAction(deps.local),
    MeasureDatabases: measureDatabases(deps.local),
    ClearStuckTasks: clearStuckTasks(deps),
    DeleteBackupHistory: deleteHistory,
    Reconfigure: async ({ signal }) => {
      await deps.reconfigure?.(signal);
      return { result: { services: deps.reconfigure ? 'reconfigured' : 'none on this member' } };
    },
  };
}

interface DatabaseMeasure {
  readonly name: string;
  readonly size: string;
  readonly connections: number;
  readonly committed: string;
  readonly rolledBack: string;
}

function measureDatabases(local: LocalEndpoint): Action {
  return async ({ node, signal }) => {
    await using connection = await Connection.open(local('rdpg'), {
      connectTimeoutMs: 5_000,
      signal,
      settings: PLAIN_SESSION,
    });
    const { rows } = await connection.query<DatabaseMeasure>(
      `select d.datname as name, pg_database_size(d.oid)::text as size, s.numbackends as connections,
              s.xact_commit::text as committed, s.xact_rollback::text as "rolledBack"
         from pg_database d join pg_stat_database s on s.datid = d.oid
        where d.datallowconn and not d.datistemplate order by d.datname`,
    );
    return {
      result: { databases: rows.length },
      effects: async (control) => {
        for (const row of rows) {
          await control.query(
            `insert into metrics.databases (node, dbname, size_bytes, connection_count, committed_count,
               rolled_back_count) values ($1, $2, $3, $4, $5, $6)`,
            [node, row.name, row.size, row.connections, row.committed, row.rolledBack],
          );
        }
      },
    };
  };
}

function clearStuckTasks({ control, shape }: UpkeepDeps): Action {
  const queue = new TaskQueue(control, shape);
  return async ({ node, cluster, signal }) => {
    const { stuckDuration } = await control.withConnection(
      (connection) => readConfig(connection, cluster),
      signal,
    );
    const stuck = await queue.returnStuck(stuckDuration, signal);
    return {
      result: { stuck: stuck.length },
      effects: async (connection) => {
        for (const { id, action, data, worker } of stuck) {
          await connection.query('insert into rdpg.events (host, key, msg, detail) values ($1, $2, $3, $4)', [
            node,
            'tasks/stuck',
            `${action} ${data} was taken from ${worker}: it ran longer than ${stuckDuration}`,
            JSON.stringify({ task: id }),
          ]);
        }
      },
    };
  };
}

/** Tables that only grow, and the column that tells a row's age. Rows of the audit stay twice as long. */
const HISTORIES: readonly (readonly [table: string, condition: string])[] = [
  [
    'backups.file_history',
    `created_at < $1 and (removed_at is not null or status = 'error' or action <> 'CreateBackup')`,
  ],
  ['tasks.history', 'finished_at < $1'],
  ['metrics.databases', 'measured_at < $1'],
  ['metrics.vacuums', 'measured_at < $1'],
  ['rdpg.events', 'created_at < $1'],
  ['cfsb.operations', `updated_at < $1 and state <> 'in progress'`],
  ['audit.log', `at < $1 - ($2 - $1)`],
];

/** RDPG's name; it deletes old rows of all histories. Those of backups stay as long as their files. */
const deleteHistory: Action = async ({ control, cluster, signal }) => {
  const { defaultDaysToKeepFileHistory } = await control.withConnection(
    (connection) => readConfig(connection, cluster),
    signal,
  );
  return {
    result: { days: defaultDaysToKeepFileHistory },
    effects: async (connection) => {
      const { before, now } = await connection.one<{ before: Date; now: Date }>(
        `select now() - $1 * interval '1 day' as before, now() as now`,
        [defaultDaysToKeepFileHistory],
      );
      for (const [table, condition] of HISTORIES) {
        const params = condition.includes('$2') ? [before, now] : [before];
        const typed = condition.replaceAll('$1', '$1::timestamptz').replaceAll('$2', '$2::timestamptz');
        await connection.query(`delete from ${table} where ${typed}`, params);
      }
    },
  };
};
