import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import {
  hasCode,
  makeFolders,
  readWholeFile,
  TEMPORARY_SUFFIX,
  type FileSystem,
} from '../../core/file-system.ts';
import { floorToBlock } from '../bootstrap/time-ranges.ts';
import { FileDamageError, type FileDamage } from '../fileset/fileset-damage.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import { IndexBlock } from '../index/index-block.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import { SealedSegment } from '../index/sealed-segment.ts';
import { inMemory } from '../index/segment-source.ts';
import { segmentBytes } from '../index/segment-writer.ts';
import { Serial } from './serial.ts';
import { decodeCover, encodeCover, type CoveredFileset, type IndexCover } from './index-cover.ts';

export const INDEX_FOLDER = 'index';
const DAMAGED_FOLDER = 'damaged';
const NAME = /^segment-(-?\d{1,19})-(\d{1,9})\.(idx|cover)$/;

/** A segment with its cover. */
interface Written {
  readonly cover: IndexCover;
  /** Of which series it was made, in which steps: equal where the bytes are. Not known of one that was read. */
  readonly origin: string | undefined;
}

type PutSegment = (
  blockStartNs: bigint,
  bytes: Uint8Array,
  of: Pick<Written, 'origin'> & Pick<IndexCover, 'filesets'>,
) => Promise<Written>;

interface Held extends Written {
  readonly covered: ReadonlySet<string>;
  /** Loaded when it is first asked for. */
  segment: Promise<SealedSegment> | undefined;
  used: number;
}

/** Series that an index block gets. */
export interface IndexAddition {
  /** Of the index block. */
  readonly startNs: bigint;
  /** That the series are from. */
  readonly filesets: readonly CoveredFileset[];
  /** Equal where `series` gives the same; undefined where that is not known. */
  readonly sameAs: () => Promise<string | undefined>;
  /** Canonical labels, each once, with the shard in the number. */
  readonly series: () => Promise<MutableSegment>;
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
  readonly #replacing = new Serial();
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

  /** Adds series to one index block, as `addAll` does. */
  async add(
    startNs: bigint,
    series: MutableSegment,
    filesets: readonly CoveredFileset[],
    isStored: (fileset: CoveredFileset) => boolean,
  ): Promise<void> {
    const addition = { startNs, filesets, sameAs: async () => undefined, series: async () => series };
    await this.addAll([addition], isStored);
  }

  /**
   * Adds series to index blocks, each of which comes once. Durable when it resolves.
   * @throws what the disk throws, INDEX_SEGMENT_DAMAGED: then as much is covered as before
   */
  async addAll(
    additions: readonly IndexAddition[],
    isStored: (fileset: CoveredFileset) => boolean,
  ): Promise<void> {
    await this.#replace(async (put) => {
      const made: Written[] = [];
      for (const addition of additions) {
        const before = this.#blocks.get(addition.startNs);
        const replaced = new Set(addition.filesets.map(placeOf));
        const kept = before?.cover.filesets.filter((one) => isStored(one) && !replaced.has(placeOf(one)));
        const origin = originOf(before, await addition.sameAs());
        const bytes =
          (await this.#bytesLike(origin, [...made, ...this.#blocks.values()])) ??
          (await this.#merged(before, addition));
        made.push(
          await put(addition.startNs, bytes, { filesets: [...(kept ?? []), ...addition.filesets], origin }),
        );
      }
    });
  }

