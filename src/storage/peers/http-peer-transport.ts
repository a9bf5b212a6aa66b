import { errorFromJson, isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { ConnectionPool, type PoolLimits } from './connection-pool.ts';
import type { HttpAnswer } from './kept-connection.ts';
import { encodeRequest } from './peer-messages.ts';
import type { AnswerRoom, PeerRequest, PeerTransport } from './peer-transport.ts';

export const PEERS_PATH = '/peers/v1/';

/** No answer has as many bytes: whoever sends more is none of ours. */
const LIMITS: PoolLimits = { connections: 16, maxBodyBytes: 64 * 1024 * 1024 };

/** Other nodes over HTTP, with connections that are kept open. */
export class HttpPeerTransport implements PeerTransport, AsyncDisposable {
  readonly #endpointOf: (node: string) => string | undefined;
  readonly #headers: readonly string[];
  /** By endpoint. */
  readonly #pools = new Map<string, ConnectionPool>();

  /** @param endpointOf where a node is, as the placement says: `http://host:port` */
  constructor(endpointOf: (node: string) => string | undefined, token: string | undefined) {
    this.#endpointOf = endpointOf;
    this.#headers = token === undefined ? [] : [`authorization: Bearer ${token}`];
  }

  async call(
    node: string,
    request: PeerRequest,
    signal: AbortSignal,
    room: AnswerRoom = newRoom,
  ): Promise<Uint8Array> {
    const endpoint = this.#endpointOf(node);
    if (endpoint === undefined) {
      throw new VarveError('PEER_UNAVAILABLE', `the placement does not say where ${node} is`);
    }
    let answer: HttpAnswer;
    try {
      const asked = this.#request(endpoint, request);
      answer = await this.#poolOf(endpoint).ask(asked, room, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (isAbort(error)) throw error;
      throw unavailable(endpoint, messageOf(error), error);
    }
    if (answer.status === 200) return answer.body;
    throw refusal(endpoint, answer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const pool of this.#pools.values()) pool.destroy();
    return Promise.resolve();
  }

  /** As it goes over the wire. */
  #request(endpoint: string, request: PeerRequest): Buffer {
    const body = encodeRequest(request);
    const { host, pathname } = new URL(`${endpoint.replace(/\/+$/, '')}${PEERS_PATH}${request.kind}`);
    const head = [
      `POST ${pathname} HTTP/1.1`,
      `host: ${host}`,
      ...this.#headers,
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
    ];
    return Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`);
  }

  /** @throws TypeError for what is no URL */
  #poolOf(endpoint: string): ConnectionPool {
    const known = this.#pools.get(endpoint);
    if (known) return known;
    const { protocol, hostname, port } = new URL(endpoint);
    if (protocol !== 'http:') throw new TypeError(`${protocol} is not how nodes talk`);
    const host = hostname.replace(/^\[|\]$/g, '');
    const pool = new ConnectionPool({ host, port: port === '' ? HTTP_PORT : Number(port) }, LIMITS);
    this.#pools.set(endpoint, pool);
    return pool;
  }
}

const HTTP_PORT = 80;

function newRoom(sizeBytes: number): Buffer {
  return Buffer.allocUnsafe(sizeBytes);
}

function refusal(endpoint: string, { status, body }: HttpAnswer): VarveError {
  try {
    return errorFromJson(JSON.parse(body.toString()));
  } catch {
    return unavailable(endpoint, `it answered ${status} ${body.toString().slice(0, 200)}`);
  }
}

function unavailable(endpoint: string, why: string, cause?: unknown): VarveError {
  return new VarveError('PEER_UNAVAILABLE', `${endpoint}: ${why}`, { cause });
}
