import { expect, test } from 'vitest';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { newBuffer, newMemory, NOW } from '../buffer/buffer.suite.ts';
import type { NamespaceBuffer } from '../buffer/namespace-buffer.ts';
import { labelMatcher } from '../index/matcher.ts';
import { dump, FOLDER, labelsOf, openEngine, readyEngine, seriesOf, simulatedPlace } from './engine.suite.ts';
import { MemoryIndex, memoryIndexDamages } from './memory-index.ts';

const PATH = `${FOLDER}/image/index-7.db`;
const MANY = 20_000;

const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

async function bufferOf(series: readonly number[], indexed = series.length): Promise<NamespaceBuffer> {
  const buffer = newBuffer({}, newMemory(256 << 20));
  const requests = series.map((i) =>
    seriesOf(labelsOf('up', { a: String(i % 100), i: String(i) }), [[NOW, i]]),
  );
  await buffer.commit(buffer.prepare(requests, NOW), 1n, undefined);
  buffer.indexSome(indexed);
  return buffer;
}

async function diskWith(buffer: NamespaceBuffer): Promise<SimulatedDisk> {
  const fs = new SimulatedDisk();
  await fs.makeFolder(FOLDER);
  await new MemoryIndex(fs, FOLDER, 7).saveIfGrown(buffer);
  return fs;
}

async function loaded(fs: SimulatedDisk, buffer: NamespaceBuffer): Promise<number> {
  await new MemoryIndex(fs, FOLDER, 7).load(buffer);
  return buffer.indexedSeries;
}

test('what was indexed need not be indexed again, and finds the same series', async () => {
  const saved = await bufferOf(numbers(MANY));
  const fs = await diskWith(saved);
  const buffer = await bufferOf(numbers(MANY + 10), 0);
  expect(await loaded(fs, buffer)).toBe(MANY);
  expect(buffer.indexSome(Number.POSITIVE_INFINITY)).toBe(0);
  const selectors = [[labelMatcher('a', '=', '7'), labelMatcher('i', '=~', '.*07')]];
  const whole = await bufferOf(numbers(MANY + 10));
  const [found, expected] = [buffer, whole].map((one) => {
    const set = one.index().series({ selectors });
    return Array.from({ length: set.count }, (_, place) => set.ref(place) ?? -1).sort((a, b) => a - b);
  });
  expect(found).toEqual(expected);
  expect(found?.length).toBeGreaterThan(100);
  expect(await memoryIndexDamages(fs, FOLDER)).toEqual([]);
});

test.each([
  ['fewer series', numbers(MANY - 1)],
  ['the same series in another order', numbers(MANY).toReversed()],
  ['other series', numbers(MANY).map((i) => i + 1)],
])('it is not taken for the index of %s', async (_what, series) => {
  const fs = await diskWith(await bufferOf(numbers(MANY)));
  expect(await loaded(fs, await bufferOf(series, 0))).toBe(0);
});

test('it is written when there is much to save, and again when there is much more', async () => {
  const few = await bufferOf(numbers(1000));
  expect((await diskWith(few)).files().has(PATH)).toBe(false);
  const fs = await diskWith(await bufferOf(numbers(MANY + 1), MANY));
  const index = new MemoryIndex(fs, FOLDER, 7);
  const buffer = await bufferOf(numbers(2 * MANY), 0);
  await index.load(buffer);
  const sizeOf = (): number => fs.files().get(PATH)?.length ?? 0;
  const sizeBytes = sizeOf();
  buffer.indexSome(10_000);
  await index.saveIfGrown(buffer);
  expect(sizeOf()).toBe(sizeBytes);
  buffer.indexSome(10_000);
  await index.saveIfGrown(buffer);
  expect(sizeOf()).toBeGreaterThan(1.5 * sizeBytes);
});

test('it is given up when more is indexed while it is written', async () => {
  const buffer = await bufferOf(numbers(MANY + 1), MANY);
  const fs = new SimulatedDisk();
  await fs.makeFolder(FOLDER);
  fs.onOperation = ({ kind }) => void (kind === 'write' && buffer.indexSome(1));
  await new MemoryIndex(fs, FOLDER, 7).saveIfGrown(buffer);
  expect([...fs.files().keys()]).toEqual([]);
});

test('damage anywhere in it is told, and it is made anew', async () => {
  const saved = await bufferOf(numbers(MANY));
  const fs = await diskWith(saved);
  const sizeBytes = fs.files().get(PATH)?.length ?? 0;
  for (let i = 0; i < 40; i++) {
    const at = Math.floor((i * (sizeBytes - 1)) / 39);
    const file = await fs.open(PATH, 'update');
    const [before = 0] = await file.read(at, 1);
    await file.write(at, Uint8Array.of(before ^ (1 << (i % 8))));
    expect(await memoryIndexDamages(fs, FOLDER)).toMatchObject([{ file: PATH }]);
    if (i % 10 === 0) expect(await loaded(fs, await bufferOf(numbers(MANY), 0))).toBe(0);
    await file.write(at, Uint8Array.of(before));
    await file.close();
  }
  const file = await fs.open(PATH, 'update');
  await file.truncate(sizeBytes - 1);
  await file.close();
  expect(await memoryIndexDamages(fs, FOLDER)).toMatchObject([{ file: PATH }]);
  expect(await loaded(fs, await bufferOf(numbers(MANY), 0))).toBe(0);
});

test('an engine writes it in its rounds, takes it over after a restart, and removes it with its namespace', async () => {
  const place = await simulatedPlace();
  const options = { tickMs: 1000, logSegmentBytes: 8 << 20 };
  const indexFiles = (): string[] => [...place.fs.files().keys()].filter((path) => path.includes('/index-'));
  const series = numbers(MANY).map((i) =>
    seriesOf(labelsOf('up', { i: String(i) }), [[place.clock.nowNs, i]]),
  );
  {
    await using engine = await readyEngine(place, [{ name: 'default' }], options);
    await engine.writeSeries('default', series);
    for (let round = 0; round < 300 && indexFiles().length === 0; round++) {
      place.clock.advance(1_000_000_000n);
      for (let turn = 0; turn < 20; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
    }
    expect(indexFiles()).toHaveLength(1);
  }
  await using engine = await openEngine(place, options);
  await engine.ready();
  expect(Object.keys(await dump(engine))).toHaveLength(MANY);
  await engine.applyNamespaces([]);
  expect(indexFiles()).toEqual([]);
});
