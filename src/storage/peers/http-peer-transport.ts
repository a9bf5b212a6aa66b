import { Agent, request as httpRequest } from 'node:http';
import { errorFromJson, isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { hasCode } from '../../core/file-system.ts';
import { encodeRequest } from './peer-messages.ts';
import type { PeerRequest, PeerTransport } from './peer-transport.ts';

export const PEERS_PATH = '/peers/v1/';

const MAX_SOCKETS = 16;
/** More than any answer has: whoever sends more is none of ours. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

/** Other nodes over HTTP, with connections that are kept open. */
export class HttpPeerTransport implements PeerTransport, AsyncDisposable {
  readonly #endpointOf: (node: string) => string | undefined;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS, scheduling: 'lifo' });

  /** @param endpointOf where a node is, as the placement says: `http://host:port` */
  constructor(endpointOf: (node: string) => string | undefined, token: string | undefined) {
    this.#endpointOf = endpointOf;
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  async call(node: string, request: PeerRequest, signal: AbortSignal): Promise<Uint8Array> {
    const endpoint = this.#endpointOf(node);
    if (endpoint === undefined) {
      throw new VarveError('PEER_UNAVAILABLE', `the placement does not say where ${node} is`);
    }
    const url = `${endpoint.replace(/\/+$/, '')}${PEERS_PATH}${request.kind}`;
    let answer: Answer;
    try {
      answer = await this.#send(url, Buffer.from(encodeRequest(request)), signal);
    } catch (error) {
      signal.throwIfAborted();
      if (isAbort(error)) throw error;
      throw unavailable(endpoint, messageOf(error), error);
    }
    if (answer.status === 200) return answer.body;
    throw refusal(endpoint, answer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#agent.destroy();
    return Promise.resolve();
  }

  /** Once more when the other side has closed a connection that was kept open: to ask twice does no harm. */
  async #send(url: string, body: Buffer, signal: AbortSignal): Promise<Answer> {
    for (;;) {
      const request = httpRequest(url, {
        method: 'POST',
        agent: this.#agent,
        signal,
        headers: { ...this.#headers, 'content-type': 'application/json', 'content-length': body.length },
      });
      try {
        return await new Promise<Answer>((resolve, reject) => {
          // Also after the answer, when nobody waits any more.
          request.on('error', reject);
          request.once('response', (response) => {
            const parts: Buffer[] = [];
            let sizeBytes = 0;
            response.on('data', (part: Buffer) => {
              parts.push(part);
              sizeBytes += part.length;
              if (sizeBytes > MAX_ANSWER_BYTES) response.destroy(new Error('its answer has no end'));
            });
            response.once('error', reject);
            response.once('close', () => reject(new Error('it broke off in the middle of its answer')));
            response.once('end', () =>
              resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts, sizeBytes) }),
            );
          });
          request.end(body);
        });
      } catch (error) {
        if (!request.reusedSocket || !hasCode(error, 'ECONNRESET', 'EPIPE')) throw error;
      }
    }
  }
}

function refusal(endpoint: string, { status, body }: Answer): VarveError {
  try {
    return errorFromJson(JSON.parse(body.toString()));
  } catch {
    return unavailable(endpoint, `it answered ${status} ${body.toString().slice(0, 200)}`);
  }
}

function unavailable(endpoint: string, why: string, cause?: unknown): VarveError {
  return new VarveError('PEER_UNAVAILABLE', `${endpoint}: ${why}`, { cause });
}
