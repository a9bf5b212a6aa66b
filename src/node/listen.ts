import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { VarveError } from '../core/errors.ts';

/** A listening server; disposing of it ends open requests too. */
export interface HttpServer extends AsyncDisposable {
  readonly url: string;
}

/** True when it has taken a request. */
export type Handles = (request: IncomingMessage, response: ServerResponse) => boolean;

/**
 * Senders that write every few seconds keep their connection; one that is closed just when they write looks like a
 * failure to them.
 */
const KEEP_ALIVE_MS = 75_000;

/**
 * Serves HTTP on an address, loopback unless given.
 * @throws PORT_IN_USE
 */
export async function listen(
  handle: (request: IncomingMessage, response: ServerResponse) => void,
  { port: wanted, host = '127.0.0.1' }: { readonly port: number; readonly host?: string },
): Promise<HttpServer> {
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, handle);
  server.listen({ host, port: wanted });
  try {
    await once(server, 'listening');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    throw new VarveError('PORT_IN_USE', `port ${wanted} for HTTP is in use by another process`, {
      hint: 'Stop that process, or choose other ports with --port-base.',
      cause: error,
    });
  }
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : wanted;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
