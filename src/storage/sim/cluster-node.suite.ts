import { SeededRandom } from '../../../test/seeded-random.ts';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import type { Coordinator } from '../../coordination/coordinator.ts';
import type { Clock } from '../../core/clock.ts';
import { StoragePlacement } from '../../node/storage-placement.ts';
import type { PlacementStore } from '../../placement/placement-store.ts';
import { VarveError, type ErrorCode } from '../../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import type { StorageEngine } from '../engine/storage-engine.ts';
import { NamespaceDirectory } from '../namespaces/namespace-directory.ts';
import { decodeRequest, encodeRequest } from '../peers/peer-messages.ts';
import { PeerServer } from '../peers/peer-server.ts';
import type { PeerTransport } from '../peers/peer-transport.ts';
import { PeersSource } from '../peers/peers-source.ts';
import { Replication, type ReplicationOptions } from '../replication/replication.ts';
import { answer } from '../replication/replica-server.ts';
import type { ReplicaQuestion, ReplicaTransport } from '../replication/replica-transport.ts';
import type { SimulatedClock } from './clock.suite.ts';
import type { SeenCoordinator } from './cluster-coordinator.suite.ts';
import type { SimulatedNetwork } from './cluster-network.suite.ts';
import { openUnready } from './open-engine.suite.ts';

const FOLDER = '/storage';
/** More than any node writes. */
const ROOM_BYTES = 2 ** 40;

/** Told of what nodes say: `VARVE_SIM_LOG=1`. */
const isLoud = process.env['VARVE_SIM_LOG'] !== undefined;

/** What nodes share. */
export interface World {
  readonly clock: SimulatedClock;
  readonly network: SimulatedNetwork;
  readonly shardCount: number;
  readonly storeOf: (node: string) => PlacementStore;
  /** Of a node: some have clocks that are wrong. */
  readonly clockOf: (node: string) => Clock;
  readonly coordinatorOf: (node: string) => SeenCoordinator;
  /** Everything is on the disk before it is acknowledged, so that the power may go. */
  readonly isSynced: boolean;
  readonly nodeOf: (id: string) => SimulatedNode | undefined;
  readonly replication: Pick<
    ReplicationOptions,
    'hintMaxBytes' | 'repairIntervalMs' | 'repairSettledMs' | 'replicaTimeoutMs'
  >;
}

/** A process of a node, from its start until it is killed or stopped. */
export interface Life {
  readonly engine: Engine;
  readonly replication: Replication;
  readonly placement: StoragePlacement;
  readonly namespaces: NamespaceDirectory;
  readonly peers: PeerServer;
  readonly stop: AbortController;
  readonly running: Promise<unknown>;
}

/** A storage node as `varve node` puts it together, on a disk, a network and a clock that are simulated. */
export class SimulatedNode {
  readonly id: string;
  readonly #world: World;
  readonly #random: SeededRandom;
  #disk: SimulatedDisk | undefined;
  #life: Life | undefined;
  readonly #ended: Promise<unknown>[] = [];

  constructor(id: string, world: World, seed: number) {
    this.id = id;
    this.#world = world;
    this.#random = new SeededRandom(seed);
  }

  get isUp(): boolean {
    return this.#life !== undefined;
  }

