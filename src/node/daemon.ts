import { once } from 'node:events';
import { join } from 'node:path';
import type { Registry } from 'prom-client';
import type { Clock } from '../core/clock.ts';
import { isAbort, messageOf, VarveError } from '../core/errors.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { applyEvent, emptyBoard, type Board } from '../run/board.ts';
import { RunEvents } from '../run/events.ts';
import { runSteps } from '../run/run.ts';
import { startAccessLayer, type AccessLayer } from './access-layer.ts';
import { keepCertificates } from './certificate-upkeep.ts';
import { EventFeed } from './event-feed.ts';
import { lockFolder } from '../core/folder-lock.ts';
import { GroupLayer } from './group-layer.ts';
import { registerGroupMetrics } from './group-metrics.ts';
import { httpApp, type GroupHttp } from './http-app.ts';
import { serveHttp } from './http-server.ts';
import type { Log } from './log.ts';
import { nodeMetrics } from './node-metrics.ts';
import type { NodeOptions } from './node-options.ts';
import { currentStep, runStatuses, type NodeState, type NodeStatus, type RunStatus } from './node-status.ts';
import { nodeContext, nodeSteps, runningPostgres } from './node-steps.ts';
import { PostgresService, type RunningPostgres } from './postgres-service.ts';
import { keepRegistered } from './registration.ts';
import { StorageAdmission } from './storage-admission.ts';
import type { StorageService } from './storage-service.ts';
import { isLoopback } from '../core/loopback.ts';
import { SystemView } from './system-view.ts';
import type { Report } from './supervision.ts';

export interface DaemonDeps {
  readonly log: Log;
  readonly clock: Clock;
  /** To the supervisor. */
  readonly report: Report;
}

/**
 * Runs one node until the signal fires: brings its PostgreSQL up, keeps it up, registers the node with the
 * coordinator and serves HTTP. Resolves when everything has been stopped in order.
 * @throws FOLDER_IN_USE, PORT_IN_USE, and whatever the first bring-up throws
 */
export async function runNode(deps: DaemonDeps, options: NodeOptions, signal: AbortSignal): Promise<void> {
  await using _lock = await lockFolder(options.folder);
  const coordinator = options.coordinator && openCoordinator(options.coordinator, deps);
  await using _coordinator = coordinator;
  const daemon = new Daemon(deps, options, coordinator);
  using _feed = daemon.feed;
  await daemon.openStorage();
  const view = new SystemView(
    { clock: deps.clock, coordinator, own: () => daemon.status() },
    `http://127.0.0.1:${options.httpPort}`,
  );
  const app = httpApp({
    status: () => daemon.status(),
    system: () => view.read(),
    maps: () => view.maps(),
    feed: daemon.feed,
    metrics: daemon.metrics,
    ...(options.group ? { group: () => daemon.groupHttp } : {}),
    onBug: (error) => deps.log.error({ error }, 'an HTTP request met a bug'),
    signal,
  });
  await using _http = await serveHttp(app, {
    port: options.httpPort,
    host: options.httpHost,
    first: (request, response) => daemon.storage?.handle(request, response) ?? false,
  });
  await using _postgres = daemon.postgres;
  await using _storage = daemon.startStorage();
  await daemon.run(signal);
}

class Daemon {
  readonly feed: EventFeed;
  readonly metrics: Registry;
  readonly postgres: PostgresService;
  readonly #deps: DaemonDeps;
  readonly #options: NodeOptions;
  readonly #events = new RunEvents();
  readonly #startedAtMs: number;
  #board: Board = emptyBoard;
  #state: NodeState = 'starting';
  #reason = 'the bring-up has not begun';
  readonly #coordinator: Coordinator | undefined;
  #layer: AccessLayer | undefined;
  #admission: StorageAdmission | undefined;
  #group: GroupLayer | undefined;
  #storage: StorageService | undefined;

