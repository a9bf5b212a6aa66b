import { describe, expect, test, vi } from 'vitest';
import { labelMatcher } from '../index/matcher.ts';
import { BLOCK_NS, HOUR_NS, MINUTE_NS, NOW_NS, type Samples } from '../engine/engine.suite.ts';
import type { UnfulfilledStatus } from '../engine/storage-engine.ts';
import { PeerCluster, type ClusterOptions } from './peer-cluster.suite.ts';

const SERIES = Array.from({ length: 12 }, (_, i) => `m${i}`);
/** So many blocks are flushed. */
const BLOCKS = 3;

/** One sample a minute of each block, from its 20th minute on. */
function samplesOf(block: number, isTaken: (minute: number) => boolean = () => true): Samples {
  const startNs = BLOCK_NS + BigInt(block) * 2n * HOUR_NS + 20n * MINUTE_NS;
  return Array.from(
    { length: 8 },
    (_, minute) => [startNs + BigInt(minute) * MINUTE_NS, block * 100 + minute] as const,
  ).filter((_, minute) => isTaken(minute));
}

/** Writes a block to nodes when it is time for it. */
async function writeBlock(
  cluster: PeerCluster,
  block: number,
  to: Readonly<Record<string, (minute: number) => boolean>>,
): Promise<void> {
  for (const [node, isTaken] of Object.entries(to)) {
    await cluster.write([node], SERIES, samplesOf(block, isTaken));
  }
}

/** As long as it takes: other work on the machine must not decide. */
const until = (isSo: () => boolean): Promise<boolean> => vi.waitUntil(isSo, { timeout: 30_000 });

const ALL = (): boolean => true;

/** Nodes with three flushed blocks and an open one, all the same. */
async function filled(options: ClusterOptions, ...nodes: readonly string[]): Promise<PeerCluster> {
  const cluster = new PeerCluster(options);
  for (const node of nodes) await cluster.start(node);
  await cluster.place(Object.fromEntries(nodes.map((node) => [node, 'available' as const])));
  for (const node of nodes) await cluster.engine(node).ready();
  for (let block = 0; block < BLOCKS; block++) {
    await writeBlock(cluster, block, Object.fromEntries(nodes.map((node) => [node, ALL])));
    cluster.clock.advance(2n * HOUR_NS);
  }
  for (const node of nodes) await cluster.engine(node).flush();
  await writeBlock(cluster, BLOCKS, Object.fromEntries(nodes.map((node) => [node, ALL])));
  return cluster;
}

async function join(cluster: PeerCluster, node: string, ...others: readonly string[]): Promise<void> {
  await cluster.start(node);
  const available = Object.fromEntries(others.map((other) => [other, 'available' as const]));
  await cluster.place({ ...available, [node]: 'initializing' });
}

