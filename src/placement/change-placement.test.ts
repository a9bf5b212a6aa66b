import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addInstance,
  initialPlacement,
  markAvailable,
  moveEndpoint,
  removeInstance,
  replaceInstance,
  type NewInstance,
} from './change-placement.ts';
import { checkPlacement } from './check-placement.ts';
import type { PlacedInstance, Placement } from './placement.ts';
import { quotas } from './quotas.ts';

const instance = (id: string, isolationGroup = id, weight = 1): NewInstance => ({
  id,
  isolationGroup,
  weight,
  endpoint: `http://${id}:80`,
});

const names = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `n${String(i).padStart(4, '0')}`);

function placed(count: number, shardCount: number, replicaFactor: number): Placement {
  return settled(
    initialPlacement({ instances: names(count).map((id) => instance(id)), shardCount, replicaFactor }),
  );
}

/** After all that is under way has come to its end. */
function settled(placement: Placement): Placement {
  return placement.instances.reduce(
    (now, { id, shards }) =>
      markAvailable(
        now,
        id,
        shards.map((shard) => shard.id),
      ),
    placement,
  );
}

function get(placement: Placement, id: string): PlacedInstance {
  const found = placement.instances.find((one) => one.id === id);
  if (!found) throw new Error(`no instance ${id}`);
  return found;
}

function counted({ shards }: PlacedInstance): number {
  return shards.filter(({ state }) => state !== 'leaving').length;
}

function states(placement: Placement, id: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { state } of get(placement, id).shards) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}

/** Replicas that have to be filled now and had not to before. */
function newReplicas(before: Placement, after: Placement): number {
  const had = new Set(
    before.instances.flatMap(({ id, shards }) => shards.map((shard) => `${id} ${shard.id}`)),
  );
  return after.instances
    .flatMap(({ id, shards }) => shards.map((shard) => `${id} ${shard.id}`))
    .filter((replica) => !had.has(replica)).length;
}

/** How far the instance that is furthest from its share is off, beyond rounding. */
function imbalance(placement: Placement): number {
  const staying = placement.instances.filter(({ isLeaving }) => !isLeaving);
  const shares = quotas(staying, placement);
  return Math.max(
    ...staying.map((one) => {
      const { floor, ceil } = shares.get(one.id) ?? { floor: 0, ceil: 0 };
      return Math.max(floor - counted(one), counted(one) - ceil);
    }),
  );
}

describe('the sequences of the document, at replica factor 1', () => {
  it('bootstraps 256, gives 128 to the node that is added, and takes them back when it is removed', () => {
    const first = initialPlacement({ instances: [instance('node1')], shardCount: 256, replicaFactor: 1 });
    expect(states(first, 'node1')).toEqual({ initializing: 256 });
    const alone = settled(first);
    expect(states(alone, 'node1')).toEqual({ available: 256 });

    const added = addInstance(alone, instance('node2'));
    expect(states(added, 'node1')).toEqual({ available: 128, leaving: 128 });
    expect(states(added, 'node2')).toEqual({ initializing: 128 });
    expect(get(added, 'node2').shards.every(({ sourceId }) => sourceId === 'node1')).toBe(true);
    const both = settled(added);
    expect(states(both, 'node1')).toEqual({ available: 128 });
    expect(states(both, 'node2')).toEqual({ available: 128 });

    const removed = removeInstance(both, 'node2');
    expect(states(removed, 'node1')).toEqual({ available: 128, initializing: 128 });
    expect(states(removed, 'node2')).toEqual({ leaving: 128 });
    const last = settled(removed);
    expect(states(last, 'node1')).toEqual({ available: 256 });
    expect(last.instances).toHaveLength(1);
  });
});

