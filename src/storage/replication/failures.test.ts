import { isDeepStrictEqual } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { seedCount } from '../../../test/seeded-random.ts';
import { labelMatcher } from '../index/matcher.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../protocol/remote-write.ts';
import { placementWith, TestCluster, type TestNode } from './test-cluster.suite.ts';

const kernel = new ProtocolKernel();
const STEPS = 50;
const SERIES = 12;
let cluster: TestCluster | undefined;
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

type Trouble = 'killed' | 'cut' | 'deaf' | 'mute' | 'forgetful' | 'slow';

/** One run by its seed: clients write while one node after the other is in trouble. */
class Run {
  /** By series and time: values in the order in which they were asked for, and how many of them were acknowledged. */
  readonly samples = new Map<
    string,
    { readonly values: number[]; acknowledged: number; corrected: boolean }
  >();
  readonly #cluster: TestCluster;
  #troubled: { readonly node: TestNode; readonly trouble: Trouble } | undefined;
  #value = 0;

  constructor(cluster: TestCluster) {
    this.#cluster = cluster;
  }

  async step(): Promise<void> {
    const { random } = this.#cluster;
    if (this.#troubled && random.chance(0.2)) await this.recover();
    if (!this.#troubled && random.chance(0.3)) this.#beginTrouble();
    if (random.chance(0.1)) {
      const node = random.pick(this.#up);
      await node.engine?.flush({ force: random.chance(0.5) }).catch(() => {});
    }
    await Promise.all(Array.from({ length: 1 + random.below(3) }, () => this.#write()));
  }

  /** The troubled node is as it should be again; what it missed may still be on its way. */
  async recover(): Promise<void> {
    const troubled = this.#troubled;
    this.#troubled = undefined;
    this.#cluster.cut.clear();
    this.#cluster.delayMs = () => this.#cluster.random.below(3);
    this.#cluster.loses = () => false;
    if (troubled?.trouble === 'killed') await troubled.node.start();
  }

  get #up(): [TestNode, ...TestNode[]] {
    return this.#cluster.nodes.filter(({ isUp }) => isUp) as [TestNode, ...TestNode[]];
  }

  #beginTrouble(): void {
    const { random, nodes } = this.#cluster;
    const node = random.pick(nodes as [TestNode, ...TestNode[]]);
    const trouble = random.pick<Trouble>(['killed', 'cut', 'deaf', 'mute', 'forgetful', 'slow']);
    this.#troubled = { node, trouble };
    const others = nodes.filter((other) => other !== node);
    const isIt = (_: string, to: string): boolean => to === node.id;
    if (trouble === 'killed') node.kill();
    for (const other of others) {
      if (trouble === 'cut' || trouble === 'deaf') this.#cluster.cut.add(`${other.id}>${node.id}`);
      if (trouble === 'cut' || trouble === 'mute') this.#cluster.cut.add(`${node.id}>${other.id}`);
    }
    if (trouble === 'forgetful') this.#cluster.loses = isIt;
    if (trouble === 'slow') this.#cluster.delayMs = (from, to) => (isIt(from, to) ? 1200 : random.below(3));
  }

  async #write(): Promise<void> {
    const { random, clock } = this.#cluster;
    const router = random.pick(this.#up);
    const timeNs = BigInt(Math.floor(clock.nowMs() / 1000) - random.below(5)) * 1_000_000_000n;
    const chosen = Array.from({ length: 1 + random.below(4) }, () => `s${random.below(SERIES)}`);
    const written = [...new Set(chosen)].map((series) => {
      const key = `${series} ${timeNs}`;
      const sample = this.samples.get(key) ?? { values: [], acknowledged: 0, corrected: false };
      sample.corrected = sample.values.length > 0;
      this.samples.set(key, sample);
      const value = ++this.#value;
      sample.values.push(value);
      return { series, sample, value };
    });
    const body = encodeWriteRequest(
      written.map(({ series, value }) => ({ labels: [['series', series]], samples: [{ timeNs, value }] })),
    );
    const isSound = router !== this.#troubled?.node;
    try {
      await router.live.engine.writeRemote('default', 1, kernel.encodeSnappy(body));
      for (const { sample } of written) sample.acknowledged++;
    } catch (error) {
      // Its own node may be the one that is alone; the others are enough.
      if (isSound) throw error;
    }
  }

  /** All that was acknowledged is read, with a value that somebody wrote there: without any one of the nodes. */
  async checkWithoutEach(): Promise<void> {
    for (const missing of this.#cluster.nodes) {
      for (const other of this.#cluster.nodes) this.#cluster.cut.add(`${other.id}>${missing.id}`);
      const reader = this.#cluster.nodes.find((node) => node !== missing) as TestNode;
      this.#compare(await readAll(reader.live.engine), `without ${missing.id}`);
      this.#cluster.cut.clear();
    }
  }

  #compare(found: ReadonlyMap<string, number>, when: string): void {
    for (const [key, { values, acknowledged, corrected }] of this.samples) {
      const value = found.get(key);
      if (value === undefined) expect(acknowledged, `${key} is missing ${when}`).toBe(0);
      else if (corrected) expect(values, `${key} ${when}`).toContain(value);
      else expect([value], `${key} ${when}`).toEqual(values);
    }
    for (const key of found.keys()) expect(this.samples.has(key), `${key} was never written`).toBe(true);
  }

  /** Hints that are left are replayed, and what is lost of them is healed: then every replica has the same. */
  async converge(): Promise<void> {
    const { signal } = new AbortController();
    const left = (): number =>
      this.#cluster.nodes
        .flatMap(({ live }) => live.status()?.hints ?? [])
        .reduce((sum, { bytes }) => sum + bytes, 0);
    await expect.poll(left, { timeout: 20_000 }).toBe(0);
    // What was slow comes after all.
    await expect.poll(() => this.#cluster.underWay, { timeout: 20_000 }).toBe(0);
    // Who heals last may have what those before have not.
    const contents = async (): Promise<[string, Map<string, number>][]> => {
      for (const { live } of this.#cluster.nodes) await live.repair.round(signal);
      const all: [string, Map<string, number>][] = [];
      for (const { id, engine } of this.#cluster.nodes) all.push([id, await readAll(engine as never)]);
      return all;
    };
    await contents();
    await expect
      .poll(
        async () => {
          const [[, first] = ['', new Map<string, number>()], ...others] = await contents();
          return others.filter(([, content]) => !isDeepStrictEqual(content, first)).map(([id]) => id);
        },
        { timeout: 10_000 },
      )
      .toEqual([]);
    const [[, expected] = ['', new Map<string, number>()]] = await contents();
    this.#compare(expected, 'at the end');
    for (const { live } of this.#cluster.nodes) {
      const { differences } = live.repair.status;
      await live.repair.round(signal);
      expect(live.repair.status).toMatchObject({ differences, failures: 0 });
    }
  }
}

async function readAll(engine: Pick<TestNode['live']['engine'], 'read'>): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  const query = { matchers: [labelMatcher('series', '!=', '')], startNs: 0n, endNs: 1n << 62n };
  for await (const { labels, batches } of engine.read('default', query)) {
    for await (const { times, values } of batches) {
      for (const [place, time] of times.entries())
        found.set(`${labels[0]?.[1]} ${time}`, values[place] as number);
    }
  }
  return found;
}

const seeds = Array.from({ length: seedCount(3) }, (_, i) => Number(process.env['VARVE_SEED'] ?? 0) + i);

test.each(seeds)(
  'what a majority acknowledged is read without any one of the nodes, and replicas become equal: seed %i',
  async (seed) => {
    cluster = await TestCluster.open(['a', 'b', 'c'], {
      seed,
      readLevel: 'majority',
      // Half of the runs lose hints.
      hintMaxBytes: seed % 2 === 0 ? 1 << 20 : 300,
      replicaTimeoutMs: 1000,
      placement: placementWith(['a', 'b', 'c'], 3),
    });
    const run = new Run(cluster);
    for (let i = 0; i < STEPS; i++) await run.step();
    await run.recover();
    await run.checkWithoutEach();
    await run.converge();
  },
);