describe('a node that joins', () => {
  test('copies the files of replicas that agree, and takes open blocks into memory and a snapshot', async () => {
    await using cluster = await filled({}, 'n1', 'n2');
    const expected = await cluster.dump('n1');
    expect(Object.keys(expected)).toHaveLength(SERIES.length);
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    expect(await cluster.dump('n3')).toEqual(expected);
    expect(cluster.peersDetail('n3')).toContain(
      `persist: ${4 * BLOCKS} filesets copied, 0 merged, 0 open blocks`,
    );
    expect(cluster.peersDetail('n3')).toContain(`0 merged, 4 open blocks (${SERIES.length} series`);
    // Checksums only come from the second, and they agree.
    expect(cluster.requests('columns')).toBe(0);
    expect(cluster.engine('n3').durableShards()).toEqual([0, 1, 2, 3]);
    const found = await cluster
      .engine('n3')
      .labelValues('default', '__name__', { startNs: 0n, endNs: 2n ** 62n });
    expect([...found.values].sort()).toEqual([...SERIES].sort());
    const old = { matchers: [labelMatcher('__name__', '=', 'm1')], startNs: 0n, endNs: BLOCK_NS + HOUR_NS };
    let count = 0;
    for await (const { batches } of cluster.engine('n3').read('default', old)) {
      for await (const { times } of batches) count += times.length;
    }
    expect(count).toBe(8);
    expect(await all(cluster.engine('n3').verify())).toEqual([]);
    // From its own disk alone.
    await cluster.kill('n3');
    cluster.cut.add('n1').add('n2');
    await cluster.start('n3');
    await cluster.place({ n1: 'available', n2: 'available', n3: 'available' });
    await cluster.engine('n3').ready();
    expect(await cluster.dump('n3')).toEqual(expected);
    const fills = cluster.engine('n3').explain(1);
    const last = fills.at(-1)?.attempt;
    const sources = fills.flatMap(({ attempt, source }) => (attempt === last ? [source] : []));
    expect(new Set(sources)).toEqual(new Set(['fs', 'commitlog']));
  });

  test('is not held up by damage in a replica that it cannot do without: that one mends it, and the other has the rest', async () => {
    await using cluster = await filled({ shardCount: 1, level: 'all' }, 'n1', 'n2');
    const expected = await cluster.dump('n1');
    for (const [node, at] of [
      ['n1', 0.3],
      ['n2', 0.7],
    ] as const) {
      const files = cluster.disk(node).files();
      const path = [...files.keys()].find((file) => file.endsWith('-data.db')) ?? '';
      const content = files.get(path) ?? Buffer.alloc(0);
      const place = Math.floor(content.length * at);
      content.writeUInt8(content.readUInt8(place) ^ 1, place);
      cluster.disk(node).plant(path, content);
    }
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    expect(await cluster.dump('n3')).toEqual(expected);
  });

  test('gets blocks from whichever replica has them', async () => {
    await using cluster = new PeerCluster();
    for (const node of ['n1', 'n2']) await cluster.start(node);
    await cluster.place({ n1: 'available', n2: 'available' });
    for (let block = 0; block < BLOCKS; block++) {
      await writeBlock(cluster, block, { [block % 2 === 0 ? 'n1' : 'n2']: ALL });
      cluster.clock.advance(2n * HOUR_NS);
    }
    for (const node of ['n1', 'n2']) await cluster.engine(node).flush();
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    const got = await cluster.dump('n3');
    expect(got).toEqual(union(await cluster.dump('n1'), await cluster.dump('n2')));
    expect(got['m3']).toHaveLength(8 * BLOCKS);
  });

  test('merges series of which replicas have different samples, flushed and open, and those that one has not', async () => {
    await using cluster = new PeerCluster();
    for (const node of ['n1', 'n2']) await cluster.start(node);
    await cluster.place({ n1: 'available', n2: 'available' });
    const odd = (minute: number): boolean => minute % 2 === 1;
    await writeBlock(cluster, 0, { n1: odd, n2: (minute) => !odd(minute) });
    await cluster.write(['n1'], 'only_n1', samplesOf(0));
    await cluster.write(['n2'], 'only_n2', samplesOf(0));
    await cluster.write(['n1', 'n2'], 'same', samplesOf(0));
    cluster.clock.advance(3n * HOUR_NS);
    for (const node of ['n1', 'n2']) await cluster.engine(node).flush();
    cluster.clock.advance(3n * HOUR_NS);
    await writeBlock(cluster, 3, { n1: odd, n2: (minute) => !odd(minute) });
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    const got = await cluster.dump('n3');
    expect(got).toEqual(union(await cluster.dump('n1'), await cluster.dump('n2')));
    expect(got['m1']).toHaveLength(16);
    expect(Object.keys(got)).toHaveLength(SERIES.length + 3);
    expect(cluster.peersDetail('n3')).toContain('0 filesets copied, 4 merged');
    expect(await all(cluster.engine('n3').verify())).toEqual([]);
  });

  test('asks for samples of those series only that differ', async () => {
    await using cluster = new PeerCluster({ shardCount: 1 });
    for (const node of ['n1', 'n2']) await cluster.start(node);
    await cluster.place({ n1: 'available', n2: 'available' });
    const names = Array.from({ length: 300 }, (_, i) => `s${i}`);
    await cluster.write(['n1', 'n2'], names, samplesOf(0));
    await cluster.write(['n2'], 's77', [[samplesOf(0)[7]?.[0] ?? 0n, 5]]);
    await cluster.write(['n2'], 's123', [[BLOCK_NS + 21n * MINUTE_NS + 1n, 5]]);
    cluster.clock.advance(3n * HOUR_NS);
    for (const node of ['n1', 'n2']) await cluster.engine(node).flush();
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    const asked = cluster.calls.flatMap(({ request }) => (request.kind === 'columns' ? request.ids : []));
    expect(asked.map((id) => Buffer.from(id).toString().match(/s\d+/)?.[0] ?? '')).toEqual(['s77', 's123']);
    const [one, two, three] = [await cluster.dump('n1'), await cluster.dump('n2'), await cluster.dump('n3')];
    expect(three['s5']).toEqual(one['s5']);
    // The overwrite has a version, what it replaced has none.
    expect(three['s77']).toEqual(two['s77']);
    expect(three['s123']).toHaveLength(9);
  });

  test('keeps what is written to it meanwhile', async () => {
    await using cluster = await filled({}, 'n1');
    let isWritten = false;
    cluster.fault = async (_, { kind }, answer) => {
      if (kind === 'series' && !isWritten) {
        isWritten = true;
        await cluster.write(['n1', 'n2'], 'm1', [[cluster.clock.nowNs, 42]]);
        await cluster.write(['n1', 'n2'], 'fresh', [[cluster.clock.nowNs, 43]]);
      }
      return await answer();
    };
    cluster.clock.advance(30n * MINUTE_NS);
    await join(cluster, 'n2', 'n1');
    await cluster.engine('n2').ready();
    expect(isWritten).toBe(true);
    expect((await cluster.dump('n2'))['fresh']).toHaveLength(1);
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
    await cluster.kill('n2');
    await cluster.start('n2');
    await cluster.engine('n2').ready();
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
  });

  test('does without what was deleted, also where no file has been written anew yet', async () => {
    await using cluster = await filled({}, 'n1', 'n2');
    for (const node of ['n1', 'n2']) {
      await cluster.engine(node).deleteSeries('default', {
        selectors: [[labelMatcher('__name__', '=', 'm1')]],
        startNs: 0n,
        endNs: BLOCK_NS + 3n * HOUR_NS,
      });
    }
    await cluster.engine('n1').flush();
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
    expect((await cluster.dump('n3'))['m1']).toHaveLength(16);
  });

  test('has what it got in memory at once under the policy `all`', async () => {
    const namespaces = [{ name: 'default', cachePolicy: 'all' as const }];
    await using cluster = await filled({ namespaces }, 'n1');
    await join(cluster, 'n2', 'n1');
    await cluster.engine('n2').ready();
    const cacheOf = (node: string): number => cluster.engine(node).status().namespaces[0]?.cache.bytes ?? 0;
    expect(cacheOf('n2')).toBeGreaterThan(1000);
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
  });
});

