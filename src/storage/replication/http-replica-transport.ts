import { crc32 } from 'node:zlib';
import { Agent, request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { errorFromJson, isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { hasCode } from '../../core/file-system.ts';
import type { WriteOutcome } from '../engine/storage-engine.ts';
import { encodeDeletions } from './deletion-ledger.ts';
import { FrameReader } from './answer-frames.ts';
import type {
  ReplicaAddress,
  ReplicaDelete,
  HandedOver,
  ReplicaQuestion,
  ReplicaTransport,
  ReplicaWrite,
} from './replica-transport.ts';

export const REPLICA_HEADERS = {
  namespace: 'x-varve-namespace',
  format: 'x-varve-format',
  stamp: 'x-varve-stamp',
  routedBy: 'x-varve-placement',
  checksum: 'x-varve-crc32',
} as const;

const MAX_SOCKETS = 32;

/** Other nodes over HTTP, with connections that are kept open. */
export class HttpReplicaTransport implements ReplicaTransport, AsyncDisposable {
  readonly #headers: Readonly<Record<string, string>>;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS, scheduling: 'lifo' });

  constructor(token: string | undefined) {
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  async write(to: ReplicaAddress, write: ReplicaWrite, signal: AbortSignal): Promise<WriteOutcome> {
    const { namespace, format, stamp, body, routedBy } = write;
    const headers = {
      [REPLICA_HEADERS.namespace]: namespace,
      [REPLICA_HEADERS.format]: String(format),
      [REPLICA_HEADERS.stamp]: String(stamp),
      [REPLICA_HEADERS.checksum]: String(crc32(body)),
      ...routeHeader(routedBy),
      'content-type': 'application/octet-stream',
    };
    return (await this.#json(to, '/replica/v1/write', { headers, body, signal })) as WriteOutcome;
  }

  async delete(to: ReplicaAddress, deletion: ReplicaDelete, signal: AbortSignal): Promise<void> {
    const headers = { 'content-type': 'application/json', ...routeHeader(deletion.routedBy) };
    await this.#json(to, '/replica/v1/delete', { headers, body: encodeDeletions([deletion]), signal });
  }

  async handOver(to: ReplicaAddress, samples: HandedOver, signal: AbortSignal): Promise<void> {
    const { namespace, body, routedBy } = samples;
    const headers = {
      [REPLICA_HEADERS.namespace]: namespace,
      [REPLICA_HEADERS.checksum]: String(crc32(body)),
      ...routeHeader(routedBy),
      'content-type': 'application/octet-stream',
    };
    await this.#json(to, '/replica/v1/take-over', { headers, body, signal });
  }

  async *ask(
    to: ReplicaAddress,
    question: ReplicaQuestion,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    const body = Buffer.from(JSON.stringify(question));
    const headers = { 'content-type': 'application/json' };
    const response = await this.#send(to, '/replica/v1/ask', { headers, body, signal });
    try {
      const frames = new FrameReader();
      for await (const chunk of response as AsyncIterable<Buffer>) {
        for (const part of frames.read(chunk)) yield part;
        if (frames.isDone) return;
      }
      throw unreachable(to, 'it broke off in the middle of its answer');
    } catch (error) {
      signal.throwIfAborted();
      throw error instanceof VarveError ? error : unreachable(to, messageOf(error), error);
    } finally {
      response.destroy();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#agent.destroy();
    return Promise.resolve();
  }

  async #json(to: ReplicaAddress, path: string, message: Message): Promise<unknown> {
    const response = await this.#send(to, path, message);
    try {
      return JSON.parse(await textOf(response));
    } catch (error) {
      message.signal.throwIfAborted();
      throw unreachable(to, messageOf(error), error);
    }
  }

  /** Only answers that say yes. */
  async #send(to: ReplicaAddress, path: string, message: Message): Promise<IncomingMessage> {
    let response: IncomingMessage;
    try {
      response = await this.#open(to, path, message);
    } catch (error) {
      message.signal.throwIfAborted();
      if (isAbort(error)) throw error;
      throw unreachable(to, messageOf(error), error);
    }
    if (response.statusCode === 200) return response;
    throw await refusal(to, response);
  }

  /** Once more when the other side has closed a connection that was kept open: what is sent twice does no harm. */
  async #open(to: ReplicaAddress, path: string, message: Message): Promise<IncomingMessage> {
    for (;;) {
      const { headers, body, signal } = message;
      const request = httpRequest(`${to.endpoint.replace(/\/+$/, '')}${path}`, {
        method: 'POST',
        agent: this.#agent,
        signal,
        headers: { ...this.#headers, ...headers, 'content-length': body.length },
      });
      try {
        return await responseOf(request, body);
      } catch (error) {
        if (!request.reusedSocket || !hasCode(error, 'ECONNRESET', 'EPIPE')) throw error;
      }
    }
  }
}

function routeHeader(routedBy: number | undefined): Readonly<Record<string, string>> {
  return routedBy === undefined ? {} : { [REPLICA_HEADERS.routedBy]: String(routedBy) };
}

interface Message {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  readonly signal: AbortSignal;
}

function responseOf(request: ClientRequest, body: Uint8Array): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    // Also after the answer, when nobody waits any more.
    request.on('error', reject);
    request.end(body);
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts).toString();
}

async function refusal(to: ReplicaAddress, response: IncomingMessage): Promise<VarveError> {
  const text = await textOf(response).catch(() => '');
  try {
    return errorFromJson(JSON.parse(text));
  } catch {
    return unreachable(to, `it answered ${response.statusCode} ${text.slice(0, 200)}`);
  }
}

function unreachable({ id, endpoint }: ReplicaAddress, why: string, cause?: unknown): VarveError {
  return new VarveError('REPLICA_UNREACHABLE', `${id} at ${endpoint}: ${why}`, { cause });
}
