import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import { labelMatcher } from '../index/matcher.ts';
import type { Engine } from './engine.ts';
import {
  BLOCK_NS,
  dump,
  expected,
  HOUR_NS,
  labelsOf,
  ManualClock,
  MINUTE_NS,
  openEngine,
  readyEngine,
  seriesOf,
  simulatedPlace,
  write,
  type Samples,
} from './engine.suite.ts';
import type { CachePolicy, ColumnBatch, SeriesRead } from './storage-engine.ts';

const at = (minutes: number): bigint => BLOCK_NS + BigInt(minutes) * MINUTE_NS;
const SAMPLES: Samples = [
  [at(20), 1.5],
  [at(21), -0],
];
const ALL = { matchers: [labelMatcher('__name__', '=~', '.+')], startNs: 0n, endNs: 2n ** 62n };

async function writeMany(engine: Engine, count: number, samples: Samples = SAMPLES): Promise<void> {
  const series = Array.from({ length: count }, (_, i) => seriesOf(labelsOf('up', { i: String(i) }), samples));
  await engine.writeSeries('default', series);
}

function pathOf(disk: SimulatedDisk, ending: string): string {
  return [...disk.files().keys()].find((path) => path.endsWith(ending)) ?? '';
}

function flip(disk: SimulatedDisk, path: string, at: number): void {
  const content = disk.files().get(path) ?? Buffer.alloc(0);
  content.writeUInt8(content.readUInt8(at) ^ 4, at);
  disk.plant(path, content);
}

describe('restart', () => {
  test('from an image of the memory and the log behind it', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await write(engine, 'up', SAMPLES);
      await engine.snapshot();
      await write(engine, 'up', [[at(23), 4]]);
    }
    expect(pathOf(place.fs, '.img')).not.toBe('');
    for (let round = 0; round < 2; round++) {
      await using engine = await openEngine(place);
      await engine.ready();
      const details = engine
        .status()
        .bootstrapRuns.flatMap(({ sources }) => sources.map(({ detail }) => detail));
      expect(details.join()).toContain(
        'an image of the memory, 0 samples from 0 snapshots, 1 samples from 1 records',
      );
      expect(await dump(engine)).toEqual({ up: expected([...SAMPLES, [at(23), 4]]) });
    }
  });

  test('without the image when it is damaged: snapshots and log have the same', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await write(engine, 'up', SAMPLES);
      await engine.snapshot();
    }
    flip(place.fs, pathOf(place.fs, '.img'), 5000);
    await using engine = await openEngine(place);
    await engine.ready();
    expect(await dump(engine)).toEqual({ up: expected(SAMPLES) });
  });

  test('without an image: what files have since is neither read from snapshots nor replayed', async () => {
    const place = await simulatedPlace();
    const cold = [{ name: 'default', coldWritesEnabled: true }];
    const late: Samples = [[at(21), 7]];
    const now: Samples = [[at(29) + 3n * HOUR_NS, 8]];
    {
      await using engine = await readyEngine(place, cold, { imageLogBytes: 0 });
      await write(engine, 'up', [[at(19), 3]]);
      await engine.snapshot();
      await write(engine, 'up', SAMPLES);
      place.clock.advance(3n * HOUR_NS);
      await write(engine, 'up', now);
      expect((await engine.flush()).filesets).toBe(1);
      await write(engine, 'up', late);
    }
    const content = { up: expected([[at(19), 3], [at(20), 1.5], ...late, ...now]) };
    const detailOf = (engine: Engine): string =>
      engine
        .status()
        .bootstrapRuns.flatMap(({ sources }) => sources.map(({ detail }) => detail))
        .join();
    {
      await using engine = await openEngine(place, { imageLogBytes: 0 });
      await engine.ready();
      expect(detailOf(engine)).toContain('0 samples from 0 snapshots, 2 samples from 3 records');
      expect(await dump(engine)).toEqual(content);
    }
    // Unless the files are gone: then the log is what has it.
    for (const path of place.fs.files().keys()) {
      if (path.includes('/data/')) await place.fs.remove(path);
    }
    await using engine = await openEngine(place, { imageLogBytes: 0 });
    await engine.ready();
    expect(detailOf(engine)).toContain('1 samples from 1 snapshots, 4 samples from 3 records');
    expect(await dump(engine)).toEqual(content);
  });

  test('on a real disk, several times, with files, snapshots and log', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'varve-test-engine-'));
    try {
      const place = { fs: new NodeFileSystem(), folder, clock: new ManualClock() };
      const samples: [bigint, number][] = [];
      for (let round = 0; round < 4; round++) {
        await using engine = await readyEngine(place, [{ name: 'default' }], { logMode: 'behind' });
        expect(await dump(engine)).toEqual(round === 0 ? {} : { up: expected(samples) });
        const time = place.clock.nowNs;
        samples.push([time, round]);
        await write(engine, 'up', [[time, round]]);
        if (round === 1) await engine.snapshot();
        place.clock.advance(round === 2 ? 4n * HOUR_NS : MINUTE_NS);
        if (round === 2) expect((await engine.flush()).failures).toEqual([]);
        const findings = [];
        for await (const finding of engine.verify()) findings.push(finding);
        expect(findings).toEqual([]);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('with another number of shards is refused', async () => {
    const place = await simulatedPlace();
    {
      await using _ = await readyEngine(place);
    }
    await expect(openEngine(place, { shardCount: 8 })).rejects.toMatchObject({
      code: 'STORAGE_FOLDER_MISMATCH',
    });
  });

  test('reads are refused and writes wait until the log is read', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await write(engine, 'up', SAMPLES);
    }
    await using engine = await openEngine(place);
    expect(() => engine.read('default', ALL)).toThrow('not bootstrapped yet');
    await expect(engine.flush()).rejects.toMatchObject({ code: 'STORAGE_BUSY' });
    await write(engine, 'up', [[at(25), 9]]);
    await engine.ready();
    expect(await dump(engine)).toEqual({ up: expected([...SAMPLES, [at(25), 9]]) });
  });
});