describe('shards that are filled one after the other', () => {
  test('serve, and count as durable, while others are on their way', async () => {
    await using cluster = await filled({ shardCount: 24, engine: { bootstrapRoundMs: 0 } }, 'n1', 'n2');
    const expected = await cluster.dump('n1');
    let letGo = (): void => {};
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    let isHeld = false;
    cluster.fault = async (_, request, answer) => {
      if (request.kind === 'fileset' && request.shard >= 16) {
        isHeld = true;
        await held;
      }
      return await answer();
    };
    await join(cluster, 'n3', 'n1', 'n2');
    const n3 = cluster.engine('n3');
    await until(() => isHeld);
    const first = Array.from({ length: 8 }, (_, shard) => shard);
    expect(n3.durableShards()).toEqual(expect.arrayContaining(first));
    expect(n3.durableShards()).not.toContain(16);
    // From its own disk alone, and through the index.
    const range = { startNs: 0n, endNs: 2n ** 62n, shards: first };
    const names: string[] = [];
    const matchers = [labelMatcher('__name__', '=~', 'm.*')];
    for await (const { labels, batches } of n3.read('default', { ...range, matchers })) {
      let count = 0;
      for await (const { times } of batches) count += times.length;
      const name = labels[0]?.[1] ?? '';
      expect(count).toBe(expected[name]?.length);
      names.push(name);
    }
    expect(names.length).toBeGreaterThan(0);
    expect(names.length).toBeLessThan(SERIES.length);
    expect(() => n3.read('default', { matchers, startNs: 0n, endNs: 1n })).toThrow('not bootstrapped');
    const shards = n3.status().namespaces[0]?.shards ?? [];
    const late = shards.filter(({ progress }) => progress !== undefined).map(({ shard }) => shard);
    expect(late.length).toBeGreaterThan(0);
    expect(shards[0]).toMatchObject({ state: 'bootstrapped', sources: ['peers'] });
    for (const shard of late) expect(shards[shard]?.state).toBe('bootstrapping');
    letGo();
    await n3.ready();
    expect(await cluster.dump('n3')).toEqual(expected);
    expect(n3.durableShards()).toHaveLength(24);
    // One run, whose sources tell of all rounds together.
    const runs = n3.status().bootstrapRuns.filter(({ reason }) => reason === 'topology');
    expect(runs).toHaveLength(1);
    const [peers] = runs[0]?.sources.filter(({ source }) => source === 'peers') ?? [];
    const blocks = new Set((await filesetsOf(cluster, 'n3')).keys()).size;
    expect(peers?.detail).toContain(`${blocks} filesets copied`);
    expect(peers?.fulfilledBlocks).toBe(peers?.requestedBlocks);
    for (const shard of [0, 23]) {
      const fills = n3.explain(shard).filter(({ pass }) => pass === 'persist');
      const last = fills.filter(({ attempt }) => attempt === fills.at(-1)?.attempt);
      expect(last.map(({ source }) => source)).toEqual(['peers']);
    }
  });

  test('do not keep those waiting that need nothing of others', async () => {
    await using cluster = await filled({}, 'n1', 'n2');
    const both = { n1: 'available', n2: 'available' } as const;
    await cluster.place([both, both, { n1: 'available' }, { n1: 'available' }]);
    await cluster.engine('n2').ready();
    let asked = 0;
    let letGo = (): void => {};
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    cluster.fault = async (_, request, answer) => {
      if (request.kind === 'fileset') {
        asked++;
        await held;
      }
      return await answer();
    };
    const joins = { n1: 'available', n2: 'initializing' } as const;
    await cluster.place([both, both, joins, joins]);
    await until(() => asked > 0);
    const killed = cluster.kill('n2');
    letGo();
    await killed;
    asked = 0;
    cluster.fault = async (_, request, answer) => {
      if (request.kind === 'fileset' && ++asked > 0) await new Promise<void>((resolve) => (letGo = resolve));
      return await answer();
    };
    await cluster.start('n2');
    await until(() => asked > 0);
    expect(cluster.engine('n2').durableShards()).toEqual([0, 1]);
    cluster.fault = undefined;
    letGo();
    await cluster.engine('n2').ready();
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
  });
});

