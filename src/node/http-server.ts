import { once } from 'node:events';
import { createServer } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import type { Hono } from 'hono';
import { VarveError } from '../core/errors.ts';

/** A listening server; disposing of it ends open requests too. */
export interface HttpServer extends AsyncDisposable {
  readonly url: string;
}

/**
 * Serves `app` on loopback.
 * @throws PORT_IN_USE
 */
export async function serveHttp(app: Hono, options: { readonly port: number }): Promise<HttpServer> {
  const listener = getRequestListener(app.fetch);
  const server = createServer((request, response) => void listener(request, response));
  server.listen({ host: '127.0.0.1', port: options.port });
  try {
    await once(server, 'listening');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    throw new VarveError('PORT_IN_USE', `port ${options.port} for HTTP is in use by another process`, {
      hint: 'Stop that process, or choose other ports with --port-base.',
      cause: error,
    });
  }
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : options.port;
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
