import type { PlacedInstance, Placement } from './placement.ts';

/**
 * What is wrong with a placement, in words; empty when nothing is. Every placement that the functions of
 * `change-placement.ts` give has none of it:
 *
 * - each shard is counted (initializing or available) as often as there are to be replicas, and never twice by one
 *   instance or isolation group;
 * - each initializing shard with a source has its one leaving twin there, and each leaving shard its one taker;
 * - an instance that leaves counts nothing, and has something;
 * - a shard that is available or leaving somewhere is known to have been available.
 */
export function checkPlacement(placement: Placement): string[] {
  const { instances, shardCount, replicaFactor, everAvailable, version } = placement;
  const findings: string[] = [];
  if (!Number.isInteger(version) || version < 1) findings.push(`version ${version}`);
  findings.push(
    ...notAscending(
      'instance',
      instances.map(({ id }) => id),
    ),
  );
  findings.push(...notAscending('shard that was available', everAvailable));
  const counted = new Int32Array(shardCount);
  const groups = new Map<string, number>();
  /** By shard: the groups of its replicas. */
  const groupsOf = new Int32Array(shardCount * replicaFactor).fill(-1);
  const ever = new Set(everAvailable);
  for (const instance of instances) {
    findings.push(...ofInstance(instance, placement));
    const { id: name, isolationGroup } = instance;
    const group = groups.get(isolationGroup) ?? groups.size;
    groups.set(isolationGroup, group);
    for (const { id, state } of instance.shards) {
      if (state !== 'initializing' && !ever.has(id)) {
        findings.push(`shard ${id} of ${name} is ${state} and was never available`);
      }
      if (state === 'leaving') continue;
      const count = counted[id] ?? 0;
      const first = id * replicaFactor;
      if (groupsOf.subarray(first, first + Math.min(count, replicaFactor)).includes(group)) {
        findings.push(`shard ${id} is twice in group ${isolationGroup}`);
      }
      groupsOf[first + Math.min(count, replicaFactor - 1)] = group;
      counted[id] = count + 1;
    }
  }
  for (const [shard, count] of counted.entries()) {
    if (count !== replicaFactor) findings.push(`shard ${shard} has ${count} replicas, not ${replicaFactor}`);
  }
  return [...findings, ...ofMoves(placement)];
}

function ofInstance({ id, shards, isLeaving }: PlacedInstance, { shardCount }: Placement): string[] {
  const findings = notAscending(
    `shard of ${id}`,
    shards.map((shard) => shard.id),
  );
  if (shards.some((shard) => shard.id < 0 || shard.id >= shardCount))
    findings.push(`${id} has a shard that there is not`);
  if (shards.some(({ state, sourceId }) => sourceId !== undefined && state !== 'initializing')) {
    findings.push(`${id} has a source for a shard that is not initializing`);
  }
  if (isLeaving && shards.some(({ state }) => state !== 'leaving'))
    findings.push(`${id} leaves, and has shards that stay`);
  if (isLeaving && shards.length === 0) findings.push(`${id} has left`);
  return findings;
}

/** Each giver has one taker, and the other way round. */
function ofMoves({ instances }: Placement): string[] {
  const takers = new Map<string, number>();
  for (const { shards } of instances) {
    for (const { id, sourceId } of shards) {
      if (sourceId === undefined) continue;
      const move = `${id} of ${sourceId}`;
      takers.set(move, (takers.get(move) ?? 0) + 1);
    }
  }
  const findings: string[] = [];
  for (const { id: giver, shards } of instances) {
    for (const { id, state } of shards) {
      if (state !== 'leaving') continue;
      const move = `${id} of ${giver}`;
      const count = takers.get(move) ?? 0;
      if (count !== 1) findings.push(`leaving shard ${move} has ${count} takers`);
      takers.delete(move);
    }
  }
  return [...findings, ...[...takers.keys()].map((move) => `shard ${move} is taken over and not leaving`)];
}

function notAscending(what: string, values: readonly (string | number)[]): string[] {
  const index = values.findIndex((value, i) => i > 0 && value <= (values[i - 1] ?? value));
  return index < 0 ? [] : [`${what} ${values[index]} is not above the one before`];
}
