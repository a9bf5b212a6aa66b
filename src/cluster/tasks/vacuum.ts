import { messageOf } from '../../core/errors.ts';
import { Connection, PLAIN_SESSION, type Endpoint } from '../../postgres/connection.ts';
import { readConfig } from './config.ts';
import type { Action, TaskContext } from './task.ts';
import { planVacuum, type TableSpace, type VacuumLimits } from './vacuum-plan.ts';

/** This member's own server, as superuser. */
export type LocalEndpoint = (database: string) => Endpoint;

/** Why a VACUUM FULL gives up: somebody uses the table. */
const FULL_LOCK_TIMEOUT_MS = 2_000;

interface Measured extends TableSpace {
  readonly method: 'pgstattuple' | 'estimate';
}

interface VacuumRow {
  readonly dbname: string;
  readonly relation: string;
  readonly method: Measured['method'];
  readonly isFull: boolean;
  readonly before: Measured;
  readonly after: Measured;
  readonly durationMs: number;
}

/**
 * Vacuums the tables of this member that need it: in all of its databases, or in the one that the task names.
 * Each member does so for itself, because dead rows are where rows were applied. What it found and what it
 * gained goes to `metrics.vacuums`.
 */
export function vacuumAction(local: LocalEndpoint): Action {
  return async (context) => {
    const { task, control, cluster, node, signal } = context;
    const config = await control.withConnection((connection) => readConfig(connection, cluster), signal);
    const databases = task.data === '' ? await localDatabases(local, signal) : [task.data];
    const rows: VacuumRow[] = [];
    const failed: string[] = [];
    for (const database of databases) {
      const limits: VacuumLimits = {
        ratio: config.vacuumBloatRatio,
        bytes: config.vacuumBloatBytes,
        fullTables: database === 'rdpg' ? config.vacuumFullTables : [],
      };
      try {
        rows.push(...(await vacuumDatabase(context, local(database), limits)));
      } catch (error) {
        signal.throwIfAborted();
        // One database that is being dropped must not keep the others from it.
        if (databases.length === 1) throw error;
        failed.push(`${database}: ${messageOf(error)}`);
      }
    }
    return {
      result: { vacuumed: rows.length, databases: databases.length, failed },
      effects: async (connection) => {
        for (const { dbname, relation, method, isFull, before, after, durationMs } of rows) {
          await connection.query(
            `insert into metrics.vacuums (node, dbname, relation, method, is_full, size_before_bytes,
               size_after_bytes, bloat_before_bytes, bloat_after_bytes, duration_ms)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
            [
              node,
              dbname,
              relation,
              method,
              isFull,
              before.sizeBytes,
              after.sizeBytes,
              Math.round(before.deadBytes + before.freeBytes),
              Math.round(after.deadBytes + after.freeBytes),
              Math.round(durationMs),
            ],
          );
        }
      },
    };
  };
}

export async function localDatabases(local: LocalEndpoint, signal: AbortSignal): Promise<string[]> {
  await using connection = await open(local('rdpg'), signal);
  const { rows } = await connection.query<{ name: string }>(
    `select datname as name from pg_database where datallowconn and not datistemplate
        and datname not in ('postgres', 'health') order by datname`,
  );
  return rows.map(({ name }) => name);
}

async function vacuumDatabase(
  { clock, log, signal }: TaskContext,
  endpoint: Endpoint,
  limits: VacuumLimits,
): Promise<VacuumRow[]> {
  await using connection = await open(endpoint, signal);
  const rows: VacuumRow[] = [];
  for (const before of await measureTables(connection, limits.bytes)) {
    const kind = planVacuum(before, limits);
    if (kind === 'none') continue;
    const startedMs = clock.monotonicMs();
    const options = kind === 'full' ? 'full, analyze' : 'analyze, skip_locked';
    await connection.query(`set lock_timeout = ${kind === 'full' ? FULL_LOCK_TIMEOUT_MS : 0}`);
    try {
      await connection.query(`vacuum (${options}) ${before.relation}`, [], { timeoutMs: 0 });
    } catch (error) {
      signal.throwIfAborted();
      log.warn({ relation: before.relation, error: messageOf(error) }, 'a table could not be vacuumed');
      continue;
    }
    await connection.query('select pg_stat_force_next_flush()');
    const after = await measureTable(connection, before.relation);
    rows.push({
      dbname: endpoint.database,
      relation: before.relation,
      method: before.method,
      isFull: kind === 'full',
      before,
      after: after ?? before,
      durationMs: clock.monotonicMs() - startedMs,
    });
  }
  return rows;
}

/**
 * By the statistics: dead rows have their share of the file, and what lies between the file's size and the rows'
 * usual width is free. A page's header takes 24 bytes, a row's 28.
 */
const ESTIMATE = `
  select relation, size::float8 as "sizeBytes",
         case when live + dead > 0 then size * dead / (live + dead) else 0 end::float8 as "deadBytes",
         case when width is null then 0
              else greatest(0, size - ceil((live + dead) * (width + 28) / (8192 - 24.0)) * 8192) end::float8 as "freeBytes"
    from (
      select format('%I.%I', n.nspname, c.relname) as relation, pg_relation_size(c.oid) as size,
             s.n_live_tup as live, s.n_dead_tup as dead,
             (select sum(p.avg_width * (1 - p.null_frac)) from pg_stats p
               where p.schemaname = n.nspname and p.tablename = c.relname) as width
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
          join pg_stat_all_tables s on s.relid = c.oid
       where c.relkind in ('r', 'm') and n.nspname !~ '^pg_(toast|temp)' and n.nspname <> 'information_schema'
    ) as tables`;

async function measureTables(connection: Connection, fromBytes: number): Promise<Measured[]> {
  const { rows } = await connection.query<TableSpace>(`${ESTIMATE} where size >= $1 order by size desc`, [
    fromBytes,
  ]);
  const exact = await exactFunction(connection);
  const measured: Measured[] = [];
  for (const row of rows) {
    measured.push(
      exact === undefined
        ? { ...row, method: 'estimate' }
        : ((await measureExactly(connection, exact, row.relation)) ?? { ...row, method: 'estimate' }),
    );
  }
  return measured;
}

async function measureTable(connection: Connection, relation: string): Promise<Measured | undefined> {
  const exact = await exactFunction(connection);
  if (exact !== undefined) return measureExactly(connection, exact, relation);
  const row = await connection.maybeOne<TableSpace>(`${ESTIMATE} where relation = $1`, [relation]);
  return row && { ...row, method: 'estimate' };
}

async function measureExactly(
  connection: Connection,
  exact: string,
  relation: string,
): Promise<Measured | undefined> {
  const row = await connection
    .maybeOne<TableSpace>(
      `select $1 as relation, table_len::float8 as "sizeBytes", dead_tuple_len::float8 as "deadBytes",
              approx_free_space::float8 as "freeBytes" from ${exact}($1::regclass)`,
      [relation],
    )
    .catch(() => undefined); // Dropped meanwhile, or a kind of table that it does not read.
  return row && { ...row, method: 'pgstattuple' };
}

/** `pgstattuple_approx` reads only pages that are not all visible; it is there where the extension is. */
async function exactFunction(connection: Connection): Promise<string | undefined> {
  const row = await connection.maybeOne<{ name: string }>(
    `select format('%I.pgstattuple_approx', n.nspname) as name from pg_extension e
       join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pgstattuple'`,
  );
  return row?.name;
}

function open(endpoint: Endpoint, signal: AbortSignal): Promise<Connection> {
  return Connection.open(endpoint, {
    connectTimeoutMs: 5_000,
    statementTimeoutMs: 0,
    applicationName: 'varve vacuum',
    signal,
    settings: { ...PLAIN_SESSION, default_transaction_read_only: 'off' },
  });
}
