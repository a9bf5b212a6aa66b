import { expect, test } from 'vitest';
import type { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { BufferMemory } from '../buffer/buffer-memory.ts';
import { readFileSync } from 'node:fs';
import { HybridClock } from '../engine/hybrid-clock.ts';
import {
  BLOCK_NS,
  FOLDER,
  HOUR_NS,
  labelsOf,
  MINUTE_NS,
  readyEngine,
  seriesOf,
  simulatedPlace,
} from '../engine/engine.suite.ts';
import { Namespace } from '../engine/namespace.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { ColumnCodec } from '../engine/sealed-series.ts';
import type { NamespaceOptions } from '../engine/storage-engine.ts';
import { loadSnapshots } from '../fileset/snapshots.ts';
import { Kernel, KERNEL_FILE } from '../kernel/kernel.ts';
import { readAll, requestOf, testBootstrapSource, type SourceFixture } from './bootstrap-source.suite.ts';
import type { BootstrapSource } from './bootstrap-source.ts';
import { CommitLogSource } from './commit-log-source.ts';
import { FsSource } from './fs-source.ts';
import { ShardTimeRanges } from './shard-time-ranges.ts';
import { singleNodeTopology, type ReplicaState, type TopologySnapshot } from './topology-snapshot.ts';
import { isNew, UninitializedSource } from './uninitialized-source.ts';

const SHARDS = 4;
const MEMORY = { limitBytes: 64 * 1024 * 1024 };
const KERNEL = readFileSync(KERNEL_FILE);
const OPTIONS = namespaceOptions({ name: 'default', retentionNs: 8n * HOUR_NS });

interface Parts {
  readonly disk: SimulatedDisk;
  readonly namespace: Namespace;
  readonly clock: HybridClock;
  readonly codec: () => ColumnCodec;
  readonly nowNs: bigint;
}

/** A folder in which an engine has written series of all shards, flushed or not; and a namespace that is empty yet. */
async function folderWith(options: { readonly flushed: boolean }): Promise<Parts> {
  const place = await simulatedPlace();
  {
    await using engine = await readyEngine(place, [OPTIONS]);
    const samples = [[BLOCK_NS + 20n * MINUTE_NS, 1]] as const;
    await engine.writeSeries(
      'default',
      Array.from({ length: 40 }, (_, i) => seriesOf(labelsOf('up', { i: String(i) }), samples)),
    );
    place.clock.advance(3n * HOUR_NS);
    if (options.flushed) await engine.flush();
  }
  const clock = new HybridClock(place.clock);
  const memory = new BufferMemory(MEMORY);
  const made = new ColumnCodec(new Kernel(KERNEL, MEMORY));
  const codec = (): ColumnCodec => made;
  const append = async (): Promise<void> => {};
  const deps = { fs: place.fs, memory, codec, appenderOf: () => append };
  const namespace = new Namespace(deps, { id: 1, folder: FOLDER, shardCount: SHARDS }, OPTIONS);
  return { disk: place.fs, namespace, clock, codec, nowNs: place.clock.nowNs };
}

function fixtureOf(
  parts: Parts,
  source: BootstrapSource,
  more: Partial<SourceFixture> & Pick<SourceFixture, 'has'>,
): SourceFixture {
  const { namespace, nowNs } = parts;
  const topology = singleNodeTopology({ origin: 'local', shardCount: SHARDS, everAvailable: true });
  const shards = Array.from({ length: SHARDS }, (_, shard) => shard);
  return {
    source,
    namespace: { options: namespace.options, shards },
    topology,
    nowNs,
    lacks: [],
    [Symbol.asyncDispose]: () => namespace.close(),
    ...more,
  };
}

const WRITTEN = { startNs: BLOCK_NS, endNs: BLOCK_NS + 2n * HOUR_NS };

async function damageFile(parts: Parts, suffix: string): Promise<void> {
  const [path = ''] = [...parts.disk.files().keys()].filter((file) => file.endsWith(suffix));
  const content = parts.disk.files().get(path) ?? Buffer.alloc(0);
  const at = content.length >>> 1;
  content.writeUInt8(content.readUInt8(at) ^ 1, at);
  parts.disk.plant(path, content);
}

testBootstrapSource('fs', async () => {
  const parts = await folderWith({ flushed: true });
  const source = new FsSource({
    fs: parts.disk,
    lookup: () => parts.namespace,
    onDamage: () => {},
    onVersion: () => {},
  });
  const has = ShardTimeRanges.forShards([0, 1, 2, 3], WRITTEN);
  return fixtureOf(parts, source, {
    has,
    damage: async () => {
      // What a crash while files are written leaves: the infos themselves are looked at then.
      await parts.disk.remove(`${FOLDER}/data/default/summary.db`);
      await damageFile(parts, '-info.db');
    },
  });
});

async function commitLogSource(parts: Parts, findings: unknown[] = []): Promise<CommitLogSource> {
  const snapshots = await loadSnapshots({ fs: parts.disk }, `${FOLDER}/snapshots`);
  return new CommitLogSource({
    fs: parts.disk,
    folder: FOLDER,
    logFolder: `${FOLDER}/log`,
    image: undefined,
    snapshots,
    codec: parts.codec,
    clock: parts.clock,
    lookup: () => parts.namespace,
    lookupId: () => parts.namespace,
    all: () => [parts.namespace],
    onFinding: (finding) => findings.push(finding),
    onReplayed: async () => {},
  });
}

function topologyOf(states: Readonly<Record<string, ReplicaState>>, everAvailable = true): TopologySnapshot {
  const shards = Array.from({ length: SHARDS }, (_, shard) => shard);
  return {
    version: 1,
    origin: 'local',
    majorityReplicas: 2,
    shards: new Map(shards.map((shard) => [shard, new Map(Object.entries(states))])),
    everAvailable: new Set(everAvailable ? shards : []),
  };
}

testBootstrapSource('commitlog', async () => {
  const parts = await folderWith({ flushed: false });
  const fixture = fixtureOf(parts, await commitLogSource(parts), { has: ShardTimeRanges.EMPTY });
  const topology = topologyOf({ local: 'available', other: 'available' });
  return { ...fixture, topology, has: requestOf(fixture), damage: () => damageFile(parts, '.log') };
});

testBootstrapSource('commitlog of shards that are given to this node just now', async () => {
  const parts = await folderWith({ flushed: false });
  const fixture = fixtureOf(parts, await commitLogSource(parts), {
    has: ShardTimeRanges.EMPTY,
    lacks: [0, 1, 2, 3],
  });
  return { ...fixture, topology: topologyOf({ local: 'initializing', other: 'available' }) };
});

testBootstrapSource('uninitialized', async () => {
  const parts = await folderWith({ flushed: false });
  const fixture = fixtureOf(parts, new UninitializedSource(), { has: ShardTimeRanges.EMPTY });
  return { ...fixture, topology: topologyOf({ local: 'initializing' }, false), has: requestOf(fixture) };
});

test('the commit log is read as a whole, once, also for shards that it does not count as available', async () => {
  const parts = await folderWith({ flushed: false });
  const fixture = fixtureOf(parts, await commitLogSource(parts), { has: ShardTimeRanges.EMPTY });
  const initializing = { ...fixture, topology: topologyOf({ local: 'initializing', other: 'available' }) };
  await using _ = fixture;
  expect((await readAll(initializing)).result?.detail).toContain('40 samples from 1 records');
  expect(parts.namespace.buffer.seriesCount).toBe(40);
  const [block] = parts.namespace.buffer.blocks();
  await readAll(initializing, 'memory');
  expect(parts.namespace.buffer.blocks()).toEqual([block]);
});

test('what a node that is alone has lost does not keep it from starting: it is told', async () => {
  const parts = await folderWith({ flushed: false });
  const findings: unknown[] = [];
  const fixture = fixtureOf(parts, await commitLogSource(parts, findings), { has: ShardTimeRanges.EMPTY });
  await using _ = fixture;
  await damageFile(parts, '.log');
  expect((await readAll(fixture)).result?.data.ranges.isEmpty).toBe(true);
  expect(findings).toMatchObject([{ kind: 'log' }]);
});

test('with the policy `all` the files are read into memory; damage there leaves a range unfulfilled', async () => {
  const parts = await folderWith({ flushed: true });
  const options: NamespaceOptions = { ...OPTIONS, cachePolicy: 'all' };
  parts.namespace.configure(options);
  await damageFile(parts, '-data.db');
  const source = new FsSource({
    fs: parts.disk,
    lookup: () => parts.namespace,
    onDamage: () => {},
    onVersion: () => {},
  });
  await using fixture = fixtureOf(parts, source, { has: ShardTimeRanges.forShards([0, 1, 2, 3], WRITTEN) });
  const { result } = await readAll(fixture);
  expect(parts.namespace.cache.bytes).toBeGreaterThan(1000);
  expect(result?.data.reasons).toMatchObject([{ reason: 'corruptFile', startNs: BLOCK_NS }]);
  expect(parts.namespace.filesets.count).toBe(3);
});

test.each([
  ['a single one that initialises', ['initializing'], true],
  ['a single one that leaves', ['leaving'], false],
  ['a single one that is available', ['available'], false],
  ['three that initialise', ['initializing', 'initializing', 'initializing'], true],
  ['three that are available', ['available', 'available', 'available'], false],
  ['one that replaces another', ['available', 'leaving', 'available', 'initializing'], false],
] as const)('a shard with replicas of this kind is new: %s', (_, states, isWanted) => {
  const entries = Object.fromEntries(
    states.map((state, index) => [index === 0 ? 'local' : `n${index}`, state]),
  );
  expect(isNew(topologyOf(entries, false), 0)).toBe(isWanted);
});

test('a shard that was available once is never new, whatever its replicas are now', () => {
  expect(isNew(topologyOf({ local: 'initializing', a: 'available', b: 'available' }, false), 0)).toBe(true);
  expect(isNew(topologyOf({ local: 'initializing' }, true), 0)).toBe(false);
  expect(isNew(topologyOf({ local: 'initializing' }, false), 99)).toBe(false);
  expect(() => isNew(topologyOf({ local: 'unknown' }, false), 0)).toThrow('unknown state');
});
