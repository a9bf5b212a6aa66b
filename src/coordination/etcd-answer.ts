import type { IncomingMessage } from 'node:http';

/** What etcd's gateway says when it does not do what it was asked: gRPC's codes and texts, in JSON. */
export interface GatewayError {
  readonly code: number;
  readonly message: string;
}

/** gRPC's codes, as far as they are told apart here. */
export const GRPC = { ok: 0, notFound: 5, failedPrecondition: 9, outOfRange: 11 } as const;

/** Codes that say: this was understood and is not done. All others leave the outcome open. */
const REFUSALS = new Set([3, 5, 6, 7, 9, 11, 12, 16]);

export type FailureKind =
  /** Nothing happened: another member may do it, or this one later. */
  | 'no-leader'
  /** Nothing happened: the token has expired, or the member was restarted. */
  | 'token'
  | 'too-large'
  | 'refused'
  /** It may have happened. */
  | 'unavailable';

export function kindOf({ code, message }: GatewayError): FailureKind {
  // It did not pass the door. (`leader changed` and the like come from further inside.)
  if (message.endsWith('etcdserver: no leader')) return 'no-leader';
  if (/invalid auth token|revision (?:of auth store|in header) is old/.test(message)) return 'token';
  if (/request is too large|message larger than max/.test(message)) return 'too-large';
  return REFUSALS.has(code) ? 'refused' : 'unavailable';
}

/**
 * The error in one JSON value of an answer; undefined when it is none. etcd 3.4 and 3.5 write it in one way,
 * 3.6 in another, and a stream differs from a plain answer in each.
 */
export function errorIn(value: unknown, failed: boolean): GatewayError | undefined {
  const said = value as {
    readonly error?: string | { code?: number; grpc_code?: number; message?: string } | null;
    readonly message?: string;
    readonly code?: number;
  } | null;
  const error = said?.error;
  if (typeof error === 'object' && error !== null) {
    return { code: error.code ?? error.grpc_code ?? 2, message: error.message ?? 'no reason given' };
  }
  if (!failed) return undefined;
  return { code: said?.code ?? 2, message: error ?? said?.message ?? 'no reason given' };
}

/** Of a body that goes on, as they come. */
export async function* linesOf(response: IncomingMessage): AsyncGenerator<string, void, void> {
  let parts: string[] = [];
  for await (const chunk of response.setEncoding('utf8') as AsyncIterable<string>) {
    const [first = '', ...others] = chunk.split('\n');
    parts.push(first);
    for (const next of others) {
      const line = parts.join('');
      parts = [next];
      if (line !== '') yield line;
    }
  }
  const last = parts.join('');
  if (last !== '') yield last;
}

/** The objects of an answer, one a line; undefined when it is anything else. */
export function jsonLines(text: string): readonly object[] | undefined {
  try {
    const lines = text.split('\n').filter((line) => line !== '');
    const items = lines.map((line) => JSON.parse(line) as unknown);
    const all = items.length > 0 && items.every((item) => typeof item === 'object' && item !== null);
    return all ? items : undefined;
  } catch {
    return undefined;
  }
}
