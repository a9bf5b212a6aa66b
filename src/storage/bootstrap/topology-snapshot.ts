/** A shard on one node, as the placement has it. */
export type ReplicaState = 'unknown' | 'initializing' | 'available' | 'leaving';

/** The placement as it was when an attempt to bootstrap began; all its decisions are made on it. */
export interface TopologySnapshot {
  readonly version: number;
  /** This node. */
  readonly origin: string;
  /** So many replicas are more than half. */
  readonly majorityReplicas: number;
  /** By shard, then by node. */
  readonly shards: ReadonlyMap<number, ReadonlyMap<string, ReplicaState>>;
  /**
   * Shards of which some replica has been available at any time: they are not new, whatever the states say, and
   * must never be taken for empty because a replica is lost.
   */
  readonly everAvailable: ReadonlySet<number>;
  /** Peers that an operator has told not to ask, nor to wait for; none unless given. */
  readonly skippedPeers?: ReadonlySet<string>;
}

/** A node that is alone: all shards are its own. */
export function singleNodeTopology(options: {
  readonly origin: string;
  readonly shardCount: number;
  readonly everAvailable: boolean;
}): TopologySnapshot {
  const { origin, shardCount, everAvailable } = options;
  const state: ReplicaState = everAvailable ? 'available' : 'initializing';
  const numbers = Array.from({ length: shardCount }, (_, shard) => shard);
  return {
    version: 0,
    origin,
    majorityReplicas: 1,
    shards: new Map(numbers.map((shard) => [shard, new Map([[origin, state]])])),
    everAvailable: new Set(everAvailable ? numbers : []),
  };
}

/** How this node has the shard; undefined when it is none of its own, or there is no such shard. */
export function stateAtOrigin(topology: TopologySnapshot, shard: number): ReplicaState | undefined {
  return topology.shards.get(shard)?.get(topology.origin);
}

/** Whether another node might have what this one has lost. */
export function hasOtherReplica(topology: TopologySnapshot, shard: number): boolean {
  const replicas = topology.shards.get(shard) ?? new Map<string, ReplicaState>();
  return [...replicas].some(([node, state]) => node !== topology.origin && state !== 'initializing');
}
