import type { Placement, PlacedShardState } from '../../src/placement/placement.ts';
import type { PeerProcess } from './peer-process.ts';

/** Every node has every shard, in one state each. */
export function everywhere(
  nodes: readonly (readonly [node: PeerProcess, state: PlacedShardState])[],
  { version, shardCount }: { readonly version: number; readonly shardCount: number },
): Placement {
  const all = Array.from({ length: shardCount }, (_, id) => id);
  return {
    version,
    replicaFactor: nodes.length,
    shardCount,
    instances: nodes.map(([{ name, url }, state]) => ({
      id: name,
      isolationGroup: name,
      weight: 1,
      endpoint: url,
      shards: all.map((id) => ({ id, state })),
    })),
    everAvailable: all,
  };
}
