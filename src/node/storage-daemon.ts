import { mkdir } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Registry } from 'prom-client';
import type { Coordinator } from '../coordination/coordinator.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { applyEvent, emptyBoard, type Board } from '../run/board.ts';
import { RunEvents } from '../run/events.ts';
import { answerError, exchangeOf, JSON_TYPE } from '../storage/http/exchange.ts';
import { listen, type HttpServer } from './listen.ts';
import type { Log } from './log.ts';
import { currentStep, runStatuses, type NodeStatus } from './node-status.ts';
import { StorageService } from './storage-service.ts';
import { isLoopback } from '../core/loopback.ts';
import type { StorageNodeOptions } from './storage-settings.ts';
import type { Report } from './supervision.ts';

export interface StorageDaemonDeps {
  readonly log: Log;
  readonly clock: Clock;
  readonly report: Report;
  /** Where it can be reached, once it listens. */
  readonly onListening?: (url: string) => void;
}

/**
 * Runs a node that is nothing but a storage engine until the signal fires. It loads little: how soon it is ready is
 * what it is looked at for.
 * @throws FOLDER_IN_USE, PORT_IN_USE, and what keeps the engine from being opened
 */
export async function runStorageNode(
  deps: StorageDaemonDeps,
  options: StorageNodeOptions,
  signal: AbortSignal,
): Promise<void> {
  await mkdir(options.folder, { recursive: true, mode: 0o700 });
  try {
    await using coordinator = await coordinatorOf(deps, options);
    const daemon = new StorageDaemon(deps, options, coordinator);
    await using http = await daemon.listen();
    deps.onListening?.(http.url);
    const ended = new AbortController();
    const registered = keepKnown({ ...deps, coordinator }, options, {
      isReady: () => daemon.service.notReady() === undefined,
      signal: AbortSignal.any([signal, ended.signal]),
    });
    try {
      await daemon.service.run(signal);
    } finally {
      ended.abort();
      await registered;
    }
  } catch (error) {
    if (signal.aborted) return;
    deps.report({ type: 'failed', error: knownError(error).toJSON() });
    throw error;
  }
}

/** Loaded where there is one. */
async function coordinatorOf(
  deps: StorageDaemonDeps,
  { coordinator }: StorageNodeOptions,
): Promise<Coordinator | undefined> {
  if (!coordinator) return undefined;
  const { openCoordinator } = await import('../coordination/open-coordinator.ts');
  return openCoordinator(coordinator, deps);
}

/** So that it can be found by its name. What that takes is loaded where there is a coordinator. */
async function keepKnown(
  { log, clock, coordinator }: StorageDaemonDeps & { readonly coordinator: Coordinator | undefined },
  options: StorageNodeOptions,
  state: { readonly isReady: () => boolean; readonly signal: AbortSignal },
): Promise<void> {
  if (!coordinator) return;
  const { keepRegistered } = await import('./registration.ts');
  await keepRegistered({ log, clock, coordinator }, { ...options, kind: 'storage' }, state);
}

function knownError(error: unknown): VarveError {
  return error instanceof VarveError ? error : new VarveError('INTERNAL', messageOf(error), { cause: error });
}

class StorageDaemon {
  readonly service: StorageService;
  readonly #options: StorageNodeOptions;
  readonly #events = new RunEvents();
  readonly #startedAtMs: number;
  #board: Board = emptyBoard;
  #metrics: Promise<Registry> | undefined;

  constructor(deps: StorageDaemonDeps, options: StorageNodeOptions, coordinator: Coordinator | undefined) {
    this.#options = options;
    this.#startedAtMs = deps.clock.nowMs();
    this.#events.subscribe((event) => {
      this.#board = applyEvent(this.#board, event);
      deps.report({ type: 'event', event });
    });
    const { log, clock, report } = deps;
    this.service = new StorageService(
      {
        log,
        clock,
        coordinator,
        events: this.#events,
        note: (level, text) => {
          log[level]({}, text);
          report({ type: 'note', level, text });
        },
        onReady: () => report({ type: 'ready', postgresPid: null }),
      },
      {
        node: options.name,
        settings: options.storage,
        isLoopback: isLoopback(options.httpHost),
        retries: false,
      },
    );
  }

  listen(): Promise<HttpServer> {
    const { httpHost: host, httpPort: port } = this.#options;
    return listen(
      (request, response) => {
        if (!this.service.handle(request, response)) void this.#answer(request, response);
      },
      { host, port },
    );
  }

  /** What every node has. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const exchange = exchangeOf(request, response);
    try {
      const isOpen = exchange.path === '/healthz' || exchange.path === '/readyz';
      if (!isOpen) this.service.admit(request);
      const { status, type = JSON_TYPE, text } = await this.#page(exchange.path);
      response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
      response.end(text);
    } catch (error) {
      request.resume();
      answerError(exchange, knownError(error), 'prometheus');
    }
  }

  async #page(path: string): Promise<{ status: number; type?: string; text: string }> {
    const why = this.service.notReady();
    switch (path) {
      case '/healthz':
        return { status: 200, text: '{"status":"alive"}' };
      case '/readyz':
        return {
          status: why === undefined ? 200 : 503,
          text: JSON.stringify({ ready: why === undefined, reasons: why === undefined ? [] : [why] }),
        };
      case '/metrics': {
        this.#metrics ??= this.#loadMetrics();
        const metrics = await this.#metrics;
        return { status: 200, type: metrics.contentType, text: await metrics.metrics() };
      }
      case '/api/status':
        return { status: 200, text: JSON.stringify(this.status()) };
      default:
        throw new VarveError('NOT_FOUND', `there is no ${path.slice(0, 100)} here`, {
          hint: 'There are /healthz, /readyz, /metrics, /api/status, and what docs/prometheus.md lists.',
        });
    }
  }

  async #loadMetrics(): Promise<Registry> {
    const { nodeMetrics } = await import('./node-metrics.ts');
    const registry = nodeMetrics(this.#events, () => this.status());
    await this.service.registerMetrics(registry);
    return registry;
  }

  status(): NodeStatus {
    const runs = runStatuses(this.#board);
    const why = this.service.notReady();
    return {
      name: this.#options.name,
      kind: 'storage',
      role: null,
      term: null,
      state: why === undefined ? 'ready' : 'starting',
      ...currentStep(runs),
      reasons: why === undefined ? [] : [why],
      pid: process.pid,
      startedAt: new Date(this.#startedAtMs).toISOString(),
      postgres: null,
      runs,
      dataNode: null,
      storage: this.service.status(),
    };
  }
}
