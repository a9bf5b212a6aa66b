import type { ReplicaState, TopologySnapshot } from '../bootstrap/topology-snapshot.ts';

/**
 * The placement as the catalog keeps it, JSON: a restart must not wait for the coordinator to know which shards are
 * this node's. Shards with the same replicas stand together, as ranges (`0-31,40`).
 */
export interface StoredTopology {
  readonly version: number;
  readonly origin: string;
  readonly majorityReplicas: number;
  readonly groups: readonly {
    readonly shards: string;
    readonly replicas: Readonly<Record<string, string>>;
  }[];
  readonly everAvailable: string;
}

export function storeTopology(topology: TopologySnapshot): StoredTopology {
  const { version, origin, majorityReplicas, everAvailable } = topology;
  const groups = new Map<string, { replicas: Record<string, string>; shards: number[] }>();
  for (const [shard, replicas] of [...topology.shards].sort(([a], [b]) => a - b)) {
    const sorted = [...replicas].sort(([a], [b]) => (a < b ? -1 : 1));
    const key = JSON.stringify(sorted);
    const group = groups.get(key) ?? { replicas: Object.fromEntries(sorted), shards: [] };
    groups.set(key, group);
    group.shards.push(shard);
  }
  return {
    version,
    origin,
    majorityReplicas,
    groups: [...groups.values()].map(({ replicas, shards }) => ({ shards: rangesText(shards), replicas })),
    everAvailable: rangesText([...everAvailable].sort((a, b) => a - b)),
  };
}

export function loadTopology(stored: StoredTopology): TopologySnapshot {
  const shards = stored.groups
    .flatMap(({ shards, replicas }) =>
      numbersOf(shards).map(
        (shard) => [shard, new Map(Object.entries(replicas) as [string, ReplicaState][])] as const,
      ),
    )
    .sort(([a], [b]) => a - b);
  const { version, origin, majorityReplicas } = stored;
  return {
    version,
    origin,
    majorityReplicas,
    shards: new Map(shards),
    everAvailable: new Set(numbersOf(stored.everAvailable)),
  };
}

/** Of ascending numbers. */
function rangesText(numbers: readonly number[]): string {
  const parts: string[] = [];
  for (let at = 0; at < numbers.length;) {
    const first = numbers[at] as number;
    let last = first;
    for (at++; numbers[at] === last + 1; at++) last++;
    parts.push(first === last ? `${first}` : `${first}-${last}`);
  }
  return parts.join(',');
}

function numbersOf(text: string): number[] {
  if (text === '') return [];
  return text.split(',').flatMap((part) => {
    const [first = 0, last = first] = part.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}
