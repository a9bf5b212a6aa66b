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
 * Serves HTTP on an address, loopback unless given.
 * @throws PORT_IN_USE
 */
export async function listen(
  handle: (request: IncomingMessage, response: ServerResponse) => void,
  { port: wanted, host = '127.0.0.1' }: { readonly port: number; readonly host?: string },
): Promise<HttpServer> {
  const server = createServer(handle);
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
