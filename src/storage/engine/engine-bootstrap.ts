import type { Clock } from '../../core/clock.ts';
import type { FileSystem } from '../../core/file-system.ts';
import type { RunEvents } from '../../run/events.ts';
import { BootstrapLoop, type AttemptReport } from '../bootstrap/bootstrap-loop.ts';
import type { ProcessDeps, ProcessResult } from '../bootstrap/bootstrap-process.ts';
import { runBootstrapRounds } from '../bootstrap/bootstrap-rounds.ts';
import type {
  BootstrapContext,
  BootstrapNamespace,
  BootstrapRequest,
  BootstrapResult,
  BootstrapSource,
  ShardProgress,
} from '../bootstrap/bootstrap-source.ts';
import { CommitLogSource } from '../bootstrap/commit-log-source.ts';
import { AcceptedLossSource } from '../bootstrap/accepted-loss-source.ts';
import { FillBook } from '../bootstrap/fill-book.ts';
import { FsSource } from '../bootstrap/fs-source.ts';
import type { Interventions } from '../bootstrap/interventions.ts';
import { ShardTimeRanges } from '../bootstrap/shard-time-ranges.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import { UninitializedSource } from '../bootstrap/uninitialized-source.ts';
import { WholeSource } from '../bootstrap/whole-source.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import type { EngineLog } from './engine-log.ts';
import type { HybridClock } from './hybrid-clock.ts';
import type { Namespace } from './namespace.ts';
import type { NamespaceRegistry } from './namespace-registry.ts';
import type { NodeShards } from './node-shards.ts';
import type { RecoveredMemory } from './recover-memory.ts';
import type { ColumnCodec } from './sealed-series.ts';
import type { ShardOwnership } from './shard-ownership.ts';
import type {
  BootstrapOrder,
  BootstrapReason,
  BootstrapRunStatus,
  Finding,
  ShardFill,
  ShardStatus,
} from './storage-engine.ts';

export interface EngineBootstrapDeps {
  readonly fs: FileSystem;
  readonly clock: Clock;
  readonly log: Log;
  readonly hybridClock: HybridClock;
  readonly random: () => number;
  readonly events: RunEvents | undefined;
  readonly node: string;
  readonly codec: () => ColumnCodec;
  readonly registry: NamespaceRegistry;
  readonly ownership: ShardOwnership;
  readonly shards: NodeShards;
  readonly engineLog: EngineLog;
  readonly recovered: Pick<RecoveredMemory, 'position' | 'snapshots'>;
  readonly interventions: Interventions;
  /** The placement that is in force; asked once an attempt. */
  readonly topology: () => TopologySnapshot;
  readonly order: BootstrapOrder;
  readonly roundMs: number;
  /** Of a node that has any; `onMemory` is to be told of shards of which it put anything into the memory. */
  readonly peers?: (onMemory: (shard: number) => void) => PeerBootstrapSource;
  readonly onFinding: (finding: Finding) => void;
  /** A snapshot of all that is in memory. */
  readonly secure: () => Promise<unknown>;
  /** Every shard of every namespace is bootstrapped. */
  readonly onDone: () => Promise<void>;
}

export interface PeerBootstrapSource extends BootstrapSource, AsyncDisposable {
  /** Peers that did not answer are asked again at once. */
  askAnew(): void;
}

/** What the engine bootstraps, with which sources, and what becomes of the results. */
export class EngineBootstrap {
  readonly #deps: EngineBootstrapDeps;
  readonly #fsSource: FsSource;
  readonly #sources: readonly BootstrapSource[];
  readonly #whole: WholeSource;
  readonly #peers: PeerBootstrapSource | undefined;
  readonly #loop: BootstrapLoop;
  readonly #book = new FillBook();
  /** A restart would lose what came from elsewhere into the memory of these. */
  readonly #insecure = new Set<number>();
  /** `namespace/shard` */
  readonly #waiting = new Set<string>();
  /** By `namespace/shard`. */
  readonly #progress = new Map<string, ShardProgress>();

