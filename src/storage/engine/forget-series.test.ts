import { describe, expect, test } from 'vitest';
import { parseSelector } from '../index/selector.ts';
import type { Engine } from './engine.ts';
import {
  BLOCK_NS,
  dump,
  HOUR_NS,
  labelsOf,
  MINUTE_NS,
  openEngine,
  readyEngine,
  seriesOf,
  simulatedPlace,
  type Place,
} from './engine.suite.ts';

const EVER = { startNs: 0n, endNs: 1n << 62n };
const LIMIT = 20;

const countOf = (engine: Engine): number => engine.status().namespaces[0]?.series ?? -1;

async function writeAll(engine: Engine, place: Place, names: readonly string[]): Promise<void> {
  const timeNs = place.clock.nowNs;
  const series = names.map((name, i) => seriesOf(labelsOf(name), [[timeNs, i]]));
  await engine.writeSeries('default', series);
}

const names = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, i) => `up${String(from + i).padStart(2, '0')}`);

/** As many series as may be, all in a block that is flushed; five of them are written in the next one, too. */
async function prepared(): Promise<{ place: Place; engine: Engine }> {
  const place = await simulatedPlace();
  const engine = await readyEngine(place, [{ name: 'default', maxSeries: LIMIT }]);
  await writeAll(engine, place, names(0, LIMIT));
  place.clock.advance(BLOCK_NS + 2n * HOUR_NS - place.clock.nowNs + MINUTE_NS);
  await writeAll(engine, place, names(0, 5));
  return { place, engine };
}

describe('series that are written no more', () => {
  test('leave the memory after their block has, are found all the same, and others may take their places', async () => {
    const { place, engine } = await prepared();
    const refused = await engine.writeSeries('default', [
      seriesOf(labelsOf('new'), [[place.clock.nowNs, 1]]),
    ]);
    expect(refused.rejected).toMatchObject([{ reason: 'seriesLimit' }]);
    await engine.cleanUp();
    expect(countOf(engine)).toBe(LIMIT);
    place.clock.advance(11n * MINUTE_NS);
    expect((await engine.flush()).filesets).toBeGreaterThan(0);
    const before = await dump(engine);
    await engine.cleanUp();
    expect(countOf(engine)).toBe(5);
    expect(await dump(engine)).toEqual(before);
    await writeAll(engine, place, names(LIMIT, 2 * LIMIT - 5));
    expect(countOf(engine)).toBe(LIMIT);
    const content = await dump(engine);
    expect(Object.keys(content)).toEqual(names(0, 2 * LIMIT - 5));
    await engine.snapshot();
    await engine[Symbol.asyncDispose]();
    await using again = await openEngine(place);
    await again.ready();
    expect(await dump(again)).toEqual(content);
  });

  test('stay while somebody reads', async () => {
    const { place, engine } = await prepared();
    place.clock.advance(11n * MINUTE_NS);
    await engine.flush();
    const startNs = BLOCK_NS + 2n * HOUR_NS;
    const query = { matchers: parseSelector('{__name__=~".+"}'), startNs, endNs: EVER.endNs };
    const found: string[] = [];
    for await (const { labels } of engine.read('default', query)) {
      await engine.cleanUp();
      expect(countOf(engine)).toBe(LIMIT);
      found.push(labels[0]?.[1] ?? '');
    }
    expect(found.sort()).toEqual(names(0, 5));
    await engine.cleanUp();
    expect(countOf(engine)).toBe(5);
    await engine[Symbol.asyncDispose]();
  });

  test('stay for a block when nothing is written at all', async () => {
    const { place, engine } = await prepared();
    await engine.flush({ force: true });
    await engine.cleanUp();
    expect(countOf(engine)).toBe(LIMIT);
    place.clock.advance(2n * HOUR_NS);
    await engine.cleanUp();
    expect(countOf(engine)).toBe(0);
    expect(Object.keys(await dump(engine))).toEqual(names(0, LIMIT));
    await engine[Symbol.asyncDispose]();
  });
});