describe('initialPlacement', () => {
  it('gives every replica of everything to three nodes at replica factor 3', () => {
    const placement = initialPlacement({
      instances: ['dn3', 'dn1', 'dn2'].map((id) => instance(id)),
      shardCount: 32,
      replicaFactor: 3,
    });
    expect(placement.instances.map(({ id }) => id)).toEqual(['dn1', 'dn2', 'dn3']);
    for (const { shards } of placement.instances) expect(shards).toHaveLength(32);
    expect(checkPlacement(placement)).toEqual([]);
  });

  it('lets every instance share shards with every other', () => {
    const { instances } = initialPlacement({
      instances: names(6).map((id) => instance(id)),
      shardCount: 256,
      replicaFactor: 3,
    });
    for (const one of instances) {
      const own = new Set(one.shards.map(({ id }) => id));
      for (const other of instances) expect(other.shards.some(({ id }) => own.has(id))).toBe(true);
    }
  });

  it('gives a group that weighs too much one replica of each shard, and the others the rest', () => {
    const placement = initialPlacement({
      instances: [
        instance('big', 'a', 10),
        instance('b', 'b', 1),
        instance('c', 'c', 2),
        instance('d', 'd', 1),
      ],
      shardCount: 100,
      replicaFactor: 2,
    });
    expect(placement.instances.map((one) => [one.id, one.shards.length])).toEqual([
      ['b', 25],
      ['big', 100],
      ['c', 50],
      ['d', 25],
    ]);
  });

  it('needs as many isolation groups as replicas', () => {
    const instances = [instance('a', 'rack1'), instance('b', 'rack1'), instance('c', 'rack2')];
    expect(() => initialPlacement({ instances, shardCount: 8, replicaFactor: 3 })).toThrow(
      /replica factor 3 needs instances in 3 isolation groups, and there would be 2/,
    );
  });

  it.each([
    [{ id: 'a b' }, /is no name of an instance/],
    [{ isolationGroup: '' }, /is no name of an isolation group/],
    [{ weight: 0 }, /the weight is 0/],
    [{ weight: 1.5 }, /the weight is 1.5/],
    [{ endpoint: 'dn1:80' }, /is no address/],
    [{ endpoint: 'http://dn1:80/x' }, /is no address/],
  ])('refuses %j', (wrong, message) => {
    const instances = [{ ...instance('a'), ...wrong }];
    expect(() => initialPlacement({ instances, shardCount: 8, replicaFactor: 1 })).toThrow(message);
  });
});

describe('addInstance', () => {
  it('moves its fair share and nothing else, and leaves everybody within one shard', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 0, max: 9 }),
        fc.integer({ min: 1, max: 300 }),
        (replicaFactor, more, shardCount) => {
          const before = placed(replicaFactor + more, shardCount, replicaFactor);
          const after = addInstance(before, instance('x'));
          expect(checkPlacement(after)).toEqual([]);
          expect(newReplicas(before, after)).toBe(counted(get(after, 'x')));
          expect(newReplicas(before, after)).toBeLessThanOrEqual(
            Math.ceil((shardCount * replicaFactor) / (replicaFactor + more + 1)),
          );
          expect(imbalance(after)).toBeLessThanOrEqual(0);
        },
      ),
    );
  });

  it('takes back what an instance on its way out still has, before anything else', () => {
    const before = placed(4, 120, 3);
    const leaving = removeInstance(before, 'n0002');
    const again = addInstance(leaving, instance('n0002'));
    expect({ ...again, version: 0 }).toEqual({ ...before, version: 0 });
  });

  it('keeps the first source of a shard that goes on before it was filled', () => {
    const added = addInstance(placed(1, 8, 1), instance('x'));
    const further = addInstance(added, instance('y'));
    expect(checkPlacement(further)).toEqual([]);
    const moved = get(further, 'y').shards;
    expect(moved.map(({ sourceId }) => sourceId)).toEqual(moved.map(() => 'n0000'));
  });

  it('refuses one that is there', () => {
    expect(() => addInstance(placed(2, 8, 1), instance('n0001'))).toThrow(/is in the placement already/);
  });
});

