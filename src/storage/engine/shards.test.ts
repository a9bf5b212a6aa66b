import { expect, test, vi } from 'vitest';
import type { ReplicaState, TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { encodeLabels } from '../index/labels.ts';
import { labelMatcher } from '../index/matcher.ts';
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
  write,
} from './engine.suite.ts';
import type { Engine } from './engine.ts';
import { namespaceOptions } from './namespace-options.ts';
import { placementOf } from './placement.suite.ts';

const SHARDS = 4;
const NOW_NS = BLOCK_NS + 20n * MINUTE_NS;

function shardOf(name: string): number {
  return murmur3(encodeLabels(labelsOf(name)), 0) % SHARDS;
}

/** One series of each shard, by shard. */
const NAMES = Array.from({ length: SHARDS }, (_, shard) => {
  for (let i = 0; ; i++) if (shardOf(`m${i}`) === shard) return `m${i}`;
});

/** This node, `local`, has the shards that are named, in these states. */
function owning(states: Readonly<Record<number, ReplicaState>>, version = 1): TopologySnapshot {
  const shards = Array.from({ length: SHARDS }, (_, shard): Record<string, ReplicaState> => {
    const own = states[shard];
    if (own === 'initializing') return { local: own, other: 'leaving' };
    return own ? { local: own } : { other: 'available' };
  });
  return placementOf('local', shards, { version });
}

async function writeAll(engine: Engine, timeNs: bigint, value: number): Promise<void> {
  for (const name of NAMES) await write(engine, name, [[timeNs, value]]);
}

async function names(engine: Engine, shards?: readonly number[]): Promise<string[]> {
  const found: string[] = [];
  const matchers = [labelMatcher('__name__', '=~', '.+')];
  const query = { matchers, startNs: 0n, endNs: 2n ** 62n, ...(shards ? { shards } : {}) };
  for await (const { labels } of engine.read('default', query)) found.push(labels[0]?.[1] ?? '');
  return found.sort();
}

const some = (...shards: readonly number[]): string[] => shards.map((shard) => NAMES[shard] ?? '').sort();
const statusOf = (engine: Engine): string[] =>
  engine.status().namespaces[0]?.shards.map(({ shard, state }) => `${shard} ${state}`) ?? [];

