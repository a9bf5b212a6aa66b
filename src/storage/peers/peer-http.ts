import type { IncomingMessage, ServerResponse } from 'node:http';
import { Turns } from '../../core/turns.ts';
import type { Door } from '../http/exchange.ts';
import { answerNode } from '../http/node-answer.ts';
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
  readonly #turns = new Turns(MAX_ANSWERS);

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
    const { door, onBug, bodies, server } = this.#deps;
    await answerNode({ request, response, path: PEERS_PATH, door, onBug }, async () => {
      const asked = decodeRequest((await bodies.readText(request)).toString());
      await this.#turns.run(async () => {
        if (response.destroyed) return;
        const parts = await server().answerInParts(asked);
        response.writeHead(200, {
          'content-type': 'application/octet-stream',
          'content-length': parts.reduce((sum, { length }) => sum + length, 0),
        });
        // All of them in one call of the system.
        response.cork();
        for (const part of parts) response.write(part);
        response.end();
      });
    });
  }
}