describe('trouble on the way', () => {
  test('a peer that is down: with `majority` it waits and says for whom, and goes on when it is back', async () => {
    await using cluster = await filled({ majority: 2 }, 'n1', 'n2');
    cluster.cut.add('n2');
    await join(cluster, 'n3', 'n1', 'n2');
    const left = (): UnfulfilledStatus[] =>
      cluster
        .engine('n3')
        .status()
        .bootstrapRuns.flatMap(({ unfulfilled }) => unfulfilled);
    await until(() => left().length > 0);
    const [first] = left();
    expect(first).toMatchObject({ reason: 'consistencyNotMet' });
    expect(first?.detail).toContain(
      '1 of 2 required replicas can give the shard (n1: whole; n2: it cannot be reached',
    );
    expect(cluster.engine('n3').durableShards()).toEqual([]);
    cluster.cut.delete('n2');
    await cluster.engine('n3').ready();
    expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
  });

  test.each(['one', 'unstrictMajority'] as const)(
    'a peer that is down is done without at level %s',
    async (level) => {
      await using cluster = await filled({ majority: 2, level }, 'n1', 'n2');
      cluster.cut.add('n2');
      await join(cluster, 'n3', 'n1', 'n2');
      await cluster.engine('n3').ready();
      expect(cluster.peersDetail('n3')).toContain('n2: it cannot be reached (left behind)');
      expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
    },
  );

  test('a peer that never answers is left behind after its time', async () => {
    await using cluster = await filled({ level: 'one' }, 'n1', 'n2');
    cluster.fault = async (to, _, answer) =>
      to === 'n2' ? await new Promise<Buffer>(() => {}) : await answer();
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    expect(cluster.peersDetail('n3')).toContain('n2: no answer within 15000 ms (left behind)');
    expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
  });

  test('bytes that are not what was sent are not taken: another peer gives them', async () => {
    await using cluster = await filled({ level: 'one' }, 'n1', 'n2');
    cluster.fault = async (to, _, answer) => {
      const bytes = await answer();
      if (to === 'n1') bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1);
      return bytes;
    };
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
    expect(await all(cluster.engine('n3').verify())).toEqual([]);
  });

  test('a copy that was interrupted goes on where it ended, from another peer', async () => {
    await using cluster = await filled({ shardCount: 1, level: 'one', inlineBytes: 0 }, 'n1', 'n2');
    const sent = new Map<string, number>();
    cluster.fault = async (to, request, answer) => {
      if (request.kind !== 'file') return await answer();
      if (to === 'n1' && request.offset > 0) throw new Error('cut');
      const short = { ...request, lengthBytes: 100 };
      const bytes = to === 'n1' ? await cluster.serve(to, short) : await answer();
      sent.set(to, (sent.get(to) ?? 0) + bytes.length);
      if (to === 'n2' && request.file === 'data') expect(request.offset).toBe(100);
      return bytes;
    };
    await join(cluster, 'n3', 'n1', 'n2');
    await cluster.engine('n3').ready();
    expect([...sent.keys()].sort()).toEqual(['n1', 'n2']);
    expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
    expect(await all(cluster.engine('n3').verify())).toEqual([]);
  });

  test('a full disk leaves blocks to a later attempt, with the reason', async () => {
    await using cluster = await filled({}, 'n1');
    await cluster.start('n2');
    const disk = cluster.disk('n2');
    disk.fault = ({ kind, path }) =>
      kind === 'write' && path.includes('/data/') && path.includes('-data.db') ? 'ENOSPC' : undefined;
    await cluster.place({ n1: 'available', n2: 'initializing' });
    const unfulfilled = (): string[] =>
      cluster
        .engine('n2')
        .status()
        .bootstrapRuns.flatMap((run) => run.unfulfilled.map(({ reason }) => reason));
    await until(() => unfulfilled().includes('persistFailed'));
    disk.fault = undefined;
    await cluster.engine('n2').ready();
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
    expect([...disk.files().keys()].filter((path) => path.endsWith('-data.db')).length).toBeGreaterThan(3);
  });

  test('shards do not count as available before the snapshot of what came into memory is on the disk', async () => {
    await using cluster = await filled({}, 'n1');
    await cluster.start('n2');
    const disk = cluster.disk('n2');
    let failed = 0;
    disk.fault = ({ kind, path }) => {
      if (kind !== 'write' || !path.includes('/snapshots/')) return undefined;
      failed++;
      return 'EIO';
    };
    await cluster.place({ n1: 'available', n2: 'initializing' });
    await until(() => failed > 2);
    // It is served, but a restart would lose it.
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
    expect(cluster.engine('n2').durableShards()).toEqual([]);
    disk.fault = undefined;
    await cluster.engine('n2').ready();
    expect(cluster.engine('n2').durableShards()).toEqual([0, 1, 2, 3]);
    await cluster.stop('n1');
    await cluster.kill('n2');
    await cluster.start('n2');
    await cluster.place({ n2: 'available' });
    await cluster.engine('n2').ready();
    expect((await cluster.dump('n2'))['m1']).toHaveLength(32);
  });

  test('what an aborted try has brought is not asked for again', async () => {
    await using cluster = await filled({ shardCount: 1 }, 'n1');
    let left = 2;
    cluster.fault = async (_, { kind }, answer) => {
      if (kind === 'fileset' && left-- <= 0) throw new Error('cut');
      return await answer();
    };
    await cluster.start('n2', {}, 'majority');
    await cluster.place({ n1: 'available', n2: 'initializing' });
    await until(() => left < -2);
    await cluster.kill('n2');
    cluster.fault = undefined;
    cluster.calls.length = 0;
    await cluster.start('n2');
    await cluster.engine('n2').ready();
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
    expect(cluster.requests('fileset')).toBe(BLOCKS - 2);
  });

  test('files that are flushed and replaced while they are copied are asked for anew', async () => {
    const namespaces = [{ name: 'default', coldWritesEnabled: true }];
    await using cluster = await filled({ shardCount: 1, namespaces }, 'n1');
    let isDone = false;
    cluster.fault = async (_, { kind }, answer) => {
      if (kind === 'fileset' && !isDone) {
        isDone = true;
        await cluster.write(['n1', 'n2'], 'm1', [[BLOCK_NS + 50n * MINUTE_NS, 1]]);
        await cluster.engine('n1').flush({ force: true });
      }
      return await answer();
    };
    await join(cluster, 'n2', 'n1');
    await cluster.engine('n2').ready();
    expect(isDone).toBe(true);
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
  });

  test('a change of the placement ends what is under way, and the next attempt does what is left', async () => {
    await using cluster = await filled({}, 'n1');
    await cluster.start('n2');
    let copied = 0;
    let changed: Promise<void> | undefined;
    const half = (shard: number): boolean => shard < 2;
    cluster.fault = async (_, { kind }, answer) => {
      if (kind === 'fileset' && ++copied === 2) {
        changed = cluster.place(
          [0, 1, 2, 3].map((shard) =>
            half(shard) ? { n1: 'available', n2: 'initializing' } : { n1: 'available' },
          ),
        );
      }
      return await answer();
    };
    await cluster.place({ n1: 'available', n2: 'initializing' });
    await until(() => changed !== undefined);
    await changed;
    await cluster.engine('n2').ready();
    expect(cluster.engine('n2').durableShards()).toEqual([0, 1]);
    expect(
      [...cluster.disk('n2').files().keys()].filter((path) => /data\/default\/[23]\//.test(path)),
    ).toEqual([]);
    const runs = cluster.engine('n2').status().bootstrapRuns;
    expect(runs.at(-1)).toMatchObject({ reason: 'topology', shardCount: 2, state: 'done' });
  });
});

