import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SampleLedger } from '../../test/sample-ledger.ts';
import { ReadLoad, WriteLoad } from '../../test/sample-load.ts';
import { StorageNodes, type StorageNode } from '../../test/storage-nodes.ts';

/** Storage nodes as real processes under load; longer and more often in the soak. */
const IS_SOAK = process.env['VARVE_SOAK'] === '1';
const SERIES = 20;
/** On a machine that does other things as well. */
const SOON = { timeout: 40_000, interval: 100 };
const during = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('five nodes with three replicas of each shard', () => {
  let cluster: StorageNodes;
  const ledger = new SampleLedger();

  beforeAll(async () => {
    cluster = await StorageNodes.open('five', {
      count: 5,
      shardCount: 16,
      // With fewer answers a read is an error then, not a part of what there is.
      flags: { 'replica-timeout': '2s', 'read-consistency': 'majority' },
    });
    await cluster.begin(5, 3);
  });

  afterAll(async () => {
    await cluster?.[Symbol.asyncDispose]();
  });

  test('one after the other is restarted under load: no write fails, and everything can be read all the time', async () => {
    const writes = new WriteLoad(ledger, {
      series: SERIES,
      targets: cluster.nodes,
      pauseMs: IS_SOAK ? 10 : 2,
    });
    const reads = new ReadLoad(ledger, cluster.nodes);
    for (let round = 0; round < (IS_SOAK ? 5 : 1); round++) {
      for (const node of cluster.nodes) {
        const before = writes.done;
        await node.end('SIGTERM');
        await during(IS_SOAK ? 1000 : 150);
        await node.start();
        // Some with all of them there.
        await expect.poll(() => writes.done - before, SOON).toBeGreaterThan(10);
      }
    }
    await writes.end();
    await reads.end();
    expect(writes.failed).toEqual([]);
    expect(writes.repeated).toEqual([]);
    expect(reads.failed).toEqual([]);
    expect(writes.diverted).toBeGreaterThan(0);
    expect(reads.done).toBeGreaterThan(5);
    for (const node of cluster.nodes) expect(ledger.faults(await node.exportedAtLast())).toEqual([]);
    // Once hints have been brought.
    await expect.poll(() => cluster.lacking(ledger, 3), SOON).toBe(0);
  });

  test('all are killed at once under load and started at once: what was acknowledged is there, with nobody’s help', async () => {
    for (let round = 0; round < (IS_SOAK ? 5 : 1); round++) {
      const writes = new WriteLoad(ledger, { series: SERIES, targets: cluster.nodes });
      const before = ledger.size;
      await expect.poll(() => ledger.size - before, SOON).toBeGreaterThan(20 * SERIES);
      await Promise.all(cluster.nodes.map((node) => node.end('SIGKILL')));
      await writes.end();
      await Promise.all(cluster.nodes.map((node) => node.start()));
      for (const node of cluster.nodes) expect(ledger.faults(await node.exportedAtLast())).toEqual([]);
      await expectNewWrites(cluster.nodes);
    }
  });

  async function expectNewWrites(nodes: readonly StorageNode[]): Promise<void> {
    for (const node of nodes) await ledger.write(node, [{ series: 'after', timeMs: Date.now() }]);
    for (const node of nodes) expect(ledger.faults(await node.exportedAtLast())).toEqual([]);
  }
});

describe('one replica of each shard', () => {
  const SHARDS = 16;
  let cluster: StorageNodes;
  const ledger = new SampleLedger();

  beforeAll(async () => {
    cluster = await StorageNodes.open('one', { count: 2, shardCount: SHARDS });
    await cluster.begin(1, 1);
  });

  afterAll(async () => {
    await cluster?.[Symbol.asyncDispose]();
  });

  /** How many shards its runs were over; runs that were repeated count once. */
  async function runs(node: StorageNode): Promise<number[]> {
    const counts = ((await node.status()).bootstrap?.history ?? []).map(({ shardCount }) => shardCount);
    return counts.filter((count, i) => count !== counts[i - 1]);
  }

  test('a node is added under load: each sample is on one node, and both have theirs after kill -9 from their own disk', async () => {
    const [first, second] = cluster.nodes as [StorageNode, StorageNode];
    await second.start();
    {
      await using _writes = new WriteLoad(ledger, { series: SERIES, targets: [first] });
      await expect.poll(() => ledger.size, SOON).toBeGreaterThan(20 * SERIES);
      await cluster.add(second);
      await cluster.settled();
      // At once: its log and what it was given are all there is.
      await second.end('SIGKILL');
    }
    await first.end('SIGKILL');
    await Promise.all([first.start(), second.start()]);
    for (const node of cluster.nodes) expect(ledger.faults(await node.exported())).toEqual([]);
    const [mine, theirs] = [await first.held(), await second.held()];
    expect([...mine.keys()].filter((key) => theirs.has(key))).toEqual([]);
    expect(mine.size).toBeGreaterThan(0);
    expect(theirs.size).toBeGreaterThan(0);
    for (const { id, shards } of (await cluster.placement()).instances) {
      expect(shards).toHaveLength(SHARDS / 2);
      const node = cluster.nodes.find((one) => one.id === id) as StorageNode;
      const sources = (await node.explain(shards[0]?.id ?? 0)).fills.map(({ source }) => source);
      expect(sources).toContain('commitlog');
      expect(sources).not.toContain('peers');
    }
  });

  test('it is taken out again under load: the other one has everything, and what is gone is gone', async () => {
    const [first, second] = cluster.nodes as [StorageNode, StorageNode];
    const writes = new WriteLoad(ledger, { series: SERIES, targets: [first] });
    await cluster.remove(second);
    await cluster.settled();
    await writes.end();
    expect(writes.failed).toEqual([]);
    expect(ledger.faults(await first.exported())).toEqual([]);
    expect(ledger.faults(await first.held())).toEqual([]);
    expect(await runs(first)).toEqual([SHARDS / 2, SHARDS]);
    await expect
      .poll(async () => (await second.status()).namespaces.flatMap(({ shards }) => shards))
      .toEqual([]);
  });
});