  constructor(deps: EngineBootstrapDeps, folder: string) {
    this.#deps = deps;
    const { fs, registry, onFinding, clock, random, events, node } = deps;
    const lookup = (name: string): Namespace | undefined => registry.find(name);
    this.#fsSource = new FsSource({
      fs,
      lookup,
      onDamage: (damage) => onFinding({ kind: 'fileset', ...damage }),
      onVersion: (version) => deps.hybridClock.observe(version),
    });
    this.#whole = new WholeSource((name, shard) => lookup(name)?.isWhole(shard) ?? false);
    this.#peers = deps.peers?.((shard) => this.#insecure.add(shard));
    this.#sources = inOrder(deps.order, this.#fsSource, this.#commitLogSource(folder), this.#peers);
    this.#loop = new BootstrapLoop({ clock, random, events, node }, (report, signal) =>
      this.#attempt(report, signal),
    );
  }

  get running(): boolean {
    return this.#loop.running;
  }

  get history(): readonly BootstrapRunStatus[] {
    return this.#loop.history;
  }

  /** Resolves when every namespace is bootstrapped. */
  run(signal: AbortSignal, reason: BootstrapReason): Promise<void> {
    return this.#loop.run(signal, reason);
  }

  /** At once, with peers that were left alone. Joins a run that is under way. */
  tryAgain(signal: AbortSignal): Promise<void> {
    this.#peers?.askAnew();
    return this.#loop.run(signal, 'retry');
  }

  /** After the run has ended. */
  async close(): Promise<void> {
    await this.#peers?.[Symbol.asyncDispose]();
  }

  /** The placement has changed: what is under way is to end soon. */
  supersede(): void {
    this.#loop.supersede();
  }

  forget(name: string): void {
    this.#fsSource.forget(name);
    this.#book.forget(name);
  }

  explain(shard: number): readonly ShardFill[] {
    return this.#book.explain(shard);
  }

  /** Which sources a shard was filled from, the last time that it was, and how far it is while it is filled. */
  describe(namespace: string, shard: number): Pick<ShardStatus, 'sources' | 'progress'> {
    return {
      sources: this.#book.sourcesOf(namespace, shard),
      progress: this.#progress.get(`${namespace}/${shard}`),
    };
  }

  /** A restart from this node's own disk loses nothing of the shard. */
  isSecure(shard: number): boolean {
    return !this.#insecure.has(shard);
  }

  /** An attempt has found nobody who has all of the shard, and it is tried again. */
  isWaiting(namespace: string, shard: number): boolean {
    return this.#waiting.has(`${namespace}/${shard}`);
  }

  /** All that is in memory is in a snapshot. None is taken while something comes into it. */
  onSnapshot(): void {
    this.#insecure.clear();
  }

  #commitLogSource(folder: string): CommitLogSource {
    const { fs, engineLog, recovered, codec, hybridClock, registry, onFinding, shards, order } = this.#deps;
    return new CommitLogSource({
      fs,
      folder,
      logFolder: engineLog.folder,
      image: recovered.position,
      snapshots: recovered.snapshots,
      codec,
      clock: hybridClock,
      lookup: (name) => registry.find(name),
      lookupId: (id) => registry.findId(id),
      all: () => registry.all,
      claimsNothing: order === 'exclude_commitlog',
      onFinding,
      onReplayed: async ({ end, payloadBytes }) => {
        await engineLog.open(end, payloadBytes);
        await shards.forgetForeign();
      },
    });
  }

  async #attempt(report: AttemptReport, signal: AbortSignal): Promise<ProcessResult | undefined> {
    const { registry, engineLog, ownership, shards, onDone } = this.#deps;
    await this.#secure();
    const isOther = await shards.install();
    if (isOther) this.#waiting.clear();
    const { owned } = ownership;
    // After a change of the placement it goes over all that there is; those that are whole serve on.
    const due = registry.all.filter((one) => owned.length > 0 && (isOther || !one.bootstrapped));
    // The log is read even when there is no namespace: it cannot be written before.
    if (due.length === 0 && engineLog.isOpen) {
      await onDone();
      return undefined;
    }
    const open = owned.filter((shard) => due.some((namespace) => !namespace.isWhole(shard)));
    report.begin(owned.length, open.length);
    const namespaces = due.map((namespace) => {
      const asked = isOther ? owned : owned.filter((shard) => !namespace.isWhole(shard));
      for (const shard of asked) if (!namespace.isWhole(shard)) namespace.setState(shard, 'bootstrapping');
      return { options: namespace.options, shards: asked };
    });
    this.#progress.clear();
    const result = await runBootstrapRounds(
      this.#processDeps(report),
      {
        sources: this.#sourcesOf(isOther),
        topology: this.#topology(),
        namespaces,
        signal,
        superseded: report.superseded,
        isWhole: (name, shard) => registry.find(name)?.isWhole(shard) ?? false,
      },
      {
        roundMs: this.#deps.roundMs,
        handOver: (filled, round) => this.#handOver(filled, round, report.superseded),
      },
    );
    if (registry.all.every(({ bootstrapped }) => bootstrapped)) await onDone();
    // Of a log without namespaces nothing is told: no shard was gone over.
    return due.length > 0 ? result : undefined;
  }

  /** Shards that are whole serve from here on, and are secure when it resolves. */
  async #handOver(
    filled: readonly BootstrapNamespace[],
    result: ProcessResult,
    superseded: AbortSignal,
  ): Promise<void> {
    // Shards that come together become available together, when all of it is in the snapshot.
    if (this.#insecure.size > 0) {
      for (const { shards } of filled) for (const shard of shards) this.#insecure.add(shard);
    }
    for (const { options, shards } of filled) {
      const namespace = this.#deps.registry.find(options.name);
      const open = result.unfulfilled.get(options.name);
      for (const shard of namespace ? shards : []) {
        const key = `${options.name}/${shard}`;
        this.#progress.delete(key);
        if (!namespace || namespace.isWhole(shard)) continue;
        const isOpen = open?.get(shard).isEmpty === false;
        namespace.setState(shard, isOpen ? 'notStarted' : 'bootstrapped');
        if (isOpen && !superseded.aborted) this.#waiting.add(key);
        else this.#waiting.delete(key);
      }
    }
    await this.#secure();
  }

  /** Those that are whole come first where all are gone over; what was given up, last, where anything was. */
  #sourcesOf(isOther: boolean): readonly BootstrapSource[] {
    const { registry, interventions } = this.#deps;
    const accepted = (name: string): ShardTimeRanges => {
      const id = registry.find(name)?.id;
      return id === undefined ? ShardTimeRanges.EMPTY : interventions.acceptedLoss(id);
    };
    const isAny = registry.all.some(({ name }) => !accepted(name).isEmpty);
    return [
      ...(isOther ? [this.#whole] : []),
      ...this.#sources,
      ...(isAny ? [new AcceptedLossSource(accepted)] : []),
    ];
  }

  /** The placement as operators want it to be looked at. */
  #topology(): TopologySnapshot {
    const { topology, interventions, hybridClock } = this.#deps;
    const skippedPeers = interventions.skippedPeers(hybridClock.nowNs());
    return skippedPeers.size > 0 ? { ...topology(), skippedPeers } : topology();
  }

  #processDeps(report: AttemptReport): ProcessDeps {
    const { clock, hybridClock } = this.#deps;
    return {
      monotonicMs: () => clock.monotonicMs(),
      nowNs: () => hybridClock.nowNs(),
      onBegin: (source, pass) => report.source(source, pass),
      onSource: (status) => report.onSource(status),
      onFill: (fill) => this.#book.add(report.attempt, { ...fill, atNs: hybridClock.nowNs() }),
      report: (progress) => report.progress(progress),
      onShard: (namespace, shard, progress) => this.#progress.set(`${namespace}/${shard}`, progress),
    };
  }

  /** Until it succeeds the shards are served, but not called available. @throws what the disk throws: it is repeated */
  async #secure(): Promise<void> {
    if (this.#insecure.size > 0) await this.#deps.secure();
  }
}

