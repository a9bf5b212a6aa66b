import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { targetRanges } from './target-ranges.ts';
import { floorToBlock, TimeRanges, type TimeRange } from './time-ranges.ts';

/** Instants are few, so that ranges meet and touch often; the oracle is a set of them. */
const LIMIT = 24;
const range = fc
  .tuple(fc.integer({ min: -LIMIT, max: LIMIT }), fc.integer({ min: 0, max: 10 }))
  .map(([start, length]): TimeRange => ({ startNs: BigInt(start), endNs: BigInt(start + length) }));
const lists = fc.array(range, { maxLength: 6 });
const shardLists = fc.array(fc.tuple(fc.integer({ min: 0, max: 3 }), lists), { maxLength: 5 });

function instants(ranges: Iterable<TimeRange>): Set<number> {
  const found = new Set<number>();
  for (const { startNs, endNs } of ranges) for (let at = startNs; at < endNs; at++) found.add(Number(at));
  return found;
}

function sorted(set: Iterable<number>): number[] {
  return [...set].sort((a, b) => a - b);
}

function expectCoalesced(ranges: TimeRanges): void {
  let last: bigint | undefined;
  for (const { startNs, endNs } of ranges) {
    expect(startNs).toBeLessThan(endNs);
    if (last !== undefined) expect(startNs).toBeGreaterThan(last);
    last = endNs;
  }
}

describe('TimeRanges', () => {
  test('is what a set of instants is', () => {
    fc.assert(
      fc.property(lists, lists, (a, b) => {
        const [left, right] = [TimeRanges.of(...a), TimeRanges.of(...b)];
        const [leftSet, rightSet] = [instants(a), instants(b)];
        const results = [
          [left, leftSet],
          [left.add(right), new Set([...leftSet, ...rightSet])],
          [left.subtract(right), new Set([...leftSet].filter((at) => !rightSet.has(at)))],
          [left.intersect(right), new Set([...leftSet].filter((at) => rightSet.has(at)))],
        ] as const;
        for (const [found, wanted] of results) {
          expectCoalesced(found);
          expect(sorted(instants(found))).toEqual(sorted(wanted));
          expect(found.isEmpty).toBe(wanted.size === 0);
          expect(found.durationNs).toBe(BigInt(wanted.size));
        }
        expect(left.isSuperset(right)).toBe([...rightSet].every((at) => leftSet.has(at)));
        expect(left.equals(right)).toBe(
          leftSet.size === rightSet.size && [...rightSet].every((at) => leftSet.has(at)),
        );
        for (const one of b) {
          expect(left.overlaps(one)).toBe([...instants([one])].some((at) => leftSet.has(at)));
        }
      }),
    );
  });

  test('names each block that has any of its instants once', () => {
    fc.assert(
      fc.property(lists, fc.bigInt({ min: 1n, max: 9n }), (ranges, size) => {
        const wanted = new Set([...instants(ranges)].map((at) => Number(floorToBlock(BigInt(at), size))));
        const found = [...TimeRanges.of(...ranges).blockStarts(size)].map(Number);
        expect(found).toEqual(sorted(wanted));
        expect(TimeRanges.of(...ranges).blockCount(size)).toBe(wanted.size);
      }),
    );
  });

  test('takes instants before 1970 and time 0 as any others', () => {
    const ranges = TimeRanges.of({ startNs: -5n, endNs: 0n }, { startNs: 0n, endNs: 5n });
    expect([...ranges]).toEqual([{ startNs: -5n, endNs: 5n }]);
    expect(ranges.span).toEqual({ startNs: -5n, endNs: 5n });
  });
});

describe('ShardTimeRanges', () => {
  const of = (entries: readonly (readonly [number, readonly TimeRange[]])[]): ShardTimeRanges =>
    ShardTimeRanges.of(entries.map(([shard, ranges]) => [shard, TimeRanges.of(...ranges)] as const));
  const points = (entries: readonly (readonly [number, Iterable<TimeRange>])[]): Set<string> =>
    new Set(entries.flatMap(([shard, ranges]) => [...instants(ranges)].map((at) => `${shard}@${at}`)));

  test('is what a set of (shard, instant) is', () => {
    fc.assert(
      fc.property(shardLists, shardLists, (a, b) => {
        const [left, right] = [of(a), of(b)];
        const [leftSet, rightSet] = [points(a), points(b)];
        const results = [
          [left, leftSet],
          [left.add(right), new Set([...leftSet, ...rightSet])],
          [left.subtract(right), new Set([...leftSet].filter((at) => !rightSet.has(at)))],
          [left.intersect(right), new Set([...leftSet].filter((at) => rightSet.has(at)))],
        ] as const;
        for (const [found, wanted] of results) {
          expect([...points([...found])].sort()).toEqual([...wanted].sort());
          expect(found.isEmpty).toBe(wanted.size === 0);
          for (const [, ranges] of found) expect(ranges.isEmpty).toBe(false);
          expect(found.blockCount(1n)).toBe(wanted.size);
        }
        expect(left.isSuperset(right)).toBe([...rightSet].every((at) => leftSet.has(at)));
        expect(left.equals(right)).toBe(
          leftSet.size === rightSet.size && [...rightSet].every((at) => leftSet.has(at)),
        );
        expect([...points([...left.filterShards((shard) => shard < 2)])].sort()).toEqual(
          [...leftSet].filter((point) => point < '2').sort(),
        );
      }),
    );
  });

  test('leaves what it is made from as it was', () => {
    const left = ShardTimeRanges.forShards([0, 1], { startNs: 0n, endNs: 10n });
    const before = left.toString();
    left.subtract(ShardTimeRanges.forShards([0], { startNs: 2n, endNs: 4n }));
    left.add(ShardTimeRanges.forShards([2], { startNs: 2n, endNs: 4n }));
    expect(left.toString()).toBe(before);
  });
});

describe('targetRanges', () => {
  const MINUTE_NS = 60_000_000_000n;
  const options = {
    retentionNs: 48n * 60n * MINUTE_NS,
    blockSizeNs: 120n * MINUTE_NS,
    bufferPastNs: 10n * MINUTE_NS,
    bufferFutureNs: 2n * MINUTE_NS,
  };
  const at = (time: string): bigint => BigInt(Date.parse(`${time}Z`)) * 1_000_000n;

  test.each([
    ['2026-03-05T14:05', '2026-03-03T14:00', '2026-03-05T12:00', '2026-03-05T16:00'],
    ['2026-03-05T14:15', '2026-03-03T14:00', '2026-03-05T14:00', '2026-03-05T16:00'],
    ['2026-03-05T13:59', '2026-03-03T12:00', '2026-03-05T12:00', '2026-03-05T16:00'],
  ])('at %s persist from %s to %s, memory to %s', (now, start, middle, end) => {
    const { persist, memory } = targetRanges(at(now), options);
    expect(persist).toEqual({ startNs: at(start), endNs: at(middle) });
    expect(memory).toEqual({ startNs: at(middle), endNs: at(end) });
  });

  test('blocks of a week begin on Mondays', () => {
    const week = 7n * 24n * 60n * MINUTE_NS;
    expect(floorToBlock(at('2026-03-05T14:05'), week)).toBe(at('2026-03-02T00:00'));
    expect(floorToBlock(at('1969-12-30T01:00'), week)).toBe(at('1969-12-29T00:00'));
  });
});
