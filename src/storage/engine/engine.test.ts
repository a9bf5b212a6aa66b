import { describe, expect, test } from 'vitest';
import { labelMatcher } from '../index/matcher.ts';
import {
  BLOCK_NS,
  dump,
  expected,
  HOUR_NS,
  MINUTE_NS,
  NOW_NS,
  openEngine,
  readyEngine,
  simulatedPlace,
  write,
  type Samples,
} from './engine.suite.ts';

const at = (minutes: number): bigint => BLOCK_NS + BigInt(minutes) * MINUTE_NS;
const SAMPLES: Samples = [
  [at(20), 1.5],
  [at(21), -0],
  [at(22), Number.NaN],
];

describe('what was written is there', () => {
  test('at once', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place);
    const outcome = await write(engine, 'up', SAMPLES);
    expect(outcome).toMatchObject({ samples: 3, series: 1, rejected: [] });
    expect(await dump(engine)).toEqual({ up: expected(SAMPLES) });
  });

  test('after a restart, from the log', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await write(engine, 'up', SAMPLES);
    }
    await using engine = await openEngine(place);
    await engine.ready();
    expect(engine.namespaces().map(({ name }) => name)).toEqual(['default']);
    expect(await dump(engine)).toEqual({ up: expected(SAMPLES) });
  });

  test('after a restart, from a snapshot and the log behind it', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await write(engine, 'up', SAMPLES);
      expect((await engine.snapshot()).snapshots).toBe(1);
      await write(engine, 'up', [[at(23), 4]]);
      await write(engine, 'down', [[at(23), 5]]);
    }
    await using engine = await openEngine(place);
    await engine.ready();
    expect(await dump(engine)).toEqual({
      up: expected([...SAMPLES, [at(23), 4]]),
      down: expected([[at(23), 5]]),
    });
  });

  test('when its block was flushed, and after a restart', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await write(engine, 'up', SAMPLES);
      place.clock.advance(3n * HOUR_NS);
      expect((await engine.flush()).filesets).toBe(1);
      expect(engine.status().namespaces[0]?.openBlocks).toEqual([]);
      expect(await dump(engine)).toEqual({ up: expected(SAMPLES) });
    }
    await using engine = await openEngine(place);
    await engine.ready();
    expect(engine.status().namespaces[0]?.openBlocks).toEqual([]);
    expect(await dump(engine)).toEqual({ up: expected(SAMPLES) });
  });

  test('late samples of a flushed block are merged: in reads, in files, and the last write wins', async () => {
    const place = await simulatedPlace();
    const merged = expected([
      [at(19), 9],
      [at(20), 7],
      [at(21), -0],
      [at(22), Number.NaN],
    ]);
    {
      await using engine = await readyEngine(place, [{ name: 'default', coldWritesEnabled: true }]);
      await write(engine, 'up', SAMPLES);
      place.clock.advance(3n * HOUR_NS);
      await engine.flush();
      await write(engine, 'up', [
        [at(20), 7],
        [at(19), 9],
      ]);
      expect(await dump(engine)).toEqual({ up: merged });
      place.clock.advance(HOUR_NS);
      expect((await engine.flush()).filesets).toBe(1);
      expect(engine.status().namespaces[0]?.openBlocks).toEqual([]);
      expect(await dump(engine)).toEqual({ up: merged });
      await engine.cleanUp();
    }
    await using engine = await openEngine(place);
    await engine.ready();
    expect(await dump(engine)).toEqual({ up: merged });
  });
});

