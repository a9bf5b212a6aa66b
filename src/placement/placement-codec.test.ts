import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addInstance, initialPlacement, markAvailable, removeInstance } from './change-placement.ts';
import { decodePlacement, encodePlacement } from './placement-codec.ts';
import type { Placement } from './placement.ts';

function placement(count: number, shardCount: number, replicaFactor: number): Placement {
  const instances = Array.from({ length: count }, (_, i) => ({
    id: `n${String(i).padStart(3, '0')}`,
    isolationGroup: `rack-${i}`,
    weight: 1 + (i % 3),
    endpoint: `http://10.0.0.${i % 250}:8080`,
  }));
  return initialPlacement({ instances, shardCount, replicaFactor });
}

const newcomer = { id: 'x', isolationGroup: 'x', weight: 2, endpoint: 'http://x:1' };

describe('encodePlacement', () => {
  it('loses nothing, whatever state shards are in', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 2, max: 8 }),
        fc.integer({ min: 1, max: 200 }),
        fc.infiniteStream(fc.boolean()),
        (replicaFactor, more, shardCount, coins) => {
          let now = placement(replicaFactor + more, shardCount, replicaFactor);
          for (const { id, shards } of now.instances) {
            const some = shards.filter(() => coins.next().value).map((shard) => shard.id);
            now = markAvailable(now, id, some);
          }
          now = removeInstance(addInstance(now, newcomer), 'n001');
          expect(decodePlacement(encodePlacement(now))).toEqual(now);
        },
      ),
      { numRuns: 50 },
    );
  });

  it('takes a few hundred bytes for three nodes with all 4,096 shards', () => {
    const bytes = encodePlacement(placement(3, 4096, 3));
    expect(bytes.length).toBeLessThan(500);
    expect(JSON.parse(bytes.toString())).toMatchObject({ instances: [{ from: { '': '0-4095' } }, {}, {}] });
  });

  it('is compressed when it is large', () => {
    const large = placement(200, 16_384, 3);
    const bytes = encodePlacement(large);
    expect(bytes.length).toBeLessThan(0.65 * gunzipSync(bytes).length);
    expect(decodePlacement(bytes)).toEqual(large);
  });
});

describe('decodePlacement', () => {
  const good = JSON.parse(encodePlacement(placement(2, 8, 2)).toString()) as {
    instances: Record<string, unknown>[];
  };
  const changed = (change: (value: typeof good) => object): Buffer =>
    Buffer.from(JSON.stringify(change(structuredClone(good))));

  it.each<[string, Buffer, RegExp]>([
    ['no JSON', Buffer.from('{'), /cannot be used/],
    ['damaged gzip', gzipSync('{}').subarray(0, 12), /cannot be used/],
    ['another format', changed((value) => ({ ...value, format: 2 })), /format/],
    ['what it does not know', changed((value) => ({ ...value, cutover: 1 })), /cutover/],
    ['no run', changed((value) => ({ ...value, everAvailable: '1,2' })), /is no run of shards/],
    ['a shard too many', changed((value) => ({ ...value, everAvailable: '0-8' })), /beyond the shards/],
    ['a run backwards', changed((value) => ({ ...value, everAvailable: '3-1' })), /beyond the shards/],
    [
      'a replica too few',
      changed((value) => ({ ...value, instances: value.instances.slice(1) })),
      /has 1 replicas, not 2/,
    ],
  ])('refuses %s', (_, value, message) => {
    expect(() => decodePlacement(value)).toThrow(message);
    expect(() => decodePlacement(value)).toThrow(expect.objectContaining({ code: 'PLACEMENT_UNREADABLE' }));
  });
});
