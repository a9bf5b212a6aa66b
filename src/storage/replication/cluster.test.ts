import { afterEach, describe, expect, test } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import type { PlacedShardState, Placement } from '../../placement/placement.ts';
import type { SeriesSamples, StorageEngine } from '../engine/storage-engine.ts';
import { labelMatcher } from '../index/matcher.ts';
import { encodeWriteRequest } from '../protocol/remote-write.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { placementWith, TestCluster } from './test-cluster.suite.ts';

const kernel = new ProtocolKernel();
let cluster: TestCluster;
afterEach(() => cluster[Symbol.asyncDispose]());

const nowNs = (): bigint => BigInt(Math.floor(cluster.clock.nowMs())) * 1_000_000n;
const ALL = { startNs: 0n, endNs: 1n << 62n };

function up(job: string, timeNs: bigint, value: number): SeriesSamples {
  return {
    labels: [
      ['__name__', 'up'],
      ['job', job],
    ],
    samples: [{ timeNs, value }],
  };
}

const body = (...series: SeriesSamples[]): Uint8Array => kernel.encodeSnappy(encodeWriteRequest(series));

const write = (id: string, ...series: SeriesSamples[]): Promise<unknown> =>
  cluster.node(id).live.engine.writeRemote('default', 1, body(...series));

/** `job value` of all samples, in order. */
async function read(engine: StorageEngine, warnings: string[] = []): Promise<string[]> {
  const found: string[] = [];
  const query = { matchers: [labelMatcher('__name__', '=', 'up')], ...ALL, ordered: true };
  const onWarning = (text: string): void => void warnings.push(text);
  for await (const { labels, batches } of engine.read('default', { ...query, onWarning })) {
    const job = labels.find(([name]) => name === 'job')?.[1];
    for await (const { values } of batches) for (const value of values) found.push(`${job} ${value}`);
  }
  return found;
}

const engineOf = (id: string): StorageEngine => cluster.node(id).live.engine;
const local = (id: string): StorageEngine => cluster.node(id).engine as StorageEngine;

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (error) {
    return error instanceof VarveError ? error.code : String(error);
  }
}

test('any node takes a write for all of them, and any node reads it', async () => {
  cluster = await TestCluster.open();
  const t = nowNs();
  await write('a', up('x', t, 1), up('y', t, 2));
  await expect.poll(() => read(local('c'))).toEqual(['x 1', 'y 2']);
  for (const id of ['a', 'b', 'c']) expect(await read(engineOf(id))).toEqual(['x 1', 'y 2']);
});

test('a write is acknowledged while a majority is there, and refused with a reason when it is not', async () => {
  cluster = await TestCluster.open();
  const t = nowNs();
  cluster.node('c').kill();
  await write('a', up('x', t, 1));
  cluster.node('b').kill();
  const refused = write('a', up('x', t + 1_000_000n, 2));
  await expect(refused).rejects.toThrow(/b: .*c: |c: .*b: /);
  expect(await codeOf(write('a', up('x', t + 1_000_000n, 2)))).toBe('WRITE_LEVEL_NOT_REACHED');
});

test('what a replica missed is brought to it when it is back, in order, also over a restart of who kept it', async () => {
  cluster = await TestCluster.open();
  const t = nowNs();
  cluster.node('c').kill();
  for (let i = 0; i < 5; i++) await write('a', up('x', t + BigInt(i) * 1_000_000n, i));
  await expect.poll(() => cluster.node('a').live.status()?.hints[0]?.added).toBe(5);
  cluster.node('a').kill();
  await cluster.node('a').start();
  await cluster.node('c').start();
  await expect.poll(() => read(local('c')), { timeout: 5000 }).toEqual(['x 0', 'x 1', 'x 2', 'x 3', 'x 4']);
  await expect.poll(() => cluster.node('a').live.status()?.hints[0]?.bytes).toBe(0);
});

test('a node that stops brings what it acknowledged to slow replicas, or keeps it for them', async () => {
  cluster = await TestCluster.open();
  const t = nowNs();
  cluster.delayMs = (_, to) => (to === 'c' ? 200 : 0);
  await write('a', up('x', t, 1));
  await cluster.node('a').stop();
  expect(await read(local('c'))).toEqual(['x 1']);
  // Longer than it waits.
  await cluster.node('a').start();
  cluster.delayMs = (_, to) => (to === 'c' ? 5000 : 0);
  await write('a', up('x', t + 1_000_000n, 2));
  await cluster.node('a').stop();
  cluster.node('c').kill();
  await cluster.node('c').start();
  cluster.delayMs = () => 0;
  await cluster.node('a').start();
  await expect.poll(() => read(local('c')), { timeout: 5000 }).toEqual(['x 1', 'x 2']);
  expect(cluster.node('a').live.status()?.hints[0]?.replayed).toBe(1);
});

