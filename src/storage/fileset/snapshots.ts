import { join } from 'node:path';
import { hasCode, TEMPORARY_SUFFIX, type FileSystem } from '../../core/file-system.ts';
import { decodeAt, FileDamageError, type FileDamage } from './fileset-damage.ts';
import { listShard, listShards, readInfos, removeLeftovers, type Quarantined } from './fileset-folder.ts';
import { filesetPath, type FilesetId } from './fileset-id.ts';
import type { FilesetInfo } from './info-file.ts';
import { removeFileset, removeIfThere } from './remove-fileset.ts';
import {
  decodeManifest,
  manifestName,
  parseManifestName,
  type ReplayPosition,
  type SnapshotManifest,
} from './snapshot-manifest.ts';

export interface LoadedSnapshots {
  /** Where the replay of the log starts; undefined: at its beginning. */
  readonly from: ReplayPosition | undefined;
  /** The newest cycle and the additions after it, oldest first. */
  readonly manifests: readonly SnapshotManifest[];
  /** Snapshots to read, oldest manifest first; one block may have several, which are to be merged. */
  readonly snapshots: readonly FilesetInfo[];
  /** Snapshots that a manifest counts on but that cannot be used: what they held is lost here. */
  readonly damagedSnapshots: readonly Quarantined[];
  readonly damagedManifests: readonly FileDamage[];
}

/**
 * What recovery starts from. When a manifest is damaged that may have been the newest, nobody knows what it
 * counted on: then all complete snapshots are given, and all of the log is to be read. That is never wrong,
 * since each holds only what was written, but may be less than the manifest had. Writes nothing.
 * @throws STORAGE_FORMAT_UNKNOWN when a newer version wrote a manifest or an info
 */
export async function loadSnapshots(
  deps: { readonly fs: FileSystem },
  root: string,
): Promise<LoadedSnapshots> {
  const { fs } = deps;
  const indices = await listManifests(fs, root);
  const contents = await fs.readFiles(indices.map((index) => join(root, manifestName(index))));
  const damagedManifests: FileDamage[] = [];
  let manifests: SnapshotManifest[] = [];
  let newestIsDamaged = false;
  for (const [place, index] of indices.entries()) {
    const manifest = readManifest(join(root, manifestName(index)), index, contents[place]);
    if (manifest instanceof FileDamageError) {
      damagedManifests.push(manifest.damage);
      newestIsDamaged = true;
    } else if (manifest.kind === 'cycle') {
      manifests = [manifest];
      newestIsDamaged = false;
    } else {
      manifests.push(manifest);
    }
  }
  const wanted: readonly Wanted[] = newestIsDamaged
    ? await allComplete(fs, root)
    : manifests.flatMap(({ entries }) => entries);
  const snapshots: FilesetInfo[] = [];
  const damagedSnapshots: Quarantined[] = [];
  for (const [place, info] of (await readInfos(fs, root, wanted)).entries()) {
    const id = wanted[place];
    if (!id) continue;
    const damage = damageOf(root, id, info);
    if (damage) damagedSnapshots.push({ id, damage });
    else if (!(info instanceof FileDamageError)) snapshots.push(info);
  }
  const cycle = newestIsDamaged ? undefined : manifests.find(({ kind }) => kind === 'cycle');
  return { from: cycle?.position, manifests, snapshots, damagedSnapshots, damagedManifests };
}

/**
 * Removes manifests and snapshots that recovery does not use any more, and what interrupted runs left; returns
 * how many snapshots. Only while no run is under way. Does nothing while a damaged manifest makes it uncertain
 * what is needed: the next cycle ends that.
 */
export async function cleanSnapshots(deps: { readonly fs: FileSystem }, root: string): Promise<number> {
  const { fs } = deps;
  const { manifests, damagedManifests } = await loadSnapshots(deps, root);
  const indices = await listManifests(fs, root);
  const oldest = manifests[0]?.index;
  const damagedNewer = damagedManifests.some(({ file }) =>
    indices.some((index) => index > (oldest ?? 0) && file === join(root, manifestName(index))),
  );
  if (damagedNewer) return 0;
  const needed = new Set(manifests.flatMap(({ entries }) => entries.map(keyOf)));
  let removed = 0;
  for (const shard of await listShards(fs, root)) {
    const { complete, incomplete } = await listShard(fs, root, shard);
    await removeLeftovers(fs, root, shard, incomplete);
    for (const id of complete) {
      if (needed.has(keyOf(id))) continue;
      await removeFileset(fs, root, id);
      removed++;
    }
  }
  for (const index of indices) {
    if (index < (oldest ?? 0)) await removeIfThere(fs, join(root, manifestName(index)));
    await removeIfThere(fs, join(root, `${manifestName(index + 1)}${TEMPORARY_SUFFIX}`));
  }
  return removed;
}

/** Indices of the manifests that are there, ascending. */
export async function listManifests(fs: FileSystem, root: string): Promise<number[]> {
  const entries = await fs.list(root).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return [];
    throw error;
  });
  return entries
    .flatMap(({ name, kind }) => (kind === 'file' ? (parseManifestName(name) ?? []) : []))
    .sort((a, b) => a - b);
}

type Wanted = FilesetId & { readonly digest?: Buffer };

function damageOf(root: string, id: Wanted, info: FilesetInfo | FileDamageError): FileDamage | undefined {
  if (info instanceof FileDamageError) return info.damage;
  if (id.digest === undefined || id.digest.equals(info.digest)) return undefined;
  const file = filesetPath(root, id, 'info');
  return { file, offset: 0, reason: 'it is not the snapshot that the manifest means' };
}

function readManifest(
  file: string,
  index: number,
  content: Buffer | Error | undefined,
): SnapshotManifest | FileDamageError {
  if (content instanceof Buffer) {
    try {
      return decodeAt(file, 0, () => decodeManifest(file, content, index));
    } catch (error) {
      if (error instanceof FileDamageError) return error;
      throw error;
    }
  }
  if (!hasCode(content, 'EIO')) throw content ?? new Error('no content');
  return new FileDamageError({ file, offset: 0, reason: 'the disk cannot read it' }, content);
}

async function allComplete(fs: FileSystem, root: string): Promise<FilesetId[]> {
  const ids: FilesetId[] = [];
  for (const shard of await listShards(fs, root)) ids.push(...(await listShard(fs, root, shard)).complete);
  return ids;
}

function keyOf({ namespace, shard, blockStartNs, volume }: FilesetId): string {
  return `${namespace}/${shard}/${blockStartNs}/${volume}`;
}
