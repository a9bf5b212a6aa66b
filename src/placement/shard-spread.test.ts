import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planAttach, planDetach, spreadShards, type PlacedShard } from './shard-spread.ts';

const shardCounts = fc.integer({ min: 1, max: 200 });
const nodeSets = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}$/), { minLength: 1, maxLength: 9 });

function counts(shards: readonly PlacedShard[]): number[] {
  const nodes = new Set(shards.map(({ node }) => node));
  return [...nodes].map((node) => shards.filter((shard) => shard.node === node).length);
}

function applied(shards: readonly PlacedShard[], moves: readonly PlacedShard[]): PlacedShard[] {
  const moved = new Map(moves.map((move) => [move.number, move]));
  return shards.map((shard) => moved.get(shard.number) ?? shard);
}

const always = (): boolean => true;

describe('spreadShards', () => {
  it('gives 32 shards to three nodes as 11, 11 and 10, in turn', () => {
    const shards = spreadShards(32, ['dn3', 'dn1', 'dn2']);
    expect(shards.slice(0, 4).map(({ node }) => node)).toEqual(['dn1', 'dn2', 'dn3', 'dn1']);
    expect(counts(shards)).toEqual([11, 11, 10]);
  });

  it('places every shard once, with counts that differ by one at most, whatever the order of the nodes', () => {
    fc.assert(
      fc.property(shardCounts, nodeSets, (shardCount, nodes) => {
        const shards = spreadShards(shardCount, nodes);
        expect(shards.map(({ number }) => number)).toEqual(Array.from({ length: shardCount }, (_, i) => i));
        expect(Math.max(...counts(shards)) - Math.min(...counts(shards))).toBeLessThanOrEqual(1);
        expect(spreadShards(shardCount, [...nodes].reverse())).toEqual(shards);
      }),
    );
  });
});

describe('planAttach', () => {
  it('moves no more than the fair share of the newcomer, and leaves no donor below it', () => {
    fc.assert(
      fc.property(shardCounts, nodeSets, (shardCount, nodes) => {
        const shards = spreadShards(shardCount, nodes);
        const moves = planAttach(shards, { nodes, newcomer: 'NEW' }, always);
        const fairCount = Math.floor(shardCount / (nodes.length + 1));
        expect(moves).toHaveLength(fairCount);
        const after = applied(shards, moves);
        for (const node of nodes) {
          expect(after.filter((shard) => shard.node === node).length).toBeGreaterThanOrEqual(fairCount);
        }
      }),
    );
  });

  it('moves only what may be moved', () => {
    fc.assert(
      fc.property(shardCounts, nodeSets, fc.func(fc.boolean()), (shardCount, nodes, mayMove) => {
        const shards = spreadShards(shardCount, nodes);
        const moves = planAttach(shards, { nodes, newcomer: 'NEW' }, mayMove);
        expect(moves.every(({ number }) => mayMove(number))).toBe(true);
        expect(new Set(moves.map(({ number }) => number)).size).toBe(moves.length);
      }),
    );
  });

  it('takes from the fullest node first', () => {
    const shards = [...spreadShards(6, ['full']), { number: 6, node: 'lean' }, { number: 7, node: 'lean' }];
    const moves = planAttach(shards, { nodes: ['full', 'lean'], newcomer: 'new' }, always);
    expect(moves.map(({ number }) => number)).toEqual([5, 4]);
  });
});

describe('planDetach', () => {
  it('empties the node and keeps the others even', () => {
    fc.assert(
      fc.property(shardCounts, nodeSets, (shardCount, nodes) => {
        const all = [...nodes, 'ZZ'];
        const shards = spreadShards(shardCount, all);
        const after = applied(shards, planDetach(shards, { nodes: all, leaver: 'ZZ' }));
        expect(after.filter(({ node }) => node === 'ZZ')).toEqual([]);
        expect(after).toHaveLength(shardCount);
        expect(Math.max(...counts(after)) - Math.min(...counts(after))).toBeLessThanOrEqual(1);
      }),
    );
  });

  it('has nowhere to put the shards of the last node', () => {
    expect(planDetach(spreadShards(4, ['dn1']), { nodes: ['dn1'], leaver: 'dn1' })).toEqual([]);
  });
});
