import { join } from 'node:path';
import type { FileSystem } from '../../core/file-system.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { quarantineFileset } from '../fileset/fileset-folder.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import { removeFileset } from '../fileset/remove-fileset.ts';
import { BlockReader } from './block-reader.ts';
import { FilesetSummary, type StoredPlace } from './fileset-summary.ts';
import type { ColumnCodec } from './sealed-series.ts';

export const DATA_FOLDER = 'data';

/** So many filesets of a namespace are kept open, each with two files. */
const MAX_OPEN = 256;

class Held {
  readonly place: StoredPlace;
  readonly #open: (info: FilesetInfo) => BlockReader;
  #reader: BlockReader | undefined;
  leases = 0;
  /** Another volume took its place, or it is out of retention: goes with its last lease. */
  doomed: 'remove' | 'quarantine' | undefined;
  /** Grows with use; the least recently used one is closed first. */
  used = 0;
  open = false;

  constructor(place: StoredPlace, open: (info: FilesetInfo) => BlockReader) {
    this.place = place;
    this.#open = open;
  }

  /** Made when somebody asks: a start with thousands of filesets needs none of them. */
  get reader(): BlockReader {
    this.#reader ??= this.#open(this.place.info());
    return this.#reader;
  }

  async close(): Promise<void> {
    await this.#reader?.close();
  }
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
  /** Files that are still there although they do not count any more. */
  #doomed = 0;
  readonly #summary: FilesetSummary;
  /** Removals that are under way, and those that failed. */
  readonly #removals = new Set<Promise<void>>();
  readonly #failed: (() => Promise<void>)[] = [];
  #leases = 0;
  quarantined = 0;
  /** Why a file could not be removed, the newest. */
  lastFailure: unknown;

  constructor(
    deps: { readonly fs: FileSystem; readonly codec: () => ColumnCodec },
    folder: string,
    namespace: string,
  ) {
    this.#deps = deps;
    this.#root = join(folder, DATA_FOLDER);
    this.#namespace = namespace;
    this.#summary = new FilesetSummary(deps.fs, this.#root, namespace);
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

  /** The one that counts; undefined when there is none. */
  volume(blockStartNs: bigint, shard: number): number | undefined {
    return this.#blocks.get(blockStartNs)?.get(shard)?.place.volume;
  }

  /** All of them, without a look at their infos. */
  *places(): Iterable<StoredPlace> {
    for (const shards of this.#blocks.values()) for (const { place } of shards.values()) yield place;
  }

  info(blockStartNs: bigint, shard: number): FilesetInfo | undefined {
    return this.#blocks.get(blockStartNs)?.get(shard)?.place.info();
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

  /** This one counts from now on; the one before is removed when nobody reads it. */
  put(place: StoredPlace): void {
    const { blockStartNs, shard } = place;
    const before = this.#detach(blockStartNs, shard);
    const shards = this.#blocks.get(blockStartNs) ?? new Map<number, Held>();
    this.#blocks.set(blockStartNs, shards);
    const { fs, codec } = this.#deps;
    shards.set(shard, new Held(place, (info) => new BlockReader({ fs, codec: codec() }, this.#root, info)));
    this.#count++;
    this.#bytes += place.sizeBytes;
    if (before) this.#doom(before, 'remove');
  }

  /** Nothing else is on the disk than what counts: whatever was to be removed is gone. */
  get isCertain(): boolean {
    return this.#doomed === 0;
  }

  /** Somebody holds a lease; who reads in several turns has one. */
  get isRead(): boolean {
    return this.#leases > 0;
  }

  /** Before files are written or removed: until `saveSummary`, a start looks through the folders. */
  async beginChange(): Promise<void> {
    await this.#summary.invalidate();
  }

  /** Unless a file is there that should not: one that is still read, or could not be removed. */
  async saveSummary(): Promise<void> {
    await this.settled();
    if (!this.isCertain || this.#count === 0 || this.#summary.present) return;
    await this.#summary.save([...this.places()].map((place) => place.info()));
  }

  /** What the summary says is there; undefined when there is none. */
  async loadSummary(): Promise<StoredPlace[] | undefined> {
    return await this.#summary.load();
  }

  /** Leases all that a query may need, until it is released. */
  lease(blockStartsNs: readonly bigint[]): FilesetLease {
    let held = this.#take(blockStartsNs);
    let isHeld = true;
    this.#leases++;
    return {
      reader: (blockStartNs, shard) => held.get(blockStartNs)?.get(shard)?.reader,
      renew: () => {
        const before = held;
        held = this.#take(blockStartsNs);
        this.#giveBack(before);
      },
      [Symbol.dispose]: () => {
        if (isHeld) this.#leases--;
        isHeld = false;
        this.#giveBack(held);
        held = new Map();
        this.#closeIdle();
      },
    };
  }

  /** Files are still there although they do not count any more. */
  get isLeaving(): boolean {
    return this.#doomed > 0;
  }

  /** Takes a fileset away, and its files when nobody reads them. */
  remove(id: Pick<FilesetId, 'blockStartNs' | 'shard'>): void {
    const held = this.#detach(id.blockStartNs, id.shard);
    if (held) this.#doom(held, 'remove');
  }

  /** Takes a damaged one away and puts its files aside; false when it is another one by now. */
  quarantine(id: FilesetId): boolean {
    if (this.volume(id.blockStartNs, id.shard) !== id.volume) return false;
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

  /** Tries once more what failed. */
  async retryRemovals(): Promise<void> {
    await this.settled();
    for (const work of this.#failed.splice(0)) this.#try(work);
    await this.settled();
  }

  async close(): Promise<void> {
    await this.settled();
    for (const shards of this.#blocks.values()) for (const held of shards.values()) await held.close();
  }

  #detach(blockStartNs: bigint, shard: number): Held | undefined {
    const shards = this.#blocks.get(blockStartNs);
    const held = shards?.get(shard);
    if (!shards || !held) return undefined;
    shards.delete(shard);
    if (shards.size === 0) this.#blocks.delete(blockStartNs);
    this.#count--;
    this.#bytes -= held.place.sizeBytes;
    return held;
  }

  #doom(held: Held, fate: 'remove' | 'quarantine'): void {
    held.doomed = fate;
    this.#doomed++;
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
    const { place, doomed } = held;
    if (held.open) this.#openCount--;
    held.open = false;
    const { fs } = this.#deps;
    const { blockStartNs, shard, volume } = place;
    const id: FilesetId = { namespace: this.#namespace, blockStartNs, shard, volume };
    const work = async (): Promise<void> => {
      await held.close();
      if (doomed === 'quarantine') await quarantineFileset(fs, this.#root, id);
      else await removeFileset(fs, this.#root, id);
      this.#doomed--;
    };
    this.#try(work);
  }

  #try(work: () => Promise<void>): void {
    const removal = work()
      .catch((error: unknown) => {
        this.lastFailure = error;
        this.#failed.push(work);
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
      void held.close().catch((error: unknown) => {
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
