import type { IncomingMessage, ServerResponse } from 'node:http';
import { VarveError } from '../../core/errors.ts';
import type { Door } from '../http/exchange.ts';
import { answerJson, answerNode } from '../http/node-answer.ts';
import type { RequestBodies } from '../http/request-body.ts';
import { BodyParts, decodeBegin, RESTORE_PATH } from './restore-messages.ts';
import type { RestoreServer } from './restore-server.ts';

export interface RestoreHttpDeps {
  /** @throws STORAGE_NOT_READY while the engine is not open */
  readonly server: () => RestoreServer;
  readonly bodies: RequestBodies;
  readonly door: Door;
  readonly onBug: (error: unknown) => void;
}

/** `/restore/v1/…`: what `varve restore` asks of each storage node. */
export class RestoreHttp {
  readonly #deps: RestoreHttpDeps;

  constructor(deps: RestoreHttpDeps) {
    this.#deps = deps;
  }

  /** True when the request is one of these; it is answered then, whatever happens. */
  handle(request: IncomingMessage, response: ServerResponse): boolean {
    if (!request.url?.startsWith(RESTORE_PATH)) return false;
    const { door, onBug } = this.#deps;
    void answerNode({ request, response, path: RESTORE_PATH, door, onBug }, async () =>
      answerJson(response, await this.#result(request)),
    );
    return true;
  }

  async #result(request: IncomingMessage): Promise<unknown> {
    const server = this.#deps.server();
    const what = request.url?.slice(RESTORE_PATH.length);
    switch (what) {
      case 'look':
        return server.look((await this.#begin(request)).namespace);
      case 'begin':
        return await server.begin(await this.#begin(request));
      case 'fileset':
        return { outcome: await server.take(new BodyParts(request as AsyncIterable<Buffer>)) };
      case 'end':
        await server.end(await this.#begin(request));
        return {};
      default:
        throw new VarveError('NOT_FOUND', `there is no ${RESTORE_PATH}${what?.slice(0, 100) ?? ''} here`);
    }
  }

  async #begin(request: IncomingMessage): Promise<ReturnType<typeof decodeBegin>> {
    return decodeBegin((await this.#deps.bodies.readText(request)).toString());
  }
}
