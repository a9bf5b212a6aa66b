import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SampleLedger } from '../../test/sample-ledger.ts';
import { StorageNodes, until } from '../../test/storage-nodes.ts';
import { varve } from '../../test/system-process.ts';

const SHARDS = 2;

let nodes: StorageNodes;

beforeAll(async () => {
  nodes = await StorageNodes.open('operator', { count: 2, shardCount: SHARDS });
  await nodes.begin(1, 1);
  await nodes.node(2).start();
});

afterAll(() => nodes[Symbol.asyncDispose]());

test('shards whose only replica is gone wait until their loss is accepted; status and explain tell who did it', async () => {
  const [lost, joiner] = [nodes.node(1), nodes.node(2)];
  const ledger = new SampleLedger();
  await ledger.write(lost, [{ series: '1', timeMs: Date.now() }]);
  // By way of the node that stays.
  await lost.end('SIGKILL');
  await rm(lost.folder, { recursive: true });
  await nodes.replace(lost, joiner);
  await until('it waits for what nobody has', 30_000, async () => {
    const { bootstrap } = await joiner.status();
    return (bootstrap?.unfulfilled ?? []).some(({ shard }) => shard === 1);
  });
  const url = ['--url', joiner.url];
  const asked = await varve(['bootstrap', 'accept-loss', '0', ...url]);
  expect([asked.code, asked.stderr]).toEqual([
    2,
    expect.stringMatching(/s2: shard 0 of namespace default, .* is given up[^]*Nothing was changed/),
  ]);
  expect((await varve(['bootstrap', 'skip-peer', 's9', ...url])).stderr).toContain('has no node s9');
  expect((await varve(['bootstrap', 'retry', '--yes', ...url])).stdout).toContain('tried again at once');
  // While it tries nothing is said.
  await until('it waits again', 20_000, async () => {
    const { bootstrap } = await joiner.status();
    return (bootstrap?.unfulfilled ?? []).length > 0;
  });
  for (const shard of ['0', '1']) {
    await until(`shard ${shard} is given up`, 20_000, async () => {
      const { code } = await varve(['bootstrap', 'accept-loss', shard, '--yes', ...url]);
      return code === 0;
    });
  }
  const placement = await nodes.settled();
  expect(placement.instances.map(({ id }) => id)).toEqual(['s2']);
  const explained = await varve(['explain', 'shard', '1', ...url]);
  expect(explained.stdout).toMatch(/: acceptedLoss \(/);
  expect(explained.stdout).toMatch(/ gave up shard 1 of namespace default, .*consistencyNotMet/);
  const { bootstrap } = await joiner.status();
  expect(bootstrap?.interventions.map(({ what }) => what.split(' ').slice(0, 2).join(' '))).toEqual(
    expect.arrayContaining(['asked for', 'gave up']),
  );
  // Nothing of it is asked for again.
  await ledger.write(joiner, [{ series: '2', timeMs: Date.now() }]);
  await joiner.end('SIGKILL');
  await joiner.start();
  expect((await joiner.exported()).size).toBe(1);
  const late = await varve(['bootstrap', 'accept-loss', '0', '--yes', ...url]);
  expect([late.code, late.stderr]).toEqual([1, expect.stringContaining('nothing of shard 0')]);
});
