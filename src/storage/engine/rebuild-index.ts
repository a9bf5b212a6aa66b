import { MutableSegment } from '../index/mutable-segment.ts';
import type { BlockReader } from './block-reader.ts';
import type { Namespace } from './namespace.ts';

/** Filesets whose series cannot be found by the sealed index. */
export function uncovered(namespace: Namespace): BlockReader[] {
  if (!namespace.options.indexEnabled) return [];
  const missing = [...namespace.filesets.places()].filter((place) => !namespace.index.covers(place));
  return missing.flatMap(({ blockStartNs, shard }) => namespace.filesets.reader(blockStartNs, shard) ?? []);
}

/**
 * Makes the sealed index of these filesets from their ids, an index block at a time. Durable when it resolves.
 * @throws FILESET_DAMAGED, INDEX_SEGMENT_DAMAGED
 */
export async function rebuildIndex(namespace: Namespace, readers: readonly BlockReader[]): Promise<void> {
  const blocks = new Map<bigint, BlockReader[]>();
  for (const reader of readers) {
    const start = namespace.index.blockOf(reader.info.blockStartNs);
    const list = blocks.get(start) ?? [];
    blocks.set(start, list);
    list.push(reader);
  }
  for (const [start, list] of blocks) {
    const series = new MutableSegment();
    const repeated = repeatedShards(list);
    const known = new Set<string>();
    for (const reader of list) {
      const mayBeKnown = repeated.has(reader.info.shard);
      for await (const id of reader.ids()) {
        if (mayBeKnown) {
          const key = id.toString('latin1');
          if (known.has(key)) continue;
          known.add(key);
        }
        series.add(series.seriesCount * namespace.shardCount + reader.info.shard, id);
      }
      await reader.close();
    }
    const infos = list.map(({ info }) => info);
    await namespace.index.add(start, series, infos, namespace.isStored.bind(namespace));
  }
}

/** A series that is in several filesets of an index block is to have one number: those of one shard may share some. */
function repeatedShards(readers: readonly BlockReader[]): ReadonlySet<number> {
  const seen = new Set<number>();
  const repeated = new Set<number>();
  for (const { info } of readers) (seen.has(info.shard) ? repeated : seen).add(info.shard);
  return repeated;
}
