import { randomBytes, randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Registry } from 'prom-client';
import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { lockFolder } from '../core/folder-lock.ts';
import { NodeFileSystem } from '../core/node-file-system.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import type { RunEvents } from '../run/events.ts';
import { RestoreMarks } from '../storage/backup/restore-mark.ts';
import { Engine } from '../storage/engine/engine.ts';
import type { NamespaceOptions, StorageEngine } from '../storage/engine/storage-engine.ts';
import {
  admit,
  answerData,
  answerError,
  exchangeOf,
  type Door,
  type Exchange,
} from '../storage/http/exchange.ts';
import { HttpFigures } from '../storage/http/http-figures.ts';
import type { NamespaceRegistry } from '../storage/http/namespace-handlers.ts';
import { ReadGate } from '../storage/http/read-gate.ts';
import { RequestBodies } from '../storage/http/request-body.ts';
import { StorageHttp } from '../storage/http/storage-http.ts';
import { NamespaceDirectory } from '../storage/namespaces/namespace-directory.ts';
import { ProtocolKernel } from '../storage/protocol/protocol-kernel.ts';
import type { Log } from './log.ts';
import { LazyHandler, type HttpHandler } from './lazy-handler.ts';
import { isOperation } from './operation-paths.ts';
import type { PlacementControl } from './placement-control.ts';
import type { StoragePlacement } from './storage-placement.ts';
import { EXPLAIN_PATH, shardExplanation, shardNumber } from './storage-explain.ts';
import { MAP_PATH, storageMap, type StorageMap } from './storage-map.ts';
import type { StoragePeers } from './storage-peers.ts';
import type { StorageReplication } from './storage-replication.ts';
import type { StorageSettings } from './storage-settings.ts';
import { recoveryText, storageStatus, type StorageStatus } from './storage-status.ts';

export interface StorageServiceDeps {
  readonly log: Log;
  readonly clock: Clock;
  /** The node's own; an engine without one stands alone. */
  readonly coordinator: Coordinator | undefined;
  readonly events: RunEvents | undefined;
  /** For those who look at a terminal. */
  readonly note: (level: 'info' | 'warn', text: string) => void;
  /** Everything that was there is there again. */
  readonly onReady?: () => void;
}

export interface StorageServiceOptions {
  readonly node: string;
  readonly settings: StorageSettings;
  /** Only this machine reaches the port. */
  readonly isLoopback: boolean;
  /** Open it again when that fails; otherwise `run` throws. */
  readonly retries: boolean;
}

/** The list of namespaces that was in force last, beside what the engine keeps. */
const LIST_FILE = 'namespaces.list';
/** The placement that was seen last. */
const PLACEMENT_FILE = 'placement.json';
/** So long a start waits for the coordinator to tell the placement, before the node takes itself for alone. */
const PLACEMENT_WAIT_MS = 5000;
const RETRY = { firstMs: 500, maxMs: 30_000 } as const;
/** Bodies under way, in bodies of the largest size. */
const WAITING_BODIES = 8;

/** A node's storage engine with its HTTP side: opened beside everything else, and again when that fails. */
export class StorageService {
  readonly #deps: StorageServiceDeps;
  readonly #options: StorageServiceOptions;
  readonly #http: StorageHttp;
  readonly #bodies: RequestBodies;
  readonly #kernel = new ProtocolKernel();
  readonly #figures = new HttpFigures();
  #now = { reads: () => 0, bodyBytes: () => 0 };
  #engine: Engine | undefined;
  #directory: NamespaceDirectory | undefined;
  #marks: RestoreMarks | undefined;
  #placement: StoragePlacement | undefined;
  #replication: StorageReplication | undefined;
  #peers: StoragePeers | undefined;
  #control: PlacementControl | undefined;
  readonly #placementHttp = new LazyHandler('the placement', () => this.#makePlacementHttp());
  readonly #operations = new LazyHandler('operators', () => this.#makeOperations());
  #aloneFromMs = 0;
  #reason: string | undefined = 'the storage engine is starting';

  constructor(deps: StorageServiceDeps, options: StorageServiceOptions) {
    this.#deps = deps;
    this.#options = options;
    const maxBytes = options.settings.maxBodyBytes;
    this.#bodies = new RequestBodies({ maxBytes, maxWaitingBytes: WAITING_BODIES * maxBytes });
    this.#http = this.#makeHttp();
  }