test.each([
  ['a correction', () => Promise.resolve()],
  [
    'a correction that was there before a restart',
    async () => {
      cluster.node('c').kill();
      await cluster.node('c').start();
    },
  ],
])('%s is not undone by a hint of what it corrected', async (_, meanwhile) => {
  cluster = await TestCluster.open();
  const t = nowNs();
  cluster.cut.add('a>c');
  await write('a', up('x', t, 1));
  await expect.poll(() => cluster.node('a').live.status()?.hints[0]?.added).toBe(1);
  await write('b', up('x', t, 2));
  await expect.poll(() => read(local('c'))).toEqual(['x 2']);
  await meanwhile();
  cluster.cut.clear();
  await expect.poll(() => cluster.node('a').live.status()?.hints[0]?.replayed, { timeout: 5000 }).toBe(1);
  for (const id of ['a', 'b', 'c']) expect(await read(local(id))).toEqual(['x 2']);
});

test('reads go on without a replica, and say so; the strict levels say no', async () => {
  cluster = await TestCluster.open();
  await write('a', up('x', nowNs(), 1));
  await expect.poll(() => read(local('c'))).toEqual(['x 1']);
  cluster.node('b').kill();
  cluster.node('c').kill();
  const warnings: string[] = [];
  expect(await read(engineOf('a'), warnings)).toEqual(['x 1']);
  expect(warnings.join()).toMatch(/replica [bc]/);
  const names = await engineOf('a').labelNames('default', ALL);
  expect([names.values, names.warnings?.length]).toEqual([['__name__', 'job'], 2]);
});

test('a strict read fails when too few replicas answer', async () => {
  cluster = await TestCluster.open(['a', 'b', 'c'], { readLevel: 'majority' });
  await write('a', up('x', nowNs(), 1));
  cluster.node('b').kill();
  expect(await read(engineOf('a'))).toEqual(['x 1']);
  cluster.node('c').kill();
  expect(await codeOf(read(engineOf('a')))).toBe('READ_LEVEL_NOT_REACHED');
  expect(await codeOf(engineOf('a').series('default', ALL))).toBe('READ_LEVEL_NOT_REACHED');
});

describe('five nodes, of which each has some of the shards', () => {
  const has = (place: number, shard: number) =>
    [0, 1, 2].some((replica) => (shard + replica) % 5 === place) ? ('available' as const) : undefined;

  const open = async (): Promise<void> => {
    const ids = ['a', 'b', 'c', 'd', 'e'];
    cluster = await TestCluster.open(ids, { placement: placementWith(ids, 3, has) });
  };

  const jobs = Array.from({ length: 20 }, (_, i) => `job${String(i).padStart(2, '0')}`);

  test('each series goes to its replicas only, and reads find all', async () => {
    await open();
    const t = nowNs();
    await write('a', ...jobs.map((job, i) => up(job, t, i)));
    const expected = jobs.map((job, i) => `${job} ${i}`);
    for (const { id } of cluster.nodes) expect(await read(engineOf(id))).toEqual(expected);
    await expect
      .poll(async () => (await Promise.all(cluster.nodes.map(({ id }) => read(local(id))))).flat().length)
      .toBe(3 * jobs.length);
    const { seriesCount, labels } = await engineOf('e').cardinality('default', ALL);
    expect([seriesCount, labels[0]]).toEqual([20, { name: 'job', valueCount: 20, seriesCount: 20 }]);
    expect((await engineOf('d').labelValues('default', 'job', ALL)).values).toEqual(jobs);
    expect(
      (await engineOf('b').series('default', { ...ALL, limit: 3 })).values.map(([, job]) => job?.[1]),
    ).toEqual(jobs.slice(0, 3));
  });

  test('one of them may be gone', async () => {
    await open();
    cluster.node('b').kill();
    const t = nowNs();
    await write('a', ...jobs.map((job, i) => up(job, t, i)));
    expect(await read(engineOf('e'))).toHaveLength(20);
    await cluster.node('b').start();
    await expect
      .poll(async () => (await Promise.all(cluster.nodes.map(({ id }) => read(local(id))))).flat().length, {
        timeout: 5000,
      })
      .toBe(3 * jobs.length);
  });

  test('samples that are refused are counted once', async () => {
    await open();
    const t = nowNs();
    const old = t - 86_400_000_000_000n;
    const series = jobs.map((job, i) => up(job, i % 2 === 0 ? t : old, i));
    const outcome = await engineOf('a').writeRemote('default', 1, body(...series));
    expect(outcome.samples).toBe(10);
    expect(outcome.rejected.map(({ reason, count }) => [reason, count])).toEqual([['tooOld', 10]]);
    const slow = await engineOf('c').writeSeries('default', [
      ...series,
      { labels: [], samples: up('', t, 1).samples },
    ]);
    expect(slow.samples).toBe(10);
    expect(new Map(slow.rejected.map(({ reason, count }) => [reason, count]))).toEqual(
      new Map([
        ['tooOld', 10],
        ['invalidLabels', 1],
      ]),
    );
  });
});

