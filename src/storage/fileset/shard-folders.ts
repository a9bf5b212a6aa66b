import { join } from 'node:path';
import { makeFolderIfMissing, type FileSystem } from '../../core/file-system.ts';
import { highestVolumes } from './fileset-folder.ts';
import { shardFolderNames, type FilesetId, type ShardId } from './fileset-id.ts';

/**
 * Folders of shards into which many filesets are written, while nobody else writes any there: each is made and listed
 * once. Their names become durable with the first fileset that is sealed.
 */
export class ShardFolders {
  readonly root: string;
  readonly #fs: FileSystem;
  /** By namespace and shard: the highest volume of each block. */
  readonly #volumes = new Map<string, Promise<Map<bigint, number>>>();

  constructor(fs: FileSystem, root: string) {
    this.#fs = fs;
    this.root = root;
  }

  /** The block's next volume; its folder exists then. */
  async nextOf(block: Omit<FilesetId, 'volume'>): Promise<FilesetId> {
    const key = `${block.namespace}/${block.shard}`;
    const known = this.#volumes.get(key) ?? this.#open(block);
    this.#volumes.set(key, known);
    const volumes = await known;
    const volume = (volumes.get(block.blockStartNs) ?? -1) + 1;
    volumes.set(block.blockStartNs, volume);
    return { ...block, volume };
  }

  async #open(shard: ShardId): Promise<Map<bigint, number>> {
    let folder = this.root;
    for (const name of shardFolderNames(shard)) {
      folder = join(folder, name);
      await makeFolderIfMissing(this.#fs, folder);
    }
    return await highestVolumes(this.#fs, this.root, shard);
  }
}
