import { fileURLToPath } from 'node:url';
import { PACKAGE_ROOT } from '../core/package-root.ts';
import { serveStatic } from '@hono/node-server/serve-static';
import { Hono, type Context } from 'hono';
import { streamSSE } from 'hono/streaming';
import type { Registry } from 'prom-client';
import { messageOf, VarveError } from '../core/errors.ts';
import type { EventFeed } from './event-feed.ts';
import type { GroupControl } from './group-control.ts';
import { groupRoutes } from './group-routes.ts';
import type { NodeStatus } from './node-status.ts';
import type { StorageMap } from './storage-map.ts';
import type { DashboardView } from './system-view.ts';

/** The dashboard; `web/` stands beside both `src/` and `dist/`. */
const WEB_FOLDER = fileURLToPath(new URL('web/', PACKAGE_ROOT));

export interface HttpDeps {
  readonly status: () => NodeStatus;
  /** Of all nodes that this one knows. */
  readonly system: () => Promise<DashboardView>;
  /** Of their storage engines. */
  readonly maps: () => Promise<readonly StorageMap[]>;
  readonly feed: EventFeed;
  readonly metrics: Registry;
  /** Of a member of a group, once it is one. */
  readonly group?: (() => GroupHttp | undefined) | undefined;
  readonly onBug: (error: unknown) => void;
  /** Ends streams that are open. */
  readonly signal: AbortSignal;
}

/** What a member of a group answers. */
export interface GroupHttp {
  readonly control: GroupControl;
  /** Paths below `/health`, `/databases` and `/v2`. */
  readonly jobs: Hono;
}

const HEARTBEAT_MS = 15_000;

/**
 * The HTTP routes that every node has. Errors are `{code, sqlstate, message, detail, hint}` with the status
 * that the registry of errors gives.
 */
export function httpApp(deps: HttpDeps): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    refuseForeignHost(context);
    await next();
  });
  app.get('/', serveStatic({ root: WEB_FOLDER, path: 'index.html' }));
  app.get(
    '/web/*',
    serveStatic({ root: WEB_FOLDER, rewriteRequestPath: (path) => path.slice('/web'.length) }),
  );
  app.get('/healthz', (context) => context.json({ status: 'alive' }));
  app.get('/readyz', (context) => {
    const { state, reasons } = deps.status();
    return context.json({ ready: state === 'ready', reasons }, state === 'ready' ? 200 : 503);
  });
  app.get('/metrics', async (context) =>
    context.body(await deps.metrics.metrics(), 200, { 'content-type': deps.metrics.contentType }),
  );
  app.get('/api/status', (context) => context.json(deps.status()));
  app.get('/api/system', async (context) => context.json(await deps.system()));
  app.get('/api/system/maps', async (context) => context.json(await deps.maps()));
  app.get('/api/events', (context) => events(context, deps));
  const { group } = deps;
  if (group) {
    app.route(
      '/api/cluster',
      groupRoutes(() => group()?.control),
    );
    for (const path of ['/health/*', '/databases/*', '/databases', '/v2/*']) {
      app.all(path, (context) => group()?.jobs.fetch(context.req.raw) ?? context.notFound());
    }
  }
  app.notFound((context) => {
    throw new VarveError('NOT_FOUND', `there is no ${context.req.method} ${context.req.path} here`, {
      hint: 'There are GET /, /healthz, /readyz, /metrics, /api/status, /api/system and /api/events.',
    });
  });
  app.onError((error, context) => {
    const known = error instanceof VarveError ? error : internal(error, deps);
    return context.json(known.toJSON(), known.httpStatus as 400);
  });
  return app;
}

function internal(error: unknown, deps: HttpDeps): VarveError {
  deps.onBug(error);
  return new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`, {
    hint: "The node's log has the stack.",
  });
}

/**
 * A page from elsewhere could make a browser on this machine ask us under a name of its own (DNS rebinding)
 * and read the answer: only names of this machine are answered.
 */
function refuseForeignHost(context: Context): void {
  const host = (context.req.header('host') ?? '').replace(/:\d+$/, '');
  if (['127.0.0.1', 'localhost', '[::1]'].includes(host)) return;
  throw new VarveError('INVALID_ARGUMENT', `the Host header names "${host}", which is not this machine`, {
    hint: 'Ask for 127.0.0.1 or localhost.',
  });
}

function events(context: Context, deps: HttpDeps): Response {
  const lastId = context.req.header('last-event-id');
  return streamSSE(context, async (stream) => {
    const gone = new AbortController();
    stream.onAbort(() => gone.abort());
    const signal = AbortSignal.any([gone.signal, deps.signal]);
    for await (const item of deps.feed.read(lastId, { heartbeatMs: HEARTBEAT_MS, signal })) {
      if (item) await stream.writeSSE({ id: item.id, event: 'run', data: JSON.stringify(item.event) });
      else await stream.write(': still here\n\n');
    }
  });
}
