import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Columns } from '../engine/columns.ts';
import type { SeriesBatch } from '../engine/replica-access.ts';
import { encodeLabels } from '../index/labels.ts';
import { IndexBlock } from '../index/index-block.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import { compareLabelBytes } from './label-order.ts';
import { mergeReplicas, missingFrom } from './merge-columns.ts';
import { BatchCursor, mergeStreams } from './merge-streams.ts';

type Sample = readonly [time: number, bits: number, version: number];

const sample = fc.tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 3 }), fc.nat(3));
const replica = fc.uniqueArray(sample, { selector: ([time]) => time, maxLength: 12 });

function columnsOf(samples: readonly Sample[]): Columns {
  const sorted = [...samples].sort(([a], [b]) => a - b);
  return {
    times: BigInt64Array.from(sorted, ([time]) => BigInt(time)),
    bits: BigUint64Array.from(sorted, ([, bits]) => BigInt(bits)),
    overwrites: sorted.flatMap(([, , version], place) =>
      version === 0 ? [] : [{ place, version: BigInt(version) }],
    ),
  };
}

function plain({ times, bits, overwrites }: Columns): Sample[] {
  const versions = new Map(overwrites.map(({ place, version }) => [place, Number(version)]));
  return [...times].map((time, place) => [Number(time), Number(bits[place]), versions.get(place) ?? 0]);
}

/** As the rule says it. */
function naive(replicas: readonly (readonly Sample[])[]): Sample[] {
  const best = new Map<number, Sample>();
  for (const one of replicas.flat()) {
    const known = best.get(one[0]);
    if (!known || one[2] > known[2] || (one[2] === known[2] && one[1] > known[1])) best.set(one[0], one);
  }
  return [...best.values()].sort(([a], [b]) => a - b);
}

describe('replicas of one series', () => {
  test('are merged alike whoever merges them in whichever order', () => {
    fc.assert(
      fc.property(fc.array(replica, { maxLength: 4 }), (replicas) => {
        const expected = naive(replicas);
        const columns = replicas.map(columnsOf);
        expect(plain(mergeReplicas(columns))).toEqual(expected);
        expect(plain(mergeReplicas(columns.toReversed()))).toEqual(expected);
        const twice = mergeReplicas([mergeReplicas(columns), ...columns]);
        expect(plain(twice)).toEqual(expected);
      }),
    );
  });

  test('what one lacks of another makes it equal, and nothing else is told', () => {
    fc.assert(
      fc.property(replica, replica, (mine, theirs) => {
        const missing = missingFrom(columnsOf(mine), columnsOf(theirs));
        const bits = (samples: readonly Sample[]): unknown => samples.map(([time, value]) => [time, value]);
        // What is taken wins, as a repair writes it.
        const taken = new Map([...mine, ...plain(missing)].map((one) => [one[0], one]));
        const after = [...taken.values()].sort(([a], [b]) => a - b);
        expect(bits(after)).toEqual(bits(naive([mine, theirs])));
        const known = new Map(mine.map(([time, value]) => [time, value]));
        for (const [time, value] of plain(missing)) expect(known.get(time)).not.toBe(value);
      }),
    );
  });
});

const NAMES = ['a', 'ab', 'b', '__name__', 'é', 'a'.repeat(200)];
const labelSet = fc
  .dictionary(fc.constantFrom(...NAMES), fc.constantFrom('x', 'xy', 'y', '', 'é', 'z'.repeat(300)), {
    minKeys: 1,
    maxKeys: 3,
  })
  .filter((labels) => Object.values(labels).some((value) => value !== ''));

test('series are in the order in which an ordered search gives them', () => {
  fc.assert(
    fc.property(fc.array(labelSet, { minLength: 1, maxLength: 8 }), (sets) => {
      const segment = new MutableSegment();
      const ids = sets.map((labels) => encodeLabels(Object.entries(labels)));
      for (const [ref, id] of ids.entries()) segment.add(ref, id);
      const found = new IndexBlock([segment]).series({ ordered: true });
      const expected = Array.from({ length: found.count }, (_, index) => found.labelBytes(index));
      const sorted = [...new Map(ids.map((id) => [Buffer.from(id).toString('hex'), id])).values()];
      expect(sorted.sort(compareLabelBytes).map((id) => Buffer.from(id).toString('hex'))).toEqual(
        expected.map((id) => Buffer.from(id).toString('hex')),
      );
    }),
  );
});

describe('streams of replicas', () => {
  const ids = ['a', 'b', 'c'].map((job) => encodeLabels([['job', job]]));
  const stream = fc.record({
    series: fc.tuple(replica, replica, replica),
    batch: fc.integer({ min: 1, max: 5 }),
  });

  async function* batchesOf(
    { series, batch }: { readonly series: readonly (readonly Sample[])[]; readonly batch: number },
    breaksAfter = Number.POSITIVE_INFINITY,
  ): AsyncGenerator<SeriesBatch, void, void> {
    let sent = 0;
    for (const [place, samples] of series.entries()) {
      const sorted = [...samples].sort(([a], [b]) => a - b);
      for (let at = 0; at < sorted.length; at += batch) {
        if (sent++ === breaksAfter) throw new Error('cut');
        yield { id: ids[place] as Uint8Array, columns: columnsOf(sorted.slice(at, at + batch)) };
        await Promise.resolve();
      }
    }
    if (sent <= breaksAfter && breaksAfter !== Number.POSITIVE_INFINITY) throw new Error('cut at the end');
  }

  async function collect(merged: AsyncIterable<SeriesBatch>): Promise<Sample[][]> {
    const found: Sample[][] = ids.map(() => []);
    let last = -1;
    for await (const { id, columns } of merged) {
      const place = ids.findIndex((one) => Buffer.compare(one, id) === 0);
      expect(place).toBeGreaterThanOrEqual(last);
      last = place;
      found[place]?.push(...plain(columns));
    }
    return found;
  }

  test('are one, with every sample once and in order', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(stream, { maxLength: 3 }), async (streams) => {
        const cursors = streams.map((one) => new BatchCursor(batchesOf(one), undefined));
        const merged = mergeStreams(cursors, (_, error) => {
          throw error;
        });
        const expected = ids.map((_, place) => naive(streams.map(({ series }) => series[place] as Sample[])));
        expect(await collect(merged)).toEqual(expected);
      }),
    );
  });

  test('one that breaks off is taken over by another with the same, from where the merge is', async () => {
    await fc.assert(
      fc.asyncProperty(stream, stream, fc.nat(8), async (first, second, breaksAfter) => {
        const cursors = [
          new BatchCursor(batchesOf(first, breaksAfter), undefined),
          new BatchCursor(batchesOf(second), undefined),
        ];
        let isBroken = false;
        const merged = mergeStreams(cursors, (_, __, at) => {
          if (isBroken) return [];
          isBroken = true;
          return [new BatchCursor(batchesOf({ ...first, batch: 3 }), at)];
        });
        const expected = ids.map((_, place) =>
          naive([first.series[place] as Sample[], second.series[place] as Sample[]]),
        );
        expect(await collect(merged)).toEqual(expected);
      }),
    );
  });
});