describe('removeInstance', () => {
  it('moves what it had and nothing else, and leaves everybody within one shard', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 300 }),
        (replicaFactor, more, shardCount) => {
          const before = placed(replicaFactor + more, shardCount, replicaFactor);
          const had = counted(get(before, 'n0000'));
          const after = removeInstance(before, 'n0000');
          expect(checkPlacement(after)).toEqual([]);
          expect(newReplicas(before, after)).toBe(had);
          expect(imbalance(after)).toBeLessThanOrEqual(1);
        },
      ),
    );
  });

  it('gives a joining instance nothing to take along: its shards are available again where they were', () => {
    const before = placed(5, 64, 3);
    const after = removeInstance(addInstance(before, instance('x')), 'x');
    expect({ ...after, version: 0 }).toEqual({ ...before, version: 0 });
  });

  it('refuses to leave too few for the replica factor, and one that is not there', () => {
    expect(() => removeInstance(placed(3, 8, 3), 'n0001')).toThrow(/needs instances in 3 isolation groups/);
    expect(() => removeInstance(placed(3, 8, 2), 'x')).toThrow(/there is no instance x/);
    const leaving = removeInstance(placed(3, 8, 2), 'n0001');
    expect(() => removeInstance(leaving, 'n0001')).toThrow(/on its way out already/);
  });
});

describe('replaceInstance', () => {
  it('gives one instance what the other has, and moves nothing else', () => {
    const before = placed(4, 100, 3);
    const after = replaceInstance(before, 'n0001', instance('x'));
    expect(checkPlacement(after)).toEqual([]);
    expect(states(after, 'n0001')).toEqual({ leaving: 75 });
    expect(get(after, 'x').shards).toEqual(
      get(before, 'n0001').shards.map(({ id }) => ({ id, state: 'initializing', sourceId: 'n0001' })),
    );
    expect(newReplicas(before, after)).toBe(75);
    expect(settled(after).instances.map(({ id }) => id)).toEqual(['n0000', 'n0002', 'n0003', 'x']);
  });

  it('gives the rest to others where the new one weighs less', () => {
    const before = settled(
      initialPlacement({
        instances: names(4).map((id) => instance(id, id, 2)),
        shardCount: 120,
        replicaFactor: 2,
      }),
    );
    const after = replaceInstance(before, 'n0001', instance('x', 'x', 1));
    expect(checkPlacement(after)).toEqual([]);
    expect(after.instances.map((one) => [one.id, counted(one)])).toEqual([
      ['n0000', 69],
      ['n0001', 0],
      ['n0002', 68],
      ['n0003', 68],
      ['x', 35],
    ]);
  });

  it('works where the instance that leaves is one of just enough', () => {
    const after = replaceInstance(placed(3, 16, 3), 'n0000', instance('x'));
    expect(checkPlacement(after)).toEqual([]);
    expect(states(after, 'x')).toEqual({ initializing: 16 });
  });

  it('refuses itself', () => {
    expect(() => replaceInstance(placed(3, 8, 2), 'n0000', instance('n0000'))).toThrow(/already/);
  });
});

describe('markAvailable', () => {
  it('lets the giver drop what was taken, remembers that there is data, and can be said again', () => {
    const added = addInstance(placed(2, 4, 1), instance('x'));
    const [shard] = get(added, 'x').shards;
    const after = markAvailable(added, 'x', [shard?.id ?? -1, 99]);
    expect(after.version).toBe(added.version + 1);
    expect(get(after, 'x').shards).toEqual([{ id: shard?.id, state: 'available' }]);
    expect(get(after, shard?.sourceId ?? '').shards.some(({ id }) => id === shard?.id)).toBe(false);
    expect(markAvailable(after, 'x', [shard?.id ?? -1])).toBe(after);
    expect(markAvailable(after, 'nobody', [0])).toBe(after);
  });
});

