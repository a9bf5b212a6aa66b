import { assert, isAbort, messageOf, VarveError } from '../../core/errors.ts';
import type { TopologySnapshot } from '../bootstrap/topology-snapshot.ts';
import type { BufferMemory } from '../buffer/buffer-memory.ts';
import type { WriteBatch } from '../buffer/write-batch.ts';
import type { IndexBlock } from '../index/index-block.ts';
import type { LabelPair } from '../index/labels.ts';
import { Interventions } from '../bootstrap/interventions.ts';
import type { BootstrapOperator } from './bootstrap-operator.ts';
import { Catalog } from './catalog.ts';
import { applyTombstone } from './delete-series.ts';
import type { EngineBootstrap } from './engine-bootstrap.ts';
import type { EngineLog } from './engine-log.ts';
import {
  completeOptions,
  EngineParts,
  type CompleteOptions,
  type EngineDeps,
  type FoundParts,
} from './engine-parts.ts';
import type { HybridClock } from './hybrid-clock.ts';
import { encodeDelete } from './log-records.ts';
import { earliest } from './maintenance.ts';
import type { Namespace } from './namespace.ts';
import type { NamespaceRegistry } from './namespace-registry.ts';
import type { NodeShards } from './node-shards.ts';
import type { PeerView } from './peer-view.ts';
import { ReplicaAccess, type StampedWrite } from './replica-access.ts';
import { recoverMemory } from './recover-memory.ts';
import type { ColumnCodec } from './sealed-series.ts';
import type { ReaderDeps } from './series-columns.ts';
import { indexOf, SeriesReader } from './series-reader.ts';
import type { ShardOwnership } from './shard-ownership.ts';
import { inspectFolder, verifyFolder } from './storage-check.ts';
import type * as api from './storage-engine.ts';
import type { Upkeep } from './upkeep.ts';

const FINDINGS = 200;

/** A storage node's engine. Single-threaded; everything from outside comes through its ports. */
export class Engine implements api.PlacedEngine {
  readonly #deps: EngineDeps;
  readonly #options: CompleteOptions;
  readonly #hybridClock: HybridClock;
  readonly #catalog: Catalog;
  readonly #memory: BufferMemory;
  readonly #registry: NamespaceRegistry;
  readonly #engineLog: EngineLog;
  readonly #ownership: ShardOwnership;
  readonly #shards: NodeShards;
  readonly #bootstrap: EngineBootstrap;
  readonly #stop = new AbortController();
  readonly #upkeep: Upkeep;
  readonly #findings: api.Finding[] = [];
  readonly #codec: () => ColumnCodec;
  /** What peers are shown of this node. */
  readonly peerView: PeerView;
  /** For people, when the bootstrap cannot go on by itself. */
  readonly operator: BootstrapOperator;
  #everReady = false;
  /** Since the start: before it nobody knows which namespaces there should be. */
  #namespacesAreKnown = false;
  #bootstrapped: Promise<void> = Promise.resolve();
  #ticking: Promise<void> = Promise.resolve();

  private constructor(deps: EngineDeps, options: CompleteOptions, found: FoundParts) {
    this.#deps = deps;
    this.#options = options;
    this.#catalog = found.catalog;
    this.#memory = found.recovered.memory;
    const parts = new EngineParts(deps, options, found, {
      onFinding: (finding) => this.#find(finding),
      onDone: () => this.#becomeReady(),
      isClosed: () => this.#stop.signal.aborted,
      onRetry: () => this.#follow(this.#bootstrap.tryAgain(this.#stop.signal)),
    });
    this.#hybridClock = parts.hybridClock;
    this.#codec = parts.codec;
    this.#ownership = parts.ownership;
    this.#engineLog = parts.engineLog;
    this.#registry = parts.registry;
    this.#upkeep = parts.upkeep;
    this.#shards = parts.shards;
    this.#bootstrap = parts.bootstrap;
    this.peerView = parts.peerView;
    this.operator = parts.operator;
  }

