import { expect, test } from 'vitest';
import type { ReplicaState } from '../bootstrap/topology-snapshot.ts';
import { placementOf } from '../engine/placement.suite.ts';
import { BOOTSTRAP_LEVELS, canBeGiven, type BootstrapLevel } from './consistency.ts';

type Row = readonly [
  name: string,
  replicaFactor: number,
  states: Readonly<Record<string, ReplicaState>>,
  levels: readonly BootstrapLevel[],
];

const EVERY = BOOTSTRAP_LEVELS;

const ROWS: readonly Row[] = [
  ['nobody else has it', 1, { self: 'initializing' }, []],
  ['nobody else has it, and it was here', 1, { self: 'available' }, []],
  ['all others begin as well', 3, { self: 'initializing', a: 'initializing', b: 'initializing' }, []],
  ['of one replica, the giver', 1, { self: 'initializing', a: 'leaving' }, EVERY],
  ['of two, the other one', 2, { self: 'initializing', a: 'available' }, EVERY],
  [
    'of three, one other',
    3,
    { self: 'initializing', a: 'available', b: 'initializing' },
    ['none', 'one', 'unstrictMajority', 'majority'],
  ],
  ['of three, both others', 3, { self: 'initializing', a: 'available', b: 'available' }, EVERY],
  [
    'of three, both others, and this one was available',
    3,
    { self: 'available', a: 'available', b: 'available' },
    EVERY,
  ],
  [
    'of three, with the giver',
    3,
    { self: 'initializing', a: 'available', b: 'available', c: 'leaving' },
    EVERY,
  ],
  [
    'of three, the giver and one more',
    3,
    { self: 'initializing', a: 'initializing', b: 'available', c: 'leaving' },
    ['none', 'one', 'unstrictMajority', 'majority'],
  ],
  [
    'of five, two others',
    5,
    { self: 'initializing', a: 'available', b: 'available', c: 'initializing', d: 'initializing' },
    ['none', 'one', 'unstrictMajority', 'majority'],
  ],
];

test.each(ROWS)('%s', (_, replicaFactor, states, levels) => {
  const topology = placementOf('self', [states], { majority: Math.floor(replicaFactor / 2) + 1 });
  expect(BOOTSTRAP_LEVELS.filter((level) => canBeGiven(level, topology, 0))).toEqual(levels);
});

test('a shard in an unknown state is a bug of the placement', () => {
  const topology = placementOf('self', [{ self: 'initializing', a: 'unknown' }]);
  expect(() => canBeGiven('one', topology, 0)).toThrow('unknown state');
});

test('a shard that the placement does not have cannot be had', () => {
  expect(canBeGiven('none', placementOf('self', []), 0)).toBe(false);
});
