import type { IncomingMessage } from 'node:http';
import { messageOf, VarveError } from '../core/errors.ts';

const MAX_BODY_BYTES = 1024 * 1024;
/** Who asks, as the client says; for the history. */
export const BY_HEADER = 'x-varve-user';

export function askedBy({ headers }: IncomingMessage): string {
  const given = headers[BY_HEADER];
  return typeof given === 'string' && given !== '' ? given.slice(0, 100) : 'somebody';
}

/** @throws BODY_TOO_LARGE, INVALID_ARGUMENT when it is not JSON */
export async function jsonBody(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  let sizeBytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    sizeBytes += part.length;
    if (sizeBytes > MAX_BODY_BYTES) {
      throw new VarveError('BODY_TOO_LARGE', `such a request has at most ${MAX_BODY_BYTES} bytes`);
    }
    parts.push(part);
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString()) as unknown;
  } catch (error) {
    throw new VarveError('INVALID_ARGUMENT', `the body is not JSON: ${messageOf(error)}`);
  }
}
