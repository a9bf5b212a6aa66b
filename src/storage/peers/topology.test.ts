import { describe, expect, test } from 'vitest';
import type { ReplicaState } from '../bootstrap/topology-snapshot.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { encodeLabels } from '../index/labels.ts';
import { BLOCK_NS, HOUR_NS, labelsOf, MINUTE_NS } from '../engine/engine.suite.ts';
import { PeerCluster, type States } from './peer-cluster.suite.ts';

function namesOf(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `series_${i}`);
}

function shardOf(name: string, shardCount: number): number {
  return murmur3(encodeLabels(labelsOf(name)), 0) % shardCount;
}

const FLUSHED_NS = BLOCK_NS + 30n * MINUTE_NS;

/** A node that has everything: flushed, and still open. */
async function first(
  shardCount: number,
  names: readonly string[],
  ...nodes: readonly string[]
): Promise<PeerCluster> {
  const cluster = new PeerCluster({ shardCount, majority: nodes.length > 1 ? 2 : 1 });
  for (const node of nodes) await cluster.start(node);
  const all = (state: ReplicaState): States => Object.fromEntries(nodes.map((node) => [node, state]));
  await cluster.place(all('initializing'), { isNew: true });
  for (const node of nodes) await cluster.engine(node).ready();
  await cluster.place(all('available'));
  await cluster.write(nodes, names, [[FLUSHED_NS, 1]]);
  cluster.clock.advance(3n * HOUR_NS);
  for (const node of nodes) await cluster.engine(node).flush();
  await cluster.write(nodes, names, [[cluster.clock.nowNs, 2]]);
  return cluster;
}

/** What every node has of its own shards and nothing else, put together. */
async function everything(
  cluster: PeerCluster,
  ...nodes: readonly string[]
): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const node of nodes) {
    for (const [name, samples] of Object.entries(await cluster.dump(node))) {
      expect(samples).toHaveLength(2);
      counts[name] = (counts[name] ?? 0) + 1;
    }
  }
  return counts;
}

const runsOf = (cluster: PeerCluster, node: string): string[] =>
  cluster
    .engine(node)
    .status()
    .bootstrapRuns.filter(({ reason }) => reason !== 'start')
    .map(({ reason, shardCount, state }) => `${reason} ${shardCount} ${state}`);