  /** @throws when it is not up */
  get life(): Life {
    if (this.#life) return this.#life;
    throw new VarveError('REPLICA_UNREACHABLE', `${this.id} is not up`);
  }

  get disk(): SimulatedDisk {
    if (!this.#disk) throw new Error(`${this.id} was never started`);
    return this.#disk;
  }

  /** For clients. */
  get engine(): StorageEngine {
    return this.life.replication.engine;
  }

  /** What it has itself. */
  get own(): Engine {
    return this.life.engine;
  }

  async start(): Promise<void> {
    const { shardCount, isSynced } = this.#world;
    const clock = this.#world.clockOf(this.id);
    this.#disk ??= await this.#newDisk();
    const fs = this.#disk;
    const seed = this.#random.below(1e9);
    // Of this life: one that was killed says nothing any more, whatever it does on its own.
    const stop = new AbortController();
    const isAlive = (): boolean => !stop.signal.aborted;
    const random = (): number => this.#random.next();
    const engine = await openUnready(
      {
        fs,
        clock,
        seed,
        node: this.id,
        peers: (view, onMemory) =>
          new PeersSource(
            {
              view,
              onMemory,
              clock,
              random,
              transport: this.#peersOf(isAlive),
              settleDeletions: async (nodes, signal) => await replication.settleDeletions(nodes, signal),
            },
            { level: 'majority' },
          ),
      },
      {
        folder: FOLDER,
        logMode: isSynced ? 'sync' : 'behind',
        shardCount,
        logSegmentBytes: 64 * 1024,
        imageLogBytes: this.#random.pick([0, 0, 20_000]),
      },
    );
    const log = {
      debug: () => {},
      info: this.#say('info'),
      warn: this.#say('warn'),
      error: this.#say('error'),
    };
    const store = this.#world.storeOf(this.id);
    const placement = await StoragePlacement.open(
      { log, clock, random, fs, store },
      {
        node: this.id,
        file: `${FOLDER}/placement.json`,
        engine,
        handOver: async (wanted, signal) => replication.handOver(wanted, signal),
      },
    );
    const replication: Replication = await Replication.open(
      {
        fs,
        clock,
        random,
        log,
        engine,
        transport: this.#replicasOf(isAlive),
        placement: () => placement.current,
        refreshPlacement: () => placement.refresh(),
      },
      {
        node: this.id,
        folder: FOLDER,
        writeLevel: 'majority',
        readLevel: 'majority',
        hintMaxAgeMs: 3_600_000,
        synced: isSynced,
        repairShare: 1,
        ...this.#world.replication,
      },
    );
    const coordinator = this.#world.coordinatorOf(this.id) as unknown as Coordinator;
    const newId = (): string => String(this.#random.below(2 ** 31));
    const namespaces = await NamespaceDirectory.open(
      { log, clock, fs, coordinator, newId },
      { file: `${FOLDER}/namespaces.json`, engine },
    );
    const running = Promise.all([
      namespaces.run(stop.signal),
      placement.run(stop.signal),
      replication.run(stop.signal),
    ]);
    running.catch(() => {});
    const peers = new PeerServer(engine.peerView);
    this.#life = { engine, replication, placement, namespaces, peers, stop, running };
  }

  /** As by `kill -9`: its disk has what the process gave to it; without power, what was synced. */
  kill({ power = true } = {}): void {
    const { engine, stop, running } = this.life;
    const seed = this.#random.below(1e9);
    this.#disk = power ? this.disk.processCrash(seed) : this.disk.powerLoss(seed);
    this.#life = undefined;
    stop.abort(new Error('killed'));
    // What is left of it works on a disk that nobody looks at any more.
    this.#ended.push(running.catch(() => {}).then(() => engine[Symbol.asyncDispose]().catch(() => {})));
  }

  /** Only so many bytes more find room on its disk. */
  async fillDisk(leftBytes: number): Promise<void> {
    this.disk.capacityBytes = ROOM_BYTES;
    this.disk.capacityBytes += leftBytes - (await this.disk.freeBytes());
  }

  makeRoom(): void {
    this.disk.capacityBytes = Number.POSITIVE_INFINITY;
  }

  /** Its machine is gone with all that it had. */
  lose(): void {
    if (this.isUp) this.kill();
    this.#disk = undefined;
  }

  /** In order. */
  async stop(): Promise<void> {
    const { engine, stop, running } = this.life;
    stop.abort(new VarveError('CANCELLED', 'the node stops'));
    await running.catch(() => {});
    await engine[Symbol.asyncDispose]();
    this.#life = undefined;
  }

  async end(): Promise<void> {
    if (this.isUp) this.kill();
    await Promise.all(this.#ended);
  }

  async #newDisk(): Promise<SimulatedDisk> {
    const disk = new SimulatedDisk({ seed: this.#random.below(1e9) });
    await disk.makeFolder(FOLDER);
    await disk.syncFolder('/');
    return disk;
  }

  #say(level: string): (facts: object, message: string) => void {
    return (facts, message) => {
      if (isLoud) console.log(this.#world.clock.nowMs(), this.id, level, message, facts);
    };
  }

  /** Asks the other node as it is now; who is killed meanwhile does not answer, and is not answered. */
  async #carry<T>(
    to: string,
    about: { readonly isAlive: () => boolean; readonly lost: ErrorCode; readonly signal: AbortSignal },
    work: (life: Life) => Promise<T>,
  ): Promise<T> {
    const { isAlive, lost, signal } = about;
    const gone = (): VarveError => new VarveError(lost, `${to}: no answer`);
    const node = this.#world.nodeOf(to);
    const message = { from: this.id, to, lost, signal };
    const result = await this.#world.network.carry(message, async () => {
      if (!isAlive() || !node?.isUp) throw gone();
      const { life } = node;
      const done = await work(life);
      if (!node.isUp || node.life !== life) throw gone();
      return done;
    });
    if (!isAlive()) throw gone();
    return result;
  }

  #peersOf(isAlive: () => boolean): PeerTransport {
    return {
      call: async (to, request, signal) => {
        const text = encodeRequest(request);
        return await this.#carry(to, { isAlive, lost: 'PEER_UNAVAILABLE', signal }, ({ peers }) =>
          peers.answer(decodeRequest(text)),
        );
      },
    };
  }

  #replicasOf(isAlive: () => boolean): ReplicaTransport {
    const about = (signal: AbortSignal) => ({ isAlive, lost: 'REPLICA_UNREACHABLE', signal }) as const;
    const carry = this.#carry.bind(this);
    return {
      write: ({ id }, write, signal) =>
        carry(id, about(signal), ({ replication }) =>
          replication.local.write({ ...write, body: Uint8Array.from(write.body) }),
        ),
      delete: ({ id }, deletion, signal) =>
        carry(id, about(signal), ({ replication }) => replication.local.delete(deletion)),
      handOver: ({ id }, samples, signal) =>
        carry(id, about(signal), ({ replication }) =>
          replication.local.takeOver({ ...samples, body: Uint8Array.from(samples.body) }),
        ),
      async *ask({ id }, question, signal) {
        const asked = JSON.parse(JSON.stringify(question)) as ReplicaQuestion;
        const parts = await carry(id, about(signal), ({ replication }) =>
          Promise.resolve(answer(replication.local, asked, signal)),
        );
        for (;;) {
          const next = await carry(id, about(signal), async () => {
            const { done, value } = await parts.next();
            return done ? undefined : Uint8Array.from(value);
          });
          if (next === undefined) return;
          yield next;
        }
      },
    };
  }
}
