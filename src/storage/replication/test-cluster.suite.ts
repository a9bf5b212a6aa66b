import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { PlacedShard, PlacedShardState, Placement } from '../../placement/placement.ts';
import { topologyOf } from '../../placement/topology.ts';
import type { Engine } from '../engine/engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import type { NamespaceOptions, WriteOutcome } from '../engine/storage-engine.ts';
import { openEngine } from '../sim/open-engine.suite.ts';
import { answer } from './replica-server.ts';
import type {
  ReplicaAddress,
  ReplicaDelete,
  HandedOver,
  ReplicaQuestion,
  ReplicaTransport,
  ReplicaWrite,
} from './replica-transport.ts';
import { Replication, type ReplicationOptions } from './replication.ts';

export const SHARDS = 4;
const quiet = { info: () => {}, warn: () => {}, error: () => {} };

/** A placement in which every instance has the shards that `has` says. */
export function placementWith(
  ids: readonly string[],
  replicaFactor: number,
  has: (place: number, shard: number) => PlacedShardState | Omit<PlacedShard, 'id'> | undefined = () =>
    'available',
  version = 1,
): Placement {
  return {
    version,
    replicaFactor,
    shardCount: SHARDS,
    instances: ids.map((id, place) => ({
      id,
      isolationGroup: id,
      weight: 1,
      endpoint: `sim://${id}`,
      shards: Array.from({ length: SHARDS }, (_, id) => ({ id, is: has(place, id) })).flatMap(
        ({ id, is }): PlacedShard[] => {
          if (is === undefined) return [];
          return [typeof is === 'string' ? { id, state: is } : { id, ...is }];
        },
      ),
    })),
    everAvailable: Array.from({ length: SHARDS }, (_, shard) => shard),
  };
}

/** Time that goes on by itself, from an instant that tests may choose. */
export class TestClock implements Clock {
  #aheadMs = 0;

  nowMs(): number {
    return Date.now() + this.#aheadMs;
  }

  monotonicMs(): number {
    return performance.now() + this.#aheadMs;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', stop);
        resolve();
      }, ms);
      const stop = (): void => {
        clearTimeout(timer);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener('abort', stop, { once: true });
    });
  }

  advance(ms: number): void {
    this.#aheadMs += ms;
  }
}

interface ClusterOptions {
  readonly placement?: Placement;
  /** Nodes that have never heard of a placement. */
  readonly alone?: readonly string[];
  readonly seed?: number;
}

/** Several nodes in one process, with links that can be cut and slowed down. */
export class TestCluster implements AsyncDisposable {
  placement: Placement | undefined;
  readonly clock = new TestClock();
  readonly nodes: readonly TestNode[];
  readonly random: SeededRandom;
  /** Of nodes that have not heard of the newest placement: which one they know. */
  readonly behind = new Map<string, Placement | undefined>();
  /** Nodes that do not reach the coordinator. */
  readonly deaf = new Set<string>();
  /** Pairs `from>to` that get nothing through. */
  readonly cut = new Set<string>();
  /** Of one message. */
  delayMs: (from: string, to: string) => number = () => 0;
  /** Messages that have not arrived, or are being answered. */
  underWay = 0;
  /** Lost after they were carried out: nobody hears of it. */
  loses: (from: string, to: string) => boolean = () => false;

  private constructor(ids: readonly string[], options: Partial<ReplicationOptions> & ClusterOptions) {
    const { placement, alone = [], seed = 1, ...rest } = options;
    this.placement = placement ?? placementWith(ids, 3);
    for (const id of alone) this.behind.set(id, undefined);
    this.random = new SeededRandom(seed);
    this.nodes = ids.map((id) => new TestNode(this, id, rest));
  }

  static async open(
    ids: readonly string[] = ['a', 'b', 'c'],
    options: ConstructorParameters<typeof TestNode>[2] & ClusterOptions = {},
  ): Promise<TestCluster> {
    const cluster = new TestCluster(ids, options);
    for (const node of cluster.nodes) await node.start();
    return cluster;
  }

  knownBy(id: string): Placement | undefined {
    return this.behind.has(id) ? this.behind.get(id) : this.placement;
  }

  node(id: string): TestNode {
    return this.nodes.find((node) => node.id === id) as TestNode;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.nodes) await node.end();
  }

  /** What `work` does at the other node, unless the link is cut before or after it. */
  async pass<T>(from: string, to: string, work: (node: TestNode) => Promise<T>): Promise<T> {
    this.underWay++;
    try {
      return await this.#pass(from, to, work);
    } finally {
      this.underWay--;
    }
  }

  async #pass<T>(from: string, to: string, work: (node: TestNode) => Promise<T>): Promise<T> {
    const check = (): TestNode => {
      const node = this.node(to);
      if (this.cut.has(`${from}>${to}`) || !node.isUp) throw unreachable(to);
      return node;
    };
    const delayMs = this.delayMs(from, to);
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
    const result = await work(check());
    if (this.loses(from, to)) throw unreachable(to);
    check();
    return result;
  }
}

function unreachable(id: string): VarveError {
  return new VarveError('REPLICA_UNREACHABLE', `${id}: no answer`);
}

class SimulatedTransport implements ReplicaTransport {
  readonly #cluster: TestCluster;
  readonly #from: string;

