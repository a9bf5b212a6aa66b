import type { IncomingMessage, ServerResponse } from 'node:http';
import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { admit, JSON_TYPE, type Door } from '../http/exchange.ts';
import type { RequestBodies } from '../http/request-body.ts';
import { PEERS_PATH } from './http-peer-transport.ts';
import { decodeRequest } from './peer-messages.ts';
import type { PeerServer } from './peer-server.ts';

export interface PeerHttpDeps {
  /** @throws STORAGE_NOT_READY while the engine is not open */
  readonly server: () => PeerServer;
  readonly bodies: RequestBodies;
  readonly door: Door;
  readonly onBug: (error: unknown) => void;
}

/** So many requests of peers are answered at the same time; the others wait: clients come first. */
const MAX_ANSWERS = 8;

/** What nodes that bootstrap ask of this one, over HTTP. */
export class PeerHttp {
  readonly #deps: PeerHttpDeps;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(deps: PeerHttpDeps) {
    this.#deps = deps;
  }

  /** True when the request is one of these; it is answered then, whatever happens. */
  handle(request: IncomingMessage, response: ServerResponse): boolean {
    if (!request.url?.startsWith(PEERS_PATH)) return false;
    void this.#answer(request, response);
    return true;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      admit(request, this.#deps.door);
      if (request.method !== 'POST')
        throw new VarveError('METHOD_NOT_ALLOWED', `${PEERS_PATH} takes POST only`);
      const asked = decodeRequest((await this.#deps.bodies.readText(request)).toString());
      await this.#turn();
      try {
        if (response.destroyed) return;
        const bytes = await this.#deps.server().answer(asked);
        response.writeHead(200, {
          'content-type': 'application/octet-stream',
          'content-length': bytes.length,
        });
        response.end(bytes);
      } finally {
        this.#running--;
        this.#waiting.shift()?.();
      }
    } catch (error) {
      request.resume();
      refuse(request, response, this.#known(error));
    }
  }

  async #turn(): Promise<void> {
    while (this.#running >= MAX_ANSWERS) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
    this.#running++;
  }

  #known(error: unknown): VarveError {
    if (error instanceof VarveError) return error;
    if (isAbort(error)) return new VarveError('CANCELLED', 'the request was cancelled');
    this.#deps.onBug(error);
    return new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`);
  }
}

function refuse(request: IncomingMessage, response: ServerResponse, error: VarveError): void {
  if (response.destroyed || response.headersSent) {
    response.destroy();
    return;
  }
  const text = JSON.stringify(error);
  response.writeHead(error.httpStatus, {
    'content-type': JSON_TYPE,
    'content-length': Buffer.byteLength(text),
    // A body that nobody reads would be taken for the next request.
    ...(request.complete ? {} : { connection: 'close' }),
  });
  response.end(text);
}
