import { join } from 'node:path';
import type { FileSystem } from '../../core/file-system.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { quarantineFileset } from '../fileset/fileset-folder.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import { removeFileset } from '../fileset/remove-fileset.ts';
import { BlockReader } from './block-reader.ts';
import type { ColumnCodec } from './sealed-series.ts';

export const DATA_FOLDER = 'data';

/** So many filesets of a namespace are kept open, each with two files. */
const MAX_OPEN = 256;

interface Held {
  readonly reader: BlockReader;
  leases: number;
  /** Another volume took its place, or it is out of retention: goes with its last lease. */
  doomed: 'remove' | 'quarantine' | undefined;
  /** Grows with use; the least recently used one is closed first. */
  used: number;
  open: boolean;
}

/**
 * The filesets of a namespace that count: one for each shard and block. A reader leases what it reads; what is
 * replaced meanwhile stays until nobody reads it.
 */
export class FilesetStore {
  readonly #deps: { readonly fs: FileSystem; readonly codec: () => ColumnCodec };
  readonly #root: string;
  readonly #namespace: string;
  readonly #blocks = new Map<bigint, Map<number, Held>>();
  #clock = 0;
  #openCount = 0;
  #count = 0;
  #bytes = 0;
  /** Removals that wait for a lease, or are under way. */
  readonly #removals = new Set<Promise<void>>();
  quarantined = 0;
  /** Why a file could not be removed, the newest; the next start tries again. */
  lastFailure: unknown;

  constructor(
    deps: { readonly fs: FileSystem; readonly codec: () => ColumnCodec },
    folder: string,
    namespace: string,
  ) {
    this.#deps = deps;
    this.#root = join(folder, DATA_FOLDER);
    this.#namespace = namespace;
  }

  get root(): string {
    return this.#root;
  }

