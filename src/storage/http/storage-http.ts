import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../../core/clock.ts';
import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import type { ReadLimits, StorageEngine } from '../engine/storage-engine.ts';
import type { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { admit, answerError, exchangeOf, type Dialect, type Door, type Exchange } from './exchange.ts';
import type { HttpFigures } from './http-figures.ts';
import { namespaceItem, namespaceList, type NamespaceRegistry } from './namespace-handlers.ts';
import { cardinality, deleteSeries, labelNames, labelValues, series } from './query-handlers.ts';
import type { ReadGate } from './read-gate.ts';
import { jsonExport, remoteRead } from './read-handlers.ts';
import type { RequestBodies } from './request-body.ts';
import { influxPing, influxWrite, jsonImport, remoteWrite } from './write-handlers.ts';

/** What the routes of a storage engine work with. */
export interface StorageHttpDeps {
  readonly clock: Clock;
  /** For requests to this namespace. @throws STORAGE_NOT_READY while there is none, or it is not known yet */
  readonly engine: (namespace: string) => StorageEngine;
  /** Why the engine is not ready; undefined when it is. */
  readonly notReady: () => string | undefined;
  readonly namespaces: NamespaceRegistry;
  readonly kernel: ProtocolKernel;
  readonly bodies: RequestBodies;
  readonly reads: ReadGate;
  readonly figures: HttpFigures;
  readonly door: Door;
  readonly limits: { readonly read: ReadLimits };
  readonly onBug: (error: unknown) => void;
}

type Handler = (deps: StorageHttpDeps, exchange: Exchange) => Promise<void>;

interface Route {
  /** As it stands in figures. */
  readonly name: string;
  readonly methods: readonly string[];
  readonly dialect: Dialect;
  readonly run: Handler;
}

const READ = ['GET', 'POST'];
const WRITE = ['POST'];

function route(name: string, methods: readonly string[], dialect: Dialect, run: Handler): [string, Route] {
  return [name, { name, methods, dialect, run }];
}

const influx1: Handler = (deps, exchange) => influxWrite(deps, exchange, 'influx1');
const influx2: Handler = (deps, exchange) => influxWrite(deps, exchange, 'influx2');

const ROUTES: ReadonlyMap<string, Route> = new Map([
  route('/api/v1/write', WRITE, 'remote', remoteWrite),
  route('/api/v1/read', WRITE, 'remote', remoteRead),
  route('/write', WRITE, 'influx1', influx1),
  route('/api/v2/write', WRITE, 'influx2', influx2),
  route('/ping', ['GET', 'HEAD'], 'influx1', influxPing),
  route('/api/v1/import', WRITE, 'prometheus', jsonImport),
  route('/api/v1/export', READ, 'prometheus', jsonExport),
  route('/api/v1/series', READ, 'prometheus', series),
  route('/api/v1/labels', READ, 'prometheus', labelNames),
  route('/api/v1/status/tsdb', ['GET'], 'prometheus', cardinality),
  route('/api/v1/admin/tsdb/delete_series', ['POST', 'PUT'], 'prometheus', deleteSeries),
  route('/api/v1/namespaces', ['GET'], 'prometheus', namespaceList),
  route('/-/healthy', ['GET', 'HEAD'], 'remote', healthy),
  route('/-/ready', ['GET', 'HEAD'], 'remote', ready),
  route('/api/v1/query', READ, 'prometheus', noQueries),
  route('/api/v1/query_range', READ, 'prometheus', noQueries),
]);

const [, LABEL_VALUES] = route('/api/v1/label/NAME/values', ['GET'], 'prometheus', labelValues);
const [, NAMESPACE] = route('/api/v1/namespaces/NAME', ['GET', 'PUT', 'DELETE'], 'prometheus', namespaceItem);

function routeOf(path: string): Route | undefined {
  const known = ROUTES.get(path);
  if (known) return known;
  if (/^\/api\/v1\/label\/[^/]+\/values$/.test(path)) return LABEL_VALUES;
  return /^\/api\/v1\/namespaces\/[^/]+$/.test(path) ? NAMESPACE : undefined;
}

/** The HTTP side of a storage engine, on Node's own requests: writes are many, and each step between costs them. */
export class StorageHttp {
  readonly #deps: StorageHttpDeps;

  constructor(deps: StorageHttpDeps) {
    this.#deps = deps;
  }

  /** True when the request is one of the engine's; it is answered then, whatever happens. */
  handle(request: IncomingMessage, response: ServerResponse): boolean {
    let exchange: Exchange;
    try {
      exchange = exchangeOf(request, response);
    } catch (error) {
      const path = { request, response, path: '', query: '', namespace: undefined };
      answerError(path, this.#known(error), 'prometheus');
      return true;
    }
    const found = routeOf(exchange.path);
    const isOurs = found !== undefined || request.url?.startsWith('/ns/') === true;
    if (isOurs) void this.#answer(exchange, found);
    return isOurs;
  }

  async #answer(exchange: Exchange, found: Route | undefined): Promise<void> {
    const { clock, door, figures } = this.#deps;
    const { request, response } = exchange;
    const startedMs = clock.monotonicMs();
    try {
      if (!found?.name.startsWith('/-/')) admit(request, door);
      if (!found)
        throw new VarveError('NOT_FOUND', `there is no ${exchange.path.slice(0, 100)} in a namespace`);
      if (!found.methods.includes(request.method ?? '')) {
        response.setHeader('allow', found.methods.join(', '));
        throw new VarveError('METHOD_NOT_ALLOWED', `${found.name} takes ${found.methods.join(' and ')} only`);
      }
      await found.run(this.#deps, exchange);
    } catch (error) {
      request.resume();
      answerError(exchange, this.#known(error), found?.dialect ?? 'prometheus');
    }
    figures.answered(found?.name ?? 'unknown', response.statusCode, clock.monotonicMs() - startedMs);
  }

  #known(error: unknown): VarveError {
    if (error instanceof VarveError) return error;
    if (isAbort(error)) return new VarveError('CANCELLED', 'the request was cancelled');
    this.#deps.onBug(error);
    return new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`, {
      hint: "The node's log has the stack.",
    });
  }
}

function healthy(_deps: StorageHttpDeps, exchange: Exchange): Promise<void> {
  exchange.response.writeHead(200, { 'content-type': 'text/plain' });
  exchange.response.end('alive\n');
  return Promise.resolve();
}

function ready({ notReady }: StorageHttpDeps, exchange: Exchange): Promise<void> {
  const why = notReady();
  exchange.response.writeHead(why === undefined ? 200 : 503, { 'content-type': 'text/plain' });
  exchange.response.end(why === undefined ? 'ready\n' : `not ready: ${why}\n`);
  return Promise.resolve();
}

function noQueries(_deps: StorageHttpDeps, { path }: Exchange): Promise<void> {
  throw new VarveError('NOT_FOUND', `${path} is not here: PromQL is evaluated by Prometheus`, {
    hint: 'Point the remote_read of a Prometheus at /api/v1/read, and Grafana at that Prometheus.',
  });
}
