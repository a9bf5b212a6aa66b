import { SeededRandom } from '../../../test/seeded-random.ts';
import type { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { VarveError } from '../../core/errors.ts';
import type { ReplicaState } from '../bootstrap/topology-snapshot.ts';
import {
  dump,
  labelsOf,
  ManualClock,
  openEngine,
  seriesOf,
  simulatedPlace,
  type Samples,
} from '../engine/engine.suite.ts';
import type { Engine } from '../engine/engine.ts';
import { namespaceOptions, type NamespaceRequest } from '../engine/namespace-options.ts';
import { placementOf } from '../engine/placement.suite.ts';
import type { EngineOptions } from '../engine/storage-engine.ts';
import type { BootstrapLevel } from './consistency.ts';
import { decodeRequest, encodeRequest } from './peer-messages.ts';
import { PeerServer } from './peer-server.ts';
import type { PeerRequest, PeerTransport } from './peer-transport.ts';
import { PeersSource, type PeersSourceDeps } from './peers-source.ts';

const SPEED = 100;

/** Its date stands still; waiting takes a hundredth of the time that it should. */
export class SwiftClock extends ManualClock {
  override monotonicMs(): number {
    return performance.now() * SPEED;
  }

  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      const end = (settle: () => void): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        settle();
      };
      const abort = (): void => end(() => reject(signal?.reason as Error));
      const timer = setTimeout(() => end(resolve), ms / SPEED);
      signal?.addEventListener('abort', abort);
    });
  }
}

export interface ClusterOptions {
  readonly shardCount?: number;
  readonly level?: BootstrapLevel;
  readonly namespaces?: readonly NamespaceRequest[];
  readonly engine?: Partial<EngineOptions>;
  readonly majority?: number;
  readonly inlineBytes?: number;
  readonly settleDeletions?: PeersSourceDeps['settleDeletions'];
}

interface Member {
  readonly name: string;
  disk: SimulatedDisk;
  engine: Engine | undefined;
  server: PeerServer | undefined;
}

/** By shard, then by node; `n1: 'available'` for all shards where one record is given. */
export type States = Readonly<Record<string, ReplicaState>>;

/** Several engines in one process, with disks of their own and a network that can be cut. */
export class PeerCluster implements AsyncDisposable {
  readonly clock = new SwiftClock();
  readonly shardCount: number;
  readonly calls: { readonly from: string; readonly to: string; readonly request: PeerRequest }[] = [];
  /** What becomes of a request: it may wait, throw, or change the answer. */
  fault: ((to: string, request: PeerRequest, answer: () => Promise<Buffer>) => Promise<Buffer>) | undefined;
  readonly cut = new Set<string>();
  readonly #options: ClusterOptions;
  readonly #members = new Map<string, Member>();
  readonly #random = new SeededRandom(7);
  #placement: readonly States[] = [];
  #everAvailable: readonly number[] = [];
  #version = 0;

  constructor(options: ClusterOptions = {}) {
    this.#options = options;
    this.shardCount = options.shardCount ?? 4;
  }

