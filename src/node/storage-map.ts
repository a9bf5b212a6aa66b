import type { ShardFill } from '../storage/engine/storage-engine.ts';
import { formatTime } from '../storage/protocol/time-text.ts';

export const MAP_PATH = '/api/storage/map';

/** Where each shard of a node has each range of time from. */
export interface StorageMap {
  readonly node: string;
  readonly namespaces: readonly NamespaceMap[];
}

export interface NamespaceMap {
  readonly name: string;
  /** The newest first; every range that was asked for is in one of them. */
  readonly bands: readonly MapBand[];
}

/** A range of time within which no shard changes its source. */
export interface MapBand {
  readonly start: string;
  readonly end: string;
  /** Shards by the source that filled them; null: nobody has it. Those of this node that are in none were not asked for. */
  readonly sources: readonly { readonly source: string | null; readonly shards: readonly number[] }[];
}

/** As many as a page can show; a node with more damage than that has other worries. */
const MAX_BANDS = 500;

/** Of what the newest runs did: a later run says more than an earlier one. `fillsOf` in the order of runs. */
export function storageMap(
  node: string,
  shards: readonly number[],
  fillsOf: (shard: number) => readonly ShardFill[],
): StorageMap {
  const byNamespace = new Map<string, { shard: number; fills: ShardFill[] }[]>();
  for (const shard of shards) {
    // What was whole already was filled by a run before.
    const fills = fillsOf(shard).filter(({ source }) => source !== 'whole');
    for (const name of new Set(fills.map(({ namespace }) => namespace))) {
      const entry = { shard, fills: fills.filter(({ namespace }) => namespace === name) };
      byNamespace.set(name, [...(byNamespace.get(name) ?? []), entry]);
    }
  }
  const namespaces = [...byNamespace].map(([name, entries]) => ({ name, bands: bandsOf(entries) }));
  return { node, namespaces: namespaces.sort((a, b) => (a.name < b.name ? -1 : 1)) };
}

function bandsOf(
  entries: readonly { readonly shard: number; readonly fills: readonly ShardFill[] }[],
): MapBand[] {
  const edges = new Set<bigint>();
  for (const { fills } of entries) {
    for (const { startNs, endNs } of fills) edges.add(startNs).add(endNs);
  }
  const times = [...edges].sort((a, b) => (a < b ? 1 : -1)).slice(0, MAX_BANDS + 1);
  return times.slice(1).flatMap((startNs, index) => {
    const endNs = times[index] ?? startNs;
    const bySource = new Map<string | null, number[]>();
    for (const { shard, fills } of entries) {
      const fill = fills.findLast((one) => one.startNs <= startNs && one.endNs >= endNs);
      if (!fill) continue;
      const source = fill.source ?? null;
      const held = bySource.get(source);
      if (held) held.push(shard);
      else bySource.set(source, [shard]);
    }
    const sources = [...bySource].map(([source, held]) => ({ source, shards: held }));
    return sources.length === 0 ? [] : [{ start: formatTime(startNs), end: formatTime(endNs), sources }];
  });
}