  /**
   * Opens what is in the folder, which exists and is nobody else's. Resolves at once: the bootstrap goes on; writes are
   * taken meanwhile, and reads refused until it is done.
   * @throws STORAGE_FOLDER_MISMATCH, FILESET_DAMAGED when nobody can tell which namespaces there are
   */
  static async open(deps: EngineDeps, options: api.EngineOptions): Promise<Engine> {
    const complete = completeOptions(options);
    const { fs, wasm } = deps;
    const { folder, shardCount, memoryMb } = complete;
    assert(
      Number.isInteger(shardCount) && shardCount > 0 && shardCount <= 65_536,
      'shardCount is 1 to 65,536',
    );
    const catalog = await Catalog.open(fs, folder, shardCount);
    const recovered = await recoverMemory(fs, { folder, limitBytes: memoryMb * 1024 * 1024, wasm });
    const interventions = await Interventions.open(fs, folder, ({ message }) =>
      deps.log.error({ reason: message }, 'what operators have told the bootstrap is lost'),
    );
    const engine = new Engine(deps, complete, { catalog, recovered, interventions });
    await engine.#registry.finishDeletions();
    for (const { tombstones } of engine.#registry.all) {
      await tombstones.load();
      engine.#hybridClock.observe(tombstones.newestVersion);
    }
    await engine.#shards.removeLeftovers();
    engine.#beginBootstrap('start');
    engine.#ticking = engine.#upkeep.run(engine.#stop.signal);
    return engine;
  }

  /** Resolves when everything that was asked for so far is bootstrapped. @throws what ended the bootstrap */
  ready(): Promise<void> {
    return this.#bootstrapped;
  }

  /** Damage that was found since the start, the newest last. */
  get findings(): readonly api.Finding[] {
    return this.#findings;
  }

