import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addInstance, initialPlacement, markAvailable, type NewInstance } from './change-placement.ts';
import { raiseReplicas, removeWithReplica } from './change-replicas.ts';
import { checkPlacement } from './check-placement.ts';
import type { Placement } from './placement.ts';

const instance = (id: string): NewInstance => ({
  id,
  isolationGroup: id,
  weight: 1,
  endpoint: `http://${id}:80`,
});

const settled = (placement: Placement): Placement =>
  placement.instances.reduce(
    (now, { id, shards }) =>
      markAvailable(
        now,
        id,
        shards.map((shard) => shard.id),
      ),
    placement,
  );

const placed = (ids: readonly string[], shardCount: number, replicaFactor: number): Placement =>
  settled(initialPlacement({ instances: ids.map(instance), shardCount, replicaFactor }));

const counts = ({ instances }: Placement): Record<string, string> =>
  Object.fromEntries(
    instances.map(({ id, shards }) => {
      const of = (state: string): number => shards.filter((shard) => shard.state === state).length;
      return [id, `${of('initializing')}/${of('available')}/${of('leaving')}`];
    }),
  );

describe('raiseReplicas', () => {
  it('gives an instance that comes a replica of everything, and moves nothing', () => {
    const two = raiseReplicas(placed(['a'], 32, 1), instance('b'));
    expect(counts(two)).toEqual({ a: '0/32/0', b: '32/0/0' });
    expect(checkPlacement(two)).toEqual([]);
    const three = raiseReplicas(settled(two), instance('c'));
    expect(counts(three)).toEqual({ a: '0/32/0', b: '0/32/0', c: '32/0/0' });
  });

  it('spreads the new replicas over all, within one shard, whatever is under way', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 6 }),
        fc.integer({ min: 1, max: 100 }),
        fc.boolean(),
        (count, shardCount, isMoving) => {
          const ids = Array.from({ length: count }, (_, i) => `n${i}`);
          const before = placed(ids, shardCount, 1);
          const after = raiseReplicas(isMoving ? addInstance(before, instance('x')) : before);
          expect(after.replicaFactor).toBe(2);
          expect(checkPlacement(after)).toEqual([]);
          const loads = after.instances.map(
            ({ shards }) => shards.filter(({ state }) => state !== 'leaving').length,
          );
          expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(2);
        },
      ),
    );
  });

  it('needs an isolation group more', () => {
    expect(() => raiseReplicas(placed(['a', 'b'], 8, 2))).toThrow(
      /needs instances in 3 isolation groups, and there are 2/,
    );
  });
});

describe('removeWithReplica', () => {
  it('takes one of as many as there are replicas out, at once', () => {
    const after = removeWithReplica(placed(['a', 'b', 'c'], 32, 3), 'b');
    expect(counts(after)).toEqual({ a: '0/32/0', c: '0/32/0' });
    expect(after.replicaFactor).toBe(2);
    expect(checkPlacement(after)).toEqual([]);
  });

  it('waits while the others are not whole, and leaves the last one', () => {
    const filling = raiseReplicas(placed(['a'], 8, 1), instance('b'));
    expect(() => removeWithReplica(filling, 'a')).toThrow(/b is still being filled/);
    expect(() => removeWithReplica(placed(['a'], 8, 1), 'a')).toThrow(/is the last/);
    expect(() => removeWithReplica(placed(['a', 'b', 'c'], 8, 2), 'a')).toThrow(
      /does not have one replica of every/,
    );
  });
});
