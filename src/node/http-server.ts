import { getRequestListener } from '@hono/node-server';
import type { Hono } from 'hono';
import { listen, type HttpServer, type Handles } from './listen.ts';

export type { HttpServer } from './listen.ts';

/**
 * Serves `app`; what `first` takes goes past it.
 * @throws PORT_IN_USE
 */
export function serveHttp(
  app: Hono,
  options: { readonly port: number; readonly host?: string; readonly first?: Handles },
): Promise<HttpServer> {
  const listener = getRequestListener(app.fetch);
  const { first } = options;
  return listen((request, response) => {
    if (first?.(request, response)) return;
    void listener(request, response);
  }, options);
}
