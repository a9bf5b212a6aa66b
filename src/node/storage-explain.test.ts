import { expect, test } from 'vitest';
import type { ShardFill } from '../storage/engine/storage-engine.ts';
import { explanationLines, shardExplanation, shardNumber } from './storage-explain.ts';

const fill = (attempt: number, more: Partial<ShardFill> = {}): ShardFill => ({
  namespace: 'default',
  attempt,
  pass: 'persist',
  startNs: 0n,
  endNs: 7_200_000_000_000n,
  source: 'peers',
  atNs: 1_500_000_000n,
  others: [{ source: 'fs', reason: 'there is no fileset of the block here' }],
  ...more,
});

test('a shard is explained by the newest run that was over it, with why others had not got it', () => {
  const fills = [
    fill(1, { source: undefined }),
    fill(2),
    fill(2, { pass: 'memory', source: 'commitlog', others: [] }),
    fill(3, { source: 'whole' }),
  ];
  const explanation = shardExplanation('dn1', 7, fills);
  expect(JSON.parse(JSON.stringify(explanation))).toEqual(explanation);
  expect(explanationLines(explanation, false)).toEqual([
    'shard 7 on dn1',
    '  default, run 2, 1970-01-01T00:00:00Z to 1970-01-01T02:00:00Z: peers (1970-01-01T00:00:01.5Z)',
    '      not fs: there is no fileset of the block here',
    '  default, run 2, 1970-01-01T00:00:00Z to 1970-01-01T02:00:00Z: commitlog (1970-01-01T00:00:01.5Z)',
  ]);
  expect(explanationLines(explanation, true)[1]).toContain('run 1');
  expect(explanationLines(explanation, true)[1]).toContain('nobody has it');
});

test('a shard of which nothing is known is said to be so', () => {
  expect(explanationLines(shardExplanation('dn1', 7, []), false)).toEqual([
    'shard 7 on dn1: nothing is known of it',
  ]);
});

test.each(['', '-1', '32', '1.5', 'x', null, undefined])('%j is no shard of 32', (text) => {
  expect(() => shardNumber(text, 32)).toThrow('is no shard');
  expect(shardNumber('31', 32)).toBe(31);
});
