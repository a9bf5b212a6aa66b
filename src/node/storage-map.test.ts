import { expect, test } from 'vitest';
import type { ShardFill } from '../storage/engine/storage-engine.ts';
import { storageMap } from './storage-map.ts';

const HOUR = 3_600_000_000_000n;

const fill = (
  attempt: number,
  hours: [number, number],
  source?: string,
  namespace = 'default',
): ShardFill => ({
  namespace,
  attempt,
  pass: 'persist',
  startNs: BigInt(hours[0]) * HOUR,
  endNs: BigInt(hours[1]) * HOUR,
  source,
  atNs: 0n,
  others: [],
});

const bands = (fills: Record<number, ShardFill[]>): unknown[] =>
  storageMap('dn1', Object.keys(fills).map(Number), (shard) => fills[shard] ?? []).namespaces.flatMap(
    ({ name, bands: all }) =>
      all.map(({ start, end, sources }) => [
        name,
        start.slice(11, 13),
        end.slice(11, 13),
        ...sources.map(({ source, shards }) => `${source} ${shards.join(' ')}`),
      ]),
  );

test('ranges are cut where a shard changes its source, the newest first', () => {
  expect(
    bands({
      0: [fill(1, [0, 8], 'fs'), fill(1, [8, 10], 'commitlog')],
      3: [fill(1, [0, 6], 'fs'), fill(1, [6, 10], 'peers')],
    }),
  ).toEqual([
    ['default', '08', '10', 'commitlog 0', 'peers 3'],
    ['default', '06', '08', 'fs 0', 'peers 3'],
    ['default', '00', '06', 'fs 0 3'],
  ]);
});

test('a later run says more than an earlier one, but not where it found the shard whole', () => {
  expect(
    bands({
      0: [fill(1, [0, 4]), fill(2, [0, 4], 'peers'), fill(3, [0, 4], 'whole')],
      1: [fill(2, [0, 4]), fill(2, [0, 4], 'fs', 'other')],
    }),
  ).toEqual([
    ['default', '00', '04', 'peers 0', 'null 1'],
    ['other', '00', '04', 'fs 1'],
  ]);
});

test('nothing is known of an engine that has not bootstrapped', () => {
  expect(storageMap('dn1', [], () => [])).toEqual({ node: 'dn1', namespaces: [] });
});
