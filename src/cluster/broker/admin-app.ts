import { Hono, type Context } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import * as z from 'zod';
import { messageOf, VarveError } from '../../core/errors.ts';
import { sameText } from './broker-app.ts';
import { assignment } from './instances.ts';
import type { ServiceCluster } from './service-cluster.ts';

export interface AdminAppDeps {
  readonly pool: ServiceCluster;
  /** What the manager's members show to be let in; from a file of mode 0600 that all share. */
  readonly token: string;
  readonly onBug: (error: unknown) => void;
}

const MAX_BODY_BYTES = 64 * 1024;
const bindBody = z.object({ verifier: z.string().min(1).max(1024) });

/**
 * What a service group offers its manager, for mounting below `/databases` of a node's HTTP server. Any member
 * answers: all of them work on the write master's control database. No password travels over it, only verifiers.
 */
export function adminApp({ pool, token, onBug }: AdminAppDeps): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    if (!sameText(context.req.header('authorization') ?? '', `Bearer ${token}`)) {
      throw new VarveError(
        'ADMIN_TOKEN_WRONG',
        'the token for the administration of databases is missing or wrong',
      );
    }
    await next();
  });
  app.use(
    bodyLimit({
      maxSize: MAX_BODY_BYTES,
      onError: () => {
        throw new VarveError('INVALID_ARGUMENT', `the body has more than ${MAX_BODY_BYTES} bytes`);
      },
    }),
  );
  app.get('/', async (context) => context.json({ service: pool.service, databases: await pool.databases() }));
  app.get('/available', async (context) =>
    context.json({ service: pool.service, databases: await pool.available() }),
  );
  app.put('/assign', async (context) => {
    const database = await pool.assign(await parsed(context, assignment));
    return context.json({ database: database ?? null });
  });
  app.get('/:database', async (context) =>
    context.json({ database: (await pool.database(context.req.param('database'))) ?? null }),
  );
  app.delete('/decommission/:database', async (context) =>
    context.json({ database: await pool.release(context.req.param('database')) }),
  );
  app.put('/:database/bindings/:role', async (context) => {
    const { verifier } = await parsed(context, bindBody);
    return context.json(await pool.bind(context.req.param('database'), context.req.param('role'), verifier));
  });
  app.delete('/:database/bindings/:role', async (context) => {
    await pool.unbind(context.req.param('database'), context.req.param('role'));
    return context.json({});
  });
  app.onError((error, context) => {
    if (error instanceof VarveError) return context.json(error.toJSON(), error.httpStatus as 400);
    onBug(error);
    const bug = new VarveError('INTERNAL', `this request met a bug: ${messageOf(error)}`);
    return context.json(bug.toJSON(), 500);
  });
  return app;
}

async function parsed<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  const result = schema.safeParse(await context.req.json().catch(() => undefined));
  if (result.success) return result.data;
  throw new VarveError('INVALID_ARGUMENT', 'the body is not what this address takes', {
    detail: result.error.issues
      .map(({ path, message }) => `${path.join('.') || 'body'}: ${message}`)
      .join('\n'),
  });
}
