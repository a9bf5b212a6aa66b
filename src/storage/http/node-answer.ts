import type { IncomingMessage, ServerResponse } from 'node:http';
import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { admit, JSON_TYPE, type Door } from './exchange.ts';

export interface NodeRequest {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Under which other nodes ask. */
  readonly path: string;
  readonly door: Door;
  readonly onBug: (error: unknown) => void;
  /** What ends an answer that is under way; without it the connection is ended. */
  readonly lastWords?: (error: VarveError) => Uint8Array;
}

/**
 * Answers another node: lets it in, takes POST only, and tells it what went wrong as JSON of the error, with its code,
 * so that the other side throws the same. Never rejects.
 */
export async function answerNode(asked: NodeRequest, answer: () => Promise<void>): Promise<void> {
  const { request, path, door, onBug } = asked;
  try {
    admit(request, door);
    if (request.method !== 'POST') throw new VarveError('METHOD_NOT_ALLOWED', `${path} takes POST only`);
    await answer();
  } catch (error) {
    request.resume();
    refuse(asked, known(error, onBug));
  }
}

export function answerJson(response: ServerResponse, value: unknown): void {
  const text = JSON.stringify(value);
  response.writeHead(200, { 'content-type': JSON_TYPE, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

function refuse({ request, response, lastWords }: NodeRequest, error: VarveError): void {
  if (response.destroyed) return;
  if (response.headersSent) {
    if (lastWords) response.end(lastWords(error));
    else response.destroy();
    return;
  }
  const text = JSON.stringify(error);
  response.writeHead(error.httpStatus, {
    'content-type': JSON_TYPE,
    'content-length': Buffer.byteLength(text),
    // A body that nobody reads would be taken for the next request.
    ...(request.complete ? {} : { connection: 'close' }),
  });
  response.end(text);
}

/** Other nodes send what a program of ours has made: what cannot be read is the request's fault, the rest is a bug. */
function known(error: unknown, onBug: (error: unknown) => void): VarveError {
  if (error instanceof VarveError) return error;
  if (isAbort(error)) return new VarveError('CANCELLED', 'the request was cancelled');
  if (error instanceof SyntaxError) {
    return new VarveError('INVALID_ARGUMENT', `another node's request cannot be read: ${error.message}`);
  }
  onBug(error);
  return new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`);
}
