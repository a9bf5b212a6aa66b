import { makeFolders, type FileSystem } from '../../core/file-system.ts';
import { nextVolume } from '../fileset/fileset-folder.ts';
import { FilesetWriter } from '../fileset/fileset-writer.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { decodeLabels } from '../index/labels.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import type { BlockReader } from './block-reader.ts';
import { BlockWriter, type SealedInput } from './block-writer.ts';
import { bury, type Tombstone } from './tombstones.ts';
import { copyColumns, mergeForFile, type Columns } from './columns.ts';
import { DATA_FOLDER } from './fileset-store.ts';
import { placeOf } from './fileset-summary.ts';
import type { FlushedShard } from './log-records.ts';
import type { Namespace } from './namespace.ts';
import type { ColumnCodec } from './sealed-series.ts';

export interface FlushDeps {
  readonly fs: FileSystem;
  readonly codec: ColumnCodec;
  /** The folder of the engine. */
  readonly folder: string;
  readonly createdAtNs: bigint;
  /** The newest version: deletions up to it are carried out in what is written. */
  readonly version: bigint;
}

export interface FlushedBlock {
  readonly filesets: readonly FilesetInfo[];
  readonly series: number;
}

/**
 * Writes what a namespace has in memory of a block to filesets, one a shard, merged with those that are there, and
 * its series to the index. All of it is durable when it resolves; the memory stays as it is. With `force` shards
 * that have a fileset are written anew even when the memory has nothing for them, because of deletions.
 */
export async function flushBlock(
  deps: FlushDeps,
  namespace: Namespace,
  blockStartNs: bigint,
  shards: Iterable<number> = namespace.ownership.owned,
): Promise<FlushedBlock> {
  await makeFolders(deps.fs, deps.folder, [DATA_FOLDER]);
  const index = new MutableSegment();
  const filesets: FilesetInfo[] = [];
  let series = 0;
  for (const shard of shards) {
    const references = namespace.buffer.seriesOfBlock(blockStartNs, shard);
    const existing = namespace.filesets.reader(blockStartNs, shard);
    if (references.length === 0 && !(existing && isDue(namespace, existing))) continue;
    await namespace.filesets.beginChange();
    const write = new ShardFlush(deps, namespace, { blockStartNs, shard, index });
    const info = await write.run(references, existing);
    series += write.series;
    if (info) {
      namespace.filesets.put(placeOf(info));
      filesets.push(info);
    } else namespace.filesets.remove({ blockStartNs, shard });
  }
  if (filesets.length > 0 && namespace.options.indexEnabled) {
    const isStored = namespace.isStored.bind(namespace);
    await namespace.index.add(namespace.index.blockOf(blockStartNs), index, filesets, isStored);
  }
  return { filesets, series };
}

export function flushedShards(filesets: readonly FilesetInfo[]): FlushedShard[] {
  return filesets.map(({ shard, volume }) => ({ shard, volume }));
}

/** Whether deletions wait to be carried out in a fileset. */
export function isDue(namespace: Namespace, { info, annotation }: BlockReader): boolean {
  const endNs = info.blockStartNs + info.blockSizeNs;
  return namespace.tombstones.after(annotation.deletedUpTo, info.blockStartNs, endNs).length > 0;
}

interface Place {
  readonly blockStartNs: bigint;
  readonly shard: number;
  readonly index: MutableSegment;
}

/** One shard of the block. */
class ShardFlush {
  readonly #deps: FlushDeps;
  readonly #namespace: Namespace;
  readonly #place: Place;
  series = 0;

  constructor(deps: FlushDeps, namespace: Namespace, place: Place) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#place = place;
  }

  /** Undefined when nothing is left. */
  async run(references: Uint32Array, existing: BlockReader | undefined): Promise<FilesetInfo | undefined> {
    const { fs, createdAtNs, version } = this.#deps;
    const { blockStartNs, shard } = this.#place;
    const { name: namespace, options, filesets } = this.#namespace;
    const { root } = filesets;
    const volume = await nextVolume(fs, root, { namespace, shard, blockStartNs });
    const id = { namespace, shard, blockStartNs, volume };
    const { blockSizeNs } = options;
    await using files = await FilesetWriter.create(
      { fs },
      { root, id, kind: 'flush', blockSizeNs, createdAtNs },
    );
    const writer = new BlockWriter(files);
    if (existing) await this.#merge(writer, references, existing);
    else for (const reference of references) await this.#addFromMemory(writer, reference);
    this.series = writer.series;
    return writer.series === 0 ? undefined : await writer.finish(version);
  }

  async #addFromMemory(writer: BlockWriter, reference: number): Promise<void> {
    const { buffer } = this.#namespace;
    const id = buffer.labelsOf(reference);
    const columns = buffer.sealBlock(reference, this.#place.blockStartNs);
    if (columns) await this.#add(writer, id, columns);
  }

  /** Both come in the order of ids. */
  async #merge(writer: BlockWriter, references: Uint32Array, existing: BlockReader): Promise<void> {
    const { buffer, tombstones } = this.#namespace;
    const { blockStartNs, blockSizeNs } = existing.info;
    const { deletedUpTo } = existing.annotation;
    const due = tombstones.after(deletedUpTo, blockStartNs, blockStartNs + blockSizeNs);
    let next = 0;
    let nextId = references[0] === undefined ? undefined : buffer.labelsOf(references[0]);
    for await (const { id, payload } of existing.series()) {
      while (nextId && Buffer.compare(nextId, id) < 0) {
        await this.#addFromMemory(writer, references[next] as number);
        next++;
        nextId = references[next] === undefined ? undefined : buffer.labelsOf(references[next] as number);
      }
      if (nextId && Buffer.compare(nextId, id) === 0) {
        await this.#addBoth(writer, id, {
          older: alive(await existing.decode(payload), id, due),
          reference: references[next] as number,
        });
        next++;
        nextId = references[next] === undefined ? undefined : buffer.labelsOf(references[next] as number);
      } else if (due.length > 0) {
        await this.#addColumns(writer, id, alive(await existing.decode(payload), id, due));
      } else await this.#add(writer, id, await existing.sealed(payload));
    }
    for (; next < references.length; next++) await this.#addFromMemory(writer, references[next] as number);
  }

  async #addBoth(
    writer: BlockWriter,
    id: Uint8Array,
    { older, reference }: { readonly older: Columns; readonly reference: number },
  ): Promise<void> {
    const columns = this.#namespace.buffer.readBlock(reference, this.#place.blockStartNs);
    await this.#addColumns(writer, id, columns ? mergeForFile(older, copyColumns(columns)) : older);
  }

  async #addColumns(writer: BlockWriter, id: Uint8Array, columns: Columns): Promise<void> {
    const { times, bits, overwrites } = columns;
    if (times.length === 0) return;
    const { codec } = this.#deps;
    const encodedTimes = codec.encodeTimes(times).slice();
    const values = codec.encodeValues(bits);
    await this.#add(writer, id, { count: times.length, times: encodedTimes, values, overwrites });
  }

  async #add(writer: BlockWriter, id: Uint8Array, columns: SealedInput): Promise<void> {
    const { index, shard } = this.#place;
    const { shardCount } = this.#namespace;
    if (columns.count > 0) index.add(index.seriesCount * shardCount + shard, id);
    await writer.add(id, columns);
  }
}

function alive(columns: Columns, id: Uint8Array, due: readonly Tombstone[]): Columns {
  return due.length === 0 ? columns : bury(columns, decodeLabels(id), due);
}