test('changes of the placement that concern others do not disturb a bootstrap, nor wait for it', async () => {
  await using cluster = await filled({}, 'n1', 'n2');
  await cluster.start('n3');
  let changes = 0;
  cluster.fault = async (_, { kind }, answer) => {
    // In force while the attempt goes on: it would wait for this answer otherwise.
    if (kind === 'fileset' || kind === 'series') {
      const [n2, n4] =
        changes++ % 2 === 0 ? (['leaving', 'initializing'] as const) : (['available', 'leaving'] as const);
      await cluster.place({ n1: 'available', n2, n3: 'initializing', n4 });
    }
    return await answer();
  };
  await cluster.place({ n1: 'available', n2: 'available', n3: 'initializing' });
  await cluster.engine('n3').ready();
  expect(changes).toBeGreaterThan(8);
  const runs = cluster
    .engine('n3')
    .status()
    .bootstrapRuns.filter(({ reason }) => reason === 'topology');
  expect(runs).toHaveLength(1);
  expect(cluster.engine('n3').durableShards()).toEqual([0, 1, 2, 3]);
  expect(await cluster.dump('n3')).toEqual(await cluster.dump('n1'));
});

describe('nobody to ask', () => {
  test('a new placement is bootstrapped without anybody', async () => {
    await using cluster = new PeerCluster({ majority: 2 });
    for (const node of ['n1', 'n2', 'n3']) await cluster.start(node);
    await cluster.place({ n1: 'initializing', n2: 'initializing', n3: 'initializing' }, { isNew: true });
    for (const node of ['n1', 'n2', 'n3']) {
      await cluster.engine(node).ready();
      expect(cluster.engine(node).durableShards()).toEqual([0, 1, 2, 3]);
    }
    expect(cluster.calls).toEqual([]);
  });

  test.each(['default', 'prefer_peers', 'exclude_commitlog'] as const)(
    'all replicas that start at once come back from what they have: %s',
    async (bootstrapOrder) => {
      const nodes = ['n1', 'n2', 'n3'];
      await using cluster = await filled({ majority: 2, engine: { bootstrapOrder } }, ...nodes);
      const expected = await cluster.dump('n1');
      for (const node of nodes) await cluster.kill(node);
      await Promise.all(nodes.map((node) => cluster.start(node)));
      for (const node of nodes) {
        await cluster.engine(node).ready();
        expect(await cluster.dump(node)).toEqual(expected);
      }
    },
  );

  test('one that excludes its log gets from others what was not flushed', async () => {
    await using cluster = await filled({ engine: { bootstrapOrder: 'exclude_commitlog' } }, 'n1', 'n2');
    await cluster.kill('n2');
    await cluster.write(['n1'], 'm1', [[NOW_NS + 6n * HOUR_NS - 5n * MINUTE_NS + 1n, 9]]);
    await cluster.start('n2');
    await cluster.engine('n2').ready();
    expect(await cluster.dump('n2')).toEqual(await cluster.dump('n1'));
    expect(
      new Set(
        cluster
          .engine('n2')
          .explain(0)
          .map(({ source }) => source),
      ),
    ).toEqual(new Set(['fs', 'peers']));
  });
});

/** Paths of complete filesets. */
async function filesetsOf(cluster: PeerCluster, node: string): Promise<Map<string, Buffer>> {
  const files = [...cluster.disk(node).files()];
  return new Map(files.filter(([path]) => path.includes('/data/') && path.endsWith('-checkpoint.db')));
}

async function all<T>(found: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const one of found) list.push(one);
  return list;
}

/** Where both have a time, they have the same. */
function union(one: Record<string, string[]>, other: Record<string, string[]>): Record<string, string[]> {
  const names = [...new Set([...Object.keys(one), ...Object.keys(other)])].sort();
  return Object.fromEntries(
    names.map((name) => [name, [...new Set([...(one[name] ?? []), ...(other[name] ?? [])])].sort()]),
  );
}
