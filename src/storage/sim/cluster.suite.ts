import { SeededRandom } from '../../../test/seeded-random.ts';
import { VarveError } from '../../core/errors.ts';
import { hasCode } from '../../core/file-system.ts';
import { addInstance, removeInstance, replaceInstance } from '../../placement/change-placement.ts';
import { raiseReplicas, removeWithReplica } from '../../placement/change-replicas.ts';
import type { Placement } from '../../placement/placement.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import type { NamespaceOptions, StorageEngine } from '../engine/storage-engine.ts';
import { decodeLabels } from '../index/labels.ts';
import { labelMatcher } from '../index/matcher.ts';
import { parseSelector } from '../index/selector.ts';
import { encodeWriteRequest } from '../kernel/remote-write.suite.ts';
import { encodeSnappy } from '../kernel/snappy.ts';
import { keyOf, labelsOf, readEverything } from './check.suite.ts';
import { ClusterModel } from './cluster-model.suite.ts';
import { COORDINATOR } from './cluster-network.suite.ts';
import type { SimulatedNode } from './cluster-node.suite.ts';
import { instance, SimulatedCluster } from './simulated-cluster.suite.ts';

export interface ClusterSimulationOptions {
  readonly seed: number;
  /** Between two times at which everything is compared. */
  readonly steps: number;
  readonly chapters: number;
}

export interface ClusterSimulationReport {
  readonly acknowledged: number;
  readonly refused: number;
  /** Of everything, with all replicas equal. */
  readonly comparisons: number;
  /** How often what was done to it happened. */
  readonly counts: ReadonlyMap<string, number>;
  /** What happened, in order: two runs of one seed have the same. */
  readonly story: readonly string[];
}

const START_MS = 1_767_225_600_000;
const MS_NS = 1_000_000n;
const MINUTE_NS = 60_000_000_000n;
const IDS = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
/** By the seed, so that a few have each. */
const REPLICA_FACTORS = [3, 1, 2, 5, 3, 3, 2, 3] as const;
const MOST_REPLICAS = 5;
const SKEW_MS = 30_000;
const SERIES = 10;
const MOST_ROUNDS = 6;

/** A whole cluster by its seed. @throws what is wrong, and how to run it alone */
export async function simulateCluster(options: ClusterSimulationOptions): Promise<ClusterSimulationReport> {
  const run = new ClusterRun(options);
  try {
    return await run.run();
  } catch (error) {
    const { seed } = options;
    const alone = `VARVE_SIM_SEED=${seed} npx vitest run src/storage/sim/cluster.test.ts`;
    throw new Error(`seed ${seed} (${alone}): ${(error as Error).message}`, { cause: error });
  } finally {
    await run.end();
  }
}

type Trouble = 'killed' | 'cut off' | 'deaf' | 'mute' | 'lossy' | 'without coordinator' | 'full';
const TROUBLES: readonly [Trouble, ...Trouble[]] = [
  'killed',
  'killed',
  'cut off',
  'deaf',
  'mute',
  'lossy',
  'without coordinator',
  'full',
];

class ClusterRun {
  readonly #options: ClusterSimulationOptions;
  readonly #random: SeededRandom;
  readonly #cluster: SimulatedCluster;
  readonly #shardCount: number;
  readonly #model: ClusterModel;
  readonly #counts = new Map<string, number>();
  readonly #isSynced: boolean;
  #made = 0;
  /** Since all replicas were equal: of two in a row the second may take what only the first one and it had. */
  #hasLowered = false;
  readonly #story: string[] = [];
  #troubled: { readonly id: string; readonly trouble: Trouble } | undefined;
  /** Files of one node only, until all replicas are equal again. */
  #hasDamaged = false;
  #values = 0n;
  #comparisons = 0;