test('shards that the placement does not name are gone from memory, files, index and log', async () => {
  const place = await simulatedPlace();
  {
    await using engine = await readyEngine(place);
    await writeAll(engine, NOW_NS, 1);
    place.clock.advance(3n * HOUR_NS);
    await engine.flush();
    await writeAll(engine, NOW_NS + 3n * HOUR_NS, 2);
    expect(await names(engine)).toEqual(some(0, 1, 2, 3));
    await engine.applyTopology(owning({ 0: 'available', 2: 'available' }));
    await engine.ready();
    expect(await names(engine)).toEqual(some(0, 2));
    const { values } = await engine.labelValues('default', '__name__', {
      startNs: 0n,
      endNs: BLOCK_NS + HOUR_NS,
    });
    expect([...values].sort()).toEqual(some(0, 2));
    expect(statusOf(engine)).toEqual(['0 bootstrapped', '2 bootstrapped']);
    expect([...place.fs.files().keys()].filter((path) => /data\/default\/[13]\//.test(path))).toEqual([]);
  }
  await using engine = await openEngine(place);
  await engine.ready();
  expect(await names(engine)).toEqual(some(0, 2));
  expect(statusOf(engine)).toEqual(['0 bootstrapped', '2 bootstrapped']);
  // Given back, it does not have what it had: others may have deleted it since.
  await engine.applyTopology(owning({ 0: 'available', 1: 'available', 2: 'available' }, 2));
  await engine.ready();
  expect(await names(engine)).toEqual(some(0, 2));
});

test('series of dropped shards are not listed any more, also when somebody reads meanwhile', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await writeAll(engine, NOW_NS, 1);
  const all = { startNs: 0n, endNs: NOW_NS + HOUR_NS };
  const listed = async (): Promise<string[]> =>
    (await engine.labelValues('default', '__name__', all)).values.toSorted();
  const reading = engine.read('default', { matchers: [], shards: [0], ...all })[Symbol.asyncIterator]();
  await reading.next();
  await engine.applyTopology(owning({ 0: 'available', 1: 'available', 2: 'available' }));
  await engine.ready();
  await engine.cleanUp();
  expect(await listed()).toEqual(some(0, 1, 2, 3));
  await reading.return?.();
  await engine.cleanUp();
  expect(await listed()).toEqual(some(0, 1, 2));
  await engine.applyTopology(owning({ 0: 'available', 2: 'available' }, 2));
  await engine.ready();
  expect(await listed()).toEqual(some(0, 2));
});

test('what a crash leaves of dropped shards is dropped at the next start', async () => {
  const place = await simulatedPlace();
  let isLost = false;
  let applied: Promise<void> | undefined;
  {
    await using engine = await readyEngine(place);
    await writeAll(engine, NOW_NS, 1);
    place.clock.advance(3n * HOUR_NS);
    await engine.flush();
    place.fs.fault = ({ kind, path }) =>
      isLost || (isLost = kind === 'remove' && path.includes('/data/default/')) ? 'EIO' : undefined;
    applied = engine.applyTopology(owning({ 0: 'available' }));
    await vi.waitUntil(() => isLost);
  }
  await applied;
  expect(isLost).toBe(true);
  place.fs.fault = undefined;
  await using engine = await openEngine(place);
  await engine.ready();
  expect(await names(engine)).toEqual(some(0));
  expect([...place.fs.files().keys()].filter((path) => /data\/default\/[123]\//.test(path))).toEqual([]);
});

test('the same placement again does nothing, and one without this node leaves a node that stands alone as it is', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await writeAll(engine, NOW_NS, 1);
  await engine.applyTopology(owning({}));
  expect(await names(engine)).toEqual(some(0, 1, 2, 3));
  const before = engine.status().bootstrapRuns.length;
  const all = owning({ 0: 'available', 1: 'available', 2: 'available', 3: 'available' });
  await engine.applyTopology(all);
  await engine.applyTopology(all);
  await engine.ready();
  expect(engine.status().bootstrapRuns).toHaveLength(before);
});

test('writes of other shards are refused as a whole; what is routed passes them over and counts them', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await engine.applyTopology(owning({ 0: 'available', 2: 'available' }));
  await engine.ready();
  const body = NAMES.map((name) =>
    seriesOf(labelsOf(name), [
      [NOW_NS, 1],
      [NOW_NS + MINUTE_NS, 2],
    ]),
  );
  await expect(engine.writeSeries('default', body)).rejects.toMatchObject({ code: 'SHARD_NOT_OWNED' });
  expect(await names(engine)).toEqual([]);
  const namespace = engine.peerView.namespace('default');
  const batch = namespace?.buffer.prepare(body, engine.peerView.clock.nowNs(), 'passOver');
  if (!namespace || !batch) throw new Error('no namespace');
  const outcome = await namespace.buffer.commit(batch, engine.peerView.clock.next(), namespace.append);
  expect(outcome).toMatchObject({ samples: 4, notOwned: 4, series: 2, rejected: [] });
  expect(Object.values(await dump(engine)).map(({ length }) => length)).toEqual([2, 2]);
  expect(await names(engine)).toEqual(some(0, 2));
});

test('a shard that nobody can fill yet holds up only those who ask for it, and no flush happens', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await engine.applyTopology(owning({ 0: 'available', 1: 'available' }));
  await engine.ready();
  expect(engine.durableShards()).toEqual([0, 1]);
  const given = { 0: 'available', 1: 'available', 2: 'initializing' } as const;
  await engine.applyTopology(owning(given, 2));
  await write(engine, NAMES[0] ?? '', [[NOW_NS, 1]]);
  await write(engine, NAMES[2] ?? '', [[NOW_NS, 1]]);
  expect(await names(engine, [0, 1])).toEqual(some(0));
  await expect(names(engine, [1, 2])).rejects.toMatchObject({ code: 'SHARD_NOT_READY' });
  await expect(names(engine)).rejects.toMatchObject({ code: 'SHARD_NOT_READY' });
  await expect(names(engine, [3])).rejects.toMatchObject({ code: 'SHARD_NOT_OWNED' });
  await expect(engine.flush()).rejects.toMatchObject({ code: 'STORAGE_BUSY' });
  expect(engine.durableShards()).toEqual([0, 1]);
  // The placement takes it back: nothing waits any more, although the next attempt was far away.
  await engine.applyTopology(owning({ 0: 'available', 1: 'available' }, 3));
  await engine.ready();
  expect(await names(engine)).toEqual(some(0));
  expect(engine.explain(2).at(-1)).toMatchObject({
    source: undefined,
    others: [{ source: 'whole' }, { source: 'fs' }, { source: 'commitlog' }, { source: 'uninitialized' }],
  });
});

test('runs are over all shards that the node has: 256, then 128 that remain, then 256 again', async () => {
  const place = await simulatedPlace();
  const all = Array.from({ length: 256 }, (_, shard) => shard);
  const having = (mine: (shard: number) => ReplicaState | undefined, version: number): TopologySnapshot =>
    placementOf(
      'local',
      all.map((shard): Record<string, ReplicaState> => {
        const state = mine(shard);
        if (state === 'leaving') return { local: 'leaving', other: 'initializing' };
        return state ? { local: state } : { other: 'available' };
      }),
      { version },
    );
  await using engine = await openEngine(place, { shardCount: 256 });
  await engine.applyNamespaces([namespaceOptions({ name: 'default' })]);
  await engine.ready();
  await engine.applyTopology(having(() => 'available', 1));
  await engine.applyTopology(having((shard) => (shard < 128 ? 'available' : 'leaving'), 2));
  await engine.ready();
  await engine.applyTopology(having((shard) => (shard < 128 ? 'available' : undefined), 3));
  await engine.ready();
  await engine.applyTopology(having(() => 'available', 4));
  await engine.ready();
  const runs = engine.status().bootstrapRuns.filter(({ sources }) => sources.length > 0);
  expect(runs.map(({ reason, shardCount, state }) => `${reason} ${shardCount} ${state}`)).toEqual([
    'namespace 256 done',
    'topology 128 done',
    'topology 256 done',
  ]);
  expect(runs[1]?.sources[0]).toMatchObject({ source: 'whole', detail: '128 shards are whole already' });
});

test('a placement with another number of shards is refused', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place);
  await expect(engine.applyTopology(placementOf('local', [{ local: 'available' }]))).rejects.toMatchObject({
    code: 'STORAGE_FOLDER_MISMATCH',
  });
});

test('nothing is durable before it is known which namespaces there are', async () => {
  const place = await simulatedPlace();
  await using engine = await openEngine(place);
  await engine.ready();
  expect(engine.durableShards()).toEqual([]);
  await engine.applyNamespaces([]);
  expect(engine.durableShards()).toEqual([0, 1, 2, 3]);
});
