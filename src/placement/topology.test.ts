import { describe, expect, it } from 'vitest';
import type { PlacedInstance, Placement } from './placement.ts';
import { topologyOf } from './topology.ts';

const instance = (id: string, shards: PlacedInstance['shards']): PlacedInstance => ({
  id,
  isolationGroup: id,
  weight: 1,
  endpoint: `http://127.0.0.1/${id}`,
  shards,
});

const placement: Placement = {
  version: 7,
  replicaFactor: 2,
  shardCount: 3,
  instances: [
    instance('a', [
      { id: 0, state: 'available' },
      { id: 1, state: 'leaving' },
    ]),
    instance('b', [
      { id: 0, state: 'available' },
      { id: 1, state: 'available' },
      { id: 2, state: 'initializing' },
    ]),
    instance('c', [
      { id: 1, state: 'initializing', sourceId: 'a' },
      { id: 2, state: 'initializing' },
    ]),
  ],
  everAvailable: [0, 1],
};

describe('topologyOf', () => {
  it('has every replica of every shard with its state, and what was ever available', () => {
    const topology = topologyOf(placement, 'b');
    expect(topology).toMatchObject({ version: 7, origin: 'b', majorityReplicas: 2 });
    expect([...topology.shards.values()].map((replicas) => Object.fromEntries(replicas))).toEqual([
      { a: 'available', b: 'available' },
      { a: 'leaving', b: 'available', c: 'initializing' },
      { b: 'initializing', c: 'initializing' },
    ]);
    expect([...topology.everAvailable]).toEqual([0, 1]);
  });

  it('counts a majority of the replica factor, not of the instances', () => {
    expect(
      [1, 2, 3, 4, 5].map(
        (replicaFactor) => topologyOf({ ...placement, replicaFactor }, 'a').majorityReplicas,
      ),
    ).toEqual([1, 2, 2, 3, 3]);
  });

  it('gives a node outside of the placement no shard', () => {
    const topology = topologyOf(placement, 'z');
    expect([...topology.shards.values()].some((replicas) => replicas.has('z'))).toBe(false);
    expect(topology.shards.size).toBe(3);
  });
});
