import type { IncomingMessage, ServerResponse } from 'node:http';
import { messageOf, VarveError } from '../core/errors.ts';
import {
  admit,
  answerData,
  answerError,
  exchangeOf,
  type Door,
  type Exchange,
} from '../storage/http/exchange.ts';
import type { StoredFileset } from '../storage/engine/storage-engine.ts';
import { askedBy, jsonBody } from './json-body.ts';
import type { PlacementControl } from './placement-control.ts';
import { placementRequest } from './placement-request.ts';

export interface PlacementHttpDeps {
  /** Undefined on a node without a coordinator. */
  readonly control: () => PlacementControl | undefined;
  /** The file sets of this node's engine. @throws STORAGE_NOT_READY */
  readonly filesets: () => AsyncIterable<StoredFileset>;
  readonly door: Door;
  readonly onBug: (error: unknown) => void;
}

const PATH = '/api/placement';

/** `/api/placement`: the placement, dry runs and changes of it, and how many bytes this node has of each shard. */
export class PlacementHttp {
  readonly #deps: PlacementHttpDeps;

  constructor(deps: PlacementHttpDeps) {
    this.#deps = deps;
  }

  /** Answers a request whose path begins so. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const exchange = exchangeOf(request, response);
    try {
      admit(request, this.#deps.door);
      answerData(exchange, await this.#result(exchange));
    } catch (error) {
      request.resume();
      answerError(exchange, this.#known(error), 'prometheus');
    }
  }

  async #result({ request, path }: Exchange): Promise<unknown> {
    const route = `${request.method ?? ''} ${path.slice(PATH.length)}`;
    switch (route) {
      case 'GET ':
        return await this.#control().show();
      case 'POST ':
        return await this.#control().act(placementRequest(await jsonBody(request)), askedBy(request));
      case 'POST /plan':
        return await this.#control().plan(placementRequest(await jsonBody(request)));
      case 'GET /bytes':
        return Object.fromEntries(await this.#bytes());
      default:
        throw new VarveError('NOT_FOUND', `there is no ${request.method ?? ''} ${path.slice(0, 100)} here`, {
          hint: `There are GET and POST ${PATH}, POST ${PATH}/plan and GET ${PATH}/bytes.`,
        });
    }
  }

  #control(): PlacementControl {
    const control = this.#deps.control();
    if (control) return control;
    throw new VarveError(
      'PLACEMENT_MISSING',
      'this node stands alone: it has no coordinator, or it does not run yet',
      {
        hint: 'A placement is kept in the coordinator: start nodes with one.',
      },
    );
  }

  async #bytes(): Promise<Map<number, number>> {
    const bytes = new Map<number, number>();
    for await (const { kind, shard, payloadBytes, indexBytes } of this.#deps.filesets()) {
      if (kind === 'flush') bytes.set(shard, (bytes.get(shard) ?? 0) + payloadBytes + indexBytes);
    }
    return bytes;
  }

  #known(error: unknown): VarveError {
    if (error instanceof VarveError) return error;
    this.#deps.onBug(error);
    return new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`, {
      hint: "The node's log has the stack.",
    });
  }
}
