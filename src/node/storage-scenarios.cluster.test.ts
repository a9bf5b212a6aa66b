import { open as openFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { SampleLedger, type Sample } from '../../test/sample-ledger.ts';
import { WriteLoad } from '../../test/sample-load.ts';
import { StorageNodes, until, type NodeFlags, type StorageNode } from '../../test/storage-nodes.ts';
import { replaceInstance } from '../placement/change-placement.ts';
import { HttpReplicaTransport } from '../storage/replication/http-replica-transport.ts';

/**
 * What M3's tests of bootstrap do, on real processes: docs/shards.md has the list. Each compares what is there sample for
 * sample with what was acknowledged.
 */
const HOUR_MS = 3_600_000;
const BLOCK_MS = 2 * HOUR_MS;
const SHARDS = 8;
/** What is late goes to files at the next look after it, which comes every ten seconds. */
const LATE = { retention: '48h', blockSize: '2h', bufferPast: '1s', coldWritesEnabled: true };
/** A flush, hints, what is found by reading. */
const SOON = { timeout: 40_000, interval: 250 };
const { signal: NEVER } = new AbortController();
type Four = [StorageNode, StorageNode, StorageNode, StorageNode];

let cluster: StorageNodes | undefined;
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
  cluster = undefined;
});

interface Begin {
  readonly count: number;
  readonly replicas: number;
  /** That are in the placement from the start on; all of them unless given. */
  readonly members?: number;
  readonly shardCount?: number;
  readonly flags?: NodeFlags;
}

async function begun({
  count,
  replicas,
  members = count,
  shardCount = SHARDS,
  flags,
}: Begin): Promise<StorageNodes> {
  cluster = await StorageNodes.open('scenario', {
    count,
    shardCount,
    flags,
  });
  await cluster.begin(members, replicas);
  return cluster;
}

/** Some samples of each series in the block so many blocks ago. */
function inBlock(ago: number, series: number, samples = 4): Sample[] {
  const startMs = Math.floor(Date.now() / BLOCK_MS - ago) * BLOCK_MS;
  return Array.from({ length: series * samples }, (_, i) => ({
    series: String(i % series),
    timeMs: startMs + 1000 * Math.floor(i / series) + 1,
  }));
}

/** Some samples of each series of the last seconds. */
function recent(series: number, samples = 1): Sample[] {
  const nowMs = Date.now();
  return Array.from({ length: series * samples }, (_, i) => ({
    series: String(i % series),
    timeMs: nowMs - 1000 * Math.floor(i / series),
  }));
}

/** Nothing of the namespace is in memory alone any more. */
async function flushed(on: readonly StorageNode[], namespace: string): Promise<void> {
  for (const node of on) {
    await expect
      .poll(async () => {
        const one = (await node.status()).namespaces.find(({ name }) => name === namespace);
        return one && one.filesets > 0 ? one.openSamples : 'no files';
      }, SOON)
      .toBe(0);
  }
}

