import { expect, test } from 'vitest';
import type { PlacedShardState, Placement } from '../../placement/placement.ts';
import { WriterChanges } from './writer-changes.ts';

/** By version, the states of one shard by node: `a+` available, `a-` leaving, `a?` initialising. */
function placement(version: number, states: string): Placement {
  const stateOf = new Map<string | undefined, PlacedShardState>([
    ['+', 'available'],
    ['-', 'leaving'],
    ['?', 'initializing'],
  ]);
  const instances = states.split(' ').map(([id = '', sign]) => ({
    id,
    isolationGroup: id,
    weight: 1,
    endpoint: `http://${id}`,
    shards: sign === undefined ? [] : [{ id: 0, state: stateOf.get(sign) ?? 'available' }],
  }));
  return { version, replicaFactor: 3, shardCount: 1, instances, everAvailable: [0] };
}

test.each<[string, (string | undefined)[], number]>([
  ['of nothing nothing is asked', [undefined], 0],
  ['what was before a start is not known', ['a+ b+ c+'], 1],
  ['a replica more', ['a+ b+ c+', 'a+ b+ c- d?'], 2],
  ['one that is available, and one that is gone', ['a+ b+ c+', 'a+ b+ c- d?', 'a+ b+ d+'], 2],
  ['several at once', ['a+ b+ c+', 'a+ b+ d+'], 2],
  ['one that went and came again', ['a+ b+ c+', 'a+ b+ c?'], 2],
  ['one that is being filled still', ['a+ b+ c?', 'a+ b+ c?', 'a+ b+ c+'], 1],
  ['one that takes back what it was to give', ['a+ b+ c- d?', 'a+ b+ c+'], 1],
  ['an instance without shards', ['a+ b+ c+', 'a+ b+ c+ d'], 1],
  ['other nodes’ shards', ['a b+ c+', 'a b+ c+ d?'], 1],
  ['shards that were other nodes’', ['a b+ c+ d+', 'a? b+ c+ d-'], 2],
])('%s', (_, states, expected) => {
  const changes = new WriterChanges('a');
  let least = 0;
  for (const [index, text] of states.entries())
    least = changes.leastVersion(text === undefined ? undefined : placement(index + 1, text));
  expect(least).toBe(expected);
});

test('a placement that begins anew is asked for from its first version on', () => {
  const changes = new WriterChanges('a');
  expect(changes.leastVersion(placement(7, 'a+ b+ c+'))).toBe(7);
  expect(changes.leastVersion(placement(1, 'a? b? c?'))).toBe(1);
});
