import { describe, expect, test } from 'vitest';
import type { PlacedShard, PlacedShardState, Placement } from '../../placement/placement.ts';
import { VarveError } from '../../core/errors.ts';
import { ReadPlan } from './read-plan.ts';
import { readsNeeded, Routing, type ReadLevel, type ReplicaGroup, type WriteLevel } from './routing.ts';
import { WriteProgress } from './write-progress.ts';

/** By instance, by shard: the state, or that of one that takes over from another. */
function placement(
  replicaFactor: number,
  instances: Readonly<Record<string, readonly (PlacedShardState | `from ${string}` | '')[]>>,
): Placement {
  const shardCount = Math.max(...Object.values(instances).map((shards) => shards.length));
  return {
    version: 1,
    replicaFactor,
    shardCount,
    everAvailable: [],
    instances: Object.entries(instances).map(([id, states]) => ({
      id,
      isolationGroup: id,
      weight: 1,
      endpoint: `http://${id}`,
      shards: states.flatMap((state, shard): PlacedShard[] => {
        if (state === '') return [];
        if (!state.startsWith('from ')) return [{ id: shard, state: state as PlacedShardState }];
        return [{ id: shard, state: 'initializing', sourceId: state.slice(5) }];
      }),
    })),
  };
}

const THREE = placement(3, { a: ['available'], b: ['available'], c: ['available'] });

test('an instance without shards is no replica, and shards with the same replicas are one group', () => {
  const routing = new Routing(
    placement(2, {
      a: ['available', 'available', 'available'],
      b: ['available', 'available', ''],
      c: ['', '', 'available'],
      d: [],
    }),
  );
  expect(routing.instances.map(({ id }) => id)).toEqual(['a', 'b', 'c']);
  expect(routing.groups.map(({ shards, writers }) => [shards, writers])).toEqual([
    [
      [0, 1],
      [0, 1],
    ],
    [[2], [0, 2]],
  ]);
  expect([routing.isWhole, routing.groupOf(1), routing.groupOf(2)]).toEqual([false, 0, 1]);
  expect(new Routing(THREE).isWhole).toBe(true);
});

describe('a write', () => {
  const moving = placement(3, {
    a: ['available'],
    b: ['available'],
    c: ['leaving'],
    d: ['from c'],
  });
  /** One replica more for each shard; of three, two at once. */
  const second = placement(2, { a: ['available'], b: ['initializing'] });
  const third = placement(3, { a: ['available'], b: ['available'], c: ['initializing'] });
  const twoMore = placement(3, { a: ['available'], b: ['initializing'], c: ['initializing'] });

  test.each<[string, Placement, WriteLevel, number[], number[], string]>([
    ['one of three', THREE, 'majority', [0], [], 'open'],
    ['two of three', THREE, 'majority', [0, 2], [], 'reached'],
    ['two of three, all wanted', THREE, 'all', [0, 2], [], 'open'],
    ['two of three with the last lost, all wanted', THREE, 'all', [0, 2], [1], 'lost'],
    ['one is enough', THREE, 'one', [1], [], 'reached'],
    ['two lost', THREE, 'majority', [], [0, 1], 'lost'],
    ['a leaving one does not count', moving, 'majority', [0, 2], [], 'open'],
    ['nor does an initialising one', moving, 'majority', [0, 3], [], 'open'],
    ['both of a pair are one replica', moving, 'majority', [0, 2, 3], [], 'reached'],
    ['and with them all have it', moving, 'all', [0, 1, 2, 3], [], 'reached'],
    ['a pair without one of them is lost', moving, 'majority', [0], [1, 3], 'lost'],
    ['a second replica that is filled is not waited for', second, 'majority', [0], [], 'reached'],
    ['nor when it is away', second, 'majority', [0], [1], 'reached'],
    ['but it alone is not enough', second, 'majority', [1], [], 'open'],
    ['and without the first nothing is', second, 'majority', [1], [0], 'lost'],
    ['of level all it has to have it', second, 'all', [0], [], 'open'],
    ['and then all have it', second, 'all', [0, 1], [], 'reached'],
    ['a third one that is filled does not count', third, 'majority', [0, 2], [], 'open'],
    ['nor is it waited for', third, 'majority', [0, 1], [2], 'reached'],
    ['of two that are filled at once one has to have it', twoMore, 'majority', [0], [], 'open'],
    ['whichever it is', twoMore, 'majority', [0, 2], [1], 'reached'],
    ['and not none', twoMore, 'majority', [0], [1, 2], 'lost'],
    ['a new system has nobody yet', placement(1, { a: ['initializing'] }), 'one', [], [], 'lost'],
  ])('%s', (_, of, level, done, failed, state) => {
    const progress = new WriteProgress(new Routing(of), [0], level);
    for (const place of done) progress.done(place);
    for (const place of failed) progress.failed(place);
    expect(progress.state).toBe(state);
  });

  test('is acknowledged when every shard that it touches has enough replicas', () => {
    const of = placement(2, { a: ['available', ''], b: ['available', 'available'], c: ['', 'available'] });
    const routing = new Routing(of);
    const all = new WriteProgress(routing, [0, 1], 'majority');
    const first = new WriteProgress(routing, [0], 'majority');
    for (const place of [0, 1]) {
      all.done(place);
      first.done(place);
    }
    expect([all.state, first.state]).toEqual(['open', 'reached']);
    all.done(2);
    expect(all.state).toBe('reached');
  });

  test('that touches nothing is acknowledged', () => {
    expect(new WriteProgress(new Routing(THREE), [], 'all').state).toBe('reached');
  });
});

