import type { FileSystem } from '../../core/file-system.ts';
import { BlockReader } from '../engine/block-reader.ts';
import { BlockWriter } from '../engine/block-writer.ts';
import type { ColumnCodec } from '../engine/sealed-series.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import { readInfos } from '../fileset/fileset-folder.ts';
import { FilesetWriter } from '../fileset/fileset-writer.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { damagedBackup } from './backup-folder.ts';
import type { BackedUpFileset } from './backup-manifest.ts';
import { describeFileset } from './describe-fileset.ts';

/** Shards that are written at the same time, each with two open files. */
const SHARDS_AT_ONCE = 64;

export interface ReshardDeps {
  readonly fs: FileSystem;
  readonly codec: () => ColumnCodec;
}

/** All of one block. */
export interface ReshardedBlock {
  readonly namespace: string;
  readonly filesets: readonly BackedUpFileset[];
}

interface Head {
  readonly reader: BlockReader;
  readonly series: AsyncIterator<{ readonly id: Buffer; readonly payload: Buffer }>;
  next: { readonly id: Buffer; readonly payload: Buffer };
}

/**
 * Writes the filesets of a block anew, for another number of shards, below another root. What comes of it depends on
 * the content alone: done once more it has the same digests. Samples stay as they are encoded.
 * @throws BACKUP_DAMAGED
 */
export async function reshardBlock(
  deps: ReshardDeps,
  from: ReshardedBlock & { readonly root: string },
  to: { readonly root: string; readonly shardCount: number },
): Promise<BackedUpFileset[]> {
  const { namespace } = from;
  const ids = from.filesets.map((one) => ({ ...one, namespace }));
  const infos = (await readInfos(deps.fs, from.root, ids)).map((info) => {
    if (info instanceof FileDamageError) throw damagedBackup(info.damage);
    return info;
  });
  const written: BackedUpFileset[] = [];
  for (let first = 0; first < to.shardCount; first += SHARDS_AT_ONCE) {
    const isWanted = (shard: number): boolean => shard >= first && shard < first + SHARDS_AT_ONCE;
    const writers = new ShardWriters(deps.fs, to.root);
    try {
      for await (const { reader, id, payload } of inOrder(deps, from.root, infos)) {
        const shard = murmur3(id, 0) % to.shardCount;
        if (isWanted(shard))
          await (await writers.of(shard, reader.info)).add(id, await reader.sealed(payload));
      }
      for (const info of await writers.finish()) written.push(describeFileset(to.root, info));
    } finally {
      await writers.abort();
    }
  }
  return written;
}

/** The series of several filesets, which have none in common, in the order of their ids. */
async function* inOrder(
  { fs, codec }: ReshardDeps,
  root: string,
  infos: readonly FilesetInfo[],
): AsyncGenerator<
  { readonly reader: BlockReader; readonly id: Buffer; readonly payload: Buffer },
  void,
  void
> {
  const readers = infos.map((info) => new BlockReader({ fs, codec: codec() }, root, info));
  try {
    const heads: Head[] = [];
    for (const reader of readers) {
      const series = reader.series()[Symbol.asyncIterator]();
      const first = await series.next();
      if (!first.done) heads.push({ reader, series, next: first.value });
    }
    while (heads.length > 0) {
      let least = 0;
      for (let i = 1; i < heads.length; i++) {
        if (Buffer.compare((heads[i] as Head).next.id, (heads[least] as Head).next.id) < 0) least = i;
      }
      const head = heads[least] as Head;
      yield { reader: head.reader, ...head.next };
      const following = await head.series.next();
      if (following.done) heads.splice(least, 1);
      else head.next = following.value;
    }
  } catch (error) {
    throw error instanceof FileDamageError ? damagedBackup(error.damage) : error;
  } finally {
    for (const reader of readers) await reader.close();
  }
}

/** Filesets that are begun when they get their first series. */
class ShardWriters {
  readonly #fs: FileSystem;
  readonly #root: string;
  readonly #open = new Map<number, { readonly files: FilesetWriter; readonly block: BlockWriter }>();

  constructor(fs: FileSystem, root: string) {
    this.#fs = fs;
    this.#root = root;
  }

  async of(
    shard: number,
    { namespace, blockStartNs, blockSizeNs, createdAtNs }: FilesetInfo,
  ): Promise<BlockWriter> {
    const known = this.#open.get(shard);
    if (known) return known.block;
    const files = await FilesetWriter.create(
      { fs: this.#fs },
      {
        root: this.#root,
        id: { namespace, shard, blockStartNs, volume: 0 },
        kind: 'flush',
        blockSizeNs,
        createdAtNs,
      },
    );
    const block = new BlockWriter(files);
    this.#open.set(shard, { files, block });
    return block;
  }

  /** Whoever takes them decides what is deleted in them. */
  async finish(): Promise<FilesetInfo[]> {
    const infos: FilesetInfo[] = [];
    for (const { block } of this.#open.values()) infos.push(await block.finish(0n));
    return infos;
  }

  async abort(): Promise<void> {
    for (const { files } of this.#open.values()) await files.abort();
  }
}
