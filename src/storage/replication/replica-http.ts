import type { IncomingMessage, ServerResponse } from 'node:http';
import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import { send, type Door } from '../http/exchange.ts';
import { answerJson, answerNode } from '../http/node-answer.ts';
import { ReadGate } from '../http/read-gate.ts';
import type { RequestBodies } from '../http/request-body.ts';
import { dataFrame, endFrame, errorFrame } from './answer-frames.ts';
import { decodeDeletions } from './deletion-ledger.ts';
import { REPLICA_HEADERS } from './http-replica-transport.ts';
import type { LocalReplica } from './local-replica.ts';
import { answer } from './replica-server.ts';
import type { ReplicaFormat, ReplicaQuestion } from './replica-transport.ts';

export interface ReplicaHttpDeps {
  /** @throws STORAGE_NOT_READY while the engine is not open */
  readonly local: () => LocalReplica;
  readonly bodies: RequestBodies;
  readonly door: Door;
  readonly readTimeoutMs: number;
  /** So often an answer that takes long says that it is coming; 1,000 unless given. */
  readonly aliveMs?: number;
  readonly onBug: (error: unknown) => void;
}

const PREFIX = '/replica/v1/';
const ALIVE_MS = 1000;
const NOTHING = new Uint8Array(0);
/** More than a node's own reads, which wait for those of other nodes: these never do. */
const MAX_READS = 64;
const FORMATS: ReadonlyMap<string, ReplicaFormat> = new Map<string, ReplicaFormat>([
  ['1', 1],
  ['2', 2],
  ['columns', 'columns'],
]);

function headerOf(request: IncomingMessage, name: keyof typeof REPLICA_HEADERS): string {
  return String(request.headers[REPLICA_HEADERS[name]] ?? '');
}

/** Nothing where the sender was not led by a placement, or knows nothing of it. */
function routeOf(request: IncomingMessage): { readonly routedBy?: number } {
  const version = headerOf(request, 'routedBy');
  return version === '' ? {} : { routedBy: Number(version) };
}

/** What other nodes ask of this one's replicas, over HTTP. */
export class ReplicaHttp {
  readonly #deps: ReplicaHttpDeps;
  readonly #reads: ReadGate;

  constructor(deps: ReplicaHttpDeps) {
    this.#deps = deps;
    this.#reads = new ReadGate({ maxReads: MAX_READS, timeoutMs: deps.readTimeoutMs });
  }

  /** True when the request is one of these; it is answered then, whatever happens. */
  handle(request: IncomingMessage, response: ServerResponse): boolean {
    if (!request.url?.startsWith(PREFIX)) return false;
    void this.#answer(request, response);
    return true;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { door, onBug } = this.#deps;
    const asked = { request, response, path: PREFIX, door, onBug, lastWords: errorFrame };
    await answerNode(asked, async () => {
      switch (request.url) {
        case `${PREFIX}write`:
          return await this.#write(request, response);
        case `${PREFIX}delete`:
          return await this.#delete(request, response);
        case `${PREFIX}take-over`:
          return await this.#takeOver(request, response);
        case `${PREFIX}ask`:
          return await this.#ask(request, response);
        default:
          throw new VarveError('NOT_FOUND', `there is no ${request.url?.slice(0, 100)} here`);
      }
    });
  }

  async #write(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const header = (name: keyof typeof REPLICA_HEADERS): string => headerOf(request, name);
    const format = FORMATS.get(header('format'));
    if (format === undefined) throw new VarveError('INVALID_ARGUMENT', 'the format of a write is not known');
    const stamp = BigInt(header('stamp') || '0');
    const about = { namespace: header('namespace'), format, stamp, ...routeOf(request) };
    await this.#withBody(request, async (body) => {
      answerJson(response, await this.#deps.local().write({ ...about, body }));
    });
  }

  async #takeOver(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const about = { namespace: headerOf(request, 'namespace'), routedBy: routeOf(request).routedBy ?? 0 };
    await this.#withBody(request, async (body) => {
      await this.#deps.local().takeOver({ ...about, body });
      answerJson(response, {});
    });
  }

  /** The bytes are valid while `work` runs. */
  async #withBody(request: IncomingMessage, work: (body: Uint8Array) => Promise<void>): Promise<void> {
    const body = await this.#deps.bodies.read(request);
    try {
      if (crc32(body.bytes) !== Number(headerOf(request, 'checksum'))) {
        throw new VarveError('REPLICA_UNREACHABLE', 'samples do not match their checksum');
      }
      await work(body.bytes);
    } finally {
      body.release();
    }
  }

  async #delete(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const deletions = decodeDeletions(await this.#text(request));
    const route = routeOf(request);
    for (const deletion of deletions) await this.#deps.local().delete({ ...deletion, ...route });
    answerJson(response, {});
  }

  async #ask(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const question = JSON.parse((await this.#text(request)).toString()) as ReplicaQuestion;
    const exchange = { request, response, path: '', query: '', namespace: undefined };
    await this.#reads.run(exchange, async (signal) => {
      const begin = (): void => {
        if (!response.headersSent) response.writeHead(200, { 'content-type': 'application/octet-stream' });
      };
      let isSilent = true;
      const timer = setInterval(() => {
        if (isSilent && response.writableLength === 0) {
          begin();
          response.write(dataFrame(NOTHING));
        }
        isSilent = true;
      }, this.#deps.aliveMs ?? ALIVE_MS);
      try {
        for await (const part of answer(this.#deps.local(), question, signal)) {
          isSilent = false;
          // The head goes with the first part, so that an error before it can be told in full.
          begin();
          await send(response, dataFrame(part), signal);
        }
      } finally {
        clearInterval(timer);
      }
      begin();
      response.end(endFrame());
    });
  }

  #text(request: IncomingMessage): Promise<Buffer> {
    return this.#deps.bodies.readText(request);
  }
}