/** The sources of the newest run that filled it. */
async function sourcesOf(
  node: StorageNode,
  shards: readonly number[],
  namespace: string,
): Promise<Set<string>> {
  const sources = new Set<string>();
  for (const shard of shards) {
    const fills = (await node.explain(shard)).fills.filter(
      (fill) => fill.namespace === namespace && fill.source !== 'whole',
    );
    const last = fills.at(-1)?.attempt;
    for (const { source } of fills.filter(({ attempt }) => attempt === last)) sources.add(source ?? 'nobody');
  }
  return sources;
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

describe('files, snapshots and the log of a node itself', () => {
  test('namespaces with blocks of their own, flushed, corrected and open, are there after each kill -9', async () => {
    const system = await begun({ count: 1, replicas: 1, flags: { 'snapshot-interval': '2s' } });
    const node = system.node(1);
    await system.namespace('two', LATE);
    await system.namespace('three', { ...LATE, blockSize: '3h' });
    await system.namespace('empty', LATE);
    const [two, three] = [new SampleLedger('two'), new SampleLedger('three')];
    for (const ledger of [two, three]) {
      for (const ago of [3, 5]) await ledger.write(node, inBlock(ago, 40));
    }
    await flushed([node], 'two');
    await flushed([node], 'three');
    // Of the same block as a file, of an open one, and what replaces samples of the file.
    for (const ledger of [two, three]) {
      const old = inBlock(5, 40);
      await ledger.write(node, old.slice(0, 20));
      await ledger.write(
        node,
        old.map(({ series, timeMs }) => ({ series, timeMs: timeMs + 7 })),
      );
      await ledger.write(node, inBlock(0, 40, 1));
    }
    const check = async (): Promise<void> => {
      for (const ledger of [two, three]) {
        expect(ledger.faults(await node.exported(ledger.namespace))).toEqual([]);
      }
      expect(await node.exported('empty')).toEqual(new Map());
      const regex = `${node.url}/ns/two/api/v1/series?match[]=${encodeURIComponent('m{n=~"1.*"}')}`;
      const { data } = (await (await fetch(regex)).json()) as { data: { n: string }[] };
      expect(data.map(({ n }) => n).sort()).toEqual(['1', ...upTo(10).map((i) => `1${i}`)]);
    };
    await check();
    for (let kill = 0; kill < 4; kill++) {
      await node.end('SIGKILL');
      await node.start();
      await check();
      expect(await sourcesOf(node, upTo(SHARDS), 'two')).toEqual(new Set(['fs', 'commitlog']));
      // After the first: with snapshots and without, what each has of the samples once.
      await two.write(
        node,
        inBlock(0, 40, 1).map(({ series, timeMs }) => ({ series, timeMs: timeMs + kill + 2 })),
      );
      if (kill === 1) await new Promise((resolve) => setTimeout(resolve, 12_000));
    }
    await flushed([node], 'three').catch(() => {});
    await check();
  });

  test('blocks that end while a node joins, and are flushed meanwhile, are whole on it', async () => {
    const system = await begun({ count: 4, replicas: 3, members: 3 });
    await system.namespace('short', {
      retention: '10m',
      blockSize: '10s',
      bufferPast: '2s',
      bufferFuture: '2s',
    });
    const ledger = new SampleLedger('short');
    const [, , third, fourth] = system.nodes as Four;
    await using writes = new WriteLoad(ledger, {
      series: 20,
      targets: system.nodes.slice(0, 2),
      pauseMs: 10,
    });
    await expect.poll(() => ledger.size, SOON).toBeGreaterThan(1000);
    await fourth.start();
    await system.replace(third, fourth);
    await system.settled();
    // Two blocks end, and what is due is looked for every ten seconds.
    await new Promise((resolve) => setTimeout(resolve, 25_000));
    await writes.end();
    expect(writes.failed).toEqual([]);
    expect(ledger.faults(await fourth.exported('short'))).toEqual([]);
    await expect.poll(async () => ledger.faults(await fourth.held('short')), SOON).toEqual([]);
    expect((await fourth.status()).namespaces.find(({ name }) => name === 'short')?.filesets).toBeGreaterThan(
      0,
    );
  });

  test('a fileset that is damaged while its node is down is got from the others', async () => {
    const system = await begun({ count: 3, replicas: 3 });
    await system.namespace('late', LATE);
    const ledger = new SampleLedger('late');
    const [first, second] = system.nodes as [StorageNode, StorageNode];
    for (const ago of [2, 4]) await ledger.write(first, inBlock(ago, 100));
    await flushed(system.nodes, 'late');
    await second.end('SIGKILL');
    const folder = join(second.folder, 'storage');
    const files = (await readdir(folder, { recursive: true })).filter((name) =>
      /late.*-(data|info)\.db$/.test(name),
    );
    expect(files.length).toBeGreaterThan(4);
    for (const [i, name] of files.entries()) {
      if (i % 3 !== 0) continue;
      await using file = await openFile(join(folder, name), 'r+');
      const { size } = await file.stat();
      await file.write(Buffer.from([0xa5, 0x5a]), 0, 2, Math.floor(size / 2));
    }
    await second.start();
    // The first reads find what only reading can find; it is put aside then.
    await expect.poll(async () => ledger.faults(await second.exported('late')), SOON).toEqual([]);
    expect(ledger.faults(await first.exported('late'))).toEqual([]);
  });
});

describe('peers', () => {
  test('a node that takes another’s place has everything: files, open blocks and index', async () => {
    const system = await begun({ count: 4, replicas: 3, members: 3 });
    await system.namespace('late', LATE);
    const ledger = new SampleLedger('late');
    const [first, , third, fourth] = system.nodes as Four;
    for (const ago of [1, 2, 3, 4]) await ledger.write(first, inBlock(ago, 2000));
    await flushed(system.nodes.slice(0, 3), 'late');
    await ledger.write(first, inBlock(0, 2000, 1));
    await fourth.start();
    await system.replace(third, fourth);
    await system.settled();
    expect(ledger.faults(await fourth.held('late'))).toEqual([]);
    expect(await sourcesOf(fourth, upTo(SHARDS), 'late')).toContain('peers');
    await using transport = new HttpReplicaTransport(undefined);
    const question = { kind: 'labelValues', label: 'n', namespace: 'late', selectors: [] } as const;
    const range = { startNs: '0', endNs: String(1n << 62n) };
    const answers: unknown[] = [];
    const to = { id: fourth.id, endpoint: fourth.url };
    for await (const part of transport.ask(to, { ...question, ...range }, NEVER)) {
      if (part.length > 0) answers.push(JSON.parse(Buffer.from(part).toString()));
    }
    const [head, ...values] = answers as [{ truncated: boolean }, ...string[][]];
    expect(head).toEqual({ truncated: false });
    expect(new Set(values.flat())).toEqual(new Set(upTo(2000).map(String)));
    await fourth.end('SIGKILL');
    await fourth.start();
    expect(ledger.faults(await fourth.held('late'))).toEqual([]);
    expect(await sourcesOf(fourth, upTo(SHARDS), 'late')).not.toContain('peers');
  });

  test('what each of the replicas has alone is put together, in files and open blocks', async () => {
    const system = await begun({ count: 4, replicas: 3, members: 3 });
    await system.namespace('late', LATE);
    const ledger = new SampleLedger('late');
    const [first, second, third, fourth] = system.nodes as Four;
    await using transport = new HttpReplicaTransport(undefined);
    for (const [stamp, samples] of [inBlock(3, 60), inBlock(2, 60), inBlock(0, 60, 1)].entries()) {
      for (const [i, node] of [first, second].entries()) {
        // One has the even ones, the other the odd ones; the third has nothing.
        const write = ledger.prepare(samples.filter((_, place) => place % 2 === i));
        const version = BigInt(Date.now()) * 1_000_000n + BigInt(stamp);
        const to = { id: node.id, endpoint: node.url };
        await transport.write(to, { namespace: 'late', format: 1, body: write.body, stamp: version }, NEVER);
        ledger.acknowledge(write);
      }
    }
    await flushed([first, second], 'late').catch(() => {});
    await fourth.start();
    await system.replace(third, fourth);
    await system.settled();
    expect(ledger.faults(await fourth.held('late'))).toEqual([]);
    // Nobody else was changed by it.
    expect((await first.held('late')).size + (await second.held('late')).size).toBe(ledger.size);
  });

  test('one peer may be down; with two down it waits, says for whom, and goes on when one is back', async () => {
    const system = await begun({ count: 5, replicas: 3, members: 3 });
    const ledger = new SampleLedger();
    const [first, second, third, fourth, fifth] = system.nodes as [...Four, StorageNode];
    await ledger.write(first, recent(500, 1));
    await Promise.all([fourth.start(), fifth.start()]);
    await second.end('SIGKILL');
    await system.replace(third, fourth);
    await system.settled();
    expect(ledger.faults(await fourth.held())).toEqual([]);
    // Now s1, s2 and s4 have the shards, and only s4 answers.
    await first.end('SIGKILL');
    await system.replace(second, fifth);
    await until('it says for whom it waits', 30_000, async () => {
      const { bootstrap } = await fifth.status();
      const told = bootstrap?.unfulfilled.map(({ reason, detail }) => `${reason} ${detail}`).join() ?? '';
      return told.includes('consistencyNotMet') && told.includes('s1') && told.includes('s2');
    });
    const unready = await fetch(`${fifth.url}/readyz`);
    expect(unready.status).toBe(503);
    await first.start();
    await system.settled();
    expect(ledger.faults(await fifth.held())).toEqual([]);
  });

  test('a node that is killed again and again while it joins, and its giver too, goes on and gets everything', async () => {
    const system = await begun({ count: 2, replicas: 1, members: 1, shardCount: 32 });
    await system.namespace('late', LATE);
    const ledger = new SampleLedger('late');
    const [first, second] = system.nodes as [StorageNode, StorageNode];
    for (const ago of [1, 2, 3, 4, 5, 6]) await ledger.write(first, inBlock(ago, 3000));
    await flushed([first], 'late');
    await second.start();
    await system.add(second);
    for (const pauseMs of [30, 120, 300, 600]) {
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      await second.end('SIGKILL');
      await second.start({ untilListening: true });
    }
    await first.end('SIGKILL');
    await first.start();
    await system.settled();
    for (const node of system.nodes) expect(ledger.faults(await node.exported('late'))).toEqual([]);
    expect((await first.held('late')).size + (await second.held('late')).size).toBe(ledger.size);
  });
});

describe('changes of the placement', () => {
  test('one of four is taken out under load: three have everything, three times', async () => {
    const system = await begun({ count: 4, replicas: 3, shardCount: 12 });
    const ledger = new SampleLedger();
    const fourth = system.nodes[3] as StorageNode;
    const stay = system.nodes.slice(0, 3);
    const writes = new WriteLoad(ledger, { series: 20, targets: system.nodes });
    await expect.poll(() => ledger.size, SOON).toBeGreaterThan(400);
    await system.remove(fourth);
    await system.settled();
    await writes.end();
    expect(writes.failed).toEqual([]);
    expect((await system.placement()).instances.map(({ shards }) => shards.length)).toEqual([12, 12, 12]);
    for (const node of stay) {
      await expect.poll(async () => ledger.faults(await node.held()), SOON).toEqual([]);
    }
  });

  test('a node comes in while another one is down, which has its part when it is back', async () => {
    const system = await begun({ count: 4, replicas: 3, members: 3, shardCount: 12 });
    const ledger = new SampleLedger();
    const [first, second, , fourth] = system.nodes as Four;
    await ledger.write(first, recent(500, 1));
    await second.end('SIGKILL');
    await ledger.write(first, recent(500, 2));
    await fourth.start();
    await system.add(fourth);
    await system.settled();
    expect((await system.placement()).instances.map(({ shards }) => shards.length)).toEqual([9, 9, 9, 9]);
    await second.start();
    await system.settled();
    for (const node of system.nodes) expect(ledger.faults(await node.exported())).toEqual([]);
    await expect.poll(() => system.lacking(ledger, 3), SOON).toBe(0);
  });

  test('a node that is down is taken out, and another one that is down is replaced: nothing is lost', async () => {
    const system = await begun({ count: 6, replicas: 3, members: 5, shardCount: 15 });
    const ledger = new SampleLedger();
    const [first, second, third, , , sixth] = system.nodes as [...Four, StorageNode, StorageNode];
    await ledger.write(first, recent(600, 2));
    await second.end('SIGKILL');
    await system.remove(second);
    await system.settled();
    await third.end('SIGKILL');
    await sixth.start();
    await system.replace(third, sixth);
    await system.settled();
    expect((await system.placement()).instances.map(({ id }) => id)).toEqual(['s1', 's4', 's5', 's6']);
    for (const node of system.running) expect(ledger.faults(await node.exported())).toEqual([]);
    await expect.poll(() => system.lacking(ledger, 3), SOON).toBe(0);
  });

  test('a node that has not taken another’s place yet gives it back: the shards stay where they were, and nothing moves', async () => {
    const system = await begun({ count: 4, replicas: 3, members: 3 });
    const ledger = new SampleLedger();
    const [first, , third, fourth] = system.nodes as Four;
    await ledger.write(first, recent(300, 1));
    // It does not run, so it cannot be filled.
    const { id, endpoint } = fourth;
    await system.store.update(
      (was) => was && replaceInstance(was, third.id, { id, endpoint, isolationGroup: id, weight: 1 }),
    );
    await system.replace(fourth, third);
    await system.settled();
    expect((await system.placement()).instances.map((one) => one.id)).toEqual(['s1', 's2', 's3']);
    expect(await sourcesOf(third, upTo(SHARDS), 'default')).not.toContain('peers');
    for (const node of system.running) expect(ledger.faults(await node.held())).toEqual([]);
  });
});