describe('the worked example of 256 shards and one replica', () => {
  test('a node is added and taken out again: the runs of both are those of the document, and nothing is lost', async () => {
    const names = namesOf(60);
    await using cluster = await first(256, names, 'n1');
    const placed = (one: (shard: number) => States): States[] =>
      Array.from({ length: 256 }, (_, shard) => one(shard));
    const isMoved = (shard: number): boolean => shard % 2 === 1;
    // Node add.
    await cluster.start('n2');
    await cluster.place(
      placed((shard) => (isMoved(shard) ? { n1: 'leaving', n2: 'initializing' } : { n1: 'available' })),
    );
    await cluster.write(['n1', 'n2'], 'during', [
      [cluster.clock.nowNs, 1],
      [cluster.clock.nowNs + 1n, 2],
    ]);
    await cluster.engine('n2').ready();
    const taken = cluster.engine('n2').durableShards();
    expect(taken).toEqual(Array.from({ length: 128 }, (_, i) => 2 * i + 1));
    await cluster.place(placed((shard) => (isMoved(shard) ? { n2: 'available' } : { n1: 'available' })));
    for (const node of ['n1', 'n2']) await cluster.engine(node).ready();
    const once = Object.fromEntries([...names, 'during'].map((name) => [name, 1]));
    expect(await everything(cluster, 'n1', 'n2')).toEqual(once);
    for (const name of Object.keys(await cluster.dump('n1'))) expect(isMoved(shardOf(name, 256))).toBe(false);
    // Node remove.
    await cluster.place(
      placed((shard) => (isMoved(shard) ? { n1: 'initializing', n2: 'leaving' } : { n1: 'available' })),
    );
    await cluster.engine('n1').ready();
    expect(cluster.engine('n1').durableShards()).toHaveLength(256);
    await cluster.place({ n1: 'available' });
    for (const node of ['n1', 'n2']) await cluster.engine(node).ready();
    expect(await everything(cluster, 'n1')).toEqual(once);
    expect(await cluster.dump('n2')).toEqual({});
    expect(cluster.engine('n2').status().namespaces[0]?.filesets).toBe(0);
    expect(runsOf(cluster, 'n1')).toEqual(['namespace 256 done', 'topology 128 done', 'topology 256 done']);
    expect(runsOf(cluster, 'n2').slice(-1)).toEqual(['topology 128 done']);
  });

  test('a node that was added and restarts at once has everything from its own files and log', async () => {
    const names = namesOf(40);
    await using cluster = await first(4, names, 'n1');
    await cluster.start('n2');
    const half = (a: States, b: States): States[] => [a, b, a, b];
    await cluster.place(half({ n1: 'available' }, { n1: 'leaving', n2: 'initializing' }));
    await cluster.engine('n2').ready();
    expect(cluster.engine('n2').durableShards()).toEqual([1, 3]);
    await cluster.place(half({ n1: 'available' }, { n2: 'available' }));
    await cluster.engine('n1').ready();
    await cluster.kill('n2');
    await cluster.stop('n1');
    await cluster.start('n2');
    await cluster.engine('n2').ready();
    const got = await everything(cluster, 'n2');
    expect(Object.keys(got).sort()).toEqual(names.filter((name) => shardOf(name, 4) % 2 === 1).sort());
  });

  test('a crash before the shards count as available repeats what is not on the disk, and loses nothing', async () => {
    const names = namesOf(40);
    await using cluster = await first(4, names, 'n1');
    await cluster.start('n2');
    await cluster.place([
      { n1: 'leaving', n2: 'initializing' },
      { n1: 'available' },
      { n1: 'available' },
      { n1: 'available' },
    ]);
    await cluster.engine('n2').ready();
    await cluster.kill('n2');
    await cluster.start('n2');
    await cluster.engine('n2').ready();
    expect(cluster.engine('n2').durableShards()).toEqual([0]);
    const own = names.filter((name) => shardOf(name, 4) === 0).sort();
    expect(Object.keys(await everything(cluster, 'n2')).sort()).toEqual(own);
    const sources = cluster
      .engine('n2')
      .explain(0)
      .map(({ pass, source }) => `${pass} ${source}`);
    expect(sources).toEqual(expect.arrayContaining(['persist fs', 'memory peers']));
  });
});

test('one of four nodes is taken out: the others take its shards over, three replicas of each', async () => {
  const shardCount = 12;
  const nodes = ['n1', 'n2', 'n3', 'n4'];
  const names = namesOf(60);
  /** Three of the four, turning. */
  const owners = (shard: number): string[] => nodes.filter((_, i) => i !== shard % 4);
  const states = (shard: number): States =>
    Object.fromEntries(owners(shard).map((node) => [node, 'available' as const]));
  await using cluster = new PeerCluster({ shardCount, majority: 2 });
  for (const node of nodes) await cluster.start(node);
  await cluster.place(
    Array.from({ length: shardCount }, (_, shard) => states(shard)),
    { isNew: true },
  );
  for (const node of nodes) await cluster.engine(node).ready();
  await cluster.write(nodes, names, [[FLUSHED_NS, 1]]);
  cluster.clock.advance(3n * HOUR_NS);
  for (const node of nodes) await cluster.engine(node).flush();
  await cluster.write(nodes, names, [[cluster.clock.nowNs, 2]]);
  // What n4 has goes to the one that has not got it.
  await cluster.place(
    Array.from({ length: shardCount }, (_, shard): States => {
      if (!owners(shard).includes('n4')) return states(shard);
      const taker = nodes.find((node) => !owners(shard).includes(node)) ?? '';
      return { ...states(shard), n4: 'leaving', [taker]: 'initializing' };
    }),
  );
  const left = ['n1', 'n2', 'n3'];
  for (const node of left) {
    await cluster.engine(node).ready();
    expect(cluster.engine(node).durableShards()).toHaveLength(shardCount);
  }
  await cluster.place({ n1: 'available', n2: 'available', n3: 'available' });
  for (const node of nodes) await cluster.engine(node).ready();
  const got = await cluster.dump('n1');
  expect(Object.keys(got).sort()).toEqual([...names].sort());
  for (const node of left) expect(await cluster.dump(node)).toEqual(got);
  expect(await cluster.dump('n4')).toEqual({});
});
