import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import { NodeFileSystem } from '../core/node-file-system.ts';
import { BackupFolder, damagedBackup } from '../storage/backup/backup-folder.ts';
import { figuresOf, type BackedUpNamespace, type BackupManifest } from '../storage/backup/backup-manifest.ts';
import { HttpRestoreTarget } from '../storage/backup/http-restore-target.ts';
import {
  RestoreBackup,
  type RestoreOutlook,
  type RestoreReport,
  type Staging,
} from '../storage/backup/restore-backup.ts';
import type { RestoreProgress } from '../storage/backup/send-filesets.ts';
import { verifyBackup } from '../storage/backup/verify-backup.ts';
import { formatTime } from '../storage/protocol/time-text.ts';
import type { ColumnCodec } from '../storage/engine/sealed-series.ts';
import { columnCodec } from './column-codec.ts';
import { backupCluster, restoreNamespaces } from './storage-backup.ts';
import type { StorageClient } from './storage-client.ts';

export interface RestoreOrder {
  readonly path: string;
  /** The newest one unless given. */
  readonly backup: string | undefined;
  readonly clients: readonly StorageClient[];
  readonly token: string | undefined;
  /** All of the backup's unless given. */
  readonly namespaces: readonly string[] | undefined;
  /** Of one namespace: another name. */
  readonly into: string | undefined;
  readonly overwrite: boolean;
  readonly onProgress: (progress: RestoreProgress) => void;
}

interface Job {
  readonly namespace: BackedUpNamespace;
  readonly into: string;
  readonly restore: RestoreBackup;
}

/** Namespaces of a backup that are put into the storage nodes that run. */
export class RestoreJob {
  readonly #folder: BackupFolder;
  readonly #manifest: BackupManifest;
  readonly #jobs: readonly Job[];
  readonly #signal: AbortSignal;

  private constructor(
    folder: BackupFolder,
    manifest: BackupManifest,
    jobs: readonly Job[],
    signal: AbortSignal,
  ) {
    this.#folder = folder;
    this.#manifest = manifest;
    this.#jobs = jobs;
    this.#signal = signal;
  }

  /** @throws BACKUP_NOT_FOUND, BACKUP_DAMAGED, NAMESPACE_UNKNOWN, INVALID_ARGUMENT */
  static async open(order: RestoreOrder, signal: AbortSignal): Promise<RestoreJob> {
    const { path, clients, token, overwrite, onProgress } = order;
    const fs = new NodeFileSystem();
    const folder = new BackupFolder(fs, path);
    const manifest = await folder.get(order.backup);
    const chosen = chosenOf(manifest, order);
    const cluster = await backupCluster(clients);
    const targets = new Map(
      [...cluster.endpoints].map(([node, endpoint]) => [node, new HttpRestoreTarget(node, endpoint, token)]),
    );
    const namespaces = restoreNamespaces(clients);
    const columns = columnCodec();
    const codec = (): ColumnCodec => columns;
    const deps = { fs, clock: systemClock, targets, namespaces, codec, staging, onProgress };
    const jobs = chosen.map((namespace) => {
      const into = order.into ?? namespace.name;
      const request = { cluster, manifest, namespace, into, overwrite };
      return { namespace, into, restore: new RestoreBackup(deps, folder, request, signal) };
    });
    return new RestoreJob(folder, manifest, jobs, signal);
  }

  get backup(): string {
    return this.#manifest.id;
  }

  /** What it would do, a line each; changes nothing. @throws what keeps it from being done */
  async plan(): Promise<string[]> {
    const lines: string[] = [];
    for (const job of this.#jobs) lines.push(planLine(this.#manifest, job, await job.restore.check()));
    return lines;
  }

  /** Reads all of it first: nothing is changed when any of it is damaged. @throws BACKUP_DAMAGED, as `RestoreBackup` does */
  async run(): Promise<RestoreReport[]> {
    const namespaces = this.#jobs.map(({ namespace }) => namespace);
    const fs = new NodeFileSystem();
    for await (const damage of verifyBackup(fs, this.#folder, namespaces, this.#signal)) {
      throw damagedBackup(damage);
    }
    const reports: RestoreReport[] = [];
    for (const { restore } of this.#jobs) reports.push(await restore.run());
    return reports;
  }
}

/** Where the system has its temporary files. */
async function staging(): Promise<Staging> {
  const root = await mkdtemp(join(tmpdir(), 'varve-restore-'));
  return { root, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
}

function chosenOf(
  manifest: BackupManifest,
  { namespaces, into }: Pick<RestoreOrder, 'namespaces' | 'into'>,
): readonly BackedUpNamespace[] {
  const chosen =
    namespaces?.map((name) => {
      const found = manifest.namespaces.find((one) => one.name === name);
      if (found) return found;
      throw new VarveError('NAMESPACE_UNKNOWN', `backup ${manifest.id} has no namespace "${name}"`, {
        hint: `It has ${manifest.namespaces.map((one) => one.name).join(', ')}.`,
      });
    }) ?? manifest.namespaces;
  if (into !== undefined && chosen.length !== 1) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      '--into takes one namespace, and the backup has several: say with --namespace which one',
    );
  }
  return chosen;
}

function planLine(
  { id, startedAtNs }: BackupManifest,
  { namespace, into }: Job,
  outlook: RestoreOutlook,
): string {
  const { filesets, samples } = figuresOf([namespace]);
  const what = `namespace ${namespace.name} of backup ${id} (${formatTime(startedAtNs)}): ${samples} samples in ${filesets} filesets`;
  const where = `into ${outlook.isThere ? '' : 'the new '}namespace ${into} on ${outlook.nodes.join(', ')}`;
  const loss = outlook.holdsOthers.length > 0 ? '; WHAT IS IN IT NOW IS DELETED' : '';
  return `${what} ${where}${loss}`;
}
