import { assert } from '../../core/errors.ts';
import type { ReplicaState, TopologySnapshot } from '../bootstrap/topology-snapshot.ts';

/**
 * How many other replicas have to take part before what they have counts as all that there is:
 * - `none`: nobody has to; what those have that answer is all. Where nobody answers, nothing is lost but told.
 * - `one`: one
 * - `unstrictMajority`: more than half of all replicas if they answer; otherwise those that do, at least one
 * - `majority`: more than half of all replicas, which shares a node with every write that was acknowledged by as many.
 *   While fewer are available, because the others are being filled as well, all of those: nobody else has anything
 * - `all`: all other replicas
 */
export const BOOTSTRAP_LEVELS = ['none', 'one', 'unstrictMajority', 'majority', 'all'] as const;
export type BootstrapLevel = (typeof BOOTSTRAP_LEVELS)[number];

/** The other nodes that have the shard, or had it until it is taken over: the only ones that can give it. */
export function givers(topology: TopologySnapshot, shard: number): string[] {
  return allGivers(topology, shard).filter((node) => !topology.skippedPeers?.has(node));
}

function allGivers(topology: TopologySnapshot, shard: number): string[] {
  return otherReplicas(topology, shard).flatMap(([node, state]) => (state === 'initializing' ? [] : [node]));
}

/** Of how many other replicas data is wanted before a shard counts as fulfilled. */
export function requiredGivers(level: BootstrapLevel, topology: TopologySnapshot, shard: number): number {
  const required = usuallyRequired(level, topology, shard);
  const left = givers(topology, shard).length;
  // Who is skipped is not waited for; what is left has to give all of it.
  return left < allGivers(topology, shard).length ? Math.min(required, Math.max(1, left)) : required;
}

function usuallyRequired(level: BootstrapLevel, topology: TopologySnapshot, shard: number): number {
  switch (level) {
    case 'none':
      return 0;
    case 'one':
    case 'unstrictMajority':
      return 1;
    case 'majority':
      return Math.max(1, Math.min(topology.majorityReplicas, givers(topology, shard).length));
    case 'all':
      return Math.max(1, otherReplicas(topology, shard).length);
  }
}

/**
 * Whether the placement has as many replicas that could give the shard as the level wants. Without any it cannot be
 * had from peers, whatever the level.
 */
export function canBeGiven(level: BootstrapLevel, topology: TopologySnapshot, shard: number): boolean {
  const count = givers(topology, shard).length;
  return count > 0 && count >= requiredGivers(level, topology, shard);
}

function otherReplicas(topology: TopologySnapshot, shard: number): [string, ReplicaState][] {
  const replicas = [...(topology.shards.get(shard) ?? [])];
  assert(
    replicas.every(([, state]) => state !== 'unknown'),
    `the placement has shard ${shard} in an unknown state`,
  );
  return replicas.filter(([node]) => node !== topology.origin);
}