  /** Puts its figures into a registry. What that takes is loaded then. */
  async registerMetrics(registry: Registry): Promise<void> {
    const { httpMetrics } = await import('../storage/http/http-metrics.ts');
    const { storageMetrics } = await import('./storage-metrics.ts');
    httpMetrics(registry, this.#figures, this.#now);
    const { replicationMetrics } = await import('./replication-metrics.ts');
    storageMetrics(registry, () => this.#engine?.status());
    replicationMetrics(registry, () => this.#replication?.status() ?? undefined);
  }

  /** @throws what keeps a request of anybody out */
  admit(request: IncomingMessage): void {
    admit(request, this.#door);
  }

  /** True when the request is one of the engine's. */
  handle(request: IncomingMessage, response: ServerResponse): boolean {
    if (this.#http.handle(request, response) || this.#replication?.handle(request, response)) return true;
    if (this.#peers?.handle(request, response)) return true;
    if (request.url === MAP_PATH) {
      answerData(exchangeOf(request, response), this.#map());
      return true;
    }
    if (request.url?.startsWith(EXPLAIN_PATH) === true) {
      this.#explain(exchangeOf(request, response));
      return true;
    }
    const isPlacement = request.url?.startsWith('/api/placement') === true;
    if (!isPlacement && !isOperation(request.url)) return false;
    void (isPlacement ? this.#placementHttp : this.#operations).handle(request, response);
    return true;
  }

  /** Like the status, it is for everybody who reaches the node. */
  #map(): StorageMap {
    const engine = this.#engine;
    const owned = new Set(
      engine?.status().namespaces.flatMap(({ shards }) => shards.map(({ shard }) => shard)),
    );
    return storageMap(this.#options.node, [...owned], (shard) => engine?.explain(shard) ?? []);
  }

  #explain(exchange: Exchange): void {
    try {
      this.admit(exchange.request);
      const engine = this.#openEngine();
      const given = new URLSearchParams(exchange.query).get('shard');
      const shard = shardNumber(given, engine.status().shardCount);
      const { history } = engine.operator;
      answerData(exchange, shardExplanation(this.#options.node, shard, engine.explain(shard), history));
    } catch (error) {
      const known = error instanceof VarveError ? error : new VarveError('INTERNAL', messageOf(error));
      answerError(exchange, known, 'prometheus');
    }
  }

  /** This node's part in the placement, while the engine is open and there is a coordinator. */
  get placement(): StoragePlacement | undefined {
    return this.#placement;
  }

  status(): StorageStatus {
    return storageStatus({
      engine: this.#engine?.status(),
      interventions: this.#engine?.operator.history ?? [],
      reason: this.notReady(),
      problems: this.#problems(),
      placement: this.#placement?.status() ?? null,
      replication: this.#replication?.status() ?? null,
    });
  }

  /** Why it does not serve everything; undefined when it does. */
  notReady(): string | undefined {
    if (this.#reason !== undefined) return this.#reason;
    const state = this.#engine?.state;
    return state === 'ready' ? undefined : `the storage engine is ${state ?? 'closed'}`;
  }

  /** Until the signal fires; everything is closed when it resolves. */
  async run(signal: AbortSignal): Promise<void> {
    const { log, clock, note } = this.#deps;
    const backoff = new Backoff(RETRY);
    let said: string | undefined;
    while (!signal.aborted) {
      try {
        await this.#runEngine(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!this.#options.retries) throw error;
        const delayMs = backoff.nextMs();
        const why = messageOf(error);
        this.#reason = `the storage engine cannot be opened: ${why}`;
        log.error({ error, delayMs }, 'the storage engine has ended; it is opened again');
        if (why !== said) note('warn', `the storage engine has ended: ${why}; it is opened again`);
        said = why;
        await clock.sleep(delayMs, signal).catch(() => {});
      }
    }
  }

  async #runEngine(signal: AbortSignal): Promise<void> {
    const { log, clock, events, coordinator } = this.#deps;
    const { settings, node } = this.#options;
    await using _lock = await lockFolder(settings.engine.folder);
    const fs = new NodeFileSystem();
    await using peers = coordinator ? await this.#openPeers() : undefined;
    await using engine = await Engine.open(
      {
        fs,
        clock,
        random: Math.random,
        randomUint32: () => randomBytes(4).readUInt32LE(),
        log,
        node,
        ...(events ? { events } : {}),
        ...(peers ? { peers: peers.source.bind(peers) } : {}),
      },
      settings.engine,
    );
    const placement = coordinator ? await this.#openPlacement({ engine, coordinator, fs }) : undefined;
    await using replication = placement ? await this.#openReplication(engine, { placement, fs }) : undefined;
    this.#placement = placement;
    this.#replication = replication;
    this.#peers = peers;
    this.#engine = engine;
    try {
      const file = join(settings.engine.folder, LIST_FILE);
      const newId = randomUUID;
      const directory = await NamespaceDirectory.open(
        { log, clock, fs, coordinator, newId },
        { file, engine },
      );
      this.#directory = directory;
      this.#marks = await RestoreMarks.open(fs, settings.engine.folder);
      this.#reason = undefined;
      const stopped = untilAborted(signal).then(() => this.#close());
      const prepared = this.#operations.prepareAfter(engine.ready(), { clock, signal });
      const jobs = [this.#announce(engine, signal), prepared, directory.run(signal), stopped];
      if (placement) jobs.push(placement.run(signal));
      if (replication) jobs.push(replication.run(signal));
      await Promise.all(jobs);
    } finally {
      this.#close();
      this.#directory = undefined;
      this.#marks = undefined;
      this.#placement = undefined;
      this.#replication = undefined;
      this.#peers = undefined;
      this.#control = undefined;
    }
  }

  /** Clients are sent away; what they were promised goes on. */
  #close(): void {
    this.#reason = 'the storage engine is closing';
    this.#engine = undefined;
  }

  /** Loaded where there is a coordinator: an engine that stands alone starts without. */
  async #openPlacement(parts: {
    readonly engine: Engine;
    readonly coordinator: Coordinator;
    readonly fs: NodeFileSystem;
  }): Promise<StoragePlacement> {
    const { engine, coordinator, fs } = parts;
    const { log, clock } = this.#deps;
    const { node, settings } = this.#options;
    const { StoragePlacement } = await import('./storage-placement.ts');
    const { PlacementStore } = await import('../placement/placement-store.ts');
    const { PlacementControl } = await import('./placement-control.ts');
    const store = new PlacementStore(coordinator);
    const placement = await StoragePlacement.open(
      { log, clock, random: Math.random, fs, store },
      {
        node,
        file: join(settings.engine.folder, PLACEMENT_FILE),
        engine,
        handOver: async (wanted, signal) => {
          if (!this.#replication) throw this.#unready('the storage engine is starting');
          await this.#replication.handOver(wanted, signal);
        },
      },
    );
    this.#control = new PlacementControl({ log, clock, coordinator }, settings.token);
    await this.#placementHttp.load();
    return placement;
  }

  async #openPeers(): Promise<StoragePeers> {
    const { log, clock } = this.#deps;
    const { settings } = this.#options;
    const { StoragePeers } = await import('./storage-peers.ts');
    return new StoragePeers(
      {
        clock,
        bodies: this.#bodies,
        placement: () => this.#placement?.current,
        view: () => this.#openEngine().peerView,
        settleDeletions: async (nodes, signal) => await this.#replication?.settleDeletions(nodes, signal),
        onBug: (error) => log.error({ error }, 'a request of a peer met a bug'),
      },
      this.#door,
      settings.peers,
    );
  }

  async #openReplication(
    engine: Engine,
    { placement, fs }: { readonly placement: StoragePlacement; readonly fs: NodeFileSystem },
  ): Promise<StorageReplication> {
    const { log, clock } = this.#deps;
    const { node, settings } = this.#options;
    const { StorageReplication } = await import('./storage-replication.ts');
    this.#aloneFromMs = clock.monotonicMs() + PLACEMENT_WAIT_MS;
    return await StorageReplication.open(
      {
        log,
        clock,
        fs,
        engine,
        bodies: this.#bodies,
        placement: () => placement.current,
        refreshPlacement: () => placement.refresh(),
      },
      { node, settings, door: this.#door },
    );
  }

  async #makePlacementHttp(): Promise<HttpHandler> {
    const { PlacementHttp } = await import('./placement-http.ts');
    return new PlacementHttp({
      control: () => this.#control,
      filesets: () => this.#openEngine().inspect(),
      door: this.#door,
      onBug: (error) => this.#deps.log.error({ error }, 'a request about the placement met a bug'),
    });
  }

  async #makeOperations(): Promise<HttpHandler> {
    const { StorageOperations } = await import('./storage-operations.ts');
    return new StorageOperations(
      {
        engine: () => this.#openEngine(),
        folder: this.#options.settings.engine.folder,
        marks: () => this.#opened(this.#marks),
        bodies: this.#bodies,
        door: this.#door,
        onBug: (error) => this.#deps.log.error({ error }, 'a request of an operator met a bug'),
      },
      this.#options.node,
    );
  }

  get #door(): Door {
    const { settings, isLoopback } = this.#options;
    return { token: settings.token, isLoopback };
  }

  /** @throws STORAGE_NOT_READY while it is not open */
  #openEngine(): Engine {
    return this.#opened(this.#engine);
  }

  /** @throws STORAGE_NOT_READY while it is not there */
  #opened<T>(part: T | undefined): T {
    if (part !== undefined) return part;
    throw this.#unready(this.#reason ?? 'the storage engine is starting');
  }

  /** What of namespaces is not as it was asked for, or not all there yet. */
  #problems(): Map<string, string> {
    const problems = new Map(this.#directory?.problems);
    for (const { name } of this.#engine?.namespaces() ?? []) {
      const namespace = this.#engine?.peerView.namespace(name);
      const backup = namespace && this.#marks?.backupOf(namespace);
      if (backup !== undefined) problems.set(name, `is being restored from backup ${backup}`);
    }
    return problems;
  }

  async #announce(engine: Engine, signal: AbortSignal): Promise<void> {
    await engine.ready();
    if (signal.aborted) return;
    const status = engine.status();
    const text = recoveryText(status);
    if (text !== '') this.#deps.note('info', text);
    this.#deps.log.info({ filesWereRead: text }, 'the storage engine is ready');
    this.#deps.onReady?.();
  }

  #makeHttp(): StorageHttp {
    const { clock, log } = this.#deps;
    const { settings } = this.#options;
    const { maxReads, readTimeoutMs: timeoutMs, maxReadSamples: maxSamples } = settings;
    const bodies = this.#bodies;
    const reads = new ReadGate({ maxReads, timeoutMs });
    this.#now = { reads: () => reads.running, bodyBytes: () => bodies.waitingBytes };
    return new StorageHttp({
      clock,
      engine: (namespace) => this.#engineFor(namespace),
      notReady: () => this.notReady(),
      namespaces: this.#registry(),
      kernel: this.#kernel,
      bodies,
      reads,
      figures: this.#figures,
      door: this.#door,
      limits: { read: { maxSamples } },
      onBug: (error) => log.error({ error }, 'a request to the storage engine met a bug'),
    });
  }

  #engineFor(namespace: string): StorageEngine {
    const engine = this.#engine;
    if (!engine) throw this.#unready(this.#reason ?? 'the storage engine is starting');
    const isThere = this.#directory?.isKnown || engine.namespaces().some(({ name }) => name === namespace);
    if (!isThere) throw this.#unready('the namespaces are not known yet: the coordinator has not told');
    if (!this.#replication) return engine;
    const isWaiting = this.#deps.clock.monotonicMs() < this.#aloneFromMs;
    if (isWaiting && this.#placement?.isKnown === false) {
      throw this.#unready('the placement is not known yet: the coordinator has not told');
    }
    return this.#replication.engine;
  }

  #unready(why: string): VarveError {
    return new VarveError('STORAGE_NOT_READY', why, { hint: 'Repeat the request in a moment.' });
  }

  #registry(): NamespaceRegistry {
    const directory = (): NamespaceDirectory => {
      if (this.#directory) return this.#directory;
      throw this.#unready(this.#reason ?? 'the storage engine is starting');
    };
    return {
      list: () => directory().list(),
      put: async (options: NamespaceOptions) => directory().put(options),
      remove: async (name) => directory().remove(name),
    };
  }
}

function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
