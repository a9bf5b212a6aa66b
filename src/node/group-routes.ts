import { Hono, type Context } from 'hono';
import * as z from 'zod';
import { VarveError } from '../core/errors.ts';
import type { GroupAction, GroupControl } from './group-control.ts';

const name = z.string().regex(/^[a-z][a-z0-9-]{0,39}$/, 'not the name of a node');
const database = z.string().min(1).max(63);

const action = z.discriminatedUnion('kind', [
  z.object({ kind: z.enum(['switchover', 'leave', 'reinit']), node: name.optional() }),
  z.object({ kind: z.literal('replace'), node: name, by: name }),
  z.object({ kind: z.literal('backup'), database: database.optional() }),
  z.object({ kind: z.literal('restore'), database, from: z.string().min(1), into: database.optional() }),
]);

const setting = z.object({ name: z.string().regex(/^[a-z_][a-z0-9_.]*$/i), value: z.string().nullable() });

/**
 * `/api/cluster`: what `varve cluster` asks of a member. Only JSON is taken, which no page from elsewhere can
 * send without asking first.
 */
export function groupRoutes(control: () => GroupControl | undefined): Hono {
  const app = new Hono();
  const group = (): GroupControl => {
    const present = control();
    if (present) return present;
    throw new VarveError('NOT_IN_GROUP', 'this node is in no group, or has not come up to that yet', {
      hint: 'Ask an access node that was started with "cluster"; varve status shows what this one is doing.',
    });
  };
  app.get('/', async (context) => context.json(await group().status()));
  app.get('/plan', async (context) => context.json({ steps: await group().plan(context.req.raw.signal) }));
  app.post('/requests', async (context) => {
    const wanted = (await body(context, action)) as GroupAction;
    return context.json(await group().act(wanted, asker(context)), 202);
  });
  app.get('/requests', async (context) => context.json({ requests: await group().requests() }));
  app.post('/requests/:id/cancel', async (context) => {
    await body(context, z.object({}));
    return context.json(await group().cancel(context.req.param('id'), asker(context)));
  });
  app.get('/requests/:id', async (context) => context.json(await group().request(context.req.param('id'))));
  app.post('/pause', async (context) => {
    await body(context, z.object({}));
    await group().pause(asker(context));
    return context.json({ paused: true });
  });
  app.post('/resume', async (context) => {
    await body(context, z.object({}));
    await group().resume(asker(context));
    return context.json({ paused: false });
  });
  app.get('/config', async (context) => context.json(await group().config()));
  app.put('/config', async (context) => {
    const { name, value } = await body(context, setting);
    return context.json(await group().setConfig(name, value ?? undefined));
  });
  app.get('/backups', async (context) => context.json({ backups: await group().backups() }));
  return app;
}

/** For the audit: who asks, by his own word. */
function asker(context: Context): string {
  return (context.req.header('x-varve-user') ?? 'http').slice(0, 100);
}

async function body<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  if (context.req.header('content-type')?.split(';')[0]?.trim() !== 'application/json') {
    throw new VarveError('INVALID_ARGUMENT', 'this takes a body of JSON', {
      hint: 'Send content-type: application/json.',
    });
  }
  const json: unknown = await context.req.json().catch(() => undefined);
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new VarveError('INVALID_ARGUMENT', 'the body is not what is taken here', {
    detail: parsed.error.issues
      .map(({ path, message }) => `${path.join('.') || 'body'}: ${message}`)
      .join('\n'),
  });
}
