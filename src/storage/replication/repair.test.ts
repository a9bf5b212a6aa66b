import { afterEach, describe, expect, test } from 'vitest';
import { labelMatcher } from '../index/matcher.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../protocol/remote-write.ts';
import type { RepairStatus } from './repair.ts';
import { SHARDS, TestCluster } from './test-cluster.suite.ts';

/** How little a round of repair has to read, and that it misses nothing by that. */
const kernel = new ProtocolKernel();
const IDS = ['a', 'b', 'c'] as const;
const SERIES = 20;
const HOURS = 3_600_000;
const ALL = { startNs: 0n, endNs: 1n << 62n };
const { signal } = new AbortController();

let cluster: TestCluster;
afterEach(() => cluster[Symbol.asyncDispose]());

/** Nodes that forget what a replica misses, and read no block only because it is its turn. */
async function open(readAllRounds = Number.POSITIVE_INFINITY): Promise<void> {
  cluster = await TestCluster.open(IDS, { hintMaxBytes: 0, repairReadAllRounds: readAllRounds });
}

function nowNs(): bigint {
  return BigInt(Math.floor(cluster.clock.nowMs())) * 1_000_000n;
}

async function write(by: string, value: number, timeNs: bigint, series = SERIES): Promise<void> {
  const body = encodeWriteRequest(
    Array.from({ length: series }, (_, i) => ({ labels: [['n', `n${i}`]], samples: [{ timeNs, value }] })),
  );
  await cluster.node(by).live.engine.writeRemote('default', 1, kernel.encodeSnappy(body));
}

async function held(id: string): Promise<string[]> {
  const found: string[] = [];
  const query = { matchers: [labelMatcher('n', '!=', '')], ...ALL, ordered: true };
  for await (const { labels, batches } of cluster.node(id).engine?.read('default', query) ?? []) {
    for await (const { values } of batches)
      for (const value of values) found.push(`${labels[0]?.[1]} ${value}`);
  }
  return found;
}

/** All have it in memory, not only the majority that acknowledged it. */
async function everywhere(samples: number): Promise<void> {
  for (const id of IDS) await expect.poll(async () => (await held(id)).length).toBe(samples);
}

/** The block ends, and goes to files everywhere. */
async function flush(): Promise<void> {
  cluster.clock.advance(4 * HOURS);
  for (const id of IDS) await cluster.node(id).engine?.flush();
}

/** What a round of this node has added to its figures. */
async function round(
  id: string,
): Promise<Pick<RepairStatus, 'shardsRead' | 'differences' | 'samplesHealed' | 'failures'>> {
  const { repair } = cluster.node(id).live;
  const before = repair.status;
  await repair.round(signal);
  const { shardsRead, differences, samplesHealed, failures } = repair.status;
  return {
    shardsRead: shardsRead - before.shardsRead,
    differences: differences - before.differences,
    samplesHealed: samplesHealed - before.samplesHealed,
    failures: failures - before.failures,
  };
}

const NOTHING = { shardsRead: 0, differences: 0, samplesHealed: 0, failures: 0 };

test('where files are the same nothing is read, and an open block is', async () => {
  await open();
  await write('a', 1, nowNs());
  await everywhere(SERIES);
  await flush();
  for (const id of IDS) expect(await round(id)).toEqual(NOTHING);
  await write('b', 2, nowNs() - 10_000_000_000n);
  await everywhere(2 * SERIES);
  // All shards of the block that is written, with each of the two others.
  expect(await round('a')).toEqual({ ...NOTHING, shardsRead: 2 * SHARDS });
});

test('when its turn comes a block is read, whatever files say', async () => {
  await open(3);
  await write('a', 1, nowNs());
  await everywhere(SERIES);
  await flush();
  const rounds = [];
  for (let i = 0; i < 6; i++) rounds.push((await round('a')).shardsRead);
  expect(rounds.sort((a, b) => a - b)).toEqual([0, 0, 0, 0, 2 * SHARDS, 2 * SHARDS]);
});

describe('what files of the same block have otherwise is found:', () => {
  test('a correction that one replica missed before the flush', async () => {
    await open();
    const t = nowNs();
    await write('a', 1, t);
    await everywhere(SERIES);
    for (const from of ['a', 'b']) cluster.cut.add(`${from}>c`);
    await write('a', 2, t, 5);
    cluster.cut.clear();
    await flush();
    expect(await held('c')).not.toEqual(await held('a'));
    expect(await round('c')).toMatchObject({ samplesHealed: 5, failures: 0 });
    expect(await held('c')).toEqual(await held('a'));
    // Nobody takes the old value back, and only what is in memory is read once more.
    for (const id of IDS) expect(await round(id)).toMatchObject({ differences: 0, failures: 0 });
    for (const id of IDS) await cluster.node(id).engine?.flush({ force: true });
    for (const id of IDS) expect(await round(id)).toEqual(NOTHING);
  });

  test('a block of which one replica has nothing', async () => {
    await open();
    for (const from of ['a', 'b']) cluster.cut.add(`${from}>c`);
    await write('a', 1, nowNs());
    cluster.cut.clear();
    await flush();
    // Those who have it lack nothing.
    expect(await round('a')).toEqual(NOTHING);
    expect(await round('c')).toMatchObject({ samplesHealed: SERIES });
    expect(await held('c')).toEqual(await held('a'));
  });

  test('a deletion that one replica missed, before it is carried out in files and after', async () => {
    await open();
    await write('a', 1, nowNs());
    await everywhere(SERIES);
    await flush();
    for (const from of ['a', 'b']) cluster.cut.add(`${from}>c`);
    const selectors = [[labelMatcher('n', '=~', 'n1.*')]];
    await cluster.node('a').live.engine.deleteSeries('default', { selectors, ...ALL });
    cluster.cut.clear();
    expect((await held('c')).length).toBe(SERIES);
    for (const id of IDS) expect(await round(id)).toMatchObject({ samplesHealed: 0, failures: 0 });
    for (const id of IDS) expect((await held(id)).length).toBe(SERIES - 11);
    for (const id of IDS) await cluster.node(id).engine?.flush({ force: true });
    for (const id of IDS) expect(await round(id)).toEqual(NOTHING);
    for (const id of IDS) expect((await held(id)).length).toBe(SERIES - 11);
  });

  test('damage that no digest tells, when the turn of its block comes', async () => {
    await open(2);
    await write('a', 1, nowNs());
    await everywhere(SERIES);
    await flush();
    const { disk } = cluster.node('b');
    for (const [path, bytes] of disk?.files() ?? []) {
      if (!path.endsWith('-data.db')) continue;
      bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 0xff, bytes.length >> 1);
      disk?.plant(path, bytes);
    }
    // It is put aside when it is found, shard by shard, and got again.
    for (let i = 0; i < 2 * (SHARDS + 2); i++) await round('b');
    expect(cluster.node('b').engine?.findings.length).toBeGreaterThan(0);
    expect(await held('b')).toEqual(await held('a'));
  });
});
