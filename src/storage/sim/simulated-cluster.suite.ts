import { setImmediate as nextTurn } from 'node:timers/promises';
import { SeededRandom } from '../../../test/seeded-random.ts';
import { initialPlacement, type NewInstance } from '../../placement/change-placement.ts';
import { PlacementStore } from '../../placement/placement-store.ts';
import type { NamespaceOptions, StorageEngine } from '../engine/storage-engine.ts';
import { NAMESPACE_PREFIX } from '../namespaces/namespace-directory.ts';
import { entryText } from '../namespaces/namespace-entry.ts';
import type { Clock } from '../../core/clock.ts';
import { SimulatedClock, SkewedClock } from './clock.suite.ts';
import { SimulatedCoordinator } from './cluster-coordinator.suite.ts';
import { SimulatedNetwork } from './cluster-network.suite.ts';
import { SimulatedNode, type World } from './cluster-node.suite.ts';

export interface SimulatedClusterOptions extends Pick<World, 'shardCount' | 'replication'> {
  readonly seed: number;
  readonly startMs: number;
  /** That are there from the beginning. */
  readonly namespaces: readonly NamespaceOptions[];
  readonly isSynced?: boolean;
  /** By how much the clock of each new node is ahead, in milliseconds; all are right unless given. */
  readonly skewMs?: () => number;
}

/** What takes longer, by the simulated clock, hangs. */
const PATIENCE_MS = 30 * 60_000;
/** Everything that can go on without the clock goes on in so many turns, mostly. */
const TURNS = 4;

/** Nodes, the network between them, a coordinator, and the time, which goes by only here. */
export class SimulatedCluster {
  readonly clock: SimulatedClock;
  readonly network: SimulatedNetwork;
  /** As the operator sees it. */
  readonly store: PlacementStore;
  readonly nodes = new Map<string, SimulatedNode>();
  readonly #world: World;
  readonly #coordinator: SimulatedCoordinator;
  readonly #clocks = new Map<string, Clock>();
  /** That are to be on every node. */
  readonly namespaces = new Map<string, NamespaceOptions>();
  readonly #random: SeededRandom;