  constructor(deps: DaemonDeps, options: NodeOptions, coordinator: Coordinator | undefined) {
    this.#deps = deps;
    this.#options = options;
    this.#coordinator = coordinator;
    this.#startedAtMs = deps.clock.nowMs();
    this.#events.subscribe((event) => {
      this.#board = applyEvent(this.#board, event);
      deps.report({ type: 'event', event });
    });
    this.feed = new EventFeed(this.#events, { epoch: String(this.#startedAtMs) });
    this.metrics = nodeMetrics(this.#events, () => this.status());
    this.postgres = new PostgresService({
      clock: deps.clock,
      bringUp: (signal) => this.#bringUp(signal),
      onUp: ({ version, endpoint }) => deps.log.info({ version, port: endpoint.port }, 'PostgreSQL is up'),
      onDown: (why, delayMs) => this.#recovering(why, delayMs),
    });
  }

  /** Of data nodes, beside PostgreSQL: neither waits for the other. */
  get storage(): StorageService | undefined {
    return this.#storage;
  }

  /** Only nodes that have an engine load one: it is a third of all code. */
  async openStorage(): Promise<void> {
    const { log, clock, report } = this.#deps;
    const { name, storage: settings, httpHost } = this.#options;
    if (!settings) return;
    const { StorageService } = await import('./storage-service.ts');
    const note = (level: 'info' | 'warn', text: string): void => report({ type: 'note', level, text });
    this.#storage = new StorageService(
      { log, clock, coordinator: this.#coordinator, events: this.#events, note },
      { node: name, settings, isLoopback: isLoopback(httpHost), retries: true },
    );
    void this.#storage.registerMetrics(this.metrics);
  }

  /** Disposing of it closes the engine. */
  startStorage(): AsyncDisposable {
    const ended = new AbortController();
    const done = this.storage?.run(ended.signal);
    return {
      async [Symbol.asyncDispose]() {
        ended.abort();
        await done;
      },
    };
  }

  status(): NodeStatus {
    const { name, kind } = this.#options;
    const runs = runStatuses(this.#board);
    return {
      name,
      kind,
      role: this.#group?.role ?? null,
      term: this.#group?.term ?? null,
      state: this.#state,
      ...this.#now(runs),
      reasons: this.#state === 'ready' ? [] : [this.#reason],
      pid: process.pid,
      startedAt: new Date(this.#startedAtMs).toISOString(),
      postgres: this.postgres.status(),
      runs,
      dataNode: this.#layer
        ? { ...this.#layer.status(), storageWaitsFor: this.#admission?.waitingFor ?? [] }
        : null,
      storage: this.storage?.status() ?? null,
    };
  }

  #now(runs: readonly RunStatus[]): Pick<NodeStatus, 'step' | 'waitingFor'> {
    const { step, waitingFor } = currentStep(runs);
    return { step, waitingFor: waitingFor ?? this.#group?.waitingFor ?? null };
  }

  /** Until the signal fires; PostgreSQL is left to the caller. */
  async run(signal: AbortSignal): Promise<void> {
    const { log, report, clock } = this.#deps;
    const coordinator = this.#coordinator;
    const ended = new AbortController();
    const either = AbortSignal.any([signal, ended.signal]);
    try {
      this.#reason = 'PostgreSQL is being brought up';
      const running = await this.postgres.start(signal);
      await Promise.all([
        this.postgres.run(either),
        coordinator &&
          keepRegistered({ log, clock, coordinator }, this.#options, {
            isReady: () => this.#state === 'ready',
            signal: either,
          }),
        this.#serve(running, either),
        this.#keepCertificates(either),
      ]);
    } catch (error) {
      if (signal.aborted && (isAbort(error) || error === signal.reason)) return;
      const known =
        error instanceof VarveError ? error : new VarveError('INTERNAL', messageOf(error), { cause: error });
      report({ type: 'failed', error: known.toJSON() });
      throw error;
    } finally {
      ended.abort();
      this.#state = 'stopping';
      this.#reason = 'the node is stopping';
    }
  }

  #keepCertificates(signal: AbortSignal): Promise<void> {
    const { log, clock } = this.#deps;
    return keepCertificates(
      {
        log,
        clock,
        postgres: () => this.postgres.running,
        peers: () => this.#group?.services.members.map(({ host }) => host) ?? [],
        onRenewed: async () => this.#group?.services.reconfigure(),
      },
      signal,
    );
  }

  /** What an access node is beyond its PostgreSQL, from the bottom up. */
  async #serve(running: RunningPostgres, signal: AbortSignal): Promise<void> {
    await using group = await this.#openGroup(running);
    this.#group = group;
    if (group) {
      registerGroupMetrics(this.metrics, () => group.desk.status());
      if (await group.isOut()) {
        this.#ready();
        await group.untilAskedBack(signal);
      }
      this.#reason = 'the group of access nodes is being joined';
      await group.bootstrap(signal);
    }
    const serving = group?.run(signal);
    await using layer = await this.#startLayer(running);
    this.#admission = layer ? this.#makeAdmission(layer) : undefined;
    const admitting = this.#admission?.run(signal);
    this.#ready();
    // Who is in no group serves until the end all the same.
    if (serving) await serving;
    else if (!signal.aborted) await once(signal, 'abort');
    await admitting;
  }

  #makeAdmission(layer: AccessLayer): StorageAdmission | undefined {
    const { log, clock, report } = this.#deps;
    const { admission, name: node } = this.#options;
    const coordinator = this.#coordinator;
    if (!admission || !coordinator) return undefined;
    const note = (level: 'info' | 'warn', text: string): void => report({ type: 'note', level, text });
    return new StorageAdmission(
      { log, clock, coordinator, databases: () => layer.databases(), note },
      { node, ...admission },
    );
  }

  async #openGroup(running: RunningPostgres): Promise<GroupLayer | undefined> {
    const { log, clock } = this.#deps;
    const { name, folder, httpPort, database, group } = this.#options;
    if (!group || !this.#coordinator) return undefined;
    return await GroupLayer.open(
      {
        log,
        clock,
        events: this.#events,
        coordinator: this.#coordinator,
        postgres: () => this.postgres.running ?? running,
        restartPostgres: running.own ? () => this.postgres.restart() : undefined,
      },
      { node: name, folder, httpPort, database, group },
    );
  }

  get groupHttp(): GroupHttp | undefined {
    return this.#group && { control: this.#group.desk, jobs: this.#group.http };
  }

  async #bringUp(signal: AbortSignal): Promise<RunningPostgres> {
    const { clock } = this.#deps;
    // Anew each time: what a context remembers is of one attempt.
    await using context = await nodeContext({ clock }, this.#options);
    const steps = nodeSteps(context);
    const { name } = this.#options;
    const run = { run: 'bring-up', node: name, steps, context, signal };
    const running = await runSteps({ clock, events: this.#events }, run)
      .then(() => runningPostgres(context))
      .catch(async (error: unknown) => {
        // Nobody else knows of a server that was started before a later step failed.
        await context.server?.server?.stop();
        throw error;
      });
    if (this.#state === 'recovering') this.#ready(running);
    return running;
  }

  /** What access nodes have beyond their PostgreSQL. */
  async #startLayer(running: RunningPostgres): Promise<AccessLayer | null> {
    const { log, clock } = this.#deps;
    const { name, kind, database, rpcPort, folder, dataNodes } = this.#options;
    if (kind !== 'access') return null;
    this.#reason = 'the data node service is starting';
    this.#layer = await startAccessLayer(
      { log, clock, events: this.#events, postgres: () => this.postgres.running ?? running },
      { node: name, folder: join(folder, 'data-node'), rpcPort, database, dataNodes },
    );
    this.#layer.registerMetrics(this.metrics);
    return this.#layer;
  }

  #ready(running = this.postgres.running): void {
    this.#state = 'ready';
    this.#deps.report({ type: 'ready', postgresPid: running?.own?.pid ?? null });
    this.#deps.log.info({}, 'the node is ready');
  }

  #recovering(why: string, delayMs: number): void {
    this.#state = 'recovering';
    this.#reason = why;
    this.#deps.report({ type: 'recovering', why });
    this.#deps.log.warn({ delayMs }, `PostgreSQL is brought up again: ${why}`);
  }
}