describe('deletion', () => {
  const all = { startNs: 0n, endNs: 2n ** 62n };
  const up = [[labelMatcher('__name__', '=', 'up')]];

  test.each(['memory', 'files'])('of series in %s holds now, after a restart and in files', async (where) => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place, [{ name: 'default', coldWritesEnabled: true }]);
      await write(engine, 'up', SAMPLES);
      await write(engine, 'down', SAMPLES);
      if (where === 'files') {
        place.clock.advance(3n * HOUR_NS);
        await engine.flush();
      }
      expect(await engine.deleteSeries('default', { selectors: up, startNs: at(21), endNs: at(22) })).toEqual(
        {
          series: 1,
        },
      );
      const left = { up: expected(SAMPLES.filter((_, index) => index !== 1)), down: expected(SAMPLES) };
      expect(await dump(engine)).toEqual(left);
    }
    {
      await using engine = await openEngine(place);
      await engine.ready();
      expect((await dump(engine))['up']).toHaveLength(2);
      await engine.deleteSeries('default', { selectors: up, ...all });
      expect(Object.keys(await dump(engine))).toEqual(['down']);
      await engine.snapshot();
    }
    {
      await using engine = await openEngine(place);
      await engine.ready();
      expect(Object.keys(await dump(engine))).toEqual(['down']);
      await write(engine, 'up', [[at(21), 5]]);
      place.clock.advance(3n * HOUR_NS);
      await engine.flush();
      expect(engine.status().namespaces[0]).toMatchObject({ tombstones: 0, openBlocks: [] });
    }
    await using engine = await openEngine(place);
    await engine.ready();
    expect(await dump(engine)).toEqual({ down: expected(SAMPLES), up: expected([[at(21), 5]]) });
  });
});

describe('namespaces', () => {
  test('a deleted one is gone with its data, also when it is made anew', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place, [{ name: 'a' }, { name: 'b' }]);
      await write(engine, 'up', SAMPLES, 'a');
      await write(engine, 'up', SAMPLES, 'b');
      await engine.snapshot();
      await write(engine, 'more', SAMPLES, 'a');
      await engine.applyNamespaces(engine.namespaces().filter(({ name }) => name === 'b'));
      expect([...place.fs.files().keys()].filter((path) => path.includes('/a/'))).toEqual([]);
      await expect(write(engine, 'up', SAMPLES, 'a')).rejects.toMatchObject({ code: 'NAMESPACE_UNKNOWN' });
    }
    await using engine = await readyEngine(place, [{ name: 'a' }, { name: 'b' }]);
    expect(await dump(engine, 'a')).toEqual({});
    expect(await dump(engine, 'b')).toEqual({ up: expected(SAMPLES) });
  });

  test('what cannot change is refused, and nothing with it is changed', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place);
    const [current] = engine.namespaces();
    if (!current) throw new Error('no namespace');
    const wanted = [
      { ...current, blockSizeNs: HOUR_NS, indexBlockSizeNs: HOUR_NS },
      { ...current, name: 'other' },
    ];
    await expect(engine.applyNamespaces(wanted)).rejects.toMatchObject({ code: 'NAMESPACE_CHANGE_REFUSED' });
    expect(engine.namespaces()).toEqual([current]);
    await engine.applyNamespaces([{ ...current, retentionNs: 4n * HOUR_NS }]);
    expect(engine.namespaces()[0]?.retentionNs).toBe(4n * HOUR_NS);
  });
});

test('what is out of retention is removed, in memory and on the disk', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place, [{ name: 'default', retentionNs: 6n * HOUR_NS }]);
  await write(engine, 'up', SAMPLES);
  place.clock.advance(3n * HOUR_NS);
  await engine.flush();
  await write(engine, 'up', [[NOW_NS + 3n * HOUR_NS, 1]]);
  place.clock.advance(6n * HOUR_NS);
  expect(await engine.cleanUp()).toMatchObject({ expiredFilesets: 1, indexSegments: 1 });
  expect([...place.fs.files().keys()].filter((path) => path.includes('/data/'))).toEqual([]);
});

test('nothing is wrong with what was written', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await write(engine, 'up', SAMPLES);
  await engine.flush({ force: true });
  await write(engine, 'up', [[at(25), 1]]);
  await engine.snapshot();
  const findings = [];
  for await (const finding of engine.verify()) findings.push(finding);
  expect(findings).toEqual([]);
  const stored = [];
  for await (const fileset of engine.inspect()) stored.push(fileset);
  expect(stored).toMatchObject([
    { kind: 'flush', namespace: 'default', series: 1, samples: 3, volume: 0, damage: undefined },
    { kind: 'snapshot', namespace: 'default', series: 1, samples: 1, damage: undefined },
  ]);
});