describe('a read', () => {
  const order = [1, 0, 2];
  const ask = (of: Placement, level: ReadLevel): number[] =>
    new ReadPlan(new Routing(of), level, { order })
      .begin()
      .map(({ place }) => place)
      .sort((a, b) => a - b);

  test.each<[ReadLevel, number[]]>([
    ['one', [1]],
    ['unstrictMajority', [0, 1]],
    ['majority', [0, 1]],
    ['all', [0, 1, 2]],
  ])('of level %s asks no more than it needs', (level, places) => {
    expect(ask(THREE, level)).toEqual(places);
  });

  test.each<[ReadLevel, number[]]>([
    ['one', [0]],
    ['majority', [0]],
    ['all', [0]],
  ])('of level %s asks the first replica while a second one is filled', (level, places) => {
    expect(ask(placement(2, { a: ['available'], b: ['initializing'] }), level)).toEqual(places);
  });

  test('asks leaving replicas, and none that are initialising', () => {
    const of = placement(2, { a: ['leaving'], b: ['from a'], c: ['available'] });
    expect(ask(of, 'majority')).toEqual([0, 2]);
  });

  test('asks others in place of those that fail, and is content with fewer only where it may', () => {
    const error = new VarveError('REPLICA_UNREACHABLE', 'no answer');
    for (const level of ['unstrictMajority', 'majority'] as const) {
      const plan = new ReadPlan(new Routing(THREE), level, { order });
      const [first, second] = plan.begin();
      expect(plan.replace(first as never, error).map(({ place }) => place)).toEqual([2]);
      expect(plan.warnings).toEqual(['replica b did not answer: no answer']);
      const again = (): unknown => plan.replace(second as never, error);
      if (level === 'majority') expect(again).toThrow(/too few replicas of shard 0/);
      else {
        expect(again()).toEqual([]);
        expect(() => plan.replace({ place: 2, groups: [0] }, error)).toThrow(/too few replicas of shard 0/);
      }
    }
  });

  test('of a shard that nobody can answer for is an error', () => {
    const of = placement(2, { a: ['available', ''], b: ['available', 'initializing'] });
    expect(() => ask(of, 'unstrictMajority')).toThrow(/too few replicas of shard 1/);
  });
});

/** Whoever has the write, whoever is available to those who write, and whoever is to those who read. */
test.each([1, 2, 3, 4, 5])('of %i replicas every read finds one that a write was counted by', (count) => {
  const places = Array.from({ length: count }, (_, place) => place);
  const subsets = Array.from({ length: 1 << count }, (_, subset) => subset);
  const isIn = (subset: number, place: number): boolean => (subset & (1 << place)) !== 0;
  const routings = subsets.map((available) => {
    const state = (place: number): PlacedShardState =>
      isIn(available, place) ? 'available' : 'initializing';
    const instances = places.map((place) => [`n${place}`, [state(place)]] as const);
    return new Routing(placement(count, Object.fromEntries(instances)));
  });
  let acknowledged = 0;
  for (const [writtenBy, routing] of routings.entries()) {
    for (const holders of subsets) {
      const progress = new WriteProgress(routing, [0], 'majority');
      for (const place of places) if (isIn(holders, place)) progress.done(place);
      if (progress.state !== 'reached') continue;
      acknowledged++;
      for (const [readBy, { groups }] of routings.entries()) {
        // Replicas become available one after the other; either side may not have heard of it yet.
        if ((readBy & writtenBy) !== writtenBy && (readBy & writtenBy) !== readBy) continue;
        const [group] = groups as [ReplicaGroup];
        const without = group.readers.filter((place) => !isIn(holders, place)).length;
        if (without < readsNeeded(group, 'majority')) continue;
        expect.unreachable(`written by ${writtenBy} to ${holders}, read by ${readBy}`);
      }
    }
  }
  expect(acknowledged).toBeGreaterThan(0);
});
