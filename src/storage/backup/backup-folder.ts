import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import {
  hasCode,
  makeFolders,
  readWholeFile,
  writeFileAtomically,
  type FileSystem,
} from '../../core/file-system.ts';
import { decodeAt, FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import {
  listShard,
  listShards,
  listShardsOf,
  readInfos,
  removeLeftovers,
} from '../fileset/fileset-folder.ts';
import { filesetPath, type FilesetId } from '../fileset/fileset-id.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { removeFileset } from '../fileset/remove-fileset.ts';
import { decodeManifest, encodeManifest, type BackupManifest } from './backup-manifest.ts';

const MANIFESTS = 'backups';
const DATA = 'data';
const SUFFIX = '.db';
const ID = /^[0-9A-Za-z-]{1,64}$/;

export interface BackupListing {
  /** The oldest first. */
  readonly backups: readonly BackupManifest[];
  readonly damages: readonly FileDamage[];
}

export interface Pruned {
  readonly backups: readonly string[];
  readonly filesets: number;
}

/**
 * A folder of backups: filesets, which they share, and for each backup a manifest that says which of them are its own.
 * Written to by one process at a time, which holds the folder's lock.
 */
export class BackupFolder {
  readonly path: string;
  readonly #fs: FileSystem;

  constructor(fs: FileSystem, path: string) {
    this.#fs = fs;
    this.path = path;
  }

  /** Where the filesets are. */
  get root(): string {
    return join(this.path, DATA);
  }

  /** The folder exists, and becomes one of backups. @throws INVALID_ARGUMENT when it has something else in it */
  async prepare(): Promise<void> {
    const names = (await this.#fs.list(this.path)).map(({ name }) => name);
    const others = names.filter((name) => !name.startsWith('.'));
    if (others.length > 0 && !others.includes(MANIFESTS)) {
      throw new VarveError('INVALID_ARGUMENT', `${this.path} has other things in it than backups`, {
        hint: 'Name an empty or a new folder, or one that has backups already.',
      });
    }
    await makeFolders(this.#fs, this.path, [MANIFESTS]);
    await makeFolders(this.#fs, this.path, [DATA]);
    for (const shard of await listShards(this.#fs, this.root)) {
      const { incomplete } = await listShard(this.#fs, this.root, shard);
      await removeLeftovers(this.#fs, this.root, shard, incomplete);
    }
  }

  /** @throws BACKUP_NOT_FOUND when it is no folder of backups */
  async list(): Promise<BackupListing> {
    const backups: BackupManifest[] = [];
    const damages: FileDamage[] = [];
    for (const id of await this.#ids()) {
      try {
        backups.push(await this.#read(id));
      } catch (error) {
        if (!(error instanceof FileDamageError)) throw error;
        damages.push(error.damage);
      }
    }
    return { backups: backups.sort((a, b) => compare(a.startedAtNs, b.startedAtNs)), damages };
  }

  /**
   * The newest one unless another is named.
   * @throws BACKUP_NOT_FOUND, BACKUP_DAMAGED
   */
  async get(id?: string): Promise<BackupManifest> {
    const { backups, damages } = await this.list();
    const found = id === undefined ? backups.at(-1) : backups.find((one) => one.id === id);
    const damage = damages.find(({ file }) => id === undefined || file === this.#manifestPath(id));
    // The newest may be the one that cannot be read: then nobody knows which is.
    if (damage && (id === undefined || !found)) throw damagedBackup(damage);
    if (found) return found;
    throw new VarveError(
      'BACKUP_NOT_FOUND',
      id === undefined ? `${this.path} has no backup` : `${this.path} has no backup ${JSON.stringify(id)}`,
      { hint: 'varve backup list shows those that it has.' },
    );
  }

  /** It exists from now on, and durably. What it names is durable already. */
  async add(manifest: BackupManifest): Promise<void> {
    await writeFileAtomically(this.#fs, this.#manifestPath(manifest.id), encodeManifest(manifest));
  }

  /** Filesets of a namespace that are whole as far as their names, sizes and infos tell. */
  async stored(namespace: string): Promise<FilesetInfo[]> {
    const ids: FilesetId[] = [];
    for (const shard of await listShardsOf(this.#fs, this.root, namespace)) {
      ids.push(...(await listShard(this.#fs, this.root, shard)).complete);
    }
    const infos = await readInfos(this.#fs, this.root, ids);
    const whole: FilesetInfo[] = [];
    for (const info of infos) {
      if (!(info instanceof FileDamageError) && (await this.#hasItsSize(info))) whole.push(info);
    }
    return whole;
  }

  /** Forgets all backups but the newest so many, and removes what no other needs. */
  async prune(keep: number): Promise<Pruned> {
    const { backups, damages } = await this.list();
    const [damage] = damages;
    // What a manifest names that cannot be read, nobody knows.
    if (damage) throw damagedBackup(damage);
    const forgotten = backups.slice(0, Math.max(0, backups.length - keep));
    for (const { id } of forgotten) await this.#fs.remove(this.#manifestPath(id));
    await this.#fs.syncFolder(join(this.path, MANIFESTS));
    const kept = new Set(backups.slice(forgotten.length).flatMap(({ namespaces }) => keysOf(namespaces)));
    let filesets = 0;
    for (const shard of await listShards(this.#fs, this.root)) {
      const { complete, incomplete } = await listShard(this.#fs, this.root, shard);
      await removeLeftovers(this.#fs, this.root, shard, incomplete);
      for (const id of complete) {
        if (kept.has(keyOf(id))) continue;
        await removeFileset(this.#fs, this.root, id);
        filesets++;
      }
    }
    return { backups: forgotten.map(({ id }) => id), filesets };
  }

  async #ids(): Promise<string[]> {
    const folder = join(this.path, MANIFESTS);
    const entries = await this.#fs.list(folder).catch((error: unknown) => {
      if (!hasCode(error, 'ENOENT', 'ENOTDIR')) throw error;
      throw new VarveError('BACKUP_NOT_FOUND', `${this.path} is no folder of backups`, {
        hint: 'varve backup create makes one.',
      });
    });
    return entries.flatMap(({ name, kind }) => {
      const id = name.endsWith(SUFFIX) ? name.slice(0, -SUFFIX.length) : '';
      return kind === 'file' && ID.test(id) ? [id] : [];
    });
  }

  async #read(id: string): Promise<BackupManifest> {
    const path = this.#manifestPath(id);
    const content = await readWholeFile(this.#fs, path);
    return decodeAt(path, 0, () => decodeManifest(path, content));
  }

  #manifestPath(id: string): string {
    return join(this.path, MANIFESTS, `${id}${SUFFIX}`);
  }

  async #hasItsSize(info: FilesetInfo): Promise<boolean> {
    const index = await this.#fs.stat(filesetPath(this.root, info, 'index'));
    const data = await this.#fs.stat(filesetPath(this.root, info, 'data'));
    return index?.sizeBytes === info.indexBytes && (data?.sizeBytes ?? 0) >= info.payloadBytes;
  }
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : Number(a > b);
}

/** Damage of a backup is told as such: nobody fills it from elsewhere. */
export function damagedBackup({ file, offset, reason }: FileDamage): VarveError {
  return new VarveError('BACKUP_DAMAGED', `${file} is damaged at offset ${offset}: ${reason}`, {
    hint: 'Nothing was changed. varve backup verify finds all that is damaged.',
  });
}

function keysOf(namespaces: BackupManifest['namespaces']): string[] {
  return namespaces.flatMap(({ name, filesets }) =>
    filesets.map((one) => keyOf({ ...one, namespace: name })),
  );
}

function keyOf({ namespace, shard, blockStartNs, volume }: FilesetId): string {
  return `${namespace}/${shard}/${blockStartNs}/${volume}`;
}