describe('damage', () => {
  test('of one series in a fileset costs that series; the damaged file is put aside', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place, [{ name: 'default', cachePolicy: 'none' }], {
      shardCount: 1,
    });
    await writeMany(engine, 20);
    place.clock.advance(3n * HOUR_NS);
    await engine.flush();
    flip(place.fs, pathOf(place.fs, '-0-data.db'), 20);
    await expect(dump(engine)).rejects.toMatchObject({ code: 'FILESET_DAMAGED' });
    await engine.cleanUp();
    expect(Object.keys(await dump(engine))).toHaveLength(19);
    expect(engine.status().namespaces[0]?.quarantined).toBe(1);
    expect(engine.findings).toMatchObject([{ kind: 'fileset', reason: expect.stringContaining('checksum') }]);
    expect(pathOf(place.fs, 'damaged/fileset-' + BLOCK_NS + '-0-data.db')).not.toBe('');
  });

  test('of the index is healed from the files', async () => {
    const place = await simulatedPlace();
    {
      await using engine = await readyEngine(place);
      await writeMany(engine, 20);
      place.clock.advance(3n * HOUR_NS);
      await engine.flush();
      await engine.snapshot();
    }
    flip(place.fs, pathOf(place.fs, '.idx'), 40);
    await using engine = await openEngine(place, { imageLogBytes: 0 });
    await engine.ready();
    await expect(dump(engine)).rejects.toMatchObject({ code: 'INDEX_SEGMENT_DAMAGED' });
    await engine.cleanUp();
    expect(Object.keys(await dump(engine))).toHaveLength(20);
  });
});