describe('moveEndpoint', () => {
  it('changes where an instance is and nothing else', () => {
    const before = placed(2, 4, 1);
    const after = moveEndpoint(before, 'n0001', 'http://127.0.0.1:99');
    expect(get(after, 'n0001')).toEqual({ ...get(before, 'n0001'), endpoint: 'http://127.0.0.1:99' });
    expect(moveEndpoint(after, 'n0001', 'http://127.0.0.1:99')).toBe(after);
  });
});

type Change =
  | { readonly kind: 'add'; readonly group: number; readonly weight: number }
  | { readonly kind: 'remove' | 'again'; readonly which: number }
  | { readonly kind: 'replace'; readonly which: number; readonly group: number; readonly weight: number }
  | { readonly kind: 'mark'; readonly which: number; readonly part: number };

const which = fc.nat(1000);
const group = fc.nat(5);
const weight = fc.integer({ min: 1, max: 4 });
const changes: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ kind: fc.constant('add' as const), group, weight }),
  fc.record({ kind: fc.constantFrom('remove' as const, 'again' as const), which }),
  fc.record({ kind: fc.constant('replace' as const), which, group, weight }),
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('mark' as const), which, part: fc.integer({ min: 1, max: 3 }) }),
  },
);

function apply(placement: Placement, change: Change, name: string): Placement {
  const at = (index: number, of: readonly PlacedInstance[]): PlacedInstance | undefined =>
    of[index % of.length];
  const staying = placement.instances.filter(({ isLeaving }) => !isLeaving);
  switch (change.kind) {
    case 'add':
      return addInstance(placement, instance(name, `g${change.group}`, change.weight));
    case 'again': {
      const gone = at(
        change.which,
        placement.instances.filter(({ isLeaving }) => isLeaving),
      );
      return gone ? addInstance(placement, gone) : placement;
    }
    case 'remove':
      return removeInstance(placement, at(change.which, staying)?.id ?? '');
    case 'replace':
      return replaceInstance(
        placement,
        at(change.which, staying)?.id ?? '',
        instance(name, `g${change.group}`, change.weight),
      );
    case 'mark': {
      const one = at(change.which, placement.instances);
      const some = one?.shards.filter(({ id }) => id % change.part === 0).map(({ id }) => id) ?? [];
      return markAvailable(placement, one?.id ?? '', some);
    }
  }
}

describe('any sequence of changes', () => {
  it('keeps every invariant, loses no data that was available, and everybody near its share', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 64 }),
        fc.array(changes, { maxLength: 25 }),
        (replicaFactor, shardCount, sequence) => {
          const instances = names(4).map((id, i) => instance(id, `g${i}`, 1 + (i % 2)));
          let placement = initialPlacement({ instances, shardCount, replicaFactor });
          for (const [index, change] of sequence.entries()) {
            const before = placement;
            try {
              placement = apply(before, change, `x${String(index).padStart(2, '0')}`);
            } catch (error) {
              // Too few isolation groups: nothing was changed.
              expect(String(error)).toMatch(/isolation groups/);
              continue;
            }
            expect(checkPlacement(placement)).toEqual([]);
            expect(imbalance(placement)).toBeLessThanOrEqual(1);
            expect(placement.version).toBeGreaterThanOrEqual(before.version);
            expect(keepsData(before, placement)).toBe(true);
          }
          expect(checkPlacement(settled(placement))).toEqual([]);
        },
      ),
      { numRuns: 300 },
    );
  });
});

/** Who had a shard available or leaving still has it, unless another was marked available in its place. */
function keepsData(before: Placement, after: Placement): boolean {
  const holders = (placement: Placement): number[] => {
    const counts = Array.from({ length: placement.shardCount }, () => 0);
    for (const { shards } of placement.instances) {
      for (const { id, state } of shards) if (state !== 'initializing') counts[id] = (counts[id] ?? 0) + 1;
    }
    return counts;
  };
  const now = holders(after);
  return holders(before).every((count, shard) => (now[shard] ?? 0) >= count);
}
