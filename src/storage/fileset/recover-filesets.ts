import type { FileSystem } from '../../core/file-system.ts';
import { FileDamageError } from './fileset-damage.ts';
import {
  listShard,
  listShardsOf,
  quarantineFileset,
  readInfos,
  removeLeftovers,
  type Quarantined,
} from './fileset-folder.ts';
import { shardFolder, type FilesetId, type ShardId } from './fileset-id.ts';
import type { FilesetInfo } from './info-file.ts';

export interface RecoveredFilesets {
  /** For each block the fileset that counts: of the complete and undamaged ones the highest volume. */
  readonly filesets: readonly FilesetInfo[];
  /** Complete ones below those; nothing needs them. */
  readonly superseded: readonly FilesetId[];
  /** Damaged ones; with `repair` they have been put aside. A lower volume may stand in for one. */
  readonly damaged: readonly Quarantined[];
  /** How many files of interrupted writers there were; with `repair` they are removed. */
  readonly incompleteFiles: number;
}

const LISTED_AT_ONCE = 16;

/**
 * What is on the disk of these shards, read from one small file per block. With `repair`, which needs that
 * nobody writes or reads there, leftovers are removed and damaged filesets put aside; without, nothing changes.
 *
 * Checks info files only: damage in data and index shows when they are read, or by `verifyFileset`.
 * @throws STORAGE_FORMAT_UNKNOWN when a newer version wrote one of the infos
 */
export async function recoverFilesets(
  deps: { readonly fs: FileSystem },
  root: string,
  options: { readonly shards: readonly ShardId[]; readonly repair: boolean },
): Promise<RecoveredFilesets> {
  const { fs } = deps;
  const blocks: FilesetId[][] = [];
  let incompleteFiles = 0;
  const present = await withFolder(fs, root, options.shards);
  for (let start = 0; start < present.length; start += LISTED_AT_ONCE) {
    const shards = present.slice(start, start + LISTED_AT_ONCE);
    const listings = await Promise.all(shards.map((shard) => listShard(fs, root, shard)));
    for (const [index, shard] of shards.entries()) {
      const { complete = [], incomplete = [] } = listings[index] ?? {};
      incompleteFiles += incomplete.length;
      if (options.repair) await removeLeftovers(fs, root, shard, incomplete);
      blocks.push(...groupByBlock(complete));
    }
  }
  const filesets: FilesetInfo[] = [];
  const superseded: FilesetId[] = [];
  const damaged: Quarantined[] = [];
  // Highest volumes first; where one is damaged, the next lower one of that block in another round.
  for (let due = blocks; due.length > 0;) {
    const ids = due.flatMap((volumes) => volumes.slice(-1));
    const infos = await readInfos(fs, root, ids);
    const next: FilesetId[][] = [];
    for (const [index, volumes] of due.entries()) {
      const info = infos[index];
      const id = ids[index];
      if (!info || !id) continue;
      const lower = volumes.slice(0, -1);
      if (info instanceof FileDamageError) {
        damaged.push({ id, damage: info.damage });
        if (lower.length > 0) next.push(lower);
      } else {
        filesets.push(info);
        superseded.push(...lower);
      }
    }
    due = next;
  }
  if (options.repair) for (const { id } of damaged) await quarantineFileset(fs, root, id);
  return { filesets, superseded, damaged, incompleteFiles };
}

/** Most shards of a new namespace have no folder: to find that out one by one costs a start more than a list. */
async function withFolder(fs: FileSystem, root: string, shards: readonly ShardId[]): Promise<ShardId[]> {
  const present = new Set<string>();
  for (const namespace of new Set(shards.map((shard) => shard.namespace))) {
    for (const found of await listShardsOf(fs, root, namespace)) present.add(shardFolder(root, found));
  }
  return shards.filter((shard) => present.has(shardFolder(root, shard)));
}

/** Ids of one block together, in their order. */
function groupByBlock(ids: readonly FilesetId[]): FilesetId[][] {
  const blocks = new Map<bigint, FilesetId[]>();
  for (const id of ids) {
    const block = blocks.get(id.blockStartNs) ?? [];
    blocks.set(id.blockStartNs, block);
    block.push(id);
  }
  return [...blocks.values()];
}
