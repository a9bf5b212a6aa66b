import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { Interventions } from '../bootstrap/interventions.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import { listShardsOf } from '../fileset/fileset-folder.ts';
import { shardFolder } from '../fileset/fileset-id.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import type { Catalog } from './catalog.ts';
import type { EngineLog } from './engine-log.ts';
import { SUMMARY_NAME } from './fileset-summary.ts';
import { forgetForeignSeries } from './forget-series.ts';
import { encodeDropped } from './log-records.ts';
import type { Namespace } from './namespace.ts';
import type { NamespaceRegistry } from './namespace-registry.ts';
import { rebuildIndex, uncovered } from './rebuild-index.ts';
import { removeTree } from './remove-tree.ts';
import { ownershipChange, type ShardOwnership } from './shard-ownership.ts';
import { storeTopology } from './stored-topology.ts';
import type { Upkeep } from './upkeep.ts';

export interface NodeShardsDeps {
  readonly fs: FileSystem;
  readonly log: Log;
  readonly catalog: Catalog;
  readonly registry: NamespaceRegistry;
  readonly engineLog: EngineLog;
  readonly upkeep: Upkeep;
  readonly ownership: ShardOwnership;
  readonly interventions: Interventions;
}

/**
 * Carries out what the placement says of this node's shards. What is wanted is durable first; it is put in force
 * between two attempts of the bootstrap, so that no attempt sees it change.
 */
export class NodeShards {
  readonly #deps: NodeShardsDeps;
  /** Of what is wanted, or in force when nothing else is. */
  #text: string;
  #wanted: TopologySnapshot | undefined;
  /** Memory and files of these are to be dropped yet. */
  #undropped: readonly number[] = [];
  readonly #waiting: (() => void)[] = [];

  constructor(deps: NodeShardsDeps) {
    this.#deps = deps;
    const { placement } = deps.ownership;
    this.#text = placement ? textOf(placement) : '';
  }

