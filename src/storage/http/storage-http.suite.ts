import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { Registry } from 'prom-client';
import type { Clock } from '../../core/clock.ts';
import { systemClock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { NamespaceOptions, StorageEngine } from '../engine/storage-engine.ts';
import { ProtocolKernel } from '../protocol/protocol-kernel.ts';
import { HttpFigures } from './http-figures.ts';
import { httpMetrics } from './http-metrics.ts';
import { ReadGate } from './read-gate.ts';
import { RequestBodies } from './request-body.ts';
import { StorageHttp, type StorageHttpDeps } from './storage-http.ts';

export interface TestServer extends AsyncDisposable {
  readonly url: string;
  readonly bugs: unknown[];
  readonly registry: Registry;
  readonly deps: StorageHttpDeps;
}

/** The HTTP side of `engine` on a port of its own; its namespaces are those of the engine. */
export async function serveStorage(
  engine: StorageEngine,
  more: Partial<StorageHttpDeps> & { readonly clock?: Clock } = {},
): Promise<TestServer> {
  const registry = new Registry();
  const bugs: unknown[] = [];
  const figures = new HttpFigures();
  httpMetrics(registry, figures, { reads: () => 0, bodyBytes: () => 0 });
  const deps: StorageHttpDeps = {
    clock: systemClock,
    engine: () => engine,
    notReady: () => undefined,
    namespaces: {
      list: () => engine.namespaces(),
      put: (options) => engine.applyNamespaces([...without(engine, options.name), options]),
      remove: async (name) => {
        const rest = without(engine, name);
        if (rest.length === engine.namespaces().length) return false;
        await engine.applyNamespaces(rest);
        return true;
      },
    },
    kernel: new ProtocolKernel(),
    bodies: new RequestBodies({ maxBytes: 1 << 20, maxWaitingBytes: 4 << 20 }),
    reads: new ReadGate({ maxReads: 2, timeoutMs: 30_000 }),
    figures,
    door: { token: undefined, isLoopback: true },
    limits: { read: { maxSeries: 10_000 } },
    onBug: (error) => bugs.push(error),
    ...more,
  };
  const http = new StorageHttp(deps);
  const server: Server = createServer((request, response) => {
    if (http.handle(request, response)) return;
    response.writeHead(404).end('not of the engine');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    bugs,
    registry,
    deps,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

function without(engine: StorageEngine, name: string): NamespaceOptions[] {
  return engine.namespaces().filter((options) => options.name !== name);
}

export function notReady(): never {
  throw new VarveError('STORAGE_NOT_READY', 'the storage engine is starting');
}
