import { chmod, mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import { syncFolder } from '../../postgres/atomic-file.ts';
import { Connection, PLAIN_SESSION, type Endpoint } from '../../postgres/connection.ts';
import { copyOut } from '../../postgres/copy.ts';
import { quoteIdent, quoteQualified } from '../../postgres/sql.ts';
import { verifyArchive, type ArchiveSummary } from './archive-reader.ts';
import { ArchiveWriter, UNFINISHED } from './archive-writer.ts';
import { backupFolder } from './backup-folder.ts';
import {
  groupOf,
  newestDdl,
  readDdl,
  readExtensions,
  readFacts,
  readRoles,
  readSequences,
  readTables,
  type TableContent,
} from './database-content.ts';

export interface BackupRequest {
  /** The database on the member that reads it; the superuser's login. */
  readonly source: Endpoint;
  /** The same database on the write master, for its sequences; the source itself where it is that. */
  readonly master?: Endpoint;
  /** Where backups are: each database has a folder of its own in it. */
  readonly folder: string;
  /** Within the database's folder. One of that name is replaced. */
  readonly fileName: string;
  readonly cluster: string;
}

export interface BackupFile extends ArchiveSummary {
  readonly path: string;
}

/** So often the structure may change while a backup begins. */
const ATTEMPTS = 5;
const LOCK_TIMEOUT_MS = 30_000;

/**
 * Writes a backup of one database of the group and reads it back. Everything in it is of one snapshot; tables
 * are locked against changes of their structure meanwhile, as pg_dump does, and not against writes. Memory does
 * not depend on the database's size.
 *
 * @throws BACKUP_UNREPLICATED; BACKUP_DAMAGED when what was written is not what can be read
 */
export async function backupDatabase(request: BackupRequest, signal?: AbortSignal): Promise<BackupFile> {
  const folder = await makeFolder(request);
  const path = join(folder, request.fileName);
  for (let attempt = 1; ; attempt += 1) {
    const written = await attemptBackup(request, path, signal);
    if (written) break;
    if (attempt >= ATTEMPTS) {
      throw new VarveError(
        'BACKUP_UNSETTLED',
        `the structure of database ${request.source.database} changed ${ATTEMPTS} times while its backup began`,
        { hint: 'It is tried again at its next time.' },
      );
    }
  }
  return { path, ...(await verifyArchive(path, signal)) };
}

async function makeFolder({ folder, source }: BackupRequest): Promise<string> {
  const own = backupFolder(folder, source.database);
  await mkdir(own, { recursive: true, mode: 0o700 });
  await chmod(own, 0o700);
  await syncFolder(folder);
  return own;
}

/** Removes what backups that were killed have left. Only for a folder in which none is under way. */
export async function removeUnfinished(folder: string, database: string): Promise<number> {
  const own = backupFolder(folder, database);
  const names = await readdir(own).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  const left = names.filter((name) => UNFINISHED.test(name));
  for (const name of left) await rm(join(own, name), { force: true });
  return left.length;
}

/** False when the structure changed between the snapshot and the locks. */
async function attemptBackup(
  request: BackupRequest,
  path: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  await using reading = await open(request.source, signal);
  await reading.query('begin isolation level repeatable read read only');
  const { groupUuid, node } = await groupOf(reading);
  const { now } = await reading.one<{ now: Date }>('select now() as now');
  const tables = await readTables(reading);
  if (!(await lockTables(reading, tables))) return false;
  await using looking = await open(request.source, signal);
  if ((await newestDdl(looking)) !== (await newestDdl(reading))) return false;

  await using writer = await ArchiveWriter.create(path);
  await writer.json('manifest', {
    database: request.source.database,
    cluster: request.cluster,
    groupUuid,
    node,
    createdAt: now.toISOString(),
    ...(await readFacts(reading)),
  });
  for (const role of await readRoles(reading)) await writer.json('role', role);
  for (const extension of await readExtensions(reading)) await writer.json('extension', extension);
  for await (const entry of readDdl(reading)) await writer.json('ddl', entry);
  for (const { relation } of tables) await writer.json('relation', relation);
  for (const { table } of tables) {
    await writer.json('table', table);
    const rowCount = await copyOut(reading, copyStatement(table), (chunk) => writer.rows(chunk));
    await writer.endTable(rowCount);
  }
  await using master = await open(request.master ?? request.source, signal);
  for (const sequence of await readSequences(master)) await writer.json('sequence', sequence);
  signal?.throwIfAborted();
  await writer.finish();
  return true;
}

function copyStatement({ schema, name, columns }: TableContent['table']): string {
  const list = columns.length === 0 ? '' : ` (${columns.map(quoteIdent).join(', ')})`;
  return `copy ${quoteQualified(schema, name)}${list} to stdout`;
}

/** False when one of them is gone already. */
async function lockTables(connection: Connection, tables: readonly TableContent[]): Promise<boolean> {
  if (tables.length === 0) return true;
  const names = tables.map(({ table }) => `only ${quoteQualified(table.schema, table.name)}`);
  try {
    await connection.query(`lock table ${names.join(', ')} in access share mode`);
    return true;
  } catch (error) {
    if (error instanceof VarveError && error.sqlstate === '42P01') return false;
    throw error;
  }
}

function open(endpoint: Endpoint, signal: AbortSignal | undefined): Promise<Connection> {
  return Connection.open(endpoint, {
    connectTimeoutMs: 10_000,
    statementTimeoutMs: 0,
    lockTimeoutMs: LOCK_TIMEOUT_MS,
    applicationName: 'varve backup',
    signal,
    settings: { ...PLAIN_SESSION, idle_in_transaction_session_timeout: '0', client_encoding: 'UTF8' },
  });
}
