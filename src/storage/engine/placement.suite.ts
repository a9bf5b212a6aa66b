import type { ReplicaState, TopologySnapshot } from '../bootstrap/topology-snapshot.ts';

/** A placement as `origin` sees it: for each shard the states of its replicas by node. */
export function placementOf(
  origin: string,
  shards: readonly Readonly<Record<string, ReplicaState>>[],
  options: {
    readonly everAvailable?: readonly number[];
    readonly version?: number;
    readonly majority?: number;
  } = {},
): TopologySnapshot {
  return {
    version: options.version ?? 1,
    origin,
    majorityReplicas: options.majority ?? 1,
    shards: new Map(shards.map((replicas, shard) => [shard, new Map(Object.entries(replicas))])),
    everAvailable: new Set(options.everAvailable ?? shards.keys()),
  };
}