  /**
   * Writes down what is wanted. What concerns other nodes only is in force at once; what changes this node's shards
   * waits for `install`, and is `isPending` until then.
   * @throws STORAGE_FOLDER_MISMATCH
   */
  async want(topology: TopologySnapshot): Promise<void> {
    const { catalog, ownership } = this.#deps;
    const { shardCount } = ownership;
    if (topology.shards.size !== shardCount) {
      throw new VarveError(
        'STORAGE_FOLDER_MISMATCH',
        `this node's data has ${shardCount} shards, the placement has ${topology.shards.size}`,
        { hint: 'Give the node an empty folder and the number of shards that the placement has.' },
      );
    }
    const text = textOf(topology);
    if (text === this.#text) return;
    // A node that was never in the placement keeps what it has.
    const standsAlone = !ownership.placement && !this.#wanted;
    const { owned, added, dropped } = ownershipChange(ownership.placement, topology, shardCount);
    if (standsAlone && owned.length === 0) return;
    await catalog.change({ ...catalog.content, topology: storeTopology(topology) });
    this.#text = text;
    if (!this.isPending && added.length + dropped.length === 0) ownership.install(topology);
    else this.#wanted = topology;
  }

  /** See `PlacedEngine.strandedShards`. */
  async stranded(topology: TopologySnapshot): Promise<number[]> {
    const { ownership, registry, engineLog } = this.#deps;
    if (ownership.placement || this.#wanted) return [];
    // While the placement gives it nothing it stands alone still.
    if (ownershipChange(undefined, topology, ownership.shardCount).owned.length === 0) return [];
    await engineLog.ready(0);
    return ownership.owned.filter((shard) => registry.all.some((one) => hasData(one, shard)));
  }

  /** Something is to be put in force. */
  get isPending(): boolean {
    return this.#wanted !== undefined || this.#undropped.length > 0;
  }

  /** Resolves when what is wanted so far is in force, or superseded. */
  settled(): Promise<void> {
    if (!this.isPending) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Nothing more is put in force: the engine is closed. */
  close(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Puts in force what is wanted. True when this node's shards are others now. Not during an attempt. */
  async install(): Promise<boolean> {
    if (!this.isPending) return false;
    const { ownership, registry, upkeep, log } = this.#deps;
    return await upkeep.serially(async () => {
      const next = this.#wanted;
      this.#wanted = undefined;
      let isOther = false;
      if (next) {
        const wasAlone = !ownership.placement;
        const { added, dropped, owned } = ownershipChange(ownership.placement, next, ownership.shardCount);
        if (wasAlone && dropped.some((shard) => registry.all.some((one) => hasData(one, shard)))) {
          log.warn(
            { shards: dropped.length },
            'what this node has of shards that are others’ now is dropped: they were given all of it',
          );
        }
        ownership.install(next);
        for (const namespace of registry.all) {
          for (const shard of [...dropped, ...added]) namespace.setState(shard, 'notStarted');
        }
        this.#undropped = [...new Set([...this.#undropped, ...dropped])];
        isOther = added.length + dropped.length > 0;
        if (isOther) {
          const figures = { version: next.version, owned: owned.length, added: added.length };
          log.info(
            { ...figures, dropped: dropped.length },
            'the placement has changed the shards of this node',
          );
        }
      }
      if (this.#undropped.length > 0) await this.#drop(this.#undropped);
      this.#undropped = [];
      if (!this.isPending) this.close();
      return isOther;
    });
  }

  /** Before anything is looked at: what a crash has left of shards that are others' now. */
  async removeLeftovers(): Promise<void> {
    const { fs, registry, ownership } = this.#deps;
    if (ownership.ownsAll) return;
    for (const { name, filesets } of registry.all) {
      const foreign = (await listShardsOf(fs, filesets.root, name)).filter(
        ({ shard }) => !ownership.owns(shard),
      );
      if (foreign.length === 0) continue;
      await removeIfThere(fs, join(filesets.root, name, SUMMARY_NAME));
      await fs.syncFolder(join(filesets.root, name));
      for (const shard of foreign) await removeTree(fs, shardFolder(filesets.root, shard));
    }
  }

  /** After the log was read, which may have had samples of shards that are others' now. */
  async forgetForeign(): Promise<void> {
    const { registry, ownership, engineLog } = this.#deps;
    if (ownership.ownsAll) return;
    const foreign = Array.from({ length: ownership.shardCount }, (_, shard) => shard).filter(
      (shard) => !ownership.owns(shard),
    );
    let removed = 0;
    for (const namespace of registry.all) {
      removed += namespace.buffer.dropShards(foreign);
      // Left to the clean-up: to serve soon is more.
      namespace.listsForeign = true;
    }
    // They may become this node's again, before the log has forgotten them.
    if (removed > 0) await engineLog.append(encodeDropped(foreign));
  }

  async #drop(shards: readonly number[]): Promise<void> {
    const { registry, engineLog, upkeep } = this.#deps;
    if (engineLog.isOpen) {
      // In one turn: what the log has before it is what the memory had.
      const logged = engineLog.append(encodeDropped(shards));
      logged.catch(() => {});
      for (const { buffer } of registry.all) buffer.dropShards(shards);
      await logged;
    }
    const dropped = new Set(shards);
    for (const namespace of registry.all) {
      await this.#dropFiles(namespace, dropped);
      namespace.listsForeign = true;
      // A log that is to be read yet counts series as they are.
      if (engineLog.isOpen) forgetForeignSeries(namespace);
    }
    await this.#deps.interventions.voidLoss(shards);
    upkeep.forgetSnapshots();
  }

  async #dropFiles(namespace: Namespace, shards: ReadonlySet<number>): Promise<void> {
    const { filesets, name } = namespace;
    const { fs } = this.#deps;
    const places = [...filesets.places()].filter(({ shard }) => shards.has(shard));
    await filesets.beginChange();
    for (const place of places) filesets.remove(place);
    namespace.movedBlocks++;
    await filesets.settled();
    // What is still read goes with its last reader.
    if (!filesets.isLeaving) {
      for (const found of await listShardsOf(fs, filesets.root, name)) {
        if (shards.has(found.shard)) await removeTree(fs, shardFolder(filesets.root, found));
      }
    }
    if (!namespace.options.indexEnabled) return;
    const isOthers = (shard: number): boolean => shards.has(shard);
    try {
      await namespace.index.dropShards(isOthers, namespace.shardCount);
    } catch (error) {
      if (!(error instanceof VarveError && error.code === 'INDEX_SEGMENT_DAMAGED')) throw error;
      await rebuildIndex(namespace, uncovered(namespace));
    }
  }
}

function hasData({ filesets, buffer }: Namespace, shard: number): boolean {
  for (const place of filesets.places()) if (place.shard === shard) return true;
  return buffer.blocks().some(({ startNs }) => buffer.seriesOfBlock(startNs, shard).length > 0);
}

function textOf(topology: TopologySnapshot): string {
  return JSON.stringify(storeTopology(topology));
}
