import { afterAll, beforeAll, expect, test } from 'vitest';
import { SampleLedger } from '../../test/sample-ledger.ts';
import { StorageNodes, type StorageNode } from '../../test/storage-nodes.ts';

/**
 * The document's example of 256 shards, one replica and a second node that comes and goes, on real processes: what
 * `/api/status` tells of the runs of both.
 */
const SHARDS = 256;
const SERIES = 400;
const SOON = { timeout: 40_000, interval: 100 };

let cluster: StorageNodes;
const ledger = new SampleLedger();

beforeAll(async () => {
  cluster = await StorageNodes.open('example', { count: 2, shardCount: SHARDS });
  await cluster.begin(1, 1);
});

afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

/** Over how many shards, of which so many had to be filled. */
async function runs(node: StorageNode): Promise<string[]> {
  const history = (await node.status()).bootstrap?.history ?? [];
  return history.map(
    ({ reason, state, shardCount, openShards }) => `${reason} ${state}: ${shardCount}, ${openShards}`,
  );
}

const write = async (node: StorageNode): Promise<void> => {
  const timeMs = Date.now();
  await ledger.write(
    node,
    Array.from({ length: SERIES }, (_, series) => ({ series: String(series), timeMs })),
  );
};

test('the runs of both nodes are those of the document, and each sample is where its shard is', async () => {
  const [first, second] = cluster.nodes as [StorageNode, StorageNode];
  // Node 1: initial bootstrap (256 shards).
  const initial = ['namespace done: 256, 256'];
  expect(await runs(first)).toEqual(initial);
  await write(first);
  await second.start();
  // While it stands alone all shards are its own.
  await expect.poll(() => runs(second), SOON).toEqual(initial);

  // Node add. Node 1: bootstrap (128 shards), those that remain. Node 2: initial bootstrap (128 shards), received.
  await cluster.add(second);
  await cluster.settled();
  const added = [...initial, 'topology done: 128, 0'];
  await expect.poll(() => runs(first), SOON).toEqual(added);
  await expect.poll(() => runs(second), SOON).toEqual([...initial, 'topology done: 128, 128']);
  await write(second);
  const [mine, theirs] = [await first.held(), await second.held()];
  expect([mine.size > 0, theirs.size > 0, mine.size + theirs.size]).toEqual([true, true, ledger.size]);

  // Node remove. Node 1: bootstrap (128 shards), received; it owns 256. Node 2: nothing.
  await cluster.remove(second);
  await cluster.settled();
  await expect.poll(() => runs(first), SOON).toEqual([...added, 'topology done: 256, 128']);
  expect(await runs(second)).toEqual([...initial, 'topology done: 128, 128']);
  await expect.poll(async () => (await second.held()).size, SOON).toBe(0);
  expect(
    (await first.status()).placement?.instances.map(({ node, shards }) => [node, shards.available]),
  ).toEqual([['s1', 256]]);
  expect(ledger.faults(await first.held())).toEqual([]);
});