  get count(): number {
    return this.#count;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Starts of the blocks that have any fileset, ascending. */
  blockStarts(): bigint[] {
    return [...this.#blocks.keys()].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  }

  hasBlock(blockStartNs: bigint): boolean {
    return this.#blocks.has(blockStartNs);
  }

  info(blockStartNs: bigint, shard: number): FilesetInfo | undefined {
    return this.#blocks.get(blockStartNs)?.get(shard)?.reader.info;
  }

  reader(blockStartNs: bigint, shard: number): BlockReader | undefined {
    return this.#blocks.get(blockStartNs)?.get(shard)?.reader;
  }

  /** All of a block, by shard. */
  ofBlock(blockStartNs: bigint): readonly BlockReader[] {
    const shards = this.#blocks.get(blockStartNs);
    return shards ? [...shards.values()].map(({ reader }) => reader) : [];
  }

  *all(): Iterable<BlockReader> {
    for (const shards of this.#blocks.values()) for (const { reader } of shards.values()) yield reader;
  }

  /**
   * This one counts from now on; the one before is removed when nobody reads it.
   * @throws FILESET_DAMAGED when the engine's part of the info is none
   */
  put(info: FilesetInfo): void {
    const reader = new BlockReader({ fs: this.#deps.fs, codec: this.#deps.codec() }, this.#root, info);
    const before = this.#detach(info.blockStartNs, info.shard);
    const shards = this.#blocks.get(info.blockStartNs) ?? new Map<number, Held>();
    this.#blocks.set(info.blockStartNs, shards);
    shards.set(info.shard, { reader, leases: 0, doomed: undefined, used: 0, open: false });
    this.#count++;
    this.#bytes += sizeOf(info);
    if (before) this.#doom(before, 'remove');
  }

  /** Leases all that a query may need, until it is released. */
  lease(blockStartsNs: readonly bigint[]): FilesetLease {
    let held = this.#take(blockStartsNs);
    return {
      reader: (blockStartNs, shard) => held.get(blockStartNs)?.get(shard)?.reader,
      renew: () => {
        const before = held;
        held = this.#take(blockStartsNs);
        this.#giveBack(before);
      },
      [Symbol.dispose]: () => {
        this.#giveBack(held);
        held = new Map();
        this.#closeIdle();
      },
    };
  }

  /** Takes a fileset away, and its files when nobody reads them. */
  remove(id: Pick<FilesetId, 'blockStartNs' | 'shard'>): void {
    const held = this.#detach(id.blockStartNs, id.shard);
    if (held) this.#doom(held, 'remove');
  }

  /** Takes a damaged one away and puts its files aside; false when it is another one by now. */
  quarantine(id: FilesetId): boolean {
    if (this.info(id.blockStartNs, id.shard)?.volume !== id.volume) return false;
    const held = this.#detach(id.blockStartNs, id.shard);
    if (!held) return false;
    this.quarantined++;
    this.#doom(held, 'quarantine');
    return true;
  }

  /** All removals that were begun are done, or have failed. */
  async settled(): Promise<void> {
    while (this.#removals.size > 0) await Promise.all(this.#removals);
  }

  async close(): Promise<void> {
    await this.settled();
    for (const reader of this.all()) await reader.close();
  }

  #detach(blockStartNs: bigint, shard: number): Held | undefined {
    const shards = this.#blocks.get(blockStartNs);
    const held = shards?.get(shard);
    if (!shards || !held) return undefined;
    shards.delete(shard);
    if (shards.size === 0) this.#blocks.delete(blockStartNs);
    this.#count--;
    this.#bytes -= sizeOf(held.reader.info);
    return held;
  }

  #doom(held: Held, fate: 'remove' | 'quarantine'): void {
    held.doomed = fate;
    if (held.leases === 0) this.#carryOut(held);
  }

  #take(blockStartsNs: readonly bigint[]): Map<bigint, ReadonlyMap<number, Held>> {
    const taken = new Map<bigint, ReadonlyMap<number, Held>>();
    for (const start of blockStartsNs) {
      const shards = this.#blocks.get(start);
      if (!shards) continue;
      taken.set(start, new Map(shards));
      for (const held of shards.values()) {
        held.leases++;
        held.used = ++this.#clock;
        if (!held.open) this.#openCount++;
        held.open = true;
      }
    }
    return taken;
  }

  #giveBack(taken: ReadonlyMap<bigint, ReadonlyMap<number, Held>>): void {
    for (const shards of taken.values()) for (const held of shards.values()) this.#release(held);
  }

  #release(held: Held): void {
    held.leases--;
    if (held.leases === 0 && held.doomed) this.#carryOut(held);
  }

  #carryOut(held: Held): void {
    const { reader, doomed } = held;
    if (held.open) this.#openCount--;
    held.open = false;
    const { fs } = this.#deps;
    const id: FilesetId = { ...reader.info, namespace: this.#namespace };
    const work = async (): Promise<void> => {
      await reader.close();
      if (doomed === 'quarantine') await quarantineFileset(fs, this.#root, id);
      else await removeFileset(fs, this.#root, id);
    };
    const removal = work()
      .catch((error: unknown) => {
        this.lastFailure = error;
      })
      .finally(() => this.#removals.delete(removal));
    this.#removals.add(removal);
  }

  #closeIdle(): void {
    if (this.#openCount <= MAX_OPEN) return;
    const idle: Held[] = [];
    for (const shards of this.#blocks.values()) {
      for (const held of shards.values()) if (held.open && held.leases === 0) idle.push(held);
    }
    idle.sort((a, b) => a.used - b.used);
    for (const held of idle.slice(0, this.#openCount - MAX_OPEN)) {
      held.open = false;
      this.#openCount--;
      void held.reader.close().catch((error: unknown) => {
        this.lastFailure = error;
      });
    }
  }
}

/** Filesets that stay while they are read. */
export interface FilesetLease extends Disposable {
  reader(blockStartNs: bigint, shard: number): BlockReader | undefined;
  /** From now on the volumes that count now. */
  renew(): void;
}

function sizeOf(info: FilesetInfo): number {
  return info.payloadBytes + info.indexBytes;
}
