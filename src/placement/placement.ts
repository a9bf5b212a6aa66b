/** `leaving` shards are still served: they go when their taker is available. */
export type PlacedShardState = 'initializing' | 'available' | 'leaving';

/** One replica of a shard on one instance. */
export interface PlacedShard {
  readonly id: number;
  readonly state: PlacedShardState;
  /** Of an initialising shard that is moved: the instance that has it as `leaving`. */
  readonly sourceId?: string;
}

/** A storage node as the placement knows it. */
export interface PlacedInstance {
  readonly id: string;
  /** No two replicas of a shard are in one group. */
  readonly isolationGroup: string;
  /** Greater than 0: the share of shards is proportional to it. */
  readonly weight: number;
  /** Where its HTTP is: `http://host:port`. */
  readonly endpoint: string;
  /** It was taken out: all its shards are leaving, and it is gone once the last of them was taken over. */
  readonly isLeaving?: true;
  /** By ascending id. */
  readonly shards: readonly PlacedShard[];
}

/** Which storage node has which replicas. Values are never changed: every change makes another one. */
export interface Placement {
  /** Grows by one with every change. */
  readonly version: number;
  readonly replicaFactor: number;
  readonly shardCount: number;
  /** By ascending id. */
  readonly instances: readonly PlacedInstance[];
  /**
   * Shards of which some replica has been available at any time, by ascending id: they hold data, and must never be
   * taken for new because replicas are lost.
   */
  readonly everAvailable: readonly number[];
}