  status(): api.EngineStatus {
    const { usedBytes, limitBytes, refusing } = this.#memory.use;
    const log = this.#engineLog.status();
    return {
      state: this.state,
      shardCount: this.#options.shardCount,
      namespaces: this.#registry.all.map((namespace) =>
        namespace.status((shard) => this.#bootstrap.describe(namespace.name, shard)),
      ),
      bootstrapRuns: [...this.#bootstrap.history],
      memory: { usedBytes, limitBytes, refusing },
      log,
      snapshots: this.#upkeep.snapshotStatus,
      disk: { freeBytes: this.#upkeep.freeBytes, full: log.state === 'full' || this.#upkeep.outOfSpace },
    };
  }

  namespaces(): readonly api.NamespaceOptions[] {
    return this.#registry.all.map(({ options }) => options).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async applyNamespaces(wanted: readonly api.NamespaceOptions[]): Promise<void> {
    await this.#upkeep.serially(async () => {
      this.#throwIfClosed();
      const before = new Set(this.#registry.all);
      await this.#registry.apply(wanted);
      const after = new Set(this.#registry.all);
      for (const namespace of before) if (!after.has(namespace)) this.#bootstrap.forget(namespace.name);
      if ([...after].some((namespace) => !before.has(namespace))) this.#beginBootstrap('namespace');
      this.#namespacesAreKnown = true;
    });
  }

  async applyTopology(topology: TopologySnapshot): Promise<void> {
    this.#throwIfClosed();
    await this.#upkeep.serially(() => this.#shards.want(topology));
    // An attempt that waits may have what it waits for now.
    if (!this.#shards.isPending && !this.#bootstrap.running) return;
    if (this.#shards.isPending) this.#bootstrap.supersede();
    this.#beginBootstrap('topology');
    // What changes this node's shards is put in force when an attempt begins.
    await this.#shards.settled();
  }

  async strandedShards(topology: TopologySnapshot): Promise<readonly number[]> {
    return await this.#shards.stranded(topology);
  }

  durableShards(): readonly number[] {
    if (!this.#namespacesAreKnown || !this.#engineLog.isOpen || this.#shards.isPending) return [];
    const namespaces = this.#registry.all;
    return this.#ownership.owned.filter(
      (shard) => this.#bootstrap.isSecure(shard) && namespaces.every((one) => one.isWhole(shard)),
    );
  }

  explain(shard: number): readonly api.ShardFill[] {
    return this.#bootstrap.explain(shard);
  }

  /** As one of several replicas. */
  get replica(): ReplicaAccess {
    return new ReplicaAccess({
      clock: this.#hybridClock,
      namespace: (name) => this.#registry.get(name),
      write: (name, decode, write) => this.#admit(name, decode, write),
      read: (name, query) => this.read(name, query),
      standsAlone: () => this.#ownership.placement === undefined,
      ready: (bytes) => (this.#engineLog.isOpen ? undefined : this.#engineLog.ready(bytes)),
    });
  }

  writeRemote(name: string, version: api.RemoteWriteVersion, body: Uint8Array): Promise<api.WriteOutcome> {
    if (this.#engineLog.isOpen) return this.#writeRemote(name, version, body);
    // It may be used again as soon as this returns.
    const kept = Uint8Array.from(body);
    return this.#engineLog.ready(kept.length).then(() => this.#writeRemote(name, version, kept));
  }

  async writeSeries(name: string, series: readonly api.SeriesSamples[]): Promise<api.WriteOutcome> {
    if (!this.#engineLog.isOpen) await this.#engineLog.ready(0);
    return await this.#admit(name, ({ buffer }) => buffer.prepare(series, this.#hybridClock.nowNs()));
  }

  read(name: string, query: api.ReadQuery): AsyncIterable<api.SeriesRead> {
    return this.#reader(name, query);
  }

  readPages(name: string, query: api.ReadQuery): AsyncIterable<readonly api.SeriesRead[]> {
    return this.#reader(name, query).pages();
  }

  #reader(name: string, query: api.ReadQuery): SeriesReader {
    const namespace = this.#readable(name, query.shards);
    // What is out of retention goes bit by bit, first from the memory: half of it would be the wrong half.
    const keptFromNs = earliest(namespace, this.#hybridClock.nowNs());
    const startNs = query.startNs > keptFromNs ? query.startNs : keptFromNs;
    const deps: ReaderDeps = {
      nowNs: () => this.#hybridClock.nowNs(),
      onDamage: (where, info, error) => this.#upkeep.salvage(where, info, error),
      onIndexDamage: (where) => this.#upkeep.healIndex(where),
    };
    return new SeriesReader(deps, namespace, { ...query, startNs });
  }

  async series(name: string, query: api.MetadataQuery): Promise<api.LimitedResult<readonly LabelPair[]>> {
    const index = await this.#index(name, query);
    const found = index.series({ ...filterOf(query), ordered: true });
    const count = Math.min(found.count, query.limit ?? found.count);
    const values = Array.from({ length: count }, (_, place) => found.labels(place));
    return { values, truncated: count < found.count };
  }

  async labelNames(name: string, query: api.MetadataQuery): Promise<api.LimitedResult<string>> {
    return limited((await this.#index(name, query)).labelNames(filterOf(query)), query.limit);
  }

  async labelValues(
    name: string,
    label: string,
    query: api.MetadataQuery,
  ): Promise<api.LimitedResult<string>> {
    return limited((await this.#index(name, query)).labelValues(label, filterOf(query)), query.limit);
  }

  async cardinality(name: string, query: api.MetadataQuery): Promise<api.Cardinality> {
    const index = await this.#index(name, query);
    const filter = filterOf(query);
    const labels = index.cardinality(filter);
    return { seriesCount: index.seriesCount(filter), labels: labels.slice(0, query.limit ?? labels.length) };
  }

  async deleteSeries(name: string, query: api.DeleteQuery): Promise<{ readonly series: number }> {
    await this.#engineLog.ready(0);
    return await this.#upkeep.serially(async () => {
      this.#throwIfClosed();
      // Shards that are not whole do not hold it up: what comes of them comes from nodes that delete it, too.
      const namespace = this.#registry.get(name);
      const { selectors, startNs, endNs } = query;
      const index = await indexOf(namespace, query);
      const series = index.seriesCount({ selectors });
      // What comes from nodes that have deleted it must not be looked at through it.
      const isForLater = !namespace.bootstrapped && query.isSettled !== true;
      if (series === 0 && namespace.filesets.count === 0 && !isForLater) return { series };
      const tombstone = { version: this.#hybridClock.next(), selectors, startNs, endNs };
      // In one turn: what the log has after it was written after it.
      const logged = this.#engineLog.append(encodeDelete(namespace.id, tombstone));
      logged.catch(() => {});
      applyTombstone(namespace, tombstone);
      this.#upkeep.forgetSnapshots();
      await logged;
      // Whatever the log's mode: a loss of power must not take it from behind what it deletes.
      await this.#engineLog.commitLog.flush();
      await namespace.tombstones.save();
      return { series };
    });
  }

  async flush(
    options: { readonly namespace?: string; readonly force?: boolean } = {},
  ): Promise<api.FlushReport> {
    this.#throwIfClosed();
    return await this.#upkeep.flush(options);
  }

  async snapshot(): Promise<api.SnapshotReport> {
    this.#throwIfClosed();
    return await this.#upkeep.snapshot();
  }

  async cleanUp(): Promise<api.CleanUpReport> {
    this.#throwIfClosed();
    return await this.#upkeep.cleanUp();
  }

  verify(signal?: AbortSignal): AsyncIterable<api.Finding> {
    const written = this.#engineLog.isOpen ? this.#engineLog.commitLog.written() : undefined;
    const deps = { fs: this.#deps.fs, codec: this.#codec };
    return verifyFolder(deps, this.#options.folder, { signal, written });
  }

  /** Does what works on files while nothing else does. */
  async serially<T>(work: () => Promise<T>): Promise<T> {
    this.#throwIfClosed();
    return await this.#upkeep.serially(work);
  }

  inspect(namespace?: string): AsyncIterable<api.StoredFileset> {
    return inspectFolder({ fs: this.#deps.fs }, this.#options.folder, namespace);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort(new VarveError('CANCELLED', 'the storage engine is being closed'));
    await this.#bootstrapped.catch(() => {});
    await this.#ticking;
    this.#shards.close();
    await this.#bootstrap.close();
    await this.#upkeep.serially(async () => {});
    await this.#engineLog.close();
    await this.#registry.close();
  }

  /** The same as in `status`, for those who ask often: that one goes through all shards. */
  get state(): api.EngineStatus['state'] {
    if (this.#stop.signal.aborted) return 'closed';
    if (!this.#everReady) return this.#bootstrap.running ? 'bootstrapping' : 'starting';
    return this.#bootstrap.running ? 'bootstrapping' : 'ready';
  }

  #beginBootstrap(reason: api.BootstrapReason): void {
    this.#follow(this.#bootstrap.run(this.#stop.signal, reason));
  }

  #follow(run: Promise<void>): void {
    this.#bootstrapped = run;
    run.catch((error: unknown) => {
      if (this.#stop.signal.aborted || isAbort(error)) return;
      this.#deps.log.error({ reason: messageOf(error) }, 'the bootstrap of the storage engine ended');
    });
  }

  async #becomeReady(): Promise<void> {
    // Namespaces may be created meanwhile, which writes the same files.
    await this.#upkeep.serially(async () => {
      const { content } = this.#catalog;
      if (!content.everAvailable) await this.#catalog.change({ ...content, everAvailable: true });
    });
    this.#upkeep.begin(this.#engineLog.commitLog);
    this.#everReady = true;
  }

  #writeRemote(name: string, version: api.RemoteWriteVersion, body: Uint8Array): Promise<api.WriteOutcome> {
    return this.#admit(name, ({ buffer }) => buffer.decodeRemote(version, body, this.#hybridClock.nowNs()));
  }

  /** In one turn, because decoded requests lie in memory that all share. */
  #admit(
    name: string,
    decode: (namespace: Namespace) => WriteBatch,
    write?: StampedWrite,
  ): Promise<api.WriteOutcome> {
    try {
      const namespace = this.#writable(name);
      return this.#commit(namespace, decode(namespace), write);
    } catch (error) {
      const isShort = error instanceof VarveError && error.code === 'STORAGE_OVERLOADED';
      if (isShort) this.#upkeep.relieve({ atOnce: true });
      return Promise.reject(error);
    }
  }

  async #commit(
    namespace: Namespace,
    batch: WriteBatch,
    write: StampedWrite | undefined,
  ): Promise<api.WriteOutcome> {
    if (write) this.#hybridClock.observe(write.stamp);
    const epoch = this.#hybridClock.next();
    const version = write?.stamp ?? epoch;
    const { writesToCommitLog } = namespace.options;
    const committed = namespace.buffer.commit(
      batch,
      version,
      writesToCommitLog ? namespace.append : undefined,
      write && { epoch, heals: write.heals === true, recovered: this.#engineLog.recoveredVersion },
    );
    if (this.#memory.use.pressing) this.#upkeep.relieve({ atOnce: false });
    else this.#upkeep.imageIfDue();
    const outcome = await committed;
    namespace.count(outcome);
    return outcome;
  }

  #writable(name: string): Namespace {
    this.#throwIfClosed();
    const namespace = this.#registry.get(name);
    if (!namespace.frozen) return namespace;
    throw new VarveError(
      'STORAGE_OVERLOADED',
      `memory is short: blocks of namespace ${name} are moved to files`,
      {
        hint: 'Repeat it in a moment.',
      },
    );
  }

  /** @param shards that are needed; all of this node's unless given */
  #readable(name: string, shards?: readonly number[]): Namespace {
    this.#throwIfClosed();
    const namespace = this.#registry.get(name);
    if (namespace.bootstrapped && this.#engineLog.isOpen && !shards) return namespace;
    const foreign = shards?.find((shard) => !this.#ownership.owns(shard));
    if (foreign !== undefined) {
      throw new VarveError('SHARD_NOT_OWNED', `shard ${foreign} is not this node's`, {
        hint: 'Ask a node that has it.',
      });
    }
    const open = (shards ?? this.#ownership.owned).filter((shard) => !namespace.isWhole(shard)).length;
    if (open === 0 && this.#engineLog.isOpen) return namespace;
    throw new VarveError(
      'SHARD_NOT_READY',
      `${open} of ${namespace.shardCount} shards of namespace ${name} are not bootstrapped yet`,
      { hint: 'Repeat it in a moment.' },
    );
  }

  async #index(name: string, query: api.MetadataQuery): Promise<IndexBlock> {
    const namespace = this.#readable(name, query.shards);
    try {
      return await indexOf(namespace, query);
    } catch (error) {
      if (error instanceof VarveError && error.code === 'INDEX_SEGMENT_DAMAGED')
        this.#upkeep.healIndex(namespace);
      throw error;
    }
  }

  #throwIfClosed(): void {
    this.#stop.signal.throwIfAborted();
  }

  #find(finding: api.Finding): void {
    this.#findings.push(finding);
    if (this.#findings.length > FINDINGS) this.#findings.shift();
    this.#deps.log.error({ ...finding }, 'damage was found in the storage engine');
  }
}

function filterOf({ selectors }: api.MetadataQuery): { selectors?: api.MetadataQuery['selectors'] } {
  return selectors?.length ? { selectors } : {};
}

function limited<T>(values: readonly T[], limit: number | undefined): api.LimitedResult<T> {
  if (limit === undefined || values.length <= limit) return { values, truncated: false };
  return { values: values.slice(0, limit), truncated: true };
}