/** M3's modes; the last source is always the one of new shards. */
function inOrder(
  order: BootstrapOrder,
  fs: BootstrapSource,
  commitLog: BootstrapSource,
  peers: BootstrapSource | undefined,
): BootstrapSource[] {
  const others = peers ? [peers] : [];
  const last = new UninitializedSource();
  switch (order) {
    case 'default':
    case 'exclude_commitlog':
      return [fs, commitLog, ...others, last];
    case 'prefer_peers':
      return [fs, new ReadAhead(commitLog), ...others, commitLog, last];
  }
}

/** Has a source read what it reads in any case, and leaves what it could fulfil to those before it. */
class ReadAhead implements BootstrapSource {
  readonly name: string;
  readonly #source: BootstrapSource;

  constructor(source: BootstrapSource) {
    this.name = source.name;
    this.#source = source;
  }

  async availableData(): Promise<ShardTimeRanges> {
    return ShardTimeRanges.EMPTY;
  }

  async availableIndex(): Promise<ShardTimeRanges> {
    return ShardTimeRanges.EMPTY;
  }

  async read(
    requests: ReadonlyMap<string, BootstrapRequest>,
    context: BootstrapContext,
  ): Promise<ReadonlyMap<string, BootstrapResult>> {
    return await this.#source.read(requests, context);
  }

  why(): string {
    return 'the configured order asks peers first';
  }
}
