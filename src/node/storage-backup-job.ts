import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { systemClock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import { lockFolder } from '../core/folder-lock.ts';
import { NodeFileSystem } from '../core/node-file-system.ts';
import type { BackupLevel } from '../storage/backup/backup-cluster.ts';
import { BackupFolder, type BackupListing, type Pruned } from '../storage/backup/backup-folder.ts';
import type { BackupManifest } from '../storage/backup/backup-manifest.ts';
import { TakeBackup, type BackupProgress, type BackupReport } from '../storage/backup/take-backup.ts';
import { verifyBackup } from '../storage/backup/verify-backup.ts';
import type { FileDamage } from '../storage/fileset/fileset-damage.ts';
import { HttpPeerTransport } from '../storage/peers/http-peer-transport.ts';
import { PeerClient } from '../storage/peers/peer-client.ts';
import { HttpReplicaTransport } from '../storage/replication/http-replica-transport.ts';
import { columnCodec } from './column-codec.ts';
import { firstAnswer } from './storage-access.ts';
import { backupCluster, listedSettings } from './storage-backup.ts';
import type { StorageClient } from './storage-client.ts';

const REQUEST_TIMEOUT_MS = 30_000;
const TRIES = 3;

export interface BackupJob {
  readonly clients: readonly StorageClient[];
  readonly token: string | undefined;
  /** All unless given. */
  readonly namespaces: readonly string[] | undefined;
  readonly level: BackupLevel;
  readonly onProgress: (progress: BackupProgress) => void;
}

/**
 * Takes a backup of the storage nodes that run into a folder of this machine, which is made if it is not there.
 * @throws NAMESPACE_UNKNOWN, FOLDER_IN_USE, and as `TakeBackup` does
 */
export async function takeBackup(path: string, job: BackupJob, signal: AbortSignal): Promise<BackupReport> {
  const { clients, token, level, onProgress } = job;
  const cluster = await backupCluster(clients);
  const namespaces = await chosen(job);
  const fs = new NodeFileSystem();
  await using _lock = await lockFolder(path);
  const folder = new BackupFolder(fs, path);
  await folder.prepare();
  await using transport = new HttpPeerTransport((node) => cluster.endpoints.get(node), token);
  await using replicas = new HttpReplicaTransport(token);
  const client = new PeerClient(
    { transport, clock: systemClock, random: Math.random },
    { timeoutMs: REQUEST_TIMEOUT_MS, tries: TRIES },
  );
  const columns = columnCodec();
  // Each request that is under way listens to it.
  setMaxListeners(0, signal);
  const backup = new TakeBackup(
    { fs, clock: systemClock, client, replicas, codec: () => columns, onProgress },
    folder,
    { id: newId(), cluster, level, namespaces },
    signal,
  );
  return await backup.run();
}

async function chosen({ clients, namespaces }: BackupJob): Promise<ReturnType<typeof listedSettings>[]> {
  const all = (await firstAnswer(clients, (client) => client.namespaces())).map(listedSettings);
  const unknown = namespaces?.find((name) => !all.some((one) => one.name === name));
  if (unknown !== undefined) throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace "${unknown}"`);
  return all.filter(({ name }) => namespaces?.includes(name) ?? true);
}

/** In the order of time. */
function newId(): string {
  const time = new Date(systemClock.nowMs()).toISOString().replace(/\.\d+Z$/, 'Z');
  return `${time.replaceAll(':', '-')}-${randomBytes(2).toString('hex')}`;
}

/** @throws BACKUP_NOT_FOUND when it is no folder of backups */
export async function listBackups(path: string): Promise<BackupListing> {
  return await new BackupFolder(new NodeFileSystem(), path).list();
}

/** Reads every byte of a backup, or of all of them. @throws BACKUP_NOT_FOUND, the signal's reason */
export async function verifyBackups(
  path: string,
  id: string | undefined,
  signal: AbortSignal,
): Promise<{ readonly backups: readonly string[]; readonly damages: readonly FileDamage[] }> {
  const fs = new NodeFileSystem();
  const folder = new BackupFolder(fs, path);
  const all = await folder.list();
  const backups: readonly BackupManifest[] = id === undefined ? all.backups : [await folder.get(id)];
  const damages = id === undefined ? [...all.damages] : [];
  const namespaces = backups.flatMap((one) => one.namespaces);
  for await (const damage of verifyBackup(fs, folder, namespaces, signal)) damages.push(damage);
  return { backups: backups.map((one) => one.id), damages };
}

/** Forgets all but so many of the newest backups. @throws BACKUP_NOT_FOUND, BACKUP_DAMAGED, FOLDER_IN_USE */
export async function pruneBackups(path: string, keep: number): Promise<Pruned> {
  const folder = new BackupFolder(new NodeFileSystem(), path);
  // Before the lock makes a folder that is none.
  await folder.list();
  await using _lock = await lockFolder(path);
  return await folder.prune(keep);
}
