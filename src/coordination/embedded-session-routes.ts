import * as z from 'zod';
import {
  type Api,
  type ApiReply,
  type ApiRequest,
  BadRequest,
  DEFAULT_LOCK_DELAY_MS,
  MAX_LOCK_DELAY_MS,
  MAX_TTL_MS,
  parseJson,
} from './embedded-api.ts';
import { readBlocking } from './embedded-blocking.ts';
import { parseDurationMs } from './duration.ts';
import type { SessionRow } from './embedded-store.ts';

const NODE_CHECKS = ['serfHealth'];

const sessionShape = z.object({
  Name: z.string().nullish(),
  Node: z.string().nullish(),
  TTL: z.string().nullish(),
  LockDelay: z.union([z.string(), z.number()]).nullish(),
  Behavior: z.enum(['', 'release', 'delete']).nullish(),
  Checks: z.array(z.string()).nullish(),
  NodeChecks: z.array(z.string()).nullish(),
});

/** `PUT /v1/session/create`. */
export function createSession(api: Api, { body }: ApiRequest): ApiReply {
  const parsed = sessionShape.safeParse(body.length === 0 ? {} : parseJson(body));
  if (!parsed.success) throw new BadRequest(`Request decode failed: ${z.prettifyError(parsed.error)}`);
  const { Name, Node, TTL, LockDelay, Behavior, Checks, NodeChecks } = parsed.data;
  const unknown = [...(Checks ?? []), ...(NodeChecks ?? [])].find((id) => !NODE_CHECKS.includes(id));
  if (unknown !== undefined) throw new BadRequest(`Missing check '${unknown}' registration`, 500);
  if (Node && Node !== api.node) throw new BadRequest('Missing node registration', 500);
  const ttl = TTL ?? '';
  const ttlMs = parseDurationMs(ttl === '' ? '0' : ttl);
  if (ttlMs === undefined) throw new BadRequest(`Session TTL '${ttl}' invalid`, 500);
  if (ttlMs !== 0 && (ttlMs < api.minTtlMs || ttlMs > MAX_TTL_MS)) {
    throw new BadRequest(
      `Invalid Session TTL '${ttlMs}ms', must be between [${api.minTtlMs}ms=${MAX_TTL_MS}ms]`,
      500,
    );
  }
  const id = api.newId();
  api.submit({
    kind: 'session-create',
    session: {
      id,
      name: Name ?? '',
      node: api.node,
      ttl,
      ttlMs,
      lockDelayMs: lockDelayMs(LockDelay ?? undefined),
      behavior: Behavior === 'delete' ? 'delete' : 'release',
    },
  });
  return { status: 200, json: { ID: id } };
}

/** `PUT /v1/session/renew/ID`. */
export function renewSession(api: Api, { rest }: ApiRequest): ApiReply {
  required(rest);
  const session = api.store.renewSession(rest, api.nowMs()) ? api.store.sessions.get(rest) : undefined;
  return session
    ? { status: 200, json: [sessionJson(session)] }
    : { status: 404, text: `Session id '${rest}' not found` };
}

/** `PUT /v1/session/destroy/ID`. */
export function destroySession(api: Api, { rest }: ApiRequest): ApiReply {
  required(rest);
  api.submit({ kind: 'session-destroy', id: rest });
  return { status: 200, json: true };
}

/** `GET /v1/session/info/ID`. */
export async function sessionInfo(api: Api, request: ApiRequest): Promise<ApiReply> {
  required(request.rest);
  return sessionsWhere(api, request, ({ id }) => id === request.rest);
}

/** `GET /v1/session/list`. */
export async function sessionList(api: Api, request: ApiRequest): Promise<ApiReply> {
  return sessionsWhere(api, request, () => true);
}

/** `GET /v1/session/node/NODE`. */
export async function sessionsOfNode(api: Api, request: ApiRequest): Promise<ApiReply> {
  return sessionsWhere(api, request, ({ node }) => node === request.rest);
}

async function sessionsWhere(
  api: Api,
  request: ApiRequest,
  matches: (session: SessionRow) => boolean,
): Promise<ApiReply> {
  await readBlocking(api, request, (topic) => topic === 'session');
  const found = [...api.store.sessions.values()].filter(matches);
  return { status: 200, json: found.map(sessionJson), index: api.store.index };
}

function required(id: string): void {
  if (id === '') throw new BadRequest('Missing session');
}

/** A number, in a string or not, is nanoseconds; but below 1,000 people mean seconds, as Consul knows. */
function lockDelayMs(given: string | number | undefined): number {
  if (given === undefined) return DEFAULT_LOCK_DELAY_MS;
  const nanoseconds = typeof given === 'number' ? given : (parseDurationMs(given) ?? NaN) * 1e6;
  if (!(nanoseconds >= 0)) throw new BadRequest(`Request decode failed: invalid LockDelay '${given}'`);
  const ms = nanoseconds < 1000 ? nanoseconds * 1000 : nanoseconds / 1e6;
  return Math.min(ms, MAX_LOCK_DELAY_MS);
}

function sessionJson(session: SessionRow): object {
  return {
    ID: session.id,
    Name: session.name,
    Node: session.node,
    LockDelay: session.lockDelayMs * 1e6,
    Behavior: session.behavior,
    TTL: session.ttl,
    NodeChecks: [],
    ServiceChecks: null,
    CreateIndex: session.createIndex,
    ModifyIndex: session.createIndex,
  };
}
