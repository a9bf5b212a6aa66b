import { afterAll, beforeAll, expect, test } from 'vitest';
import { SampleLedger } from '../../test/sample-ledger.ts';
import { WriteLoad } from '../../test/sample-load.ts';
import { StorageNodes, type StorageNode } from '../../test/storage-nodes.ts';

const SERIES = 50;
const SOON = { timeout: 30_000, interval: 100 };
const during = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
let cluster: StorageNodes;

beforeAll(async () => {
  const flags = { 'replica-timeout': '2s' };
  cluster = await StorageNodes.open('replication', { count: 3, shardCount: 8, flags });
  await cluster.begin(3, 3);
});

afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

test('one of three nodes is killed under load: no write fails, and it has everything when it is back', async () => {
  const [first, second, third] = cluster.nodes as [StorageNode, StorageNode, StorageNode];
  const ledger = new SampleLedger();
  const writes = new WriteLoad(ledger, { series: SERIES, targets: [first, second] });
  await during(500);
  await third.end('SIGKILL');
  await during(1000);
  await third.start();
  await during(500);
  await writes.end();
  expect([writes.failed, writes.repeated, writes.diverted]).toEqual([[], [], 0]);
  expect(writes.done).toBeGreaterThan(10);
  await expect.poll(() => cluster.lacking(ledger, 3), SOON).toBe(0);
  const statuses = await Promise.all([first, second].map((node) => node.status()));
  const hints = statuses.flatMap(({ replication }) => replication?.hints ?? []);
  expect(hints.reduce((sum, { replayed }) => sum + replayed, 0)).toBeGreaterThan(0);

  // Without another one, readers are told so, as soon as it is asked: a majority is asked, and not always the same.
  await first.end('SIGKILL');
  await expect
    .poll(async () => {
      const labels = await fetch(`${third.url}/api/v1/label/n/values`);
      const { data, warnings } = (await labels.json()) as { data: string[]; warnings?: string[] };
      expect(data).toHaveLength(SERIES);
      return warnings?.join();
    }, SOON)
    .toContain('replica s1');
  expect(ledger.faults(await second.exported())).toEqual([]);
  const metrics = await (await fetch(`${second.url}/metrics`)).text();
  expect(metrics).toMatch(/varve_storage_replication_hints_replayed_total\{replica="s3"\} \d/);
});