  constructor({ seed, startMs, ...shared }: SimulatedClusterOptions) {
    this.#random = new SeededRandom(seed * 3);
    this.clock = new SimulatedClock(startMs);
    this.network = new SimulatedNetwork(this.clock, new SeededRandom(seed * 3 + 1));
    const coordinator = new SimulatedCoordinator(this.clock, new SeededRandom(seed * 3 + 2), this.network);
    this.store = new PlacementStore(coordinator.seenFrom());
    this.#coordinator = coordinator;
    for (const options of shared.namespaces) void this.putNamespace(options);
    this.#world = {
      clock: this.clock,
      network: this.network,
      shardCount: shared.shardCount,
      storeOf: (id) => new PlacementStore(coordinator.seenFrom(id)),
      clockOf: (id) => {
        const known = this.#clocks.get(id) ?? new SkewedClock(this.clock, shared.skewMs?.() ?? 0);
        this.#clocks.set(id, known);
        return known;
      },
      coordinatorOf: (id) => coordinator.seenFrom(id),
      isSynced: shared.isSynced ?? false,
      nodeOf: (id) => this.nodes.get(id),
      replication: shared.replication,
    };
  }

  node(id: string): SimulatedNode {
    const node = this.nodes.get(id);
    if (!node) throw new Error(`there is no ${id}`);
    return node;
  }

  get up(): SimulatedNode[] {
    return [...this.nodes.values()].filter(({ isUp }) => isUp);
  }

  /** One that is new begins with an empty disk. */
  async start(...ids: readonly string[]): Promise<void> {
    const starts = ids.map(async (id) => {
      const node = this.nodes.get(id) ?? new SimulatedNode(id, this.#world, this.#random.below(1e9));
      this.nodes.set(id, node);
      if (!node.isUp) await node.start();
    });
    await this.patiently(`the start of ${ids.join()}`, Promise.all(starts));
  }

  /** The operator makes one, or changes it; nodes hear of it. */
  async putNamespace(options: NamespaceOptions): Promise<void> {
    const { name } = options;
    this.namespaces.set(name, options);
    const text = entryText({ name, incarnation: name, options });
    await this.#coordinator.seenFrom().put(`${NAMESPACE_PREFIX}${name}`, text);
  }

  async removeNamespace(name: string): Promise<void> {
    this.namespaces.delete(name);
    const text = entryText({ name, incarnation: name, options: undefined });
    await this.#coordinator.seenFrom().put(`${NAMESPACE_PREFIX}${name}`, text);
  }

  /** Every node that is up has those that there are, and no others. */
  async namespacesAreKnown(): Promise<void> {
    const wait = async (): Promise<void> => {
      while (!this.up.every(({ own }) => this.#knowsNamespaces(own))) await this.clock.sleep(500);
    };
    await this.patiently('the list of namespaces', wait());
  }

  #knowsNamespaces(engine: StorageEngine): boolean {
    const names = engine.namespaces().map(({ name }) => name);
    // One is there without anybody having made it.
    const expected = new Set(['default', ...this.namespaces.keys()]);
    return names.length === expected.size && names.every((name) => expected.has(name));
  }

  /** The first placement. */
  async place(ids: readonly string[], replicaFactor: number): Promise<void> {
    const { shardCount } = this.#world;
    await this.store.update(() =>
      initialPlacement({ instances: ids.map(instance), shardCount, replicaFactor }),
    );
  }

  async end(): Promise<void> {
    await this.patiently('the end', Promise.all([...this.nodes.values()].map((node) => node.end())));
  }

  /** Every node runs, is ready, and knows a placement in which nothing is under way. */
  async settled(): Promise<void> {
    const wait = async (): Promise<void> => {
      while (!(await this.#isSettled())) await this.clock.sleep(500);
    };
    await this.patiently('bootstrap', wait());
  }

  /** Lets so much time go by. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0;) {
      for (let turns = 0; turns < TURNS; turns++) await nextTurn();
      left -= this.clock.advanceToNext(left);
    }
  }

  /** Time goes by while something is waited for. @throws what the work throws, and when it takes too much time */
  async patiently<T>(what: string, work: Promise<T>): Promise<T> {
    const state = { isDone: false };
    const settled = work.finally(() => (state.isDone = true));
    settled.catch(() => {});
    const deadlineMs = this.clock.monotonicMs() + PATIENCE_MS;
    while (!state.isDone) {
      for (let turns = 0; turns < TURNS && !state.isDone; turns++) await nextTurn();
      if (!state.isDone) this.clock.advanceToNext(1000);
      if (this.clock.monotonicMs() > deadlineMs) throw new Error(`${what} hangs:\n  ${await this.#where()}`);
    }
    return await settled;
  }

  async #isSettled(): Promise<boolean> {
    const placement = await this.store.read();
    const isStill = placement?.instances.every(
      ({ shards, isLeaving }) => !isLeaving && shards.every(({ state }) => state === 'available'),
    );
    return (
      isStill === true &&
      [...this.nodes.values()].every(
        ({ isUp, life }) =>
          isUp &&
          life.engine.status().state === 'ready' &&
          this.#knowsNamespaces(life.engine) &&
          life.placement.current?.version === placement?.version,
      )
    );
  }

  async #where(): Promise<string> {
    const lines = [JSON.stringify(await this.store.read())];
    for (const [id, node] of this.nodes) {
      if (!node.isUp) {
        lines.push(`${id} is down`);
        continue;
      }
      const { state, bootstrapRuns } = node.own.status();
      const last = bootstrapRuns.at(-1);
      const { placement } = node.life;
      const why = last?.unfulfilled.map(({ shard, detail }) => `${shard}: ${detail}`).slice(0, 3) ?? [];
      lines.push(
        `${id} is ${state}, knows version ${placement.current?.version} (${placement.status()?.problem}); the last attempt: ${last?.state} ${last?.error ?? ''} ${why.join('; ')}`,
      );
    }
    return lines.join('\n  ');
  }
}

export function instance(id: string): NewInstance {
  return { id, isolationGroup: id, weight: 1, endpoint: `http://${id}` };
}
