import { VarveError } from '../core/errors.ts';
import { newInstance, type NewInstance } from './change-placement.ts';
import { Draft } from './draft.ts';
import type { Placement } from './placement.ts';
import { even } from './rebalance.ts';

/**
 * One replica more of every shard, where there are isolation groups enough: each is filled anew, from whichever
 * replicas there are. `added` comes in with the same step, and takes most of them.
 * @throws PLACEMENT_REFUSED
 */
export function raiseReplicas(placement: Placement, added?: NewInstance): Placement {
  const replicaFactor = placement.replicaFactor + 1;
  const others = placement.instances.filter(({ id }) => id !== added?.id);
  const present = placement.instances.find(({ id }) => id === added?.id);
  const instances = added ? [...others, { ...newInstance(added), shards: present?.shards ?? [] }] : others;
  const groups = new Set(instances.filter(({ isLeaving }) => !isLeaving).map((one) => one.isolationGroup));
  if (groups.size < replicaFactor) {
    throw new VarveError(
      'PLACEMENT_REFUSED',
      `replica factor ${replicaFactor} needs instances in ${replicaFactor} isolation groups, and there are ${groups.size}`,
    );
  }
  const draft = new Draft({ ...placement, replicaFactor }, instances);
  for (let shard = 0; shard < placement.shardCount; shard += 1) {
    let best: number | undefined;
    for (const one of draft.instances.keys()) {
      if (!draft.canTake(shard, one)) continue;
      if (best === undefined || room(draft, one) > room(draft, best)) best = one;
    }
    if (best !== undefined) draft.add(shard, best);
  }
  even(draft);
  return draft.finish();
}

/**
 * One replica less of every shard, and with it the instance `id`: it goes at once, because nobody takes over what it
 * has. Only while all of the others is available.
 * @throws PLACEMENT_REFUSED
 */
export function removeWithReplica(placement: Placement, id: string): Placement {
  const replicaFactor = placement.replicaFactor - 1;
  const leaver = placement.instances.find((one) => one.id === id);
  if (!leaver || replicaFactor < 1) {
    throw new VarveError('PLACEMENT_REFUSED', `instance ${id} is the last: nobody else has what it has`);
  }
  const staying = placement.instances.filter((one) => one !== leaver);
  const busy = staying.find(({ shards }) => shards.some(({ state }) => state !== 'available'));
  if (busy) {
    throw new VarveError(
      'PLACEMENT_REFUSED',
      `${id} goes with one replica of every shard, and ${busy.id} is still being filled or emptied`,
      { hint: 'Wait until every shard of the others is available.' },
    );
  }
  const counted = new Map<number, number>();
  for (const shard of staying.flatMap(({ shards }) => shards)) {
    counted.set(shard.id, (counted.get(shard.id) ?? 0) + 1);
  }
  if (
    counted.size !== placement.shardCount ||
    [...counted.values()].some((count) => count !== replicaFactor)
  ) {
    throw new VarveError(
      'PLACEMENT_REFUSED',
      `${id} does not have one replica of every shard, so that it cannot go with one`,
      { hint: 'Add another instance before it is taken out.' },
    );
  }
  return { ...placement, version: placement.version + 1, replicaFactor, instances: staying };
}

function room(draft: Draft, instance: number): number {
  return draft.quota(instance).share - draft.load(instance);
}
