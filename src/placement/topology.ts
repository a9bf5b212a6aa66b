import type { PlacedShardState, Placement } from './placement.ts';

/** What the storage engine takes as its topology snapshot; this folder does not know the engine. */
export interface Topology {
  readonly version: number;
  /** The node that sees it. */
  readonly origin: string;
  readonly majorityReplicas: number;
  /** By shard, then by node. */
  readonly shards: ReadonlyMap<number, ReadonlyMap<string, PlacedShardState>>;
  readonly everAvailable: ReadonlySet<number>;
}

/**
 * The placement as the storage engine of `origin` sees it. `origin` need not be in it: then none of the shards is
 * its own.
 */
export function topologyOf(placement: Placement, origin: string): Topology {
  const shards = new Map<number, Map<string, PlacedShardState>>();
  for (let shard = 0; shard < placement.shardCount; shard += 1) shards.set(shard, new Map());
  for (const instance of placement.instances) {
    for (const shard of instance.shards) shards.get(shard.id)?.set(instance.id, shard.state);
  }
  return {
    version: placement.version,
    origin,
    majorityReplicas: Math.floor(placement.replicaFactor / 2) + 1,
    shards,
    everAvailable: new Set(placement.everAvailable),
  };
}