describe('while shards move from one node to another', () => {
  const ids = ['a', 'b', 'c', 'd'];
  const moved = (
    version: number,
    c: PlacedShardState | undefined,
    d: PlacedShardState | undefined,
  ): Placement =>
    placementWith(
      ids,
      3,
      (place) => {
        if (place < 2) return 'available';
        if (place === 2) return c;
        return d === 'initializing' ? { state: d, sourceId: 'c' } : d;
      },
      version,
    );

  test('both get what is written, and count as one replica when both have it', async () => {
    cluster = await TestCluster.open(ids, { placement: moved(1, 'available', undefined) });
    const t = nowNs();
    const at = (i: number): bigint => t + BigInt(i) * 1_000_000n;
    await write('d', up('x', at(0), 0));
    cluster.placement = moved(2, 'leaving', 'initializing');
    cluster.node('b').kill();
    await Promise.all(['a', 'c', 'd'].map((id) => cluster.node(id).follow()));
    await write('a', up('x', at(2), 2));
    for (const id of ['a', 'c']) expect(await read(local(id))).toContain('x 2');
    cluster.node('c').kill();
    expect(await codeOf(write('a', up('x', at(3), 3)))).toBe('WRITE_LEVEL_NOT_REACHED');
    await cluster.node('b').start();
    await write('a', up('x', at(4), 4));
    expect(await read(engineOf('d'))).toEqual(expect.arrayContaining(['x 0', 'x 2', 'x 4']));
    const forC = (): unknown =>
      cluster
        .node('a')
        .live.status()
        ?.hints.find(({ replica }) => replica === 'c');
    expect(forC()).toMatchObject({ added: 1 });
    cluster.placement = moved(3, undefined, 'available');
    await Promise.all(['a', 'b', 'd'].map((id) => cluster.node(id).follow()));
    // What was kept for a node that is in the placement no more is given up.
    cluster.placement = {
      ...cluster.placement,
      instances: cluster.placement.instances.filter(({ id }) => id !== 'c'),
    };
    await expect.poll(forC, { timeout: 20_000 }).toBeUndefined();
    cluster.node('a').kill();
    await write('d', up('x', at(5), 5));
    expect(await read(engineOf('b'))).toEqual(expect.arrayContaining(['x 2', 'x 4', 'x 5']));
  });
});

describe('a router that has not heard of a new replica', () => {
  const ids = ['a', 'b', 'c', 'd'];
  const only = placementWith(ids, 3, (place) => (place < 3 ? 'available' : undefined));
  const isTakenOver = placementWith(
    ids,
    3,
    (place) => {
      if (place < 2) return 'available';
      return place === 2 ? 'leaving' : { state: 'initializing', sourceId: 'c' };
    },
    2,
  );
  const taken = (id: string): bigint | undefined =>
    cluster.node(id).engine?.status().namespaces[0]?.samplesWritten;

  const open = async (): Promise<void> => {
    cluster = await TestCluster.open(ids, { placement: only });
    await write('a', up('x', nowNs(), 0));
    cluster.behind.set('a', only);
    cluster.placement = isTakenOver;
    for (const id of ['b', 'c', 'd']) await cluster.node(id).follow();
  };

  test('is told so, and sends the write to the new one as well', async () => {
    await open();
    await write('a', up('x', nowNs(), 1));
    await expect.poll(() => ['b', 'c', 'd'].map(taken)).toEqual([2n, 2n, 1n]);
    await engineOf('a').deleteSeries('default', {
      selectors: [[labelMatcher('job', '=', 'x')]],
      ...ALL,
    });
    await expect.poll(() => cluster.node('d').live.local.ledger.all).toHaveLength(1);
  });

  test('has nothing acknowledged when it cannot hear of it', async () => {
    await open();
    cluster.deaf.add('a');
    expect(await codeOf(write('a', up('x', nowNs(), 1)))).toBe('WRITE_LEVEL_NOT_REACHED');
    expect(taken('d')).toBe(0n);
    // A replica that has not heard of it either gives nothing yet, so what it takes the new one will be given.
    cluster.behind.set('b', only);
    cluster.behind.set('c', only);
    await write('a', up('x', nowNs(), 2));
  });
});