describe('cache', () => {
  const POLICIES: readonly [CachePolicy, number, number][] = [
    ['none', 0, 0],
    ['all', 0, 4],
    ['recentlyRead', 2, 2],
    ['lru', 2, 2],
  ];

  test.each(POLICIES)(
    'policy %s: %i misses then %i hits, and nothing else found',
    async (cachePolicy, misses, hits) => {
      const place = await simulatedPlace();
      {
        await using engine = await readyEngine(place, [{ name: 'default', cachePolicy }]);
        await writeMany(engine, 2);
        place.clock.advance(3n * HOUR_NS);
        await engine.flush();
      }
      await using engine = await openEngine(place);
      await engine.ready();
      const first = await dump(engine);
      expect(await dump(engine)).toEqual(first);
      expect(Object.keys(first)).toHaveLength(2);
      expect(engine.status().namespaces[0]?.cache).toMatchObject({ misses, hits });
      place.clock.advance(3n * HOUR_NS);
      await engine.cleanUp();
      const kept = (engine.status().namespaces[0]?.cache.bytes ?? 0) > 0;
      expect(kept).toBe(cachePolicy === 'all' || cachePolicy === 'lru');
    },
  );

  test('is left alone by a read of many series, which finds the same', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place, [{ name: 'default', cachePolicy: 'lru' }]);
    await writeMany(engine, 1001);
    const before = await dump(engine);
    place.clock.advance(3n * HOUR_NS);
    await engine.flush();
    expect(await dump(engine)).toEqual(before);
    expect(Object.keys(before)).toHaveLength(1001);
    expect(engine.status().namespaces[0]?.cache).toEqual({ bytes: 0, hits: 0, misses: 0 });
  });
});

test('a full disk refuses writes and flushes, keeps what is there, and passes by itself', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await write(engine, 'up', SAMPLES);
  place.clock.advance(3n * HOUR_NS);
  place.fs.fault = ({ kind, phase }) => (kind === 'write' && phase === 'before' ? 'ENOSPC' : undefined);
  await expect(write(engine, 'up', [[at(200), 2]])).rejects.toMatchObject({ code: 'COMMIT_LOG_FULL' });
  expect((await engine.flush()).failures).toHaveLength(1);
  expect(engine.status().disk.full).toBe(true);
  expect((await dump(engine))['up']?.slice(0, 2)).toEqual(expected(SAMPLES));
  place.fs.fault = undefined;
  expect((await engine.flush()).failures).toEqual([]);
  place.clock.advance(MINUTE_NS);
  await write(engine, 'up', [[at(201), 3]]);
  expect(engine.status().disk.full).toBe(false);
});

test('a full disk gets room again from images and the log, and what was refused meanwhile is nowhere', async () => {
  const place = await simulatedPlace();
  const room = { logSegmentBytes: 64 * 1024, imageLogBytes: 50_000, keepFreeBytes: 600_000, tickMs: 1000 };
  await using engine = await readyEngine(place, [{ name: 'default' }], room);
  let usedBytes = 0;
  for (const content of place.fs.files().values()) usedBytes += content.length;
  place.fs.capacityBytes = usedBytes + 1_100_000;
  const taken: (readonly [bigint, number])[] = [];
  const writeSome = async (): Promise<boolean> => {
    const samples = Array.from({ length: 2000 }, (_, i) => {
      place.clock.advance(1_000_000n);
      return [place.clock.nowNs, i % 3] as const;
    });
    try {
      await write(engine, 'up', samples);
      taken.push(...samples);
      return true;
    } catch (error) {
      expect(error).toMatchObject({ code: 'COMMIT_LOG_FULL' });
      return false;
    }
  };
  let refusals = 0;
  for (let i = 0; i < 3000 && refusals < 3; i++) if (!(await writeSome())) refusals++;
  expect(refusals).toBe(3);
  expect(engine.status().disk.full).toBe(true);
  expect(await dump(engine)).toEqual({ up: expected(taken) });
  // Rounds of the maintenance, and the log's own tries.
  for (let i = 0; i < 60 && engine.status().disk.full; i++) {
    place.clock.advance(1_000_000_000n);
    for (let turn = 0; turn < 50; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
  }
  expect(engine.status().disk.full).toBe(false);
  expect(await writeSome()).toBe(true);
  expect(await dump(engine)).toEqual({ up: expected(taken) });
});

test('short memory moves blocks to files instead of failing for good, and nothing is lost', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place, [{ name: 'default' }], { memoryMb: 4, imageLogBytes: 0 });
  let refused = 0;
  let written = 0;
  for (let batch = 0; batch < 80; batch++) {
    const series = Array.from({ length: 200 }, (_, i) =>
      seriesOf(
        labelsOf('up', { i: String(i) }),
        Array.from({ length: 40 }, (_, s) => {
          return {
            time: at(20) + BigInt(batch * 40 + s) * 100_000_000n,
            value: Math.sin(i * 1e6 + batch * 40 + s),
          };
        }).map(({ time, value }) => [time, value] as const),
      ),
    );
    for (let attempt = 0; ; attempt++) {
      try {
        written += (await engine.writeSeries('default', series)).samples;
        break;
      } catch (error) {
        expect(error).toMatchObject({ code: 'STORAGE_OVERLOADED' });
        if (attempt > 20) throw error;
        refused++;
        await engine.cleanUp();
      }
    }
  }
  expect(written).toBe(80 * 200 * 40);
  expect(refused).toBeGreaterThan(0);
  expect(engine.status().namespaces[0]?.filesets).toBeGreaterThan(0);
  let samples = 0;
  for await (const one of engine.read('default', ALL)) {
    for await (const { times } of one.batches) samples += times.length;
  }
  expect(samples).toBe(written);
});

