import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, request as overHttp } from 'node:http';
import { Agent as HttpsAgent, request as overHttps } from 'node:https';
import { messageOf, VarveError } from '../core/errors.ts';

/** PEM texts. */
export interface EtcdTls {
  /** Whom to trust instead of the usual authorities. */
  readonly ca?: string;
  /** Of this client, where etcd asks for one. */
  readonly cert?: string;
  readonly key?: string;
}

export interface TransportRequest {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Ends the request, and with it the body of its answer. */
  readonly signal: AbortSignal;
  /** Called once the request may be on its way: from then on its outcome can be unknown. */
  readonly onConnected: () => void;
}

/**
 * Requests over connections that are kept. Not `fetch`: Node's own cannot be given a certificate authority,
 * and does not tell whether a request that failed can have left.
 */
export class EtcdTransport {
  readonly #http = new HttpAgent({ keepAlive: true });
  readonly #https: HttpsAgent;

  constructor(tls: EtcdTls = {}) {
    this.#https = new HttpsAgent({ keepAlive: true, ...tls });
  }

  /** The answer with its body still to come; a status of any kind is an answer. */
  post({ url, headers, body, signal, onConnected }: TransportRequest): Promise<IncomingMessage> {
    const secure = url.startsWith('https:');
    return new Promise((resolve, reject) => {
      const request = secure
        ? overHttps(url, { method: 'POST', headers, agent: this.#https })
        : overHttp(url, { method: 'POST', headers, agent: this.#http });
      let answer: IncomingMessage | undefined;
      // Destroyed with its answer there, the request would leave an error with a connection that nobody hears.
      const abort = (): void => void (answer ?? request).destroy(answer ? undefined : new Error('given up'));
      const settled = (): void => signal.removeEventListener('abort', abort);
      signal.addEventListener('abort', abort, { once: true });
      tellWhenConnected(request, secure, onConnected);
      request.on('error', reject);
      request.on('close', settled);
      request.on('response', (response) => {
        answer = response;
        // Whoever reads it hears of errors; when nobody does any more, they are of no interest.
        response.on('error', () => {});
        resolve(response);
      });
      if (signal.aborted) abort();
      request.end(body);
    });
  }

  /** Drops the connections that are idle. */
  close(): void {
    this.#http.destroy();
    this.#https.destroy();
  }
}

function tellWhenConnected(request: ClientRequest, secure: boolean, onConnected: () => void): void {
  request.once('socket', (socket) => {
    if (request.reusedSocket || !socket.connecting) onConnected();
    // Over TLS nothing leaves before the other side has proved who it is.
    else socket.once(secure ? 'secureConnect' : 'connect', onConnected);
  });
}

/**
 * The members of `urls`, separated by commas, without slashes at their ends.
 * @throws INVALID_ARGUMENT
 */
export function membersOf(urls: string): readonly string[] {
  return urls.split(',').map((text) => {
    const url = URL.canParse(text.trim()) ? new URL(text.trim()) : undefined;
    if (!url || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
      throw new VarveError(
        'INVALID_ARGUMENT',
        "the coordinator's URL is not of the form http://host:port[,http://host:port…]",
        { hint: 'Give user and password by their own options, not in the URL.' },
      );
    }
    return `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
  });
}

/** Several addresses of one name fail together, each with a reason of its own. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return [...new Set(error.errors.map(messageOf))].join(', ');
  return messageOf(error);
}
