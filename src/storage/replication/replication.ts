import type { Clock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';
import type { FileSystem } from '../../core/file-system.ts';
import { makeFolders } from '../../core/file-system.ts';
import type { Placement } from '../../placement/placement.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import type { ReplicaAccess } from '../engine/replica-access.ts';
import type { PlacedEngine, StorageEngine } from '../engine/storage-engine.ts';
import { topologyOf } from '../../placement/topology.ts';
import { DeletionLedger } from './deletion-ledger.ts';
import { HandOver } from './hand-over.ts';
import { Hints, type HintStatus } from './hints.ts';
import { LocalReplica } from './local-replica.ts';
import { Repair, type RepairStatus } from './repair.ts';
import { ReplicaHealth } from './replica-health.ts';
import type { ReplicaAddress, ReplicaTransport } from './replica-transport.ts';
import { ReplicatedEngine } from './replicated-engine.ts';
import { ReplicatedRead, type ReadFigures } from './replicated-read.ts';
import { ReplicatedWrite, type WriteFigures } from './replicated-write.ts';
import { untilDeadline } from '../../core/deadline.ts';
import { WriterChanges } from './writer-changes.ts';
import type { Settlement } from '../peers/peers-source.ts';
import { settleDeletions } from './settle-deletions.ts';
import { Routing, type ReadLevel, type WriteLevel } from './routing.ts';

export interface ReplicationDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly engine: StorageEngine & Pick<PlacedEngine, 'strandedShards'> & { readonly replica: ReplicaAccess };
  readonly transport: ReplicaTransport;
  /** As it is known now; undefined: there is none, and the node is alone. */
  readonly placement: () => Placement | undefined;
  /** Asks the coordinator for it: there is a newer one than is known here. Without it one is waited for. */
  readonly refreshPlacement?: () => Promise<void>;
}

export interface ReplicationOptions {
  /** This node in the placement. */
  readonly node: string;
  /** Of the engine. */
  readonly folder: string;
  readonly writeLevel: WriteLevel;
  readonly readLevel: ReadLevel;
  readonly replicaTimeoutMs: number;
  readonly hintMaxBytes: number;
  readonly hintMaxAgeMs: number;
  /** Hints are as durable as the log. */
  readonly synced: boolean;
  readonly repairIntervalMs: number;
  readonly repairSettledMs?: number;
  readonly repairShare?: number;
  readonly repairReadAllRounds?: number;
}

export interface ReplicationStatus {
  readonly placementVersion: number;
  readonly replicaFactor: number;
  readonly writes: WriteFigures;
  readonly reads: ReadFigures;
  readonly down: readonly { readonly replica: string; readonly sinceMs: number; readonly reason: string }[];
  readonly hints: readonly HintStatus[];
  readonly repair: RepairStatus;
}

const FOLDER = 'replication';
const SETTLED_MS = 60_000;
/** Of a node that stops, for replicas that are slow. */
const END_GRACE_MS = 1000;
const REPAIR_SHARE = 0.2;
/** A day, with rounds of an hour. */
const READ_ALL_ROUNDS = 24;

/** A node's part in a system of replicas. */
export class Replication {
  /** What this node's clients write to and read from. */
  readonly engine: ReplicatedEngine;
  /** What other nodes write to and read from. */
  readonly local: LocalReplica;
  readonly repair: Repair;
  readonly #deps: ReplicationDeps;
  readonly #options: ReplicationOptions;
  readonly #health: ReplicaHealth;
  readonly #hints: Hints;
  readonly #write: ReplicatedWrite;
  readonly #read: ReplicatedRead;
  readonly #handOver: HandOver;
  #routed: { readonly placement: Placement; readonly routing: Routing } | undefined;

