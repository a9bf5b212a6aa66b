import { beforeAll, describe, expect, test } from 'vitest';
import { labelMatcher, type LabelMatcher } from '../index/matcher.ts';

import type { Engine } from './engine.ts';
import {
  BLOCK_NS,
  HOUR_NS,
  keyOf,
  labelsOf,
  MINUTE_NS,
  openEngine,
  readyEngine,
  seriesOf,
  simulatedPlace,
  type Place,
  type Samples,
} from './engine.suite.ts';
import type { SeriesRead } from './storage-engine.ts';
import type { SimulatedDisk } from '../../../test/simulated-disk.ts';

const EVERYTHING = { startNs: 0n, endNs: 2n ** 62n };
const ANY = labelMatcher('__name__', '=~', '.+');
const SERIES = 1300;

interface Query {
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly matchers: readonly LabelMatcher[];
}

/** Of some sorts: most share their times, some have their own, some have a value that was overwritten. */
function samplesOf(i: number, fromNs: bigint): Samples {
  const jitterNs = i % 7 === 3 ? BigInt(i) : 0n;
  return Array.from({ length: 5 + (i % 3) }, (_, step) => [
    fromNs + BigInt(step) * MINUTE_NS + jitterNs,
    i % 5 === 0 ? Math.sin(i * 10 + step) : i + step,
  ]);
}

async function writeSome(engine: Engine, from: number, to: number, fromNs: bigint): Promise<void> {
  const all = Array.from({ length: to - from }, (_, i) => from + i);
  const labels = (i: number): ReturnType<typeof labelsOf> =>
    labelsOf('up', { i: String(i), third: `${i % 3}` });
  await engine.writeSeries(
    'default',
    all.map((i) => seriesOf(labels(i), samplesOf(i, fromNs))),
  );
  const again = all.filter((i) => i % 11 === 0);
  await engine.writeSeries(
    'default',
    again.map((i) => seriesOf(labels(i), [[samplesOf(i, fromNs)[1]?.[0] ?? 0n, -1]])),
  );
}

/** Two blocks in files; the second has lost some series of the first, and has got others. */
async function filled(place: Place): Promise<Engine> {
  const engine = await readyEngine(place);
  await writeSome(engine, 0, SERIES, BLOCK_NS + 23n * MINUTE_NS);
  place.clock.advance(2n * HOUR_NS);
  await writeSome(engine, 100, SERIES + 100, BLOCK_NS + 2n * HOUR_NS + 23n * MINUTE_NS);
  place.clock.advance(3n * HOUR_NS);
  expect((await engine.flush()).failures).toEqual([]);
  return engine;
}

type Found = Record<string, string[]>;

function note(found: Found, { labels, columns = [] }: SeriesRead): void {
  found[keyOf(labels)] = columns.flatMap(({ times, bits, values }) => {
    expect(values.buffer).toBe(bits.buffer);
    return [...times].map((time, place) => `${time}=${bits[place]?.toString(16)}`);
  });
}

async function byPages(engine: Engine, query: Query): Promise<{ found: Found; pages: number }> {
  const found: Found = {};
  let pages = 0;
  for await (const page of engine.readPages('default', query)) {
    pages++;
    for (const series of page) note(found, series);
  }
  return { found, pages };
}

async function bySeries(engine: Engine, query: Query, ordered: boolean): Promise<Found> {
  const found: Found = {};
  for await (const series of engine.read('default', { ...query, ordered })) note(found, series);
  return found;
}

