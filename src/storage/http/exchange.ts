import { createHash, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { VarveError } from '../../core/errors.ts';

/** Whose clients ask, and so in what form they are told of an error. */
export type Dialect = 'prometheus' | 'remote' | 'influx1' | 'influx2';

/** One request with what the router found out about it. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Without a namespace before it. */
  readonly path: string;
  /** Behind the question mark. */
  readonly query: string;
  /** As the path or a header names it. */
  readonly namespace: string | undefined;
}

export const NAMESPACE_HEADER = 'x-varve-namespace';
export const DEFAULT_NAMESPACE = 'default';

const NAMESPACE_PREFIX = '/ns/';

/** Takes `/ns/NAME/path?query` apart. @throws INVALID_ARGUMENT for a name that cannot be decoded */
export function exchangeOf(request: IncomingMessage, response: ServerResponse): Exchange {
  const url = request.url ?? '/';
  const mark = url.indexOf('?');
  const path = mark < 0 ? url : url.slice(0, mark);
  const query = mark < 0 ? '' : url.slice(mark + 1);
  const header = request.headers[NAMESPACE_HEADER];
  const named = typeof header === 'string' && header !== '' ? header : undefined;
  if (!path.startsWith(NAMESPACE_PREFIX)) return { request, response, path, query, namespace: named };
  const slash = path.indexOf('/', NAMESPACE_PREFIX.length);
  const end = slash < 0 ? path.length : slash;
  const namespace = decodeName(path.slice(NAMESPACE_PREFIX.length, end));
  return { request, response, path: path.slice(end), query, namespace };
}

/** A part of a path as text. @throws INVALID_ARGUMENT */
export function decodeName(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new VarveError('INVALID_ARGUMENT', `${part.slice(0, 60)} in the path is not encoded as URLs are`);
  }
}

/** Path and header come first, then the parameter. */
export function namespaceOf({ namespace, query }: Exchange, params?: URLSearchParams): string {
  if (namespace !== undefined) return namespace;
  if (params) return params.get('namespace') || DEFAULT_NAMESPACE;
  // The hot path has no parameters.
  return (query !== '' && new URLSearchParams(query).get('namespace')) || DEFAULT_NAMESPACE;
}

export interface Door {
  /** Of those who may ask; everyone when left out. */
  readonly token: string | undefined;
  /** Only this machine reaches the port: names of other hosts come from pages that play tricks. */
  readonly isLoopback: boolean;
}

const LOCAL_NAMES = new Set(['127.0.0.1', 'localhost', '[::1]']);

/**
 * Lets in who may ask. A page from elsewhere could make a browser on this machine ask under a name of its own, or
 * write without reading the answer: neither gets in.
 * @throws TOKEN_REFUSED, INVALID_ARGUMENT, PERMISSION_DENIED
 */
export function admit({ headers, method }: IncomingMessage, door: Door): void {
  const host = headers.host ?? '';
  if (door.isLoopback && !LOCAL_NAMES.has(host.replace(/:\d+$/, ''))) {
    throw new VarveError('INVALID_ARGUMENT', `the Host header names "${host}", which is not this machine`, {
      hint: 'Ask for 127.0.0.1 or localhost.',
    });
  }
  const { origin } = headers;
  if (origin !== undefined && method !== 'GET' && method !== 'HEAD' && !isSameHost(origin, host)) {
    throw new VarveError('PERMISSION_DENIED', `pages of ${origin.slice(0, 100)} must not write here`);
  }
  if (door.token === undefined) return;
  const given =
    /^Bearer\s+(\S+)\s*$/i.exec(headers.authorization ?? '')?.[1] ?? influxToken(headers.authorization);
  if (given === undefined || !sameSecret(given, door.token)) {
    throw new VarveError('TOKEN_REFUSED', 'the bearer token is missing or wrong', {
      hint: 'Send the header "Authorization: Bearer TOKEN".',
    });
  }
}

/** Influx 2 clients call theirs `Token`. */
function influxToken(authorization = ''): string | undefined {
  return /^Token\s+(\S+)\s*$/i.exec(authorization)?.[1];
}

function isSameHost(origin: string, host: string): boolean {
  return URL.canParse(origin) && new URL(origin).host === host;
}

/** Takes the same time wherever they differ. */
function sameSecret(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** What a sender that can wait is told to wait, in seconds. */
const RETRY_AFTER_SECONDS = '1';

/** Answers with an error in the form that the caller's clients read. Ends the connection when an answer is under way. */
export function answerError({ request, response }: Exchange, error: VarveError, dialect: Dialect): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const status = statusOf(error, dialect);
  const retry = status === 503 || status === 429 ? { 'retry-after': RETRY_AFTER_SECONDS } : {};
  const challenge = status === 401 ? { 'www-authenticate': 'Bearer' } : {};
  const { type, text } = errorBody(error, { dialect, status });
  // A body that nobody reads would be taken for the next request.
  const close = request.complete ? {} : { connection: 'close' };
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
    ...(dialect === 'influx1' ? { 'x-influxdb-error': headerText(error.message) } : {}),
    ...retry,
    ...challenge,
    ...close,
  });
  response.end(text);
}

function statusOf(error: VarveError, dialect: Dialect): number {
  // Prometheus answers so, and its clients look for it.
  if (dialect === 'prometheus' && error.code === 'DEADLINE_EXCEEDED') return 503;
  return error.httpStatus;
}

function errorBody(
  error: VarveError,
  { dialect, status }: { readonly dialect: Dialect; readonly status: number },
): { readonly type: string; readonly text: string } {
  const message = error.hint === undefined ? error.message : `${error.message}. ${error.hint}`;
  switch (dialect) {
    case 'remote':
      return { type: 'text/plain; charset=utf-8', text: `${message}\n` };
    case 'influx1':
      return { type: JSON_TYPE, text: `${JSON.stringify({ error: message })}\n` };
    case 'influx2':
      return { type: JSON_TYPE, text: JSON.stringify({ code: influxCode(status), message }) };
    case 'prometheus': {
      const { code } = error;
      const body = { status: 'error', errorType: errorType(error, status), error: message, code };
      return { type: JSON_TYPE, text: JSON.stringify(body) };
    }
  }
}

export const JSON_TYPE = 'application/json; charset=utf-8';

function errorType({ code }: VarveError, status: number): string {
  if (code === 'DEADLINE_EXCEEDED') return 'timeout';
  if (code === 'CANCELLED') return 'canceled';
  if (status === 422) return 'execution';
  if (status === 404) return 'not_found';
  if (status === 503 || status === 429) return 'unavailable';
  return status >= 500 ? 'internal' : 'bad_data';
}

function influxCode(status: number): string {
  switch (status) {
    case 401:
      return 'unauthorized';
    case 403:
      return 'forbidden';
    case 404:
      return 'not found';
    case 413:
      return 'request too large';
    case 429:
      return 'too many requests';
    case 503:
      return 'unavailable';
    default:
      return status >= 500 ? 'internal error' : 'invalid';
  }
}

/** Without what would end a header. */
function headerText(text: string): string {
  return text.replaceAll(/[^\u0020-\u007e]/g, ' ').slice(0, 500);
}

/** `{"status":"success","data":…}` */
export function answerData({ response }: Exchange, data: unknown, more: object = {}): void {
  const text = JSON.stringify({ status: 'success', data, ...more });
  response.writeHead(200, { 'content-type': JSON_TYPE, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

/** Writes and waits while the other side is slow. @throws the signal's reason when it is gone */
export async function send(
  response: ServerResponse,
  part: string | Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  if (!response.write(part)) await once(response, 'drain', { signal });
}