  /** Starts a node with what is on its disk, which is new for a new one; not waiting until it is ready. */
  async start(name: string, more: Partial<EngineOptions> = {}, level?: BootstrapLevel): Promise<Engine> {
    const member = this.#members.get(name) ?? {
      name,
      disk: (await simulatedPlace(this.#members.size + 1)).fs,
      engine: undefined,
      server: undefined,
    };
    this.#members.set(name, member);
    const { inlineBytes } = this.#options;
    const inline = inlineBytes === undefined ? {} : { inlineBytes };
    const place = { fs: member.disk, folder: '/engine', clock: this.clock };
    const engine = await openEngine(
      place,
      { shardCount: this.shardCount, ...this.#options.engine, ...more },
      {
        node: name,
        peers: (view, onMemory) =>
          new PeersSource(
            { ...this.#sourceDeps(name), view, onMemory },
            { level: level ?? this.#options.level ?? 'majority', ...inline },
          ),
      },
    );
    member.engine = engine;
    member.server = new PeerServer(engine.peerView);
    await engine.applyNamespaces((this.#options.namespaces ?? [{ name: 'default' }]).map(namespaceOptions));
    return engine;
  }

  async stop(name: string): Promise<void> {
    const member = this.#members.get(name);
    const { engine } = member ?? {};
    if (member) member.engine = member.server = undefined;
    await engine?.[Symbol.asyncDispose]();
  }

  /** As after kill -9: what it has not synced may be lost. */
  async kill(name: string): Promise<void> {
    const member = this.#members.get(name);
    if (!member) return;
    const after = member.disk.powerLoss(this.#random.below(2 ** 31));
    await this.stop(name);
    member.disk = after;
  }

  engine(name: string): Engine {
    const engine = this.#members.get(name)?.engine;
    if (!engine) throw new Error(`${name} is not running`);
    return engine;
  }

  disk(name: string): SimulatedDisk {
    const member = this.#members.get(name);
    if (!member) throw new Error(`there is no ${name}`);
    return member.disk;
  }

  /** Tells all that run what the placement is. One record: of all shards. */
  async place(shards: States | readonly States[], options: { readonly isNew?: boolean } = {}): Promise<void> {
    this.#placement = Array.isArray(shards)
      ? (shards as readonly States[])
      : Array.from({ length: this.shardCount }, () => shards as States);
    this.#version++;
    this.#everAvailable = options.isNew ? [] : [...this.#placement.keys()];
    for (const { name, engine } of this.#members.values()) if (engine) await this.tell(name);
  }

  /** Tells one. */
  async tell(name: string): Promise<void> {
    await this.engine(name).applyTopology(
      placementOf(name, this.#placement, {
        version: this.#version,
        everAvailable: this.#everAvailable,
        majority: this.#options.majority ?? 1,
      }),
    );
  }

  /** Writes to some nodes what is theirs of it. */
  async write(to: readonly string[], name: string | readonly string[], samples: Samples): Promise<void> {
    const names = typeof name === 'string' ? [name] : name;
    for (const node of to) {
      const { peerView } = this.engine(node);
      const namespace = peerView.namespace('default');
      if (!namespace) throw new Error('no namespace');
      const batch = namespace.buffer.prepare(
        names.map((one) => seriesOf(labelsOf(one), samples)),
        peerView.clock.nowNs(),
        'passOver',
      );
      await namespace.buffer.commit(batch, peerView.clock.next(), namespace.append);
    }
  }

  async dump(name: string): Promise<Record<string, string[]>> {
    return await dump(this.engine(name));
  }

  /** Of the newest run of a node. */
  peersDetail(name: string): string {
    const runs = this.engine(name).status().bootstrapRuns;
    const last = runs.at(-1)?.sources.filter(({ source }) => source === 'peers') ?? [];
    return last.map(({ pass, detail }) => `${pass}: ${detail}`).join(' | ');
  }

  /** As a node would answer. */
  async serve(name: string, request: PeerRequest): Promise<Buffer> {
    return await new PeerServer(this.engine(name).peerView).answer(request);
  }

  requests(kind: PeerRequest['kind']): number {
    return this.calls.filter(({ request }) => request.kind === kind).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of this.#members.keys()) await this.stop(name);
  }

  /** Another source of a node, beside the one that it has. */
  sourceOf(name: string, level: BootstrapLevel): PeersSource {
    const { peerView: view } = this.engine(name);
    return new PeersSource({ ...this.#sourceDeps(name), view, onMemory: () => {} }, { level });
  }

  #sourceDeps(name: string): Omit<PeersSourceDeps, 'view' | 'onMemory'> {
    const { settleDeletions } = this.#options;
    return {
      transport: this.#transportOf(name),
      clock: this.clock,
      random: () => this.#random.next(),
      ...(settleDeletions && { settleDeletions }),
    };
  }

  #transportOf(from: string): PeerTransport {
    return {
      call: async (to, request) => {
        this.calls.push({ from, to, request });
        const server = this.#members.get(to)?.server;
        if (!server || this.cut.has(to) || this.cut.has(from)) {
          throw new VarveError('PEER_UNAVAILABLE', 'it cannot be reached');
        }
        // As it comes over a wire.
        const decoded = decodeRequest(encodeRequest(request));
        const answer = (): Promise<Buffer> => server.answer(decoded);
        return await (this.fault ? this.fault(to, decoded, answer) : answer());
      },
    };
  }
}
