import { expect, test } from 'vitest';
import type { ReplicaState, TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import { placementOf } from './placement.suite.ts';
import { ownershipChange, ShardOwnership } from './shard-ownership.ts';
import { loadTopology, storeTopology } from './stored-topology.ts';

/** One shard, of which `a` is this node. */
function of(
  own: ReplicaState | undefined,
  ever: boolean,
  others: Record<string, ReplicaState> = {},
): TopologySnapshot {
  const replicas = { ...(own ? { a: own } : {}), ...others };
  return placementOf('a', [replicas], { everAvailable: ever ? [0] : [] });
}

const KEPT = { owned: [0], added: [], dropped: [] };
const ADDED = { owned: [0], added: [0], dropped: [] };
const ANEW = { owned: [0], added: [0], dropped: [0] };
const DROPPED = { owned: [], added: [], dropped: [0] };
const NOTHING = { owned: [], added: [], dropped: [] };

test.each([
  [
    'a node that stood alone becomes the first of a new placement',
    undefined,
    of('initializing', false),
    KEPT,
  ],
  ['a node that stood alone is told that it has all', undefined, of('available', true), KEPT],
  ['a node that stood alone joins others', undefined, of('initializing', true, { b: 'leaving' }), ANEW],
  ['a node that stood alone is given nothing', undefined, of(undefined, true, { b: 'available' }), DROPPED],
  ['a shard is given to it', of(undefined, true), of('initializing', true, { b: 'leaving' }), ADDED],
  ['it becomes available', of('initializing', true), of('available', true), KEPT],
  ['it is to leave', of('available', true), of('leaving', true, { b: 'initializing' }), KEPT],
  ['it stays after all', of('leaving', true), of('available', true), KEPT],
  ['it has left', of('leaving', true), of(undefined, true, { b: 'available' }), DROPPED],
  ['it was taken away and given back meanwhile', of('available', true), of('initializing', true), ANEW],
  ['nothing of it', of(undefined, true), of(undefined, true), NOTHING],
])('%s', (_, before, after, expected) => {
  expect(ownershipChange(before, after, 1)).toEqual(expected);
});

test('a node that stands alone owns all shards; one of a placement those that it names', () => {
  const ownership = new ShardOwnership(4, undefined);
  expect(ownership.owned).toEqual([0, 1, 2, 3]);
  expect(ownership.mask).toBeUndefined();
  ownership.install(placementOf('a', [{ a: 'available' }, { b: 'available' }, { a: 'leaving' }, {}]));
  expect(ownership.owned).toEqual([0, 2]);
  expect(ownership.mask).toEqual(Uint8Array.from([1, 0, 1, 0]));
  expect([0, 1, 2, 3].map((shard) => ownership.owns(shard))).toEqual([true, false, true, false]);
});

test('a placement is the same after it was stored, in few bytes where shards have the same replicas', () => {
  const shards = Array.from({ length: 4096 }, (_, shard): Record<string, ReplicaState> => {
    if (shard === 7) return { a: 'initializing', b: 'leaving' };
    return shard % 2 === 0 ? { a: 'available', b: 'available' } : { b: 'available' };
  });
  const topology = placementOf('a', shards, { everAvailable: [0, 1, 2, 5, 4095] });
  const stored = JSON.stringify(storeTopology(topology));
  expect(loadTopology(JSON.parse(stored) as ReturnType<typeof storeTopology>)).toEqual(topology);
  const same = placementOf(
    'a',
    shards.map((): Record<string, ReplicaState> => ({ a: 'available' })),
  );
  expect(JSON.stringify(storeTopology(same)).length).toBeLessThan(200);
});
