import type { IncomingMessage, ServerResponse } from 'node:http';
import { messageOf, VarveError } from '../core/errors.ts';
import { RestoreHttp } from '../storage/backup/restore-http.ts';
import type { RestoreMarks } from '../storage/backup/restore-mark.ts';
import { RestoreSeal } from '../storage/backup/restore-seal.ts';
import { RestoreServer } from '../storage/backup/restore-server.ts';
import type { InterventionPlan } from '../storage/bootstrap/plan-intervention.ts';
import type { Engine } from '../storage/engine/engine.ts';
import { admit, answerData, answerError, exchangeOf, type Door } from '../storage/http/exchange.ts';
import type { RequestBodies } from '../storage/http/request-body.ts';
import { PeerHttp } from '../storage/peers/peer-http.ts';
import { PeerServer } from '../storage/peers/peer-server.ts';
import { bootstrapRequest } from './bootstrap-request.ts';
import { askedBy, jsonBody } from './json-body.ts';
import type { HttpHandler } from './lazy-handler.ts';
import { BOOTSTRAP_PATH } from './operation-paths.ts';

export interface StorageOperationsDeps {
  /** @throws STORAGE_NOT_READY while it is not open */
  readonly engine: () => Engine;
  /** The engine's. */
  readonly folder: string;
  /** Of namespaces that are being restored. @throws STORAGE_NOT_READY */
  readonly marks: () => RestoreMarks;
  readonly bodies: RequestBodies;
  readonly door: Door;
  readonly onBug: (error: unknown) => void;
}

/** What an intervention would do, or has done, on a node. */
export interface InterventionAnswer {
  readonly node: string;
  readonly effects: readonly string[];
}

/** `/api/bootstrap`, `/restore/v1/…` and `/peers/v1/…` of a storage engine. */
export class StorageOperations implements HttpHandler {
  readonly #deps: StorageOperationsDeps;
  readonly #node: string;
  readonly #restore: RestoreHttp;
  readonly #peers: PeerHttp;

  constructor(deps: StorageOperationsDeps, node: string) {
    this.#deps = deps;
    this.#node = node;
    const { engine, bodies, door, onBug, folder, marks } = deps;
    this.#peers = new PeerHttp({ server: () => new PeerServer(engine().peerView), bodies, door, onBug });
    const seal = new RestoreSeal();
    const restoreServer = (): RestoreServer => {
      const open = engine();
      const { peerView } = open;
      const view = { ...peerView, folder, serially: open.serially.bind(open) };
      return new RestoreServer({ view, marks: marks(), seal });
    };
    this.#restore = new RestoreHttp({ server: restoreServer, bodies, door, onBug });
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#restore.handle(request, response) || this.#peers.handle(request, response)) return;
    const exchange = exchangeOf(request, response);
    try {
      admit(request, this.#deps.door);
      answerData(exchange, await this.#bootstrap(request, exchange.path));
    } catch (error) {
      request.resume();
      answerError(exchange, this.#known(error), 'prometheus');
    }
  }

  async #bootstrap(request: IncomingMessage, path: string): Promise<InterventionAnswer> {
    if (request.method !== 'POST')
      throw new VarveError('METHOD_NOT_ALLOWED', `${BOOTSTRAP_PATH} takes POST only`);
    const { operator } = this.#deps.engine();
    let plan: InterventionPlan;
    switch (path) {
      case `${BOOTSTRAP_PATH}/plan`:
        plan = operator.plan(bootstrapRequest(await jsonBody(request)));
        break;
      case BOOTSTRAP_PATH:
        plan = await operator.act(bootstrapRequest(await jsonBody(request)), askedBy(request));
        break;
      default:
        throw new VarveError('NOT_FOUND', `there is no ${path.slice(0, 100)} here`);
    }
    return { node: this.#node, effects: plan.effects };
  }

  #known(error: unknown): VarveError {
    if (error instanceof VarveError) return error;
    this.#deps.onBug(error);
    return new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`, {
      hint: "The node's log has the stack.",
    });
  }
}
