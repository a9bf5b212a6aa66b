import { VarveError } from '../../core/errors.ts';
import { FileDamageError, FormatFault } from '../fileset/fileset-damage.ts';
import { filesetPath } from '../fileset/fileset-id.ts';
import type { FilesetScan } from '../fileset/fileset-scan.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { decodeLabels } from '../index/labels.ts';
import type { BlockReader } from './block-reader.ts';
import { copyColumns, mergeColumns, NO_COLUMNS, type Columns } from './columns.ts';
import type { FilesetLease } from './fileset-store.ts';
import type { Namespace } from './namespace.ts';
import { ReusedColumn } from './reused-column.ts';
import { bury } from './tombstones.ts';

export interface ReaderDeps {
  readonly nowNs: () => bigint;
  /** Told before the damage is thrown. */
  readonly onDamage: (namespace: Namespace, info: FilesetInfo, error: FileDamageError) => void;
  readonly onIndexDamage: (namespace: Namespace) => void;
}

/** A series that a query selects. */
export interface Found {
  readonly id: Uint8Array;
  readonly shard: number;
  /** In the memory, if it is known; -1 when it is known that there is none. */
  readonly reference: number | undefined;
}

export interface FoundSet {
  readonly count: () => number;
  /** Without counting. */
  readonly atMost: number;
  readonly series: Iterable<Found>;
}

export interface OpenBlock {
  readonly startNs: bigint;
  readonly inMemory: boolean;
}

/** All that is read ahead for one query. */
const AHEAD_BUDGET_BYTES = 32 * 1024 * 1024;
const MIN_AHEAD_BYTES = 16 * 1024;
const MAX_AHEAD_BYTES = 512 * 1024;

/**
 * The samples of series, block by block, of memory and files merged. Calls must not overlap: one that returned a
 * promise is waited for before the next.
 */
export class SeriesColumns {
  readonly #deps: ReaderDeps;
  readonly #namespace: Namespace;
  readonly #lease: FilesetLease;
  readonly #ordered: boolean;
  readonly #usesCache: boolean;
  /** By the place of the block. */
  readonly #memory: ReusedColumn[] = [];
  readonly #aheadBytes: number;
  readonly #scans = new Map<BlockReader, FilesetScan>();
  #scannedShard = -1;
  #movedBlocks: number;