describe('a read of many series of files', () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await filled(await simulatedPlace());
    return async () => await engine[Symbol.asyncDispose]();
  });

  const middleNs = BLOCK_NS + 25n * MINUTE_NS;
  test.each([
    { name: 'all', query: { ...EVERYTHING, matchers: [ANY] }, series: SERIES + 100 },
    {
      name: 'the first block',
      query: { startNs: BLOCK_NS, endNs: BLOCK_NS + 2n * HOUR_NS, matchers: [ANY] },
      series: SERIES,
    },
    {
      name: 'some minutes of each block',
      query: { startNs: middleNs, endNs: middleNs + 2n * HOUR_NS, matchers: [ANY] },
      series: SERIES + 100,
    },
    {
      name: 'what no series has',
      query: { startNs: BLOCK_NS, endNs: BLOCK_NS + MINUTE_NS, matchers: [ANY] },
      series: 0,
    },
  ])('finds the same by pages, by series and one by one: $name', async ({ query, series }) => {
    const expected = await bySeries(engine, query, true);
    expect(Object.keys(expected)).toHaveLength(series);
    const { found, pages } = await byPages(engine, query);
    expect(found).toEqual(expected);
    expect(pages).toBeLessThan(60);
    expect(await bySeries(engine, query, false)).toEqual(expected);
  });

  test('finds the same when only some of them match, and in a second read at the same time', async () => {
    const query = { ...EVERYTHING, matchers: [ANY, labelMatcher('third', '!=', '1')] };
    const expected = await bySeries(engine, query, true);
    const both = await Promise.all([byPages(engine, query), byPages(engine, { ...query, matchers: [ANY] })]);
    expect(both[0].found).toEqual(expected);
    expect(Object.keys(both[1].found)).toHaveLength(SERIES + 100);
  });

  test('keeps to limits, and ends when it is aborted', async () => {
    const read = async (more: object): Promise<void> => {
      for await (const _ of engine.readPages('default', { ...EVERYTHING, matchers: [ANY], ...more }));
    };
    await expect(read({ limits: { maxSeries: SERIES } })).rejects.toMatchObject({
      code: 'READ_LIMIT_EXCEEDED',
    });
    await expect(read({ limits: { maxSamples: 9000 } })).rejects.toMatchObject({
      code: 'READ_LIMIT_EXCEEDED',
    });
    await expect(read({ signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' });
  });
});

test('by pages, what is deleted or moved while it is read is read as it was or not at all, and later not', async () => {
  const place = await simulatedPlace();
  await using engine = await filled(place);
  const query = { ...EVERYTHING, matchers: [ANY] };
  const { found: before } = await byPages(engine, query);
  const during: Found = {};
  let isFirst = true;
  for await (const page of engine.readPages('default', query)) {
    for (const series of page) note(during, series);
    if (!isFirst) continue;
    isFirst = false;
    await engine.deleteSeries('default', { selectors: [[labelMatcher('third', '=', '0')]], ...EVERYTHING });
    await engine.cleanUp();
  }
  for (const [key, samples] of Object.entries(during)) expect(samples).toEqual(before[key]);
  const kept = Object.keys(before).filter((key) => !key.includes('third=0'));
  for (const key of kept) expect(during[key]).toEqual(before[key]);
  const { found: after } = await byPages(engine, query);
  expect(Object.keys(after).sort()).toEqual(kept.sort());
});

test('by pages, damage is told, and the next read goes on without what is damaged', async () => {
  const place = await simulatedPlace();
  const query = { ...EVERYTHING, matchers: [ANY] };
  const before: Found = {};
  {
    await using engine = await filled(place);
    Object.assign(before, (await byPages(engine, query)).found);
    await engine.snapshot();
  }
  damageOne(place.fs);
  await using engine = await openEngine(place, { imageLogBytes: 0 });
  await engine.ready();
  await expect(byPages(engine, query)).rejects.toMatchObject({ code: 'FILESET_DAMAGED' });
  await engine.cleanUp();
  const { found: after } = await byPages(engine, query);
  expect(after).toEqual(await bySeries(engine, query, true));
  const differing = Object.keys(before).filter((key) => after[key]?.join() !== before[key]?.join());
  expect(differing).toHaveLength(1);
});

/** Flips a bit in the middle of the payloads of one fileset. */
function damageOne(disk: SimulatedDisk): void {
  const path = [...disk.files().keys()].find((name) => name.endsWith('-data.db')) ?? '';
  const bytes = Buffer.from(disk.files().get(path) ?? '');
  const at = bytes.length >> 1;
  bytes[at] = (bytes[at] ?? 0) ^ 4;
  disk.plant(path, bytes);
}