  private constructor(
    deps: ReplicationDeps,
    options: ReplicationOptions,
    parts: { readonly local: LocalReplica; readonly hints: Hints; readonly health: ReplicaHealth },
  ) {
    const { clock, random, log, transport } = deps;
    const { node, writeLevel, readLevel, replicaTimeoutMs: timeoutMs } = options;
    const { local, hints, health } = parts;
    this.#deps = deps;
    this.#options = options;
    this.local = local;
    this.#hints = hints;
    this.#health = health;
    const routing = (): Routing | undefined => this.#routing();
    const hint = hints.add.bind(hints);
    const newerRouting = (version: number): Promise<Routing | undefined> => this.#newer(version, timeoutMs);
    this.#write = new ReplicatedWrite(
      { node, clock, local, transport, health, hint, newerRouting },
      { level: writeLevel, timeoutMs },
    );
    this.#read = new ReplicatedRead(
      { node, clock, random, local, transport, health },
      { level: readLevel, timeoutMs },
    );
    this.engine = new ReplicatedEngine({ local, write: this.#write, read: this.#read, routing });
    this.#handOver = new HandOver({ node, clock, log, local, transport, timeoutMs });
    this.repair = new Repair(
      { node, clock, random, log, local, transport, routing },
      {
        intervalMs: options.repairIntervalMs,
        settledMs: options.repairSettledMs ?? SETTLED_MS,
        share: options.repairShare ?? REPAIR_SHARE,
        readAllRounds: options.repairReadAllRounds ?? READ_ALL_ROUNDS,
        timeoutMs,
      },
    );
  }

  static async open(deps: ReplicationDeps, options: ReplicationOptions): Promise<Replication> {
    const { fs, clock, random, log, engine, transport, placement } = deps;
    const folder = await makeFolders(fs, options.folder, [FOLDER]);
    const ledger = await DeletionLedger.open(fs, folder);
    const nowNs = (): bigint => BigInt(Math.floor(clock.nowMs())) * 1_000_000n;
    const writers = new WriterChanges(options.node);
    const leastVersion = (): number => writers.leastVersion(placement());
    const { replica } = engine;
    const isJoining = (): boolean => replica.standsAlone && placement() !== undefined;
    const local = new LocalReplica({ engine, replica, ledger, nowNs, leastVersion, isJoining });
    const health = new ReplicaHealth(clock);
    const addressOf = (id: string): ReplicaAddress | undefined | 'unknown' => {
      const known = placement();
      return known ? known.instances.find((instance) => instance.id === id) : 'unknown';
    };
    const hints = await Hints.open(
      { fs, log, clock, random, transport, health, addressOf },
      {
        folder,
        maxBytes: options.hintMaxBytes,
        maxAgeMs: options.hintMaxAgeMs,
        synced: options.synced,
        timeoutMs: options.replicaTimeoutMs,
      },
    );
    return new Replication(deps, options, { local, hints, health });
  }

  /** Replays hints and repairs, until the signal; then what was taken is brought to its end: it takes nothing any more. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#hints.run(signal), this.repair.run(signal)]);
    await this.#write.end(END_GRACE_MS);
    await this.#hints.close();
  }

  /**
   * Before the engine gets its first placement: what it took while it stood alone is given to the replicas that the
   * placement names.
   * @throws WRITE_LEVEL_NOT_REACHED: to be repeated, and the engine stays as it is
   */
  async handOver(placement: Placement, signal: AbortSignal): Promise<void> {
    const shards = await this.#deps.engine.strandedShards(topologyOf(placement, this.#options.node));
    if (shards.length > 0) await this.#handOver.run(placement, { shards, signal });
  }

  /**
   * Before this node takes shards from others: these and it have carried out what any of them has deleted. So it gets
   * nothing that is deleted, and need not delete it later, together with what was written since.
   */
  async settleDeletions(ids: readonly string[], signal: AbortSignal): Promise<Settlement> {
    const { clock, engine, transport, placement } = this.#deps;
    const { replicaTimeoutMs: timeoutMs } = this.#options;
    const nodes = placement()?.instances.filter(({ id }) => ids.includes(id)) ?? [];
    for (;;) {
      const namespaces = engine.namespaces().map(({ name }) => name);
      const { silent, deletions } = await settleDeletions(transport, {
        nodes,
        namespaces,
        own: this.local.ledger.of(namespaces),
        signal,
        limited: ({ id }, work, parent) =>
          untilDeadline({ waitingFor: `replica ${id}`, timeoutMs, clock, parent }, work),
      });
      const since = await this.local.settle(deletions, namespaces);
      if (since !== undefined) return { silent, since };
    }
  }

  /** Undefined: the node is alone. */
  status(): ReplicationStatus | undefined {
    const routing = this.#routing();
    if (!routing) return undefined;
    return {
      placementVersion: routing.version,
      replicaFactor: routing.replicaFactor,
      writes: this.#write.figures,
      reads: this.#read.figures,
      down: routing.instances.flatMap(({ id }) => {
        const down = this.#health.down(id);
        return down ? [{ replica: id, sinceMs: down.sinceMs, reason: down.reason }] : [];
      }),
      hints: this.#hints.status(),
      repair: this.repair.status,
    };
  }

  /** Undefined when none is heard of. */
  async #newer(version: number, timeoutMs: number): Promise<Routing | undefined> {
    const { clock, log, refreshPlacement } = this.#deps;
    const isNewer = (routing: Routing | undefined): boolean => (routing?.version ?? 0) > version;
    if (!isNewer(this.#routing()) && refreshPlacement) {
      try {
        await untilDeadline({ waitingFor: 'the placement', timeoutMs, clock }, refreshPlacement);
      } catch (error) {
        log.warn({ reason: messageOf(error) }, 'replicas know a newer placement, which cannot be read');
      }
    }
    const routing = this.#routing();
    return isNewer(routing) ? routing : undefined;
  }

  #routing(): Routing | undefined {
    const placement = this.#deps.placement();
    if (!placement || placement.instances.every(({ shards }) => shards.length === 0)) return undefined;
    if (this.#routed?.placement !== placement) this.#routed = { placement, routing: new Routing(placement) };
    return this.#routed.routing;
  }
}