describe('reads', () => {
  test('refuse more than their limits', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place);
    await writeMany(engine, 10);
    const count = async (limits: object): Promise<number> => {
      let series = 0;
      for await (const one of engine.read('default', { ...ALL, limits })) {
        series++;
        for await (const _ of one.batches);
      }
      return series;
    };
    await expect(count({ maxSeries: 9 })).rejects.toMatchObject({ code: 'READ_LIMIT_EXCEEDED' });
    await expect(count({ maxSamples: 19 })).rejects.toMatchObject({ code: 'READ_LIMIT_EXCEEDED' });
    expect(await count({ maxSeries: 10, maxSamples: 20 })).toBe(10);
  });

  test('end when they are aborted, and give their files back', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place);
    await writeMany(engine, 10);
    await engine.flush({ force: true });
    const controller = new AbortController();
    const read = async (): Promise<void> => {
      for await (const _ of engine.read('default', { ...ALL, signal: controller.signal })) controller.abort();
    };
    await expect(read()).rejects.toMatchObject({ name: 'AbortError' });
  });

  test('find what moves from memory to files while they run', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place, [{ name: 'default', coldWritesEnabled: true }]);
    await writeMany(engine, 30);
    const found: SeriesRead[] = [];
    let samples = 0;
    place.clock.advance(3n * HOUR_NS);
    for await (const series of engine.read('default', ALL)) {
      found.push(series);
      for await (const { times } of series.batches) samples += times.length;
      if (found.length === 5) expect((await engine.flush()).failures).toEqual([]);
    }
    expect([found.length, samples]).toEqual([30, 60]);
  });

  test('give series in the order of their labels when asked to, from files and memory alike', async () => {
    const place = await simulatedPlace();
    await using engine = await readyEngine(place, [{ name: 'default', coldWritesEnabled: true }]);
    await writeMany(engine, 40);
    place.clock.advance(3n * HOUR_NS);
    await engine.flush();
    await writeMany(engine, 45, [[at(30), 2]]);
    const names: string[] = [];
    let batches: ColumnBatch[] = [];
    for await (const series of engine.read('default', { ...ALL, ordered: true })) {
      names.push(series.labels.find(([name]) => name === 'i')?.[1] ?? '');
      for await (const batch of series.batches) batches = [...batches, batch];
    }
    expect(names).toEqual(Array.from({ length: 45 }, (_, i) => String(i)).sort());
    expect(batches.reduce((sum, { times }) => sum + times.length, 0)).toBe(125);
  });
});
