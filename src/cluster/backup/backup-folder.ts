import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import { syncFolder } from '../../postgres/atomic-file.ts';
import { describeArchive, type ArchiveSummary } from './archive-reader.ts';
import { UNFINISHED } from './archive-writer.ts';

export const BACKUP_SUFFIX = '.varvebackup';

/** A database's folder: its name, with what is special in paths as `%XX`. */
export function backupFolder(folder: string, database: string): string {
  return join(folder, encodeURIComponent(database).replaceAll('.', '%2E'));
}

/** `20260131T235959Z-1a2b3c4d.varvebackup`: when it was asked for, and by which task, which finds it again. */
export function backupFileName(askedAt: Date, taskId: string): string {
  const time = askedAt.toISOString().replaceAll(/[-:]|\.\d+/g, '');
  return `${time}-${taskId.slice(-8)}${BACKUP_SUFFIX}`;
}

export interface ListedBackup {
  readonly database: string;
  readonly fileName: string;
  readonly path: string;
  /** What the file says of itself; undefined when it cannot be read. */
  readonly summary: ArchiveSummary | undefined;
  /** Why it cannot. */
  readonly error: VarveError | undefined;
}

/** The backups in this folder, of one database or of all, the newest first. Their rows are not read. */
export async function listBackups(folder: string, database?: string): Promise<readonly ListedBackup[]> {
  const databases = database === undefined ? await databasesIn(folder) : [database];
  const found: ListedBackup[] = [];
  for (const name of databases) {
    const own = backupFolder(folder, name);
    const files = (await names(own)).filter((file) => file.endsWith(BACKUP_SUFFIX) && !UNFINISHED.test(file));
    for (const fileName of files) found.push(await describe(name, join(own, fileName), fileName));
  }
  return found.sort((a, b) => b.fileName.localeCompare(a.fileName) || a.database.localeCompare(b.database));
}

async function describe(database: string, path: string, fileName: string): Promise<ListedBackup> {
  try {
    return { database, fileName, path, summary: await describeArchive(path), error: undefined };
  } catch (error) {
    if (!(error instanceof VarveError)) throw error;
    return { database, fileName, path, summary: undefined, error };
  }
}

/** Removes one, durably. One that is gone is no error. */
export async function removeBackup(folder: string, database: string, fileName: string): Promise<void> {
  if (!fileName.endsWith(BACKUP_SUFFIX) || fileName.includes('/')) {
    throw new VarveError('INVALID_ARGUMENT', `${JSON.stringify(fileName)} is not the name of a backup`);
  }
  const own = backupFolder(folder, database);
  await rm(join(own, fileName), { force: true });
  await syncFolder(own);
}

async function databasesIn(folder: string): Promise<string[]> {
  return (await names(folder)).flatMap((name) => {
    try {
      return [decodeURIComponent(name)];
    } catch {
      return []; // Not a folder of ours.
    }
  });
}

async function names(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return [];
    throw error;
  });
}