  /**
   * Takes the series of these shards out; their numbers, as every writer gives them, say which shard they are of.
   * Durable when it resolves.
   * @throws INDEX_SEGMENT_DAMAGED
   */
  async dropShards(isDropped: (shard: number) => boolean, shardCount: number): Promise<void> {
    await this.#replace(async (put) => {
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
        await put(start, segmentBytes([series]), { filesets: kept, origin: undefined });
      }
    });
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

  /** What an index block has, and what it gets. */
  async #merged(before: Held | undefined, addition: IndexAddition): Promise<Uint8Array> {
    const series = await addition.series();
    if (!before) return segmentBytes([series]);
    // Not to be kept: it is replaced.
    const old = await (before.segment ?? this.#read(before));
    const isKnown = new IndexBlock([old, series]).seriesCount() === old.seriesCount;
    return segmentBytes(isKnown ? [old] : [old, series]);
  }

  /** Those of a segment that was made in the same way; undefined when there is none, or it is not what was written. */
  async #bytesLike(
    origin: string | undefined,
    segments: readonly Written[],
  ): Promise<Uint8Array | undefined> {
    const like = origin === undefined ? undefined : segments.find((one) => one.origin === origin);
    if (!like) return undefined;
    const path = this.#path(like.cover, 'idx');
    try {
      const bytes = await readWholeFile(this.#fs, path);
      SealedSegment.open(inMemory(bytes), path).verify();
      return bytes;
    } catch (error) {
      // Whoever reads it will see to it.
      if (!isDamage(error)) throw error;
      return undefined;
    }
  }

  /** Writes new segments of index blocks, and puts them all in the place of those before. Durable when it resolves. */
  async #replace(write: (put: PutSegment) => Promise<void>): Promise<void> {
    await this.#replacing.run(async () => await this.#replaceNow(write));
  }

  async #replaceNow(write: (put: PutSegment) => Promise<void>): Promise<void> {
    const written: Written[] = [];
    const put: PutSegment = async (blockStartNs, bytes, { filesets, origin }) => {
      if (written.length === 0) {
        await makeFolders(this.#fs, this.#options.folder, [INDEX_FOLDER, this.#options.namespace]);
      }
      const volume = (this.#volumes.get(blockStartNs) ?? -1) + 1;
      this.#volumes.set(blockStartNs, volume);
      const one: Written = { cover: { blockStartNs, volume, sizeBytes: bytes.length, filesets }, origin };
      written.push(one);
      await this.#fs.writeFiles([{ path: this.#path(one.cover, 'idx'), bytes }]);
      return one;
    };
    try {
      await write(put);
      if (written.length > 0) await this.#sealWritten(written.map(({ cover }) => cover));
    } catch (error) {
      // A disk that is full has room for others then; what is left is removed at the next start.
      for (const { cover } of written) await this.#removeFiles(cover).catch(() => {});
      throw error;
    }
    for (const { cover, origin } of written) {
      const before = this.#blocks.get(cover.blockStartNs);
      this.#hold(cover, origin);
      if (before) await this.#removeFiles(before.cover);
    }
  }

  /** Covers come last: they say that the segments are whole. */
  async #sealWritten(covers: readonly IndexCover[]): Promise<void> {
    const segments = covers.map((cover) => this.#path(cover, 'idx'));
    await this.#fs.syncAll({ files: segments, folders: [this.#root] });
    const files = covers.map((cover) => {
      return { path: `${this.#path(cover, 'cover')}${TEMPORARY_SUFFIX}`, bytes: encodeCover(cover) };
    });
    await this.#fs.writeFiles(files);
    await this.#fs.syncAll({ files: files.map(({ path }) => path), folders: [] });
    for (const cover of covers) {
      const path = this.#path(cover, 'cover');
      await this.#fs.rename(`${path}${TEMPORARY_SUFFIX}`, path);
    }
    await this.#fs.syncFolder(this.#root);
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

  #hold(cover: IndexCover, origin?: string): void {
    const covered = new Set(cover.filesets.map(keyOf));
    this.#blocks.set(cover.blockStartNs, { cover, origin, covered, segment: undefined, used: 0 });
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

function originOf(before: Written | undefined, added: string | undefined): string | undefined {
  if (added === undefined || (before && before.origin === undefined)) return undefined;
  return createHash('sha256')
    .update(before?.origin ?? '')
    .update(added)
    .digest('base64');
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
