/** Which storage nodes there are, and who has which shards: what a backup and a restore go by. */
export interface BackupCluster {
  /** Of the placement; null for a node that stands alone. */
  readonly version: number | null;
  readonly shardCount: number;
  readonly replicaFactor: number;
  /** By name, where it listens. */
  readonly endpoints: ReadonlyMap<string, string>;
  /** By shard. */
  readonly replicas: readonly (readonly {
    readonly node: string;
    readonly state: 'initializing' | 'available' | 'leaving';
  }[])[];
}

/**
 * How many replicas have to give what they have of a shard before it counts as all. `majority` shares a replica with
 * every write that was acknowledged by as many.
 */
export const BACKUP_LEVELS = ['one', 'majority', 'all'] as const;
export type BackupLevel = (typeof BACKUP_LEVELS)[number];

export function requiredReplicas(level: BackupLevel, replicaFactor: number): number {
  switch (level) {
    case 'one':
      return 1;
    case 'majority':
      return Math.floor(replicaFactor / 2) + 1;
    case 'all':
      return replicaFactor;
  }
}

/** Nodes that have all of a shard, as the placement knows. */
export function holders(cluster: BackupCluster, shard: number): string[] {
  return (cluster.replicas[shard] ?? []).flatMap(({ node, state }) =>
    state === 'initializing' ? [] : [node],
  );
}
