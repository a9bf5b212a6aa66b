import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import {
  hasCode,
  makeFolders,
  readWholeFile,
  TEMPORARY_SUFFIX,
  writeFileAtomically,
  type FileSystem,
} from '../../core/file-system.ts';
import { floorToBlock } from '../bootstrap/time-ranges.ts';
import { FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import { IndexBlock } from '../index/index-block.ts';
import type { IndexSegment } from '../index/index-segment.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import { SealedSegment } from '../index/sealed-segment.ts';
import { inMemory } from '../index/segment-source.ts';
import { segmentBytes } from '../index/segment-writer.ts';
import { decodeCover, encodeCover, type CoveredFileset, type IndexCover } from './index-cover.ts';

export const INDEX_FOLDER = 'index';
const DAMAGED_FOLDER = 'damaged';
const NAME = /^segment-(-?\d{1,19})-(\d{1,9})\.(idx|cover)$/;

interface Held {
  readonly cover: IndexCover;
  readonly covered: ReadonlySet<string>;
  /** Loaded when it is first asked for. */
  segment: Promise<SealedSegment> | undefined;
  used: number;
}

export interface IndexStoreOptions {
  readonly folder: string;
  readonly namespace: string;
  readonly indexBlockSizeNs: bigint;
  /** Segments that nobody asked for lately give back their memory above it. */
  readonly memoryBytes: number;
}

/**
 * The sealed index of a namespace: for each index block one segment, and a cover beside it that says which filesets
 * its series are from. The cover is written last and says that the segment is whole.
 */
export class IndexStore {
  readonly #fs: FileSystem;
  readonly #options: IndexStoreOptions;
  readonly #root: string;
  readonly #blocks = new Map<bigint, Held>();
  /** The highest volume that any file has, by index block. */
  readonly #volumes = new Map<bigint, number>();
  #clock = 0;
  /** What was found damaged and put aside. */
  readonly damages: FileDamage[] = [];

  constructor(fs: FileSystem, options: IndexStoreOptions) {
    this.#fs = fs;
    this.#options = options;
    this.#root = join(options.folder, INDEX_FOLDER, options.namespace);
  }

  get count(): number {
    return this.#blocks.size;
  }

  /** Reads the covers; with `repair` removes what interrupted writers left and what was superseded. */
  async load(options: { readonly repair: boolean }): Promise<void> {
    const entries = await this.#fs.list(this.#root).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT')) return [];
      throw error;
    });
    const names = entries.filter(({ kind }) => kind === 'file').map(({ name }) => name);
    const covers = names.filter((name) => name.endsWith('.cover'));
    const contents = await this.#fs.readFiles(covers.map((name) => join(this.#root, name)));
    for (const name of names) this.#note(name);
    for (const [index, name] of covers.entries()) {
      const content = contents[index];
      const cover = content instanceof Buffer ? this.#decode(name, content) : undefined;
      const present = cover && names.includes(segmentName(cover, 'idx'));
      const before = cover && this.#blocks.get(cover.blockStartNs);
      if (cover && present && (before === undefined || before.cover.volume < cover.volume)) this.#hold(cover);
    }
    if (!options.repair) return;
    const needed = new Set(
      [...this.#blocks.values()].flatMap(({ cover }) => [
        segmentName(cover, 'idx'),
        segmentName(cover, 'cover'),
      ]),
    );
    for (const name of names) if (!needed.has(name)) await removeIfThere(this.#fs, join(this.#root, name));
  }

  /** The index block of a data block. */
  blockOf(blockStartNs: bigint): bigint {
    return floorToBlock(blockStartNs, this.#options.indexBlockSizeNs);
  }

  /** Whether the series of this fileset can be found. */
  covers(fileset: CoveredFileset): boolean {
    return this.#blocks.get(this.blockOf(fileset.blockStartNs))?.covered.has(keyOf(fileset)) ?? false;
  }

  /**
   * The segments of these index blocks.
   * @throws INDEX_SEGMENT_DAMAGED; the segment is put aside then and its filesets count as not covered
   */
  async segments(blockStartsNs: Iterable<bigint>): Promise<SealedSegment[]> {
    const held = [...new Set(blockStartsNs)].flatMap((start) => this.#blocks.get(start) ?? []);
    const segments = await Promise.all(held.map((one) => this.#open(one)));
    this.#forgetIdle();
    return segments;
  }

  /**
   * Adds series, which are those of these filesets, to an index block. Durable when it resolves.
   * @param ids canonical labels, each once, with the shard of the series
   */
  async add(
    indexBlockNs: bigint,
    series: MutableSegment,
    filesets: readonly CoveredFileset[],
    isStored: (fileset: CoveredFileset) => boolean,
  ): Promise<void> {
    const before = this.#blocks.get(indexBlockNs);
    const existing: IndexSegment[] = before ? [await this.#open(before)] : [];
    const kept = before ? before.cover.filesets.filter(isStored) : [];
    const replaced = new Set(filesets.map(placeOf));
    const covered = [...kept.filter((fileset) => !replaced.has(placeOf(fileset))), ...filesets];
    const all = new IndexBlock([...existing, series]);
    const [old] = existing;
    const bytes =
      old && all.seriesCount() === old.seriesCount
        ? segmentBytes(existing)
        : segmentBytes([...existing, series]);
    await this.#write(indexBlockNs, bytes, covered);
    if (before) await this.#removeFiles(before.cover);
  }

  /**
   * Takes the series of these shards out; their numbers, as every writer gives them, say which shard they are of.
   * Durable when it resolves.
   * @throws INDEX_SEGMENT_DAMAGED
   */
  async dropShards(isDropped: (shard: number) => boolean, shardCount: number): Promise<void> {
    for (const [start, held] of this.#blocks) {
      const kept = held.cover.filesets.filter(({ shard }) => !isDropped(shard));
      if (kept.length === held.cover.filesets.length) continue;
      if (kept.length === 0) {
        this.#blocks.delete(start);
        await this.#removeFiles(held.cover);
        continue;
      }
      const found = new IndexBlock([await this.#open(held)]).series({ ordered: true });
      const series = new MutableSegment();
      for (let index = 0; index < found.count; index++) {
        const shard = (found.ref(index) ?? 0) % shardCount;
        if (!isDropped(shard)) series.add(series.seriesCount * shardCount + shard, found.labelBytes(index));
      }
      await this.#write(start, segmentBytes([series]), kept);
      await this.#removeFiles(held.cover);
    }
  }

  /** Removes index blocks that none of the filesets needs; returns how many. */
  async removeUnused(isStored: (fileset: CoveredFileset) => boolean): Promise<number> {
    let removed = 0;
    for (const [start, { cover }] of this.#blocks) {
      if (cover.filesets.some(isStored)) continue;
      this.#blocks.delete(start);
      await this.#removeFiles(cover);
      removed++;
    }
    return removed;
  }

  /** Reads and checks all of them; tells what is damaged, and changes nothing. */
  async *verify(): AsyncIterable<FileDamage> {
    for (const { cover } of this.#blocks.values()) {
      const path = this.#path(cover, 'idx');
      try {
        SealedSegment.open(inMemory(await readWholeFile(this.#fs, path)), path).verify();
      } catch (error) {
        if (!isDamage(error)) throw error;
        yield { file: path, offset: 0, reason: error.message };
      }
    }
  }

  async #write(indexBlockNs: bigint, bytes: Uint8Array, filesets: readonly CoveredFileset[]): Promise<void> {
    const volume = (this.#volumes.get(indexBlockNs) ?? -1) + 1;
    this.#volumes.set(indexBlockNs, volume);
    const cover: IndexCover = { blockStartNs: indexBlockNs, volume, sizeBytes: bytes.length, filesets };
    await makeFolders(this.#fs, this.#options.folder, [INDEX_FOLDER, this.#options.namespace]);
    await writeFileAtomically(this.#fs, this.#path(cover, 'idx'), bytes);
    await writeFileAtomically(this.#fs, this.#path(cover, 'cover'), encodeCover(cover));
    this.#hold(cover);
  }

  async #open(held: Held): Promise<SealedSegment> {
    held.used = ++this.#clock;
    held.segment ??= this.#read(held).catch((error: unknown) => {
      held.segment = undefined;
      throw error;
    });
    return await held.segment;
  }

  async #read({ cover }: Held): Promise<SealedSegment> {
    const path = this.#path(cover, 'idx');
    try {
      const segment = SealedSegment.open(inMemory(await readWholeFile(this.#fs, path)), path);
      segment.verify();
      return segment;
    } catch (error) {
      if (!isDamage(error)) throw error;
      await this.#putAside(cover, error.message);
      throw error instanceof VarveError
        ? error
        : new VarveError('INDEX_SEGMENT_DAMAGED', `${path} cannot be read: ${error.message}`, {
            cause: error,
          });
    }
  }

  async #putAside(cover: IndexCover, reason: string): Promise<void> {
    this.damages.push({ file: this.#path(cover, 'idx'), offset: 0, reason });
    if (this.#blocks.get(cover.blockStartNs)?.cover === cover) this.#blocks.delete(cover.blockStartNs);
    const aside = await makeFolders(this.#fs, this.#root, [DAMAGED_FOLDER]);
    for (const kind of ['cover', 'idx'] as const) {
      const name = segmentName(cover, kind);
      await this.#fs.rename(join(this.#root, name), join(aside, name)).catch((error: unknown) => {
        if (!hasCode(error, 'ENOENT')) throw error;
      });
    }
    await this.#fs.syncFolder(aside);
    await this.#fs.syncFolder(this.#root);
  }

  #forgetIdle(): void {
    const loaded = [...this.#blocks.values()].filter(({ segment }) => segment !== undefined);
    let bytes = loaded.reduce((sum, { cover }) => sum + cover.sizeBytes, 0);
    loaded.sort((a, b) => a.used - b.used);
    // The newest stays in any case: whoever asked for it will ask again.
    for (const held of loaded.slice(0, -1)) {
      if (bytes <= this.#options.memoryBytes) return;
      held.segment = undefined;
      bytes -= held.cover.sizeBytes;
    }
  }

  #hold(cover: IndexCover): void {
    const covered = new Set(cover.filesets.map(keyOf));
    this.#blocks.set(cover.blockStartNs, { cover, covered, segment: undefined, used: 0 });
  }

  #note(name: string): void {
    const [, start, volume] = NAME.exec(name.replace(TEMPORARY_SUFFIX, '')) ?? [];
    if (start === undefined || volume === undefined) return;
    const known = this.#volumes.get(BigInt(start)) ?? -1;
    this.#volumes.set(BigInt(start), Math.max(known, Number(volume)));
  }

  #decode(name: string, content: Buffer): IndexCover | undefined {
    const file = join(this.#root, name);
    try {
      return decodeCover(file, content);
    } catch (error) {
      if (!(error instanceof FileDamageError)) throw error;
      // Its filesets count as not covered: the index is built anew from them.
      this.damages.push(error.damage);
      return undefined;
    }
  }

  async #removeFiles(cover: IndexCover): Promise<void> {
    await removeIfThere(this.#fs, this.#path(cover, 'cover'));
    await removeIfThere(this.#fs, this.#path(cover, 'idx'));
  }

  #path(cover: Pick<IndexCover, 'blockStartNs' | 'volume'>, kind: 'idx' | 'cover'): string {
    return join(this.#root, segmentName(cover, kind));
  }
}

function segmentName(cover: Pick<IndexCover, 'blockStartNs' | 'volume'>, kind: 'idx' | 'cover'): string {
  return `segment-${cover.blockStartNs}-${cover.volume}.${kind}`;
}

function keyOf({ blockStartNs, shard, volume }: CoveredFileset): string {
  return `${blockStartNs}/${shard}/${volume}`;
}

function placeOf({ blockStartNs, shard }: CoveredFileset): string {
  return `${blockStartNs}/${shard}`;
}

function isDamage(error: unknown): error is Error {
  if (error instanceof VarveError) return error.code === 'INDEX_SEGMENT_DAMAGED';
  return hasCode(error, 'ENOENT', 'EIO');
}