  constructor(options: ClusterSimulationOptions) {
    const { seed } = options;
    this.#options = options;
    this.#random = new SeededRandom(seed);
    const random = this.#random;
    const namespaces = [this.#randomNamespace('first')];
    if (random.chance(0.5)) namespaces.push(this.#randomNamespace('second'));
    this.#isSynced = seed % 3 === 1;
    const isSkewed = seed % 4 === 2;
    this.#model = new ClusterModel({ isSkewed });
    if (isSkewed) this.#count('clocks that are wrong');
    const skew = new SeededRandom(seed + 1);
    this.#shardCount = random.pick([2, 4, 6]);
    this.#cluster = new SimulatedCluster({
      seed,
      startMs: START_MS,
      shardCount: this.#shardCount,
      namespaces,
      isSynced: this.#isSynced,
      skewMs: () => (isSkewed ? skew.below(2 * SKEW_MS) - SKEW_MS : 0),
      replication: {
        // Some clusters lose hints.
        hintMaxBytes: random.pick([1 << 20, 1 << 20, 400]),
        repairIntervalMs: random.pick([0, 60_000]),
        repairSettledMs: random.pick([0, 5000]),
        replicaTimeoutMs: 5000,
      },
    });
  }

  async run(): Promise<ClusterSimulationReport> {
    await this.#begin();
    for (let chapter = 0; chapter < this.#options.chapters; chapter++) {
      for (let step = 0; step < this.#options.steps; step++) {
        await this.#step();
        await this.#cluster.pass(this.#random.pick([1, 10, 300, 3000, 20_000, 60_000]));
        if (this.#random.chance(0.15)) await this.#checkLive();
      }
      await this.#converge();
    }
    const { acknowledged, refused } = this.#model;
    const [counts, story] = [this.#counts, this.#story];
    return { acknowledged, refused, comparisons: this.#comparisons, counts, story };
  }

  async end(): Promise<void> {
    await this.#cluster.end();
  }

  async #begin(): Promise<void> {
    const random = this.#random;
    const replicaFactor = REPLICA_FACTORS[this.#options.seed % REPLICA_FACTORS.length] ?? 3;
    this.#count(`${replicaFactor} replicas`);
    const ids = IDS.slice(0, replicaFactor + random.below(2));
    await this.#cluster.start(...ids);
    await this.#cluster.namespacesAreKnown();
    // Before there is a placement each takes for itself what it is given.
    const taken = new Set<string>();
    for (let left = random.below(6); left > 0; left--) await this.#patiently('a write', this.#write(taken));
    await this.#cluster.place(ids, replicaFactor);
    this.#tell(`${ids.join()} with ${replicaFactor} replicas of ${this.#shardCount} shards`);
    // Who has samples of its own hands them over meanwhile.
    for (let left = random.below(8); left > 0; left--) {
      if (random.chance(0.4)) await this.#makeTrouble();
      else if (random.chance(0.3)) await this.#recover();
      // One that has not heard of it takes it alone still: of two such values of a sample either may stay.
      else await this.#patiently('a write', this.#write(taken));
      await this.#cluster.pass(random.pick([1, 100, 1000, 5000]));
    }
    await this.#recover();
    await this.#cluster.settled();
  }

  async #step(): Promise<void> {
    const random = this.#random;
    if (this.#troubled && random.chance(0.15)) await this.#recover();
    const kind = random.below(100);
    if (kind < 55) await this.#writes();
    else if (kind < 60) await this.#delete();
    else if (kind < 72) await this.#maintain();
    else if (kind < 84) await this.#makeTrouble();
    else if (kind < 92) await this.#changePlacement();
    else if (kind < 94) await this.#changeNamespaces();
    else if (kind < 96) await this.#restart();
    else if (kind < 98) await this.#damage();
    else await this.#killAll();
  }

  // What clients do.

  async #writes(): Promise<void> {
    const taken = new Set<string>();
    const count = 1 + this.#random.below(4);
    await this.#patiently('writes', Promise.all(Array.from({ length: count }, () => this.#write(taken))));
  }

  /** @param taken series that another write under way has: their order would not be known */
  async #write(taken: Set<string>): Promise<void> {
    const random = this.#random;
    const router = this.#router();
    const namespace = this.#pickNamespace();
    if (!router) return;
    const keys = Array.from({ length: 1 + random.below(4) }, () => seriesKey(random.below(SERIES)));
    const free = [...new Set(keys)].filter((key) => !taken.has(`${namespace.name} ${key}`));
    if (free.length === 0) return;
    const what = `written through ${router.id} at ${this.#cluster.clock.nowMs() - START_MS}`;
    const changes: { acknowledged: boolean }[] = [];
    const series = free.map((key) => {
      taken.add(`${namespace.name} ${key}`);
      const times = new Set(
        Array.from({ length: 1 + random.below(4) }, () => this.#randomTime(namespace, key)),
      );
      const samples = [...times].map((timeNs) => {
        const bits = this.#nextBits();
        const change = { what, bits, acknowledged: false };
        this.#model.change(namespace.name, { series: key, timeNs }, change);
        changes.push(change);
        return { timeNs, bits };
      });
      return { labels: labelsOf(key), samples };
    });
    try {
      const outcome = await send(router.engine, namespace.name, series, random.chance(0.8));
      if (outcome.rejected.length > 0)
        throw new Error(`samples were refused: ${JSON.stringify(outcome.rejected)}`);
      for (const change of changes) change.acknowledged = true;
      this.#model.acknowledged++;
      this.#tell(`${what}: ${free.join(' ')}`);
    } catch (error) {
      this.#model.refused++;
      this.#tell(`not ${what}: ${free.join(' ')}: ${expected('a write', error)}`);
    }
  }

  async #delete(): Promise<void> {
    const router = this.#router();
    const random = this.#random;
    const { name } = this.#pickNamespace();
    if (!router) return;
    const key = seriesKey(random.below(SERIES));
    const known = this.#model.timeOf(name, key, random) ?? 0n;
    const [startNs, endNs] = random.chance(0.5) ? [known, known + MINUTE_NS] : [0n, 1n << 62n];
    const what = `deleted through ${router.id} at ${this.#cluster.clock.nowMs() - START_MS}`;
    const covers = (series: string, timeNs: bigint): boolean =>
      series === key && startNs <= timeNs && timeNs < endNs;
    const changes = this.#model.delete(name, covers, what);
    const selectors = [labelsOf(key).map(([label, value]) => labelMatcher(label, '=', value))];
    try {
      await this.#patiently('a deletion', router.engine.deleteSeries(name, { selectors, startNs, endNs }));
      for (const change of changes) change.acknowledged = true;
      this.#tell(`${what}: ${key}`);
    } catch (error) {
      this.#tell(`not ${what}: ${key}: ${expected('a deletion', error)}`);
    }
  }

  /** What is acknowledged is read by a majority, whatever goes on. */
  async #checkLive(): Promise<void> {
    const placement = await this.#cluster.store.read();
    const reader = this.#sound(placement?.version);
    if (!reader) return;
    for (const { name, retentionNs } of this.#namespaces()) {
      try {
        const { found, wrong } = await this.#patiently('a read', readEverything(reader.engine, name, ALL));
        const about = { keptFromNs: this.#nowNs - retentionNs / 2n, equal: false };
        wrong.push(...this.#model.compare(name, found, about));
        this.#tell(`read ${name} through ${reader.id}`);
        this.#fail(wrong, `read through ${reader.id}`);
      } catch (error) {
        // Too few are up, or whole: it is compared when all are.
        this.#tell(`not read ${name} through ${reader.id}: ${expected('a read', error)}`);
      }
    }
  }

  // What operators do, and what happens to them.

  async #maintain(): Promise<void> {
    const node = this.#pickUp();
    if (!node) return;
    const { own } = node;
    const kind = this.#random.below(5);
    const what = ['flush', 'forced flush', 'snapshot', 'clean-up', 'repair'][kind] ?? '';
    const stop = new AbortController();
    const work = async (): Promise<unknown> => {
      if (kind === 0) return await own.flush();
      if (kind === 1) return await own.flush({ force: true });
      if (kind === 2) return await own.snapshot();
      if (kind === 3) return await own.cleanUp();
      return await node.life.replication.repair.round(stop.signal);
    };
    try {
      await this.#patiently(what, work());
      this.#tell(`${what} of ${node.id}`);
    } catch (error) {
      this.#tell(`no ${what} of ${node.id}: ${expected(what, error)}`);
    }
  }

  async #makeTrouble(): Promise<void> {
    const node = this.#pickUp();
    if (this.#troubled || !node) return;
    const { id } = node;
    const trouble = this.#random.pick(TROUBLES);
    this.#troubled = { id, trouble };
    this.#tell(`${id} is ${trouble}`);
    this.#count(trouble);
    if (trouble === 'killed') node.kill({ power: !this.#isSynced });
    if (trouble === 'full') await node.fillDisk(this.#random.below(3000));
    if (trouble === 'lossy') this.#cluster.network.lossy.set(id, 0.3);
    const others = [...this.#cluster.nodes.keys()].filter((other) => other !== id);
    if (trouble === 'cut off' || trouble === 'without coordinator') others.push(COORDINATOR);
    const reached = trouble === 'without coordinator' ? [COORDINATOR] : others;
    for (const other of reached) {
      if (trouble === 'cut off' || trouble === 'mute' || trouble === 'without coordinator')
        this.#cluster.network.cut.add(`${id}>${other}`);
      if (trouble === 'cut off' || trouble === 'deaf') this.#cluster.network.cut.add(`${other}>${id}`);
    }
  }

  async #recover(): Promise<void> {
    const troubled = this.#troubled;
    if (!troubled) return;
    this.#troubled = undefined;
    this.#cluster.network.heal();
    this.#tell(`${troubled.id} is ${troubled.trouble} no more`);
    if (troubled.trouble === 'killed') await this.#cluster.start(troubled.id);
    if (troubled.trouble === 'full') this.#cluster.node(troubled.id).makeRoom();
  }

  async #restart(): Promise<void> {
    const node = this.#pickUp();
    if (this.#troubled || !node) return;
    this.#tell(`${node.id} is stopped and started`);
    await this.#patiently('a stop', node.stop());
    await this.#cluster.start(node.id);
  }

  async #killAll(): Promise<void> {
    await this.#recover();
    const what = this.#isSynced ? 'power is lost' : 'all are killed at once';
    this.#tell(what);
    this.#count(what);
    const { up } = this.#cluster;
    for (const node of up) node.kill({ power: !this.#isSynced });
    await this.#cluster.start(...up.map(({ id }) => id));
  }

  async #changePlacement(): Promise<void> {
    const random = this.#random;
    const placement = await this.#cluster.store.read();
    if (!placement) return;
    const staying = placement.instances.filter(({ isLeaving }) => !isLeaving).map(({ id }) => id);
    const free = IDS.filter((id) => placement.instances.every((one) => one.id !== id));
    const [added] = free;
    const id = staying[random.below(staying.length)] ?? '';
    const kind = random.pick([0, 0, 1, 1, 2, 2, 3, 4]);
    const isIncoming = kind === 0 || kind === 2 || kind === 3;
    if (isIncoming && added === undefined) return;
    if (kind === 1 && staying.length <= placement.replicaFactor) return;
    if (kind === 3 && placement.replicaFactor >= MOST_REPLICAS) return;
    if (kind === 4 && (this.#hasLowered || this.#hasDamaged || placement.replicaFactor < 2)) return;
    // A node that comes back comes as a new one.
    if (isIncoming && added !== undefined) await this.#renew(added);
    const changes: ((was: Placement) => Placement)[] = [
      (was) => addInstance(was, instance(added ?? '')),
      (was) => removeInstance(was, id),
      (was) => replaceInstance(was, id, instance(added ?? '')),
      (was) => raiseReplicas(was, instance(added ?? '')),
      (was) => removeWithReplica(was, id),
    ];
    const what = [
      `add ${added}`,
      `remove ${id}`,
      `replace ${id} by ${added}`,
      `raise the number of replicas by ${added}`,
      `lower the number of replicas by ${id}`,
    ][kind];
    const isBusy = placement.instances.some(({ shards }) =>
      shards.some(({ state }) => state !== 'available'),
    );
    try {
      await this.#cluster.store.update((was) => was && changes[kind]?.(was));
      this.#tell(what ?? '');
      this.#count(['add', 'remove', 'replace', 'raise', 'lower'][kind] ?? '');
      if (isBusy) this.#count('change during a change');
      if (this.#cluster.nodes.get(id)?.isUp === false && (kind === 1 || kind === 2))
        this.#count('dead node goes');
      if (kind === 4) this.#hasLowered = true;
      if (kind > 0) this.#model.loseWitness();
    } catch (error) {
      this.#tell(`no ${what}: ${expected('a change of the placement', error)}`);
    }
  }

  /** Some nodes hear of it late. */
  async #changeNamespaces(): Promise<void> {
    const made = this.#namespaces().filter(({ name }) => name.startsWith('made'));
    const [first] = made;
    const isAway = this.#troubled ? ' while a node is in trouble' : '';
    if (first && this.#random.chance(0.5)) {
      await this.#cluster.removeNamespace(first.name);
      this.#model.forget(first.name);
      this.#tell(`namespace ${first.name} is deleted`);
      this.#count(`namespace deleted${isAway}`);
    } else if (made.length < 2) {
      // Never the same name again: nodes must not take one for the other.
      const options = this.#randomNamespace(`made${++this.#made}`);
      await this.#cluster.putNamespace(options);
      this.#tell(`namespace ${options.name} is made`);
      this.#count(`namespace made${isAway}`);
    }
  }

  async #renew(id: string): Promise<void> {
    const known = this.#cluster.nodes.get(id);
    if (this.#troubled?.id === id) await this.#recover();
    if (known?.isUp && this.#random.chance(0.5)) return;
    known?.lose();
    await this.#cluster.start(id);
  }

  /** A byte of one of its files. */
  async #damage(): Promise<void> {
    const node = this.#pickUp();
    if (!node || this.#hasDamaged || this.#troubled) return;
    // Of what one node alone has nothing is left.
    if (((await this.#cluster.store.read())?.replicaFactor ?? 1) < 2) return;
    const paths = [...node.disk.files().keys()].filter(
      (path) => path.includes('/data/') && !path.includes('/digest'),
    );
    const path = paths[this.#random.below(paths.length)];
    const content = path === undefined ? undefined : node.disk.files().get(path);
    if (path === undefined || !content || content.length === 0) return;
    // Of what only a majority has, too few might be left.
    await this.#converge();
    const now = node.isUp ? node.disk.files().get(path) : undefined;
    if (!now || now.length === 0) return;
    this.#hasDamaged = true;
    this.#model.loseWitness();
    const at = this.#random.below(now.length);
    now[at] = (now[at] ?? 0) ^ (1 << this.#random.below(8));
    node.disk.plant(path, now);
    this.#tell(`${path} of ${node.id} is damaged at ${at}`);
    this.#count('damaged');
  }

  // What must be true when all is quiet.

  /** Everything heals: no bootstrap hangs, hints arrive, replicas become equal, and have what was acknowledged. */
  async #converge(): Promise<void> {
    this.#tell('everything heals');
    await this.#recover();
    this.#cluster.network.heal();
    await this.#cluster.start(...this.#cluster.nodes.keys());
    await this.#cluster.settled();
    await this.#patiently('hints', this.#hintsArrive());
    await this.#cluster.pass(10_000);
    await this.#repairAll();
    for (const { id } of await this.#members()) {
      const node = this.#cluster.nodes.get(id) as SimulatedNode;
      for (const { name, retentionNs } of this.#namespaces()) {
        const { found, wrong } = await this.#patiently('a read', readEverything(node.engine, name, ALL));
        const about = { keptFromNs: this.#nowNs - retentionNs / 2n, equal: true };
        wrong.push(...this.#model.compare(name, found, about));
        this.#fail(wrong, `when all is quiet, through ${id}`);
      }
    }
    this.#model.settled();
    this.#hasDamaged = false;
    this.#hasLowered = false;
    this.#comparisons++;
  }

  async #hintsArrive(): Promise<void> {
    const waiting = (): number =>
      [...this.#cluster.nodes.values()]
        .flatMap((node) => node.life.replication.status()?.hints ?? [])
        .reduce((sum, { bytes }) => sum + bytes, 0);
    while (waiting() > 0) await this.#cluster.clock.sleep(500);
  }

  /** Rounds of all until nobody finds a difference. */
  async #repairAll(): Promise<void> {
    const { signal } = new AbortController();
    for (let round = 0; ; round++) {
      let differences = 0;
      for (const { id } of await this.#members()) {
        const { repair } = this.#cluster.nodes.get(id)?.life.replication ?? {};
        if (!repair) continue;
        const before = repair.status;
        await this.#patiently('repair', repair.round(signal));
        const after = repair.status;
        if (after.failures > before.failures) {
          this.#tell(`repair of ${id} failed: ${after.lastFailure}`);
          differences++;
        }
        differences += after.differences - before.differences;
      }
      this.#tell(`repair found ${differences} differences`);
      if (differences === 0) return;
      if (round < MOST_ROUNDS) continue;
      this.#fail(
        [`replicas differ after ${round} rounds of repair`, ...(await this.#differences())],
        'repair',
      );
    }
  }

  /** In words. */
  async #differences(): Promise<string[]> {
    const lines: string[] = [];
    for (const { name } of this.#namespaces()) {
      const held = new Map<string, string[]>();
      for (const { id } of await this.#members()) {
        const own = this.#cluster.node(id).own;
        const query = { matchers: parseSelector(ALL), startNs: 0n, endNs: 1n << 62n };
        const read = async (): Promise<void> => {
          for await (const { id: labels, columns } of own.replica.readBatches(name, query)) {
            const versions = new Map(columns.overwrites.map(({ place, version }) => [place, version]));
            for (const [place, timeNs] of columns.times.entries()) {
              const key = `${name} ${keyOf(decodeLabels(labels))} at ${timeNs}`;
              const bits = columns.bits[place] ?? 0n;
              const version = versions.get(place);
              held.set(key, [...(held.get(key) ?? []), `${id} has ${bits.toString(16)} of ${version}`]);
            }
          }
        };
        await this.#patiently('a read', read());
        for (const line of held.values()) if (!line.some((one) => one.startsWith(id))) line.push(`${id} -`);
      }
      const placement = await this.#cluster.store.read();
      for (const [key, line] of held) {
        const values = line.filter((one) => one.includes('has')).map((one) => one.slice(2).split(' of ')[0]);
        const isWhole = values.length === placement?.replicaFactor;
        if (!isWhole || new Set(values).size > 1) lines.push(`${key}: ${line.join(', ')}`);
      }
    }
    return lines;
  }

  // Around it.

  #namespaces(): NamespaceOptions[] {
    return [...this.#cluster.namespaces.values()];
  }

  #count(what: string): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + 1);
  }

  async #members(): Promise<readonly { readonly id: string }[]> {
    return (await this.#cluster.store.read())?.instances ?? [];
  }

  #pickUp(): SimulatedNode | undefined {
    const { up } = this.#cluster;
    return up[this.#random.below(up.length)];
  }

  /** Any: clients do not know which of them is in trouble. One that never heard of a placement takes nothing. */
  #router(): SimulatedNode | undefined {
    const node = this.#pickUp();
    return node?.life.placement.isKnown ? node : undefined;
  }

  /** Knows that version, and is not in trouble. */
  #sound(version: number | undefined): SimulatedNode | undefined {
    const node = this.#router();
    const isSound = node?.id !== this.#troubled?.id;
    // Until it has heard of a change it asks those that were replicas.
    return isSound && node?.life.placement.current?.version === version ? node : undefined;
  }

  get #nowNs(): bigint {
    return BigInt(this.#cluster.clock.nowMs()) * MS_NS;
  }

  #randomNamespace(name: string): NamespaceOptions {
    const random = this.#random;
    const blockSizeNs = random.pick([2n, 5n]) * MINUTE_NS;
    return namespaceOptions({
      name,
      blockSizeNs,
      indexBlockSizeNs: blockSizeNs * random.pick([1n, 2n]),
      retentionNs: blockSizeNs * 100n,
      bufferPastNs: MINUTE_NS,
      bufferFutureNs: MINUTE_NS,
      coldWritesEnabled: true,
      cachePolicy: random.pick(['none', 'all', 'recentlyRead', 'lru']),
    });
  }

  #pickNamespace(): NamespaceOptions {
    return this.#random.pick(this.#namespaces() as [NamespaceOptions, ...NamespaceOptions[]]);
  }

  /** In order, late, long ago, or where there is a sample already. */
  #randomTime({ name, blockSizeNs }: NamespaceOptions, key: string): bigint {
    const random = this.#random;
    const kind = random.below(10);
    const known = kind < 2 ? this.#model.timeOf(name, key, random) : undefined;
    const backNs =
      kind < 8 ? BigInt(random.below(5)) * 1000n * MS_NS : (blockSizeNs * BigInt(random.below(50))) / 10n;
    const timeNs =
      known !== undefined && this.#nowNs - known < blockSizeNs * 20n ? known : this.#nowNs - backNs;
    return timeNs - (timeNs % MS_NS);
  }

  #nextBits(): bigint {
    this.#values++;
    const view = new DataView(new ArrayBuffer(8));
    // Later ones are not greater: which one stays is not said by the value.
    view.setFloat64(0, Number(this.#values) * (this.#random.chance(0.5) ? 1 : -1));
    return view.getBigUint64(0);
  }

  #tell(what: string): void {
    const line = `${this.#cluster.clock.nowMs() - START_MS} ${what}`;
    this.#story.push(line);
    if (process.env['VARVE_SIM_LOG'] !== undefined) console.log(`== ${line}`);
  }

  #fail(wrong: readonly string[], when: string): void {
    if (wrong.length === 0) return;
    const shown = [...wrong.slice(0, 10), '', ...this.#story.slice(-40)];
    throw new Error(`${when}:\n  ${shown.join('\n  ')}`);
  }

  async #patiently<T>(what: string, work: Promise<T>): Promise<T> {
    return await this.#cluster.patiently(what, work);
  }
}

const ALL = '{__name__=~".+"}';

function seriesKey(number: number): string {
  return keyOf([
    ['__name__', `metric${number % 3}`],
    ['host', `h${number}`],
  ]);
}

interface SentSeries {
  readonly labels: ReturnType<typeof labelsOf>;
  readonly samples: readonly { readonly timeNs: bigint; readonly bits: bigint }[];
}

async function send(
  engine: StorageEngine,
  namespace: string,
  series: readonly SentSeries[],
  isRemote: boolean,
): ReturnType<StorageEngine['writeRemote']> {
  if (isRemote) {
    const body = encodeWriteRequest(
      series.map(({ labels, samples }) => ({
        labels,
        samples: samples.map(({ timeNs, bits }) => ({ ms: timeNs / MS_NS, bits })),
      })),
    );
    return await engine.writeRemote(namespace, 1, encodeSnappy(body));
  }
  const view = new DataView(new ArrayBuffer(8));
  const valueOf = (bits: bigint): number => {
    view.setBigUint64(0, bits);
    return view.getFloat64(0);
  };
  return await engine.writeSeries(
    namespace,
    series.map(({ labels, samples }) => ({
      labels,
      samples: samples.map(({ timeNs, bits }) => ({ timeNs, value: valueOf(bits) })),
    })),
  );
}

/** What a cluster in trouble may say; everything else is a bug. */
function expected(what: string, error: unknown): string {
  if (error instanceof VarveError && error.code !== 'INTERNAL') return `${error.code} ${error.message}`;
  if (hasCode(error, 'ENOSPC')) return 'the disk is full';
  throw new Error(`${what} failed`, { cause: error });
}