  constructor(
    deps: ReaderDeps,
    namespace: Namespace,
    lease: FilesetLease,
    options: { readonly blocks: number; readonly ordered: boolean; readonly usesCache: boolean },
  ) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#lease = lease;
    this.#ordered = options.ordered;
    this.#usesCache = options.usesCache && namespace.cache.enabled;
    this.#movedBlocks = namespace.movedBlocks;
    const files = options.blocks * (options.ordered ? namespace.shardCount : 1);
    this.#aheadBytes = Math.min(
      MAX_AHEAD_BYTES,
      Math.max(MIN_AHEAD_BYTES, Math.floor(AHEAD_BUDGET_BYTES / files)),
    );
  }

  /**
   * Valid until something is read at the same place again.
   * @throws FILESET_DAMAGED, NAMESPACE_UNKNOWN
   */
  read(one: Found, block: OpenBlock, place: number): Columns | Promise<Columns> {
    checkThere(this.#namespace);
    const { movedBlocks } = this.#namespace;
    if (this.#movedBlocks !== movedBlocks) {
      this.#movedBlocks = movedBlocks;
      this.#lease.renew();
      this.#scans.clear();
    }
    const newer = block.inMemory ? this.#fromMemory(one, block.startNs) : NO_COLUMNS;
    const older = this.#fromFile(one, block.startNs, place);
    if (older instanceof Promise) return this.#whenRead(one, block, { older, newer, place });
    return newer === NO_COLUMNS ? older : mergeColumns(older, newer);
  }

  /** A block may move from memory to files meanwhile: then it is looked at again, in files that have it. */
  async #whenRead(
    one: Found,
    block: OpenBlock,
    parts: { readonly older: Promise<Columns>; readonly newer: Columns; readonly place: number },
  ): Promise<Columns> {
    const older = await parts.older;
    if (this.#movedBlocks !== this.#namespace.movedBlocks) return await this.read(one, block, parts.place);
    return mergeColumns(older, parts.newer);
  }

  #fromMemory(one: Found, blockStartNs: bigint): Columns {
    const { buffer } = this.#namespace;
    const reference = one.reference ?? buffer.find(one.id);
    const columns = reference < 0 ? undefined : buffer.readBlock(reference, blockStartNs);
    return columns ? copyColumns(columns) : NO_COLUMNS;
  }

  #fromFile(one: Found, blockStartNs: bigint, place: number): Columns | Promise<Columns> {
    const reader = this.#lease.reader(blockStartNs, one.shard);
    if (!reader) return NO_COLUMNS;
    try {
      const payload = this.#payload(one, reader);
      if (payload instanceof Promise) return this.#laterFromFile(one, reader, payload);
      if (!payload) return NO_COLUMNS;
      const columns = reader.decodeNow(payload, (this.#memory[place] ??= new ReusedColumn()));
      if (!columns) return this.#laterFromFile(one, reader, Promise.resolve(payload));
      return this.#alive(one, reader, columns);
    } catch (error) {
      throw this.#told(reader, error);
    }
  }

  async #laterFromFile(
    one: Found,
    reader: BlockReader,
    pending: Promise<Buffer | undefined>,
  ): Promise<Columns> {
    try {
      const payload = await pending;
      return payload ? this.#alive(one, reader, await reader.decode(payload)) : NO_COLUMNS;
    } catch (error) {
      throw this.#told(reader, error);
    }
  }

  #payload({ id, shard }: Found, reader: BlockReader): Buffer | undefined | Promise<Buffer | undefined> {
    const { cache } = this.#namespace;
    if (!this.#usesCache) return this.#scanOf(reader, shard).find(id);
    const nowNs = this.#deps.nowNs();
    const cached = cache.get(reader.info, id, nowNs);
    if (cached) return cached;
    const keep = (payload: Buffer | undefined): Buffer | undefined => {
      if (payload) cache.put(reader.info, id, payload, nowNs);
      return payload;
    };
    const payload = this.#scanOf(reader, shard).find(id);
    return payload instanceof Promise ? payload.then(keep) : keep(payload);
  }

  #scanOf(reader: BlockReader, shard: number): FilesetScan {
    // Series come shard by shard: what was read ahead of another is not needed any more.
    if (!this.#ordered && shard !== this.#scannedShard) this.#scans.clear();
    this.#scannedShard = shard;
    const scan = this.#scans.get(reader) ?? reader.scan(this.#aheadBytes);
    this.#scans.set(reader, scan);
    return scan;
  }

  #alive({ id }: Found, { info, annotation }: BlockReader, columns: Columns): Columns {
    const { tombstones } = this.#namespace;
    if (tombstones.all.length === 0) return columns;
    const { blockStartNs, blockSizeNs } = info;
    const due = tombstones.after(annotation.deletedUpTo, blockStartNs, blockStartNs + blockSizeNs);
    return due.length === 0 ? columns : bury(columns, decodeLabels(id), due);
  }

  #told(reader: BlockReader, error: unknown): unknown {
    return told(this.#deps, this.#namespace, reader, error);
  }
}

/** @throws NAMESPACE_UNKNOWN */
export function checkThere({ deleted, closed, name }: Namespace): void {
  if (!deleted && !closed) return;
  throw new VarveError('NAMESPACE_UNKNOWN', `namespace ${JSON.stringify(name)} was deleted meanwhile`);
}

/** The error as it is to be thrown, when it was damage after the engine was told of it. */
export function told(deps: ReaderDeps, namespace: Namespace, { info }: BlockReader, error: unknown): unknown {
  const { filesets, name } = namespace;
  const damage =
    error instanceof FormatFault
      ? error.at(filesetPath(filesets.root, { ...info, namespace: name }, 'index'))
      : error;
  if (damage instanceof FileDamageError) deps.onDamage(namespace, info, damage);
  return damage;
}