  constructor(cluster: TestCluster, from: string) {
    this.#cluster = cluster;
    this.#from = from;
  }

  write({ id }: ReplicaAddress, write: ReplicaWrite): Promise<WriteOutcome> {
    return this.#cluster.pass(this.#from, id, (node) => node.live.local.write(write));
  }

  delete({ id }: ReplicaAddress, deletion: ReplicaDelete): Promise<void> {
    return this.#cluster.pass(this.#from, id, (node) => node.live.local.delete(deletion));
  }

  handOver({ id }: ReplicaAddress, samples: HandedOver): Promise<void> {
    return this.#cluster.pass(this.#from, id, (node) => node.live.local.takeOver(samples));
  }

  async *ask(
    { id }: ReplicaAddress,
    question: ReplicaQuestion,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    // As it travels.
    const asked = JSON.parse(JSON.stringify(question)) as ReplicaQuestion;
    const parts = await this.#cluster.pass(this.#from, id, (node) =>
      Promise.resolve(answer(node.live.local, asked, signal)),
    );
    for (;;) {
      const next = await this.#cluster.pass(this.#from, id, () => parts.next());
      if (next.done) return;
      yield next.value;
    }
  }
}

export const NAMESPACE: NamespaceOptions = namespaceOptions({ name: 'default' });

/** One of them; may be killed and started again. */
export class TestNode {
  readonly id: string;
  disk: SimulatedDisk | undefined;
  engine: Engine | undefined;
  replication: Replication | undefined;
  readonly #cluster: TestCluster;
  readonly #options: Partial<ReplicationOptions>;
  readonly #ended: Promise<unknown>[] = [];
  #stop = new AbortController();
  #running: Promise<void> = Promise.resolve();

  constructor(cluster: TestCluster, id: string, options: Partial<ReplicationOptions>) {
    this.#cluster = cluster;
    this.id = id;
    this.#options = options;
  }

  get isUp(): boolean {
    return this.replication !== undefined;
  }

  /** @throws when it is not up */
  get live(): Replication {
    if (!this.replication) throw unreachable(this.id);
    return this.replication;
  }

  async start(): Promise<void> {
    const { clock, random } = this.#cluster;
    if (!this.disk) {
      this.disk = new SimulatedDisk({ seed: random.below(1e9) });
      await this.disk.makeFolder('/storage');
      await this.disk.syncFolder('/');
    }
    const deps = { fs: this.disk, clock, seed: random.below(1e9) };
    const engine = await openEngine(deps, {
      folder: '/storage',
      logMode: 'behind',
      shardCount: SHARDS,
      logSegmentBytes: 1 << 20,
      imageLogBytes: 0,
    });
    await engine.applyNamespaces([NAMESPACE]);
    await engine.ready();
    this.engine = engine;
    await this.follow();
    const replication = await Replication.open(
      {
        fs: this.disk,
        clock,
        random: () => random.next(),
        log: quiet,
        engine,
        transport: new SimulatedTransport(this.#cluster, this.id),
        placement: () => this.#cluster.knownBy(this.id),
        refreshPlacement: async () => {
          if (this.#cluster.deaf.has(this.id)) throw new VarveError('COORDINATOR_UNAVAILABLE', 'no answer');
          this.#cluster.behind.delete(this.id);
        },
      },
      {
        node: this.id,
        folder: '/storage',
        writeLevel: 'majority',
        readLevel: 'unstrictMajority',
        replicaTimeoutMs: 1000,
        hintMaxBytes: 1 << 20,
        hintMaxAgeMs: 3_600_000,
        synced: false,
        repairIntervalMs: 0,
        repairSettledMs: 0,
        repairShare: 1,
        ...this.#options,
      },
    );
    this.replication = replication;
    this.#stop = new AbortController();
    this.#running = replication.run(this.#stop.signal);
  }

  /** Gives the engine the shards that the placement says. */
  async follow(): Promise<void> {
    const placement = this.#cluster.knownBy(this.id);
    if (!placement) return;
    await this.engine?.applyTopology(topologyOf(placement, this.id));
    const own = placement.instances.find(({ id }) => id === this.id);
    // Nobody here has a source for what moves: it waits.
    if (own?.shards.every(({ state }) => state !== 'initializing')) await this.engine?.ready();
  }

  /** As by `kill -9`: from now on it says nothing, and its disk has what the process gave to it. */
  kill(): void {
    const { engine, disk } = this;
    if (!engine || !disk) return;
    this.disk = disk.processCrash(this.#cluster.random.below(1e9));
    this.engine = undefined;
    this.replication = undefined;
    this.#stop.abort(new Error('killed'));
    // What is left of it works on a disk that nobody looks at any more.
    this.#ended.push(this.#running.then(() => engine[Symbol.asyncDispose]()).catch(() => {}));
  }

  /** As by SIGTERM: what it has taken is brought to its end. */
  async stop(): Promise<void> {
    const { engine } = this;
    this.#stop.abort(new Error('stopped'));
    await this.#running;
    this.engine = undefined;
    this.replication = undefined;
    await engine?.[Symbol.asyncDispose]();
  }

  async end(): Promise<void> {
    this.kill();
    await Promise.all(this.#ended);
  }
}
