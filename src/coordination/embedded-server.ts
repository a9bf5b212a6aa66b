import { randomUUID, timingSafeEqual, createHash } from 'node:crypto';
import { once, setMaxListeners } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, isIPv6 } from 'node:net';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorDeps } from './coordinator.ts';
import { type Api, type ApiReply, MAX_VALUE_BYTES } from './embedded-api.ts';
import { HttpChecks } from './embedded-checks.ts';
import type { KvError } from './embedded-kv.ts';
import { EmbeddedLog } from './embedded-log.ts';
import { dispatch } from './embedded-routes.ts';
import type { Outcome, StoreCommand } from './embedded-store.ts';
import { lockFolder } from '../core/folder-lock.ts';

export interface EmbeddedOptions {
  /** Its own; made when missing. */
  readonly folder: string;
  /** Loopback by default; other addresses only with a token. */
  readonly host?: string;
  /** 0, the default: one that is free. */
  readonly port?: number;
  /** When set, every request must bring it, as `X-Consul-Token` or as a bearer token. */
  readonly token?: string;
  /** The name under which it shows itself as a node. */
  readonly node?: string;
  readonly minTtlMs?: number;
}

type Deps = Pick<CoordinatorDeps, 'clock' | 'log'>;

/** A session may ask for no less, so that a busy machine does not lose its locks. */
export const EMBEDDED_MIN_TTL_MS = 1000;

/** Longer than clients keep idle connections, so that it is they who close them. */
const KEEP_ALIVE_MS = 65_000;

/**
 * The embedded coordinator: one server that speaks the part of Consul 1.10's HTTP API that our adapter uses,
 * with its state in a journal. A write is on disk before it is answered, and nothing is answered that is not.
 */
export class EmbeddedCoordinator implements AsyncDisposable {
  readonly #deps: Deps;
  readonly #options: EmbeddedOptions;
  readonly #log: EmbeddedLog;
  readonly #claim: AsyncDisposable;
  readonly #http: Server;
  readonly #api: Api;
  readonly #checks: HttpChecks;
  readonly #waiting = new Set<{ matches: (topic: string) => boolean; wake: () => void }>();
  readonly #closing = new AbortController();
  readonly #broken = new AbortController();
  #timer = new AbortController();
  #timerDueMs = Infinity;
  #timerLoop: Promise<void> = Promise.resolve();
  /** Settles when everything applied so far is on disk. */
  #durable: Promise<void> = Promise.resolve();
  #url = '';

