import { beforeEach, expect, test } from 'vitest';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { encodeLabels } from '../index/labels.ts';
import { IndexBlock } from '../index/index-block.ts';
import { MutableSegment } from '../index/mutable-segment.ts';
import { IndexStore, type IndexAddition } from './index-store.ts';

const HOUR_NS = 3_600_000_000_000n;
const OPTIONS = { folder: '/engine', namespace: 'ns', indexBlockSizeNs: HOUR_NS, memoryBytes: 1 << 20 };
const SHARD_COUNT = 4;
const ALL = (): boolean => true;

let fs: SimulatedDisk;
let store: IndexStore;
/** How often series were made. */
let made: number;

beforeEach(async () => {
  fs = new SimulatedDisk();
  await fs.makeFolder('/engine');
  store = new IndexStore(fs, OPTIONS);
  made = 0;
});

function segmentOf(shard: number, names: readonly string[]): MutableSegment {
  const segment = new MutableSegment();
  for (const name of names) {
    segment.add(segment.seriesCount * SHARD_COUNT + shard, encodeLabels([['__name__', name]]));
  }
  return segment;
}

function addition(hour: bigint, shard: number, names: readonly string[], key?: string): IndexAddition {
  return {
    startNs: hour * HOUR_NS,
    filesets: [{ blockStartNs: hour * HOUR_NS, shard, volume: 0 }],
    sameAs: async () => key,
    series: async () => {
      made++;
      return segmentOf(shard, names);
    },
  };
}

async function namesIn(hour: bigint, from = store): Promise<string[]> {
  const series = new IndexBlock(await from.segments([hour * HOUR_NS])).series({ ordered: true });
  return Array.from({ length: series.count }, (_, place) => series.labels(place)[0]?.[1] ?? '');
}

const filesOf = (kind: string): Buffer[] =>
  [...fs.files()].flatMap(([path, content]) => (path.endsWith(kind) ? [content] : []));

test('index blocks with the same series are made once, and are equal', async () => {
  await store.addAll([addition(0n, 1, ['a', 'b'], 'k'), addition(1n, 1, ['a', 'b'], 'k')], ALL);
  await store.addAll([addition(2n, 1, ['a', 'b'], 'k'), addition(3n, 1, ['c'], 'other')], ALL);
  expect(made).toBe(2);
  for (const hour of [0n, 1n, 2n]) expect(await namesIn(hour)).toEqual(['a', 'b']);
  expect(await namesIn(3n)).toEqual(['c']);
  const [first, ...others] = filesOf('.idx');
  expect(others.filter((one) => one.equals(first ?? Buffer.alloc(0)))).toHaveLength(2);
});

test('what is added to equal index blocks makes them equal only where it is equal too', async () => {
  await store.addAll(
    [0n, 1n, 2n].map((hour) => addition(hour, 1, ['a'], 'k')),
    ALL,
  );
  expect(made).toBe(1);
  await store.addAll(
    [addition(0n, 2, ['b'], 'l'), addition(1n, 2, ['b'], 'l'), addition(2n, 2, ['c'], 'm')],
    ALL,
  );
  expect(made).toBe(3);
  expect([await namesIn(0n), await namesIn(1n), await namesIn(2n)]).toEqual([
    ['a', 'b'],
    ['a', 'b'],
    ['a', 'c'],
  ]);
  // The same is added, but not to the same.
  await store.addAll([addition(2n, 3, ['d'], 'n'), addition(0n, 3, ['d'], 'n')], ALL);
  expect(made).toBe(5);
  expect([await namesIn(0n), await namesIn(2n)]).toEqual([
    ['a', 'b', 'd'],
    ['a', 'c', 'd'],
  ]);
});