describe('what a node took while it stood alone', () => {
  const { signal } = new AbortController();
  const join = async (...ids: readonly string[]): Promise<void> => {
    for (const id of ids) cluster.behind.delete(id);
    const { placement } = cluster;
    for (const id of ids) await cluster.node(id).live.handOver(placement as Placement, signal);
    for (const id of ids) await cluster.node(id).follow();
  };

  test('all have when the first placement is in force', async () => {
    const ids = ['a', 'b', 'c'];
    const first = { ...placementWith(ids, 3, () => 'initializing'), everAvailable: [] };
    cluster = await TestCluster.open(ids, { placement: first, alone: ids });
    const t = nowNs();
    await write('a', up('x', t, 1), up('y', t, 2));
    await write('b', up('y', t, 3), up('z', t, 4));
    await join(...ids);
    for (const id of ids) await cluster.node(id).engine?.ready();
    const held = await Promise.all(ids.map((id) => read(local(id))));
    // Of one sample that two took each keeps its own, until a repair.
    for (const all of held) expect(all.filter((one) => !one.startsWith('y'))).toEqual(['x 1', 'z 4']);
    for (const all of held) expect(all).toHaveLength(3);
  });

  test('those have that are replicas already, or it does not follow', async () => {
    const ids = ['a', 'b', 'c', 'd'];
    const placement = placementWith(ids, 3, (place) => (place < 3 ? 'available' : undefined));
    cluster = await TestCluster.open(ids, { placement, alone: ['d'] });
    const t = nowNs();
    await write('a', up('x', t, 1));
    await write('d', up('x', t, 9), up('x', t + 1_000_000n, 2), up('y', t, 3));
    cluster.placement = placementWith(
      ids,
      3,
      (place) => {
        if (place < 2) return 'available';
        return place === 2 ? 'leaving' : { state: 'initializing', sourceId: 'c' };
      },
      2,
    );
    for (const id of ['a', 'b', 'c']) await cluster.node(id).follow();
    cluster.cut.add('d>a');
    cluster.cut.add('d>b');
    expect(await codeOf(join('d'))).toBe('WRITE_LEVEL_NOT_REACHED');
    expect(await read(local('d'))).toEqual(['x 9', 'x 2', 'y 3']);
    cluster.cut.delete('d>b');
    await join('d');
    expect(await read(local('b'))).toEqual(['x 1', 'x 2', 'y 3']);
    expect(await read(engineOf('a'))).toEqual(['x 1', 'x 2', 'y 3']);
  });

  test('those have that are being filled, unless they have not begun', async () => {
    const ids = ['a', 'b', 'c', 'd'];
    const placement = placementWith(ids, 4, (place) => (place === 0 ? 'available' : 'initializing'));
    cluster = await TestCluster.open(ids, { placement, alone: ['c', 'd'] });
    await write('d', up('x', nowNs(), 1));
    // What b got of a may be of before.
    cluster.cut.add('d>c');
    expect(await codeOf(join('d'))).toBe('WRITE_LEVEL_NOT_REACHED');
    expect(await read(local('d'))).toEqual(['x 1']);
    cluster.cut.clear();
    expect(await read(local('c'))).toEqual([]);
    await join('d');
    expect(await read(local('c'))).toEqual(['x 1']);
  });

  test('counts nothing that a node takes until it follows the placement that it has heard of', async () => {
    const ids = ['a', 'b', 'c'];
    cluster = await TestCluster.open(ids, { alone: ['b', 'c'] });
    for (const id of ['b', 'c']) cluster.behind.delete(id);
    expect(await codeOf(write('a', up('x', nowNs(), 1)))).toBe('WRITE_LEVEL_NOT_REACHED');
    expect(await read(local('b'))).toEqual([]);
    await join('b');
    await write('a', up('x', nowNs(), 2));
    expect(await read(local('b'))).toContain('x 2');
  });

  test('nobody is given by a placement that is older than what it knows', async () => {
    const ids = ['a', 'b', 'c', 'd'];
    const placement = placementWith(ids, 4, (place) => (place < 3 ? 'available' : 'initializing'));
    cluster = await TestCluster.open(ids, { placement, alone: ['d'] });
    await write('d', up('x', nowNs(), 1));
    const older = { ...placement, version: 0 };
    expect(await codeOf(cluster.node('d').live.handOver(older, signal))).toBe('WRITE_LEVEL_NOT_REACHED');
    await join('d');
    expect(await read(engineOf('a'))).toEqual(['x 1']);
  });
});

