import type { FileSystem } from '../../core/file-system.ts';
import type { BufferMemory } from '../buffer/buffer-memory.ts';
import {
  NamespaceBuffer,
  type AppendToLog,
  type BufferOptions,
  type BufferState,
} from '../buffer/namespace-buffer.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import type { CoveredFileset } from './index-cover.ts';
import { IndexStore } from './index-store.ts';
import { FilesetStore } from './fileset-store.ts';
import { MemoryIndex } from './memory-index.ts';
import { filesetKey, PayloadCache, type PayloadCacheOptions } from './payload-cache.ts';
import type { ColumnCodec } from './sealed-series.ts';
import { ShardOwnership } from './shard-ownership.ts';
import type {
  NamespaceOptions,
  NamespaceStatus,
  RejectReason,
  ShardState,
  ShardStatus,
  WriteOutcome,
} from './storage-engine.ts';
import { TombstoneSet } from './tombstones.ts';

export interface NamespaceDeps {
  readonly fs: FileSystem;
  readonly memory: BufferMemory;
  readonly codec: () => ColumnCodec;
  readonly appenderOf: (id: number) => AppendToLog;
  /** Of the whole engine; all shards unless given. */
  readonly ownership?: ShardOwnership;
}

export interface NamespacePlace {
  readonly id: number;
  readonly folder: string;
  readonly shardCount: number;
  /** What an image had of it. */
  readonly state?: BufferState | undefined;
}

const INDEX_MEMORY_BYTES = 128 * 1024 * 1024;

/** All that the engine has of one namespace. */
export class Namespace {
  readonly id: number;
  readonly shardCount: number;
  readonly buffer: NamespaceBuffer;
  /** Of the buffer's payloads. */
  readonly append: AppendToLog;
  readonly filesets: FilesetStore;
  readonly index: IndexStore;
  readonly memoryIndex: MemoryIndex;
  readonly tombstones: TombstoneSet;
  readonly cache: PayloadCache;
  /** Which shards are this node's. */
  readonly ownership: ShardOwnership;
  readonly #shardStates = new Map<number, ShardState>();
  /** So many of them are bootstrapped; shards of others never are. */
  #whole = 0;
  /** Grows when a block leaves the memory, because files have it. */
  movedBlocks = 0;
  /** Filesets that a start found superseded: to be removed in time. */
  superseded: readonly FilesetId[] = [];
  /** Writes are refused while a block that is still written is moved to files, because memory is short. */
  frozen = false;
  deleted = false;
  /** Its memory has been given back. */
  closed = false;
  /** Its memory may know series of shards that are others' now: without samples, but its index names them. */
  listsForeign = false;
  /** When its memory was found without any block; undefined while there is one. */
  emptySinceNs: bigint | undefined;
  #options: NamespaceOptions;
  #samplesWritten = 0n;
  readonly #rejected: Record<RejectReason, number> = {
    tooOld: 0,
    tooNew: 0,
    invalidLabels: 0,
    seriesLimit: 0,
  };

  constructor(deps: NamespaceDeps, place: NamespacePlace, options: NamespaceOptions) {
    const { fs, memory, codec } = deps;
    const { folder } = place;
    const { name: namespace, indexBlockSizeNs } = options;
    this.id = place.id;
    this.append = deps.appenderOf(place.id);
    this.shardCount = place.shardCount;
    this.ownership = deps.ownership ?? new ShardOwnership(place.shardCount, undefined);
    this.#options = options;
    this.filesets = new FilesetStore({ fs, codec }, folder, namespace);
    this.index = new IndexStore(fs, { folder, namespace, indexBlockSizeNs, memoryBytes: INDEX_MEMORY_BYTES });
    this.memoryIndex = new MemoryIndex(fs, folder, place.id);
    this.tombstones = new TombstoneSet(fs, folder, namespace);
    this.cache = new PayloadCache(cacheOptions(options));
    this.buffer = place.state
      ? NamespaceBuffer.restore(memory, this.#bufferOptions(), place.state)
      : new NamespaceBuffer(memory, this.#bufferOptions());
  }

  get name(): string {
    return this.#options.name;
  }

  get options(): NamespaceOptions {
    return this.#options;
  }

  /** Every shard of this node's is whole. */
  get bootstrapped(): boolean {
    return this.#whole === this.ownership.owned.length;
  }

  isWhole(shard: number): boolean {
    return this.#shardStates.get(shard) === 'bootstrapped';
  }

  stateOf(shard: number): ShardState {
    return this.#shardStates.get(shard) ?? 'notStarted';
  }

  setState(shard: number, state: ShardState): void {
    this.#whole += Number(state === 'bootstrapped') - Number(this.isWhole(shard));
    this.#shardStates.set(shard, state);
  }

  configure(options: NamespaceOptions): void {
    this.#options = options;
    this.buffer.configure(this.#bufferOptions());
    this.cache.configure(cacheOptions(options));
  }

  count(outcome: WriteOutcome): void {
    this.#samplesWritten += BigInt(outcome.samples);
    for (const { reason, count } of outcome.rejected) this.#rejected[reason] += count;
  }

  /** Whether this very volume counts. */
  isStored({ blockStartNs, shard, volume }: CoveredFileset): boolean {
    return this.filesets.volume(blockStartNs, shard) === volume;
  }

  /** Files have all that the memory has of the block. */
  dropBlock(blockStartNs: bigint): void {
    this.movedBlocks++;
    this.buffer.dropBlock(blockStartNs);
  }

  /** Gives back what the policy does not keep. */
  expireCache(nowNs: bigint): void {
    const stored = new Set([...this.filesets.places()].map(filesetKey));
    this.cache.expire(nowNs, (key) => stored.has(key));
  }

  /** @param told what the bootstrap knows of a shard */
  status(told: (shard: number) => Pick<ShardStatus, 'sources' | 'progress'> = () => ({})): NamespaceStatus {
    const { bytes, hits, misses } = this.cache;
    return {
      options: this.#options,
      series: this.buffer.seriesCount,
      samplesWritten: this.#samplesWritten,
      rejected: { ...this.#rejected },
      openBlocks: this.buffer
        .blocks()
        .map(({ startNs, samples, cold }) => ({ blockStartNs: startNs, samples, cold })),
      filesets: this.filesets.count,
      filesetBytes: this.filesets.bytes,
      quarantined: this.filesets.quarantined,
      tombstones: this.tombstones.all.length,
      cache: { bytes, hits, misses },
      shards: this.ownership.owned.map((shard) => ({
        shard,
        state: this.stateOf(shard),
        ...told(shard),
      })),
    };
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.filesets.close();
    this.buffer.dispose();
  }

  #bufferOptions(): BufferOptions {
    const { blockSizeNs, bufferPastNs, bufferFutureNs, retentionNs, coldWritesEnabled, maxSeries } =
      this.#options;
    return {
      blockSizeNs,
      bufferPastNs,
      bufferFutureNs,
      retentionNs,
      coldWritesEnabled,
      maxSeries,
      shardCount: this.shardCount,
      isFlushed: (blockStartNs) => this.filesets.hasBlock(blockStartNs),
      ownedShards: () => this.ownership.mask,
    };
  }
}

function cacheOptions(options: NamespaceOptions): PayloadCacheOptions {
  const { cachePolicy, cacheBytes, blockSizeNs, bufferPastNs } = options;
  return { policy: cachePolicy, budgetBytes: cacheBytes, keepNs: blockSizeNs + bufferPastNs };
}
