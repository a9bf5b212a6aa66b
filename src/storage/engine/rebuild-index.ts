import { MutableSegment } from '../index/mutable-segment.ts';
import type { BlockReader } from './block-reader.ts';
import type { IndexAddition } from './index-store.ts';
import type { Namespace } from './namespace.ts';

/** Filesets whose series cannot be found by the sealed index. */
export function uncovered(namespace: Namespace): BlockReader[] {
  if (!namespace.options.indexEnabled) return [];
  const missing = [...namespace.filesets.places()].filter((place) => !namespace.index.covers(place));
  return missing.flatMap(({ blockStartNs, shard }) => namespace.filesets.reader(blockStartNs, shard) ?? []);
}

/**
 * Makes the sealed index of these filesets from their ids, an index block at a time. Index blocks that have the same
 * series, as those of neighbouring times mostly do, are made once. Durable when it resolves.
 * @throws FILESET_DAMAGED, INDEX_SEGMENT_DAMAGED
 */
export async function rebuildIndex(namespace: Namespace, readers: readonly BlockReader[]): Promise<void> {
  const blocks = new Map<bigint, BlockReader[]>();
  // In one order, so that the same series get the same numbers.
  for (const reader of readers.toSorted(byShardAndBlock)) {
    const start = namespace.index.blockOf(reader.info.blockStartNs);
    const list = blocks.get(start) ?? [];
    blocks.set(start, list);
    list.push(reader);
  }
  const additions = [...blocks].map(([startNs, list]): IndexAddition => ({
    startNs,
    filesets: list.map(({ info }) => info),
    // With nothing to compare it with, nobody needs it.
    sameAs: async () => (blocks.size === 1 ? undefined : await keyOf(list)),
    series: async () => await seriesOf(list, namespace.shardCount),
  }));
  await namespace.index.addAll(additions, namespace.isStored.bind(namespace));
}

function byShardAndBlock({ info: a }: BlockReader, { info: b }: BlockReader): number {
  return a.shard - b.shard || (a.blockStartNs < b.blockStartNs ? -1 : 1);
}

async function keyOf(readers: readonly BlockReader[]): Promise<string> {
  const parts: string[] = [];
  for (const reader of readers) {
    parts.push(`${reader.info.shard}:${await reader.idDigest()}`);
    await reader.close();
  }
  return parts.join();
}

async function seriesOf(readers: readonly BlockReader[], shardCount: number): Promise<MutableSegment> {
  const series = new MutableSegment();
  const repeated = repeatedShards(readers);
  const known = new Set<string>();
  for (const reader of readers) {
    const { shard } = reader.info;
    const mayBeKnown = repeated.has(shard);
    await reader.eachId((id) => {
      if (mayBeKnown) {
        const key = id.toString('latin1');
        if (known.has(key)) return;
        known.add(key);
      }
      series.add(series.seriesCount * shardCount + shard, id);
    });
    await reader.close();
  }
  return series;
}

/** A series that is in several filesets of an index block is to have one number: those of one shard may share some. */
function repeatedShards(readers: readonly BlockReader[]): ReadonlySet<number> {
  const seen = new Set<number>();
  const repeated = new Set<number>();
  for (const { info } of readers) (seen.has(info.shard) ? repeated : seen).add(info.shard);
  return repeated;
}
