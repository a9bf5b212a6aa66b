import type { PlacedInstance } from './placement.ts';

/** How many replicas an instance is to have. */
export interface Quota {
  /** Exactly, with its fraction. */
  readonly share: number;
  readonly floor: number;
  readonly ceil: number;
}

type Weighted = Pick<PlacedInstance, 'id' | 'isolationGroup' | 'weight'>;

/** Weights are whole numbers up to it, so that products with numbers of shards are exact. */
export const MAX_WEIGHT = 1_000_000;

/**
 * The share of each instance, by its id: proportional to its weight, except that a group never gets more than one
 * replica of each shard. A group that would (its part of the weight is at least one replica of those that are left:
 * it is over-weighted) gets one of each, and the others share the rest. Needs as many groups as replicas.
 */
export function quotas(
  instances: readonly Weighted[],
  { shardCount, replicaFactor }: { readonly shardCount: number; readonly replicaFactor: number },
): Map<string, Quota> {
  const groups = groupWeights(instances);
  const { full, replicas, weight } = overWeighted(groups, replicaFactor);
  return new Map(
    instances.map((instance) => {
      const group = instance.isolationGroup;
      const isFull = full.has(group);
      const of = isFull ? (groups.get(group) ?? 0) : weight;
      return [instance.id, quotaOf(shardCount * (isFull ? 1 : replicas) * instance.weight, of)];
    }),
  );
}

/**
 * Whole numbers for the same shares, which add up to all replicas, with no group above the number of shards: the
 * shares are laid end to end, group by group, and cut at whole numbers.
 */
export function wholeQuotas(
  instances: readonly Weighted[],
  { shardCount, replicaFactor }: { readonly shardCount: number; readonly replicaFactor: number },
): Map<string, number> {
  const groups = groupWeights(instances);
  const { full, replicas, weight } = overWeighted(groups, replicaFactor);
  const counts = new Map<string, number>();
  const lay = (members: readonly Weighted[], total: number, of: number): void => {
    let before = 0;
    for (const { id, weight: own } of members) {
      const from = Math.floor((total * before) / of);
      before += own;
      counts.set(id, Math.floor((total * before) / of) - from);
    }
  };
  const others: Weighted[] = [];
  for (const [group, groupWeight] of groups) {
    const members = instances.filter(({ isolationGroup }) => isolationGroup === group);
    if (full.has(group)) lay(members, shardCount, groupWeight);
    else others.push(...members);
  }
  if (others.length > 0) lay(others, shardCount * replicas, weight);
  return counts;
}

function quotaOf(numerator: number, denominator: number): Quota {
  return {
    share: numerator / denominator,
    floor: Math.floor(numerator / denominator),
    ceil: Math.ceil(numerator / denominator),
  };
}

function groupWeights(instances: readonly Weighted[]): Map<string, number> {
  const groups = new Map<string, number>();
  for (const { isolationGroup, weight } of instances) {
    groups.set(isolationGroup, (groups.get(isolationGroup) ?? 0) + weight);
  }
  return groups;
}

/** Which groups get one replica of every shard, and what is left for the others. */
function overWeighted(
  groups: ReadonlyMap<string, number>,
  replicaFactor: number,
): { full: ReadonlySet<string>; replicas: number; weight: number } {
  const full = new Set<string>();
  let replicas = replicaFactor;
  let weight = [...groups.values()].reduce((sum, one) => sum + one, 0);
  for (const [group, own] of [...groups].sort(([, a], [, b]) => b - a)) {
    if (replicas === 0 || own * replicas < weight) break;
    full.add(group);
    replicas -= 1;
    weight -= own;
  }
  return { full, replicas, weight };
}