  private constructor(
    parts: { log: EmbeddedLog; claim: AsyncDisposable },
    options: EmbeddedOptions,
    deps: Deps,
  ) {
    this.#deps = deps;
    this.#options = options;
    this.#log = parts.log;
    this.#claim = parts.claim;
    setMaxListeners(0, this.#closing.signal); // One for each request under way.
    this.#http = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, (request, response) => {
      void this.#serve(request, response);
    });
    this.#checks = new HttpChecks(deps.clock, (id, { status, output }) => {
      if (this.#log.store.catalog.checks.get(id)?.status !== status) {
        this.#submit({ kind: 'check-status', id, status, output });
      }
    });
    this.#api = {
      store: parts.log.store,
      node: options.node ?? 'varve',
      address: () => new URL(this.#url).host,
      minTtlMs: options.minTtlMs ?? EMBEDDED_MIN_TTL_MS,
      nowMs: () => deps.clock.monotonicMs(),
      submit: (command) => this.#submit(command),
      change: (matches, waitMs, signal) => this.#change(matches, waitMs, signal),
      newId: randomUUID,
    };
  }

  /**
   * Listens when it resolves. Sessions found in the folder get a fresh TTL, locks and indexes are as they were.
   * @throws INVALID_ARGUMENT when `host` is not loopback and there is no token
   * @throws FOLDER_IN_USE, JOURNAL_DAMAGED; EADDRINUSE and the like as they come
   */
  static async start(options: EmbeddedOptions, deps: Deps): Promise<EmbeddedCoordinator> {
    const host = options.host ?? '127.0.0.1';
    if (!isLoopback(host) && !options.token) {
      throw new VarveError(
        'INVALID_ARGUMENT',
        `the embedded coordinator may not listen on ${host} without a token`,
        {
          hint: 'Set a coordinator token, or listen on 127.0.0.1.',
        },
      );
    }
    const claim = await lockFolder(options.folder);
    let log: EmbeddedLog | undefined;
    try {
      log = await EmbeddedLog.open(options.folder, deps);
      const server = new EmbeddedCoordinator({ log, claim }, options, deps);
      await server.#listen(host, options.port ?? 0);
      return server;
    } catch (error) {
      await log?.[Symbol.asyncDispose]();
      await claim[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Of the server, without a slash at its end. */
  get url(): string {
    return this.#url;
  }

  /** Fires when the journal can no longer be written; every request fails from then on. Close it. */
  get broken(): AbortSignal {
    return this.#broken.signal;
  }

  /** Ends connections and blocking queries. What was acknowledged is on disk. */
  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    this.#http.close();
    this.#http.closeAllConnections();
    await once(this.#http, 'close');
    await this.#timerLoop;
    await this.#checks[Symbol.asyncDispose]();
    await this.#log[Symbol.asyncDispose]();
    await this.#claim[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #listen(host: string, port: number): Promise<void> {
    this.#http.listen(port, host);
    await once(this.#http, 'listening');
    const address = this.#http.address() as AddressInfo;
    this.#url = `http://${isIPv6(host) ? `[${host}]` : host}:${address.port}`;
    this.#checks.follow(this.#log.store.catalog.checks.values());
    this.#timerLoop = this.#runTimers();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    const stop = (): void => gone.abort();
    response.once('close', stop);
    this.#closing.signal.addEventListener('abort', stop, { once: true });
    try {
      const reply = await this.#answer(request, gone.signal);
      // Also readings wait for the disk: what was seen once may not be gone after a crash.
      await this.#durable;
      if (!gone.signal.aborted) send(response, reply);
    } catch (error) {
      if (!gone.signal.aborted) send(response, { status: 500, text: this.#whatFailed(error) });
    } finally {
      response.off('close', stop);
      this.#closing.signal.removeEventListener('abort', stop);
    }
  }

  async #answer(request: IncomingMessage, signal: AbortSignal): Promise<ApiReply> {
    const { token } = this.#options;
    if (token !== undefined && !bringsToken(request, token)) {
      return { status: 403, text: 'Permission denied: the token is missing or wrong' };
    }
    if (token === undefined && !namesLoopback(request)) {
      return { status: 403, text: 'Permission denied: the Host header names another machine' };
    }
    const body = await readBody(request).catch(() => 'broken off' as const);
    if (body === 'broken off') return { status: 400, text: 'the request was broken off' };
    if (body === undefined) {
      return { status: 413, text: `Request body too large, max size: ${MAX_VALUE_BYTES} bytes` };
    }
    if (this.#broken.signal.aborted) throw this.#broken.signal.reason;
    const url = new URL(request.url ?? '/', 'http://coordinator');
    return dispatch(this.#api, request.method ?? 'GET', url, { body, signal });
  }

  #submit(command: StoreCommand): Outcome | readonly KvError[] {
    const nowMs = this.#deps.clock.monotonicMs();
    const { store } = this.#log;
    const refusal = store.refusal(command, nowMs);
    if (refusal.length > 0) return refusal;
    const before = store.index;
    const outcome = store.apply(command, nowMs);
    if (outcome.changed) {
      this.#durable = this.#log.append(command);
      this.#durable.catch((error: unknown) => this.#break(error));
      for (const { matches, wake } of this.#waiting) if (store.changedSince(before, matches)) wake();
      if (command.kind === 'service-register' || command.kind === 'service-deregister') {
        this.#checks.follow(store.catalog.checks.values());
      }
    }
    if (store.nextDueMs() < this.#timerDueMs) this.#timer.abort();
    return outcome;
  }

  #change(matches: (topic: string) => boolean, waitMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => waiter.wake(), waitMs);
      const waiter = {
        matches,
        wake: () => {
          clearTimeout(timer);
          signal.removeEventListener('abort', waiter.wake);
          this.#waiting.delete(waiter);
          resolve();
        },
      };
      this.#waiting.add(waiter);
      if (signal.aborted) waiter.wake();
      else signal.addEventListener('abort', waiter.wake, { once: true });
    });
  }

  async #runTimers(): Promise<void> {
    const { clock } = this.#deps;
    while (!this.#closing.signal.aborted && !this.#broken.signal.aborted) {
      for (const command of this.#log.store.due(clock.monotonicMs())) this.#submit(command);
      this.#timer = new AbortController();
      this.#timerDueMs = this.#log.store.nextDueMs();
      const stop = (): void => this.#timer.abort();
      this.#closing.signal.addEventListener('abort', stop, { once: true });
      const waitMs = Math.max(0, Math.min(this.#timerDueMs - clock.monotonicMs(), 60_000));
      await clock.sleep(waitMs, this.#timer.signal).catch(() => {});
      this.#closing.signal.removeEventListener('abort', stop);
    }
  }

  #break(error: unknown): void {
    if (this.#broken.signal.aborted) return;
    this.#broken.abort(error);
    for (const { wake } of this.#waiting) wake();
    this.#deps.log.error({ error }, 'the coordinator cannot write its journal and stops answering');
  }

  #whatFailed(error: unknown): string {
    if (error instanceof VarveError) return error.message;
    this.#deps.log.error({ error }, 'the coordinator failed to answer a request');
    return 'internal error';
  }
}

function send(response: ServerResponse, { status, json, text, raw, index }: ApiReply): void {
  if (index !== undefined) {
    response.setHeader('X-Consul-Index', Math.max(1, index));
    response.setHeader('X-Consul-KnownLeader', 'true');
    response.setHeader('X-Consul-LastContact', '0');
  }
  response.statusCode = status;
  if (json !== undefined) response.setHeader('Content-Type', 'application/json').end(JSON.stringify(json));
  else if (raw) response.setHeader('Content-Type', 'text/plain').end(raw);
  else response.setHeader('Content-Type', 'text/plain; charset=utf-8').end(text ?? '');
}

/** Undefined when it is larger than anything may be. */
async function readBody(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of request) {
    sizeBytes += (chunk as Buffer).length;
    // What is too large is read to its end all the same, or the client would not see the answer.
    if (sizeBytes <= MAX_VALUE_BYTES) chunks.push(chunk as Buffer);
    else if (sizeBytes > 16 * MAX_VALUE_BYTES) return undefined;
  }
  return sizeBytes > MAX_VALUE_BYTES ? undefined : Buffer.concat(chunks);
}

function bringsToken(request: IncomingMessage, token: string): boolean {
  const given = request.headers['x-consul-token'] ?? request.headers.authorization?.replace(/^Bearer /i, '');
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return typeof given === 'string' && timingSafeEqual(digest(given), digest(token));
}

/** Without a token, a page in a browser on this machine must not get in by a name that it made resolve to us. */
function namesLoopback(request: IncomingMessage): boolean {
  const host = (request.headers.host ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  return isLoopback(host);
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host);
}