test('a segment that was flushed, or taken from by a shard that left, counts as no other', async () => {
  await store.addAll([addition(0n, 1, ['a'], 'k'), addition(1n, 1, ['a'], 'k')], ALL);
  await store.add(HOUR_NS, segmentOf(2, ['b']), [{ blockStartNs: HOUR_NS, shard: 2, volume: 0 }], ALL);
  await store.dropShards((shard) => shard === 2, SHARD_COUNT);
  await store.addAll([addition(0n, 3, ['c'], 'l'), addition(1n, 3, ['c'], 'l')], ALL);
  expect(made).toBe(3);
  expect([await namesIn(0n), await namesIn(1n)]).toEqual([
    ['a', 'c'],
    ['a', 'c'],
  ]);
});

test('of a segment that is damaged no copy is made', async () => {
  await store.addAll([addition(0n, 1, ['a'], 'k')], ALL);
  const [path, content] = [...fs.files()].find(([one]) => one.endsWith('.idx')) ?? ['', Buffer.alloc(0)];
  content.writeUInt8(content.readUInt8(content.length >>> 1) ^ 1, content.length >>> 1);
  fs.plant(path, content);
  await store.addAll([addition(1n, 1, ['a'], 'k')], ALL);
  expect(made).toBe(2);
  expect(await namesIn(1n)).toEqual(['a']);
});

test('additions to one index block that come at the same time are all kept', async () => {
  await Promise.all([1, 2, 3].map((shard) => store.addAll([addition(0n, shard, [`s${shard}`])], ALL)));
  expect(await namesIn(0n)).toEqual(['s1', 's2', 's3']);
  expect(filesOf('.idx')).toHaveLength(1);
  expect([1, 2, 3].filter((shard) => store.covers({ blockStartNs: 0n, shard, volume: 0 }))).toHaveLength(3);
});

test('a disk that is full leaves what was there, and no files', async () => {
  await store.addAll([addition(0n, 1, ['a'])], ALL);
  fs.fault = ({ kind, path }) => (kind === 'rename' && path.includes('-0-1.cover') ? 'ENOSPC' : undefined);
  const both = [addition(1n, 1, ['b']), addition(0n, 2, ['b'])];
  await expect(store.addAll(both, ALL)).rejects.toMatchObject({ code: 'ENOSPC' });
  fs.fault = undefined;
  expect(await namesIn(0n)).toEqual(['a']);
  expect(store.covers({ blockStartNs: HOUR_NS, shard: 1, volume: 0 })).toBe(false);
  expect(filesOf('.idx')).toHaveLength(1);
  await store.addAll(both, ALL);
  expect([await namesIn(0n), await namesIn(1n)]).toEqual([['a', 'b'], ['b']]);
});

test('after a power loss each index block is as before or as after', async () => {
  let outcomes = new Set<string>();
  for (let stop = 1; stop < 40; stop++) {
    fs = new SimulatedDisk();
    await fs.makeFolder('/engine');
    await fs.syncFolder('/');
    store = new IndexStore(fs, OPTIONS);
    await store.addAll([addition(0n, 1, ['a'], 'k'), addition(1n, 1, ['a'], 'k')], ALL);
    let left = stop;
    fs.fault = ({ phase }) => (phase === 'before' && --left <= 0 ? 'EIO' : undefined);
    const isDone = await store.addAll([addition(0n, 2, ['b'], 'l'), addition(1n, 2, ['b'], 'l')], ALL).then(
      () => true,
      () => false,
    );
    const after = new IndexStore(fs.powerLoss(stop), OPTIONS);
    await after.load({ repair: true });
    for (const hour of [0n, 1n]) {
      const found = (await namesIn(hour, after)).join();
      expect(['a', 'a,b']).toContain(found);
      if (isDone) expect(found).toBe('a,b');
      expect(after.covers({ blockStartNs: hour * HOUR_NS, shard: 2, volume: 0 })).toBe(found === 'a,b');
      outcomes = outcomes.add(found);
    }
    if (isDone) break;
  }
  expect(outcomes.size).toBe(2);
});
