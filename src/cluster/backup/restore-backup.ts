import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { Connection, type Endpoint } from '../../postgres/connection.ts';
import type { ControlDatabase } from '../tasks/control-database.ts';
import type { WorkLog } from '../tasks/task.ts';
import { verifyArchive } from './archive-reader.ts';
import { makeRoles, readArchiveRoles, restoreDatabase, type RestoreResult } from './restore.ts';

/** Databases of the group, on all of its members. `PoolDatabases` is one. */
export interface GroupDatabases {
  create(name: string, owner: string): Promise<void>;
  drop(name: string, owner: string | undefined): Promise<void>;
  /** On the write master. */
  endpoint(name: string): Promise<Endpoint>;
  /** On every member; returns what failed. */
  onEach(
    database: string,
    work: (connection: Connection) => Promise<void>,
  ): Promise<readonly { readonly node: string; readonly error: unknown }[]>;
}

export interface RestoreDeps {
  readonly control: ControlDatabase;
  readonly databases: GroupDatabases;
  readonly clock: Clock;
  readonly log: WorkLog;
  readonly cluster: string;
  readonly node: string;
}

export interface RestoreOrder {
  readonly path: string;
  readonly database: string;
  /**
   * `new`: it is made, on all members, and taken away again when the restore fails. `empty`: it is there, without
   * content. `either`: whichever it is.
   */
  readonly into: 'new' | 'empty' | 'either';
}

/** The control database, and its owner. */
const GROUP_ROLE = 'rdpg';

/**
 * Restores a backup into a database of the group, and says so in `backups.file_history`. Call it where the file is;
 * the database is reached on the write master.
 *
 * @throws what `restoreDatabase` throws
 */
export async function restoreBackup(
  deps: RestoreDeps,
  order: RestoreOrder,
  signal?: AbortSignal,
): Promise<RestoreResult> {
  const startedMs = deps.clock.monotonicMs();
  try {
    const there = await exists(deps, order.database);
    if (there && order.into === 'new') throw existing(order.database);
    const into = there || order.into === 'empty' ? 'empty' : 'new';
    const result = await restored(deps, { ...order, into }, signal);
    await record(deps, order, { startedMs, result });
    return result;
  } catch (error) {
    await record(deps, order, { startedMs, error }).catch((second: unknown) =>
      deps.log.warn({ error: messageOf(second) }, 'a failed restore could not be written to the history'),
    );
    throw error;
  }
}

async function restored(
  { databases, log }: RestoreDeps,
  { path, database, into }: RestoreOrder,
  signal: AbortSignal | undefined,
): Promise<RestoreResult> {
  if (into === 'empty') return restoreDatabase({ path, target: await databases.endpoint(database) }, signal);
  const { manifest } = await verifyArchive(path, signal);
  // Whoever owned the database has rights by that alone, so it is the owner before the first statement.
  const roles = await readArchiveRoles(path);
  let keptRoles: readonly string[] = [];
  const master = await databases.endpoint(GROUP_ROLE);
  const failed = await databases.onEach(GROUP_ROLE, async (connection) => {
    const kept = await makeRoles(connection, roles);
    const { host, port } = connection.endpoint;
    if (host === master.host && port === master.port) keptRoles = kept;
  });
  const [first] = failed;
  if (first) throw first.error;
  try {
    await databases.create(database, manifest.owner);
    const result = await restoreDatabase({ path, target: await databases.endpoint(database) }, signal);
    return { ...result, keptRoles };
  } catch (error) {
    await databases.drop(database, undefined).catch((second: unknown) => {
      log.error({ database, error: messageOf(second) }, 'what a failed restore made could not be dropped');
    });
    throw error;
  }
}

async function exists({ databases }: RestoreDeps, database: string): Promise<boolean> {
  const control = await databases.endpoint(GROUP_ROLE);
  await using connection = await Connection.open(control, { connectTimeoutMs: 10_000 });
  const row = await connection.maybeOne('select 1 from pg_catalog.pg_database where datname = $1', [
    database,
  ]);
  return row !== undefined;
}

/** One that is there is never dropped for a restore that fails. */
function existing(database: string): VarveError {
  return new VarveError('RESTORE_TARGET_NOT_EMPTY', `there is a database ${database} already`, {
    hint: 'Give the restored one another name, or empty this one and restore into it.',
  });
}

async function record(
  { control, clock, cluster, node }: RestoreDeps,
  { path, database, into }: RestoreOrder,
  end: { readonly startedMs: number; readonly result?: RestoreResult; readonly error?: unknown },
): Promise<void> {
  await control.withConnection((connection) =>
    connection.query(
      `insert into backups.file_history (cluster_id, dbname, node, file_name, action, status, params, size_bytes,
         sha256, duration_ms) values ($1, $2, $3, $4, 'RestoreBackup', $5, $6, $7, $8, $9)`,
      [
        cluster,
        database,
        node,
        path.slice(path.lastIndexOf('/') + 1),
        end.result ? 'ok' : 'error',
        JSON.stringify({
          into,
          ...(end.result
            ? {
                from: end.result.manifest.database,
                rows: end.result.end.rowCount,
                keptRoles: end.result.keptRoles,
              }
            : { error: messageOf(end.error) }),
        }),
        end.result?.sizeBytes ?? null,
        end.result?.end.sha256 ?? null,
        Math.round(clock.monotonicMs() - end.startedMs),
      ],
    ),
  );
}