describe('deletions', () => {
  const selectors = [[labelMatcher('job', '=', 'x')]];

  test('are carried out by all replicas, also by one that was away, and not undone by older hints', async () => {
    cluster = await TestCluster.open();
    const t = nowNs();
    cluster.cut.add('a>c');
    cluster.cut.add('b>c');
    await write('a', up('x', t, 1), up('y', t, 1));
    expect(await engineOf('b').deleteSeries('default', { selectors, ...ALL })).toEqual({ series: 1 });
    await write('a', up('x', t + 1_000_000n, 2));
    cluster.cut.clear();
    await expect.poll(() => read(local('c')), { timeout: 5000 }).toEqual(['x 2', 'y 1']);
    for (const id of ['a', 'b']) expect(await read(local(id))).toEqual(['x 2', 'y 1']);
    // Again, as a hint that is repeated.
    const [deletion] = cluster.node('a').live.local.ledger.all;
    await cluster.node('c').live.local.delete(deletion as NonNullable<typeof deletion>);
    expect(await read(local('c'))).toEqual(['x 2', 'y 1']);
  });

  test('that a replica never heard of are found by the repair', async () => {
    cluster = await TestCluster.open(['a', 'b', 'c'], { hintMaxBytes: 0 });
    const t = nowNs();
    await write('a', up('x', t, 1), up('y', t, 1));
    await expect.poll(() => read(local('c'))).toHaveLength(2);
    cluster.node('c').kill();
    await engineOf('b').deleteSeries('default', { selectors, ...ALL });
    await cluster.node('c').start();
    const { signal } = new AbortController();
    // Those who have deleted it do not take it back from who has not.
    await cluster.node('a').live.repair.round(signal);
    expect(await read(local('a'))).toEqual(['y 1']);
    await cluster.node('c').live.repair.round(signal);
    expect(await read(local('c'))).toEqual(['y 1']);
  });
});

test('the repair makes a replica equal whose hints were lost', async () => {
  cluster = await TestCluster.open(['a', 'b', 'c'], { hintMaxBytes: 0 });
  const t = nowNs() - 10_000_000_000n;
  const at = (i: number): bigint => t + BigInt(i) * 1_000_000n;
  await write('a', up('x', at(0), 0), up('x', at(1), 1));
  await expect.poll(() => read(local('c'))).toHaveLength(2);
  cluster.node('c').kill();
  // Behind, before, between, another value, and a series that is not known there.
  await write('a', up('x', at(3), 3));
  await write('b', up('x', at(2), 2), up('x', t - 1_000_000n, -1), up('z', at(9), 9));
  await write('a', up('x', at(1), 11));
  await cluster.node('c').start();
  expect(cluster.node('a').live.status()?.hints[0]).toMatchObject({ added: 0, dropped: 2 });
  const { signal } = new AbortController();
  for (const id of ['a', 'b', 'c']) await cluster.node(id).live.repair.round(signal);
  for (const id of ['a', 'b', 'c']) {
    expect(await read(local(id))).toEqual(['x -1', 'x 0', 'x 11', 'x 2', 'x 3', 'z 9']);
  }
  expect(cluster.node('c').live.repair.status).toMatchObject({ failures: 0, rounds: 1, samplesHealed: 5 });
  // It is durable there, and stays after a flush of either.
  await local('a').flush({ force: true });
  cluster.node('c').kill();
  await cluster.node('c').start();
  await cluster.node('c').live.repair.round(signal);
  expect(cluster.node('c').live.repair.status).toMatchObject({ differences: 0, samplesHealed: 0 });
  await local('c').flush({ force: true });
  expect(await read(local('c'))).toEqual(await read(local('a')));
});

test('without a placement the engine serves by itself', async () => {
  cluster = await TestCluster.open();
  cluster.placement = undefined;
  await write('a', up('x', nowNs(), 1));
  expect([await read(engineOf('a')), await read(engineOf('b'))]).toEqual([['x 1'], []]);
  expect(cluster.node('a').live.status()).toBeUndefined();
});
