import { type Api, type ApiReply, type ApiRequest, BadRequest, type Route } from './embedded-api.ts';
import {
  agentSelf,
  catalogService,
  catalogServices,
  deregisterService,
  healthService,
  healthState,
  markCheck,
  registerService,
  statusLeader,
  updateCheck,
} from './embedded-catalog-routes.ts';
import { deleteKv, getKv, putKv, putTxn } from './embedded-kv-routes.ts';
import {
  createSession,
  destroySession,
  renewSession,
  sessionInfo,
  sessionList,
  sessionsOfNode,
} from './embedded-session-routes.ts';

/** A path that ends in a slash goes on with a key, an id or a name. */
const ROUTES: readonly (readonly [method: string, path: string, route: Route])[] = [
  ['GET', '/v1/status/leader', statusLeader],
  ['GET', '/v1/agent/self', agentSelf],
  ['PUT', '/v1/session/create', createSession],
  ['PUT', '/v1/session/renew/', renewSession],
  ['PUT', '/v1/session/destroy/', destroySession],
  ['GET', '/v1/session/info/', sessionInfo],
  ['GET', '/v1/session/list', sessionList],
  ['GET', '/v1/session/node/', sessionsOfNode],
  ['GET', '/v1/kv/', getKv],
  ['PUT', '/v1/kv/', putKv],
  ['DELETE', '/v1/kv/', deleteKv],
  ['PUT', '/v1/txn', putTxn],
  ['PUT', '/v1/agent/service/register', registerService],
  ['PUT', '/v1/agent/service/deregister/', deregisterService],
  ['PUT', '/v1/agent/check/update/', updateCheck],
  ['PUT', '/v1/agent/check/pass/', markCheck('passing')],
  ['PUT', '/v1/agent/check/warn/', markCheck('warning')],
  ['PUT', '/v1/agent/check/fail/', markCheck('critical')],
  ['GET', '/v1/catalog/services', catalogServices],
  ['GET', '/v1/catalog/service/', catalogService],
  ['GET', '/v1/health/service/', healthService],
  ['GET', '/v1/health/state/', healthState],
];

/** Finds the route and calls it; what is wrong with the request becomes a reply. */
export async function dispatch(
  api: Api,
  method: string,
  url: URL,
  rest: Omit<ApiRequest, 'rest' | 'query'>,
): Promise<ApiReply> {
  const found = ROUTES.filter(([, path]) =>
    path.endsWith('/') ? url.pathname.startsWith(path) : url.pathname === path,
  );
  if (found.length === 0) return { status: 404, text: `Invalid URL path: ${url.pathname}` };
  const route = found.find(([allowed]) => allowed === method);
  if (!route) return { status: 405, text: `method ${method} not allowed` };
  try {
    const tail = decodeURIComponent(url.pathname.slice(route[1].length));
    return await route[2](api, { ...rest, rest: tail, query: url.searchParams });
  } catch (error) {
    if (error instanceof BadRequest) return { status: error.status, text: error.message };
    if (error instanceof URIError) return { status: 400, text: 'Invalid URL path' };
    throw error;
  }
}
