import { join } from 'node:path';
import {
  hasCode,
  makeFolders,
  TEMPORARY_SUFFIX,
  type FileSystem,
  type FolderEntry,
} from '../../core/file-system.ts';
import { decodeAt, FileDamageError, type FileDamage } from './fileset-damage.ts';
import {
  FILE_KINDS,
  fileName,
  filesetPath,
  isNamespaceFolder,
  parseFileName,
  parseShardFolder,
  QUARANTINE_FOLDER,
  shardFolder,
  shardFolderNames,
  type FileKind,
  type FilesetId,
  type ShardId,
} from './fileset-id.ts';
import { decodeInfo, type FilesetInfo } from './info-file.ts';
import { removeIfThere } from './remove-fileset.ts';

/** What a shard's folder has, by names alone. */
export interface ShardListing {
  /** Filesets with a checkpoint, by block and volume, ascending. */
  readonly complete: readonly FilesetId[];
  /** Names of files that belong to no complete fileset: what interrupted writers left. */
  readonly incomplete: readonly string[];
}

/** The shards that have a folder below `root`. An absent root has none. */
export async function listShards(fs: FileSystem, root: string): Promise<ShardId[]> {
  const shards: ShardId[] = [];
  for (const namespace of await listFolders(fs, root)) {
    if (!isNamespaceFolder(namespace)) continue;
    shards.push(...(await listShardsOf(fs, root, namespace)));
  }
  return shards;
}

/** Those of one namespace. */
export async function listShardsOf(fs: FileSystem, root: string, namespace: string): Promise<ShardId[]> {
  // Who links a shard to another disk has its data there.
  return (await namesIn(fs, join(root, namespace), 'folder', 'other')).flatMap((name) => {
    const shard = parseShardFolder(name);
    return shard === undefined ? [] : [{ namespace, shard }];
  });
}

/** An absent folder is an empty one. */
export async function listShard(fs: FileSystem, root: string, shard: ShardId): Promise<ShardListing> {
  const names = await namesIn(fs, shardFolder(root, shard), 'file');
  const kinds = new Map<string, { id: FilesetId; names: string[]; hasCheckpoint: boolean }>();
  for (const name of names) {
    const isTemporary = name.endsWith(TEMPORARY_SUFFIX);
    const parsed = parseFileName(isTemporary ? name.slice(0, -TEMPORARY_SUFFIX.length) : name);
    if (!parsed) continue;
    const { blockStartNs, volume } = parsed;
    const key = `${blockStartNs}-${volume}`;
    const id = { namespace: shard.namespace, shard: shard.shard, blockStartNs, volume };
    const fileset = kinds.get(key) ?? { id, names: [], hasCheckpoint: false };
    kinds.set(key, fileset);
    fileset.names.push(name);
    if (parsed.kind === 'checkpoint' && !isTemporary) fileset.hasCheckpoint = true;
  }
  const filesets = [...kinds.values()];
  return {
    complete: filesets
      .filter(({ hasCheckpoint }) => hasCheckpoint)
      .map(({ id }) => id)
      .sort(byBlockAndVolume),
    incomplete: filesets.filter(({ hasCheckpoint }) => !hasCheckpoint).flatMap((fileset) => fileset.names),
  };
}

/** Above every volume of the block that has left any file. */
export async function nextVolume(
  fs: FileSystem,
  root: string,
  block: Omit<FilesetId, 'volume'>,
): Promise<number> {
  return ((await highestVolumes(fs, root, block)).get(block.blockStartNs) ?? -1) + 1;
}

/** Of each block of a shard the highest volume that has left any file. */
export async function highestVolumes(
  fs: FileSystem,
  root: string,
  shard: ShardId,
): Promise<Map<bigint, number>> {
  const folder = shardFolder(root, shard);
  const names = [
    ...(await namesIn(fs, folder, 'file')),
    ...(await namesIn(fs, join(folder, QUARANTINE_FOLDER), 'file')),
  ];
  const highest = new Map<bigint, number>();
  for (const name of names) {
    const { blockStartNs, volume } = parseFileName(name) ?? {};
    if (blockStartNs === undefined || volume === undefined) continue;
    highest.set(blockStartNs, Math.max(highest.get(blockStartNs) ?? -1, volume));
  }
  return highest;
}

/** Infos of filesets, all read at once, in their order; what cannot be used is its damage. */
export async function readInfos(
  fs: FileSystem,
  root: string,
  ids: readonly FilesetId[],
): Promise<(FilesetInfo | FileDamageError)[]> {
  const paths = ids.map((id) => filesetPath(root, id, 'info'));
  const contents = await fs.readFiles(paths);
  return ids.map((id, index) => {
    const file = paths[index] ?? '';
    const content = contents[index];
    try {
      if (content instanceof Buffer) return decodeAt(file, 0, () => decodeInfo(file, content, id));
    } catch (error) {
      if (error instanceof FileDamageError) return error;
      throw error;
    }
    if (!hasCode(content, 'ENOENT', 'EIO')) throw content as Error;
    const reason = hasCode(content, 'EIO') ? 'the disk cannot read it' : 'it is missing';
    return new FileDamageError({ file, offset: 0, reason }, content);
  });
}

/** Removes what interrupted writers left in a shard's folder. Only while no writer is at work there. */
export async function removeLeftovers(
  fs: FileSystem,
  root: string,
  shard: ShardId,
  names: readonly string[],
): Promise<void> {
  for (const name of names) await removeIfThere(fs, join(shardFolder(root, shard), name));
}

/** What was put aside, and why. */
export interface Quarantined {
  readonly id: FilesetId;
  readonly damage: FileDamage;
}

/**
 * Puts a damaged fileset aside, into the folder `damaged` of its shard, so that it is neither read nor lost.
 * A crash meanwhile leaves it to be found damaged again.
 */
export async function quarantineFileset(fs: FileSystem, root: string, id: FilesetId): Promise<void> {
  const folder = shardFolder(root, id);
  const aside = await makeFolders(fs, root, [...shardFolderNames(id), QUARANTINE_FOLDER]);
  const moveAside = async (kind: FileKind): Promise<void> => {
    const name = fileName(id, kind);
    await fs.rename(join(folder, name), join(aside, name)).catch((error: unknown) => {
      if (!hasCode(error, 'ENOENT')) throw error;
    });
  };
  for (const kind of FILE_KINDS) {
    if (kind !== 'checkpoint') await moveAside(kind);
  }
  await fs.syncFolder(aside);
  await fs.syncFolder(folder);
  // Last, because without it the others would count as an interrupted writer's, and be removed.
  await moveAside('checkpoint');
  await fs.syncFolder(aside);
  await fs.syncFolder(folder);
}

async function listFolders(fs: FileSystem, path: string): Promise<string[]> {
  return await namesIn(fs, path, 'folder');
}

async function namesIn(
  fs: FileSystem,
  path: string,
  ...kinds: readonly FolderEntry['kind'][]
): Promise<string[]> {
  const entries = await fs.list(path).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return [];
    throw error;
  });
  return entries.filter(({ kind }) => kinds.includes(kind)).map(({ name }) => name);
}

function byBlockAndVolume(a: FilesetId, b: FilesetId): number {
  if (a.blockStartNs !== b.blockStartNs) return a.blockStartNs < b.blockStartNs ? -1 : 1;
  return a.volume - b.volume;
}
