import { createHash, timingSafeEqual } from 'node:crypto';
import { Hono, type Context } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import * as z from 'zod';
import { messageOf, VarveError } from '../../core/errors.ts';
import { BindingBroker } from './binding-broker.ts';
import { audit, type BrokerDeps, type Caller } from './broker-deps.ts';
import { BrokerError } from './broker-error.ts';
import { InstanceBroker } from './instance-broker.ts';
import { catalogBody } from './service-catalog.ts';

export interface BrokerAppDeps extends BrokerDeps {
  /** HTTP basic authentication, as the platform was told. */
  readonly login: { readonly user: string; readonly password: string };
}

/** 2.13 is the oldest that platforms still speak; what came with later versions is optional for them. */
const OLDEST_MINOR = 13;
const MAX_BODY_BYTES = 256 * 1024;
const RETRY_AFTER_S = '5';

const object = z.record(z.string(), z.unknown());
const id = z.string().min(1).max(255);
/** Unknown fields are for others: they are passed over, as the specification says. */
const provisionBody = z.object({
  service_id: id,
  plan_id: id,
  organization_guid: id,
  space_guid: id,
  context: object.optional(),
  parameters: object.optional(),
  maintenance_info: z.object({ version: z.string() }).optional(),
});
const bindBody = z.object({
  service_id: id,
  plan_id: id,
  app_guid: id.optional(),
  bind_resource: object.optional(),
  context: object.optional(),
  parameters: object.optional(),
  predecessor_binding_id: id.optional(),
});

/**
 * The service broker as an HTTP application: Open Service Broker API 2.17, for mounting at the root of a server
 * of its own. Source: github.com/openservicebrokerapi/servicebroker, spec.md.
 */
export function brokerApp(deps: BrokerAppDeps): Hono {
  const instances = new InstanceBroker(deps);
  const bindings = new BindingBroker(deps, instances);
  const app = new Hono();
  app.use(async (context, next) => {
    const request = context.req.header('x-broker-api-request-identity');
    if (request !== undefined) context.header('x-broker-api-request-identity', request);
    requireLogin(context, deps.login);
    requireVersion(context);
    await next();
  });
  app.use(bodyLimit({ maxSize: MAX_BODY_BYTES, onError: tooLarge }));
  app.get('/v2/catalog', async (context) => context.json(catalogBody(await instances.catalog())));
  instanceRoutes(app, instances);
  bindingRoutes(app, bindings);
  app.notFound((context) =>
    context.json(
      { error: 'NotFound', description: `There is no ${context.req.method} ${context.req.path}.` },
      404,
    ),
  );
  app.onError(async (error, context) => {
    await auditFailure(deps, context, error);
    if (error instanceof BrokerError) {
      if (error.code === 'Unauthorized') context.header('www-authenticate', 'Basic realm="service broker"');
      return context.json(error.body(), error.status as 400);
    }
    return failure(deps, context, error);
  });
  return app;
}

function instanceRoutes(app: Hono, instances: InstanceBroker): void {
  const path = '/v2/service_instances/:instance';
  app.put(path, async (context) => {
    const body = await parsed(context, provisionBody);
    refuseParameters(body);
    const result = await instances.provision(
      idOf(context, 'instance'),
      {
        serviceId: body.service_id,
        planId: body.plan_id,
        organizationId: body.organization_guid,
        spaceId: body.space_guid,
        // `context` may change while the instance stays the same: an instance's name is part of it.
        compared: {
          service_id: body.service_id,
          plan_id: body.plan_id,
          organization_guid: body.organization_guid,
          space_guid: body.space_guid,
          parameters: body.parameters ?? {},
        },
      },
      { isAsync: acceptsIncomplete(context), caller: callerOf(context) },
    );
    if (result.kind === 'accepted') return context.json({ operation: result.operation }, 202);
    return context.json({}, result.kind === 'created' ? 201 : 200);
  });
  app.get(path, async (context) => {
    const { serviceId, planId } = await instances.instance(idOf(context, 'instance'));
    return context.json({ service_id: serviceId, plan_id: planId, parameters: {} });
  });
  app.patch(path, async (context) => {
    const body = await parsed(
      context,
      z.object({ service_id: id, plan_id: id.optional(), parameters: object.optional() }),
    );
    const instance = await instances.instance(idOf(context, 'instance'));
    refuseParameters(body);
    if (body.service_id !== instance.serviceId || (body.plan_id ?? instance.planId) !== instance.planId) {
      throw new BrokerError('UnsupportedChange', 'A service instance cannot change its plan.');
    }
    return context.json({});
  });
  app.delete(path, async (context) => {
    requireQuery(context);
    const accepted = await instances.deprovision(idOf(context, 'instance'), {
      isAsync: acceptsIncomplete(context),
      caller: callerOf(context),
    });
    return accepted ? context.json({ operation: accepted.operation }, 202) : context.json({});
  });
  app.get(`${path}/last_operation`, async (context) => {
    const { state, description } = await instances.lastOperation(
      idOf(context, 'instance'),
      context.req.query('operation'),
      callerOf(context),
    );
    if (state === 'in progress') context.header('retry-after', RETRY_AFTER_S);
    return context.json({ state, description });
  });
}

function bindingRoutes(app: Hono, bindings: BindingBroker): void {
  const path = '/v2/service_instances/:instance/service_bindings/:binding';
  const ids = (context: Context): { instanceId: string; bindingId: string } => ({
    instanceId: idOf(context, 'instance'),
    bindingId: idOf(context, 'binding'),
  });
  app.put(path, async (context) => {
    const body = await parsed(context, bindBody);
    refuseParameters(body);
    if (body.predecessor_binding_id !== undefined) {
      throw new BrokerError('BadRequest', 'Bindings are not rotated: make a new one and unbind the old one.');
    }
    const { created, credentials } = await bindings.bind(
      ids(context),
      {
        serviceId: body.service_id,
        planId: body.plan_id,
        compared: {
          service_id: body.service_id,
          plan_id: body.plan_id,
          app_guid: body.app_guid ?? null,
          bind_resource: body.bind_resource ?? {},
          parameters: body.parameters ?? {},
        },
      },
      callerOf(context),
    );
    return context.json(bindingBody(credentials), created ? 201 : 200);
  });
  app.get(path, async (context) => {
    const { instanceId, bindingId } = ids(context);
    return context.json({ ...bindingBody(await bindings.binding(instanceId, bindingId)), parameters: {} });
  });
  app.delete(path, async (context) => {
    requireQuery(context);
    const { instanceId, bindingId } = ids(context);
    await bindings.unbind(instanceId, bindingId, callerOf(context));
    return context.json({});
  });
  // Bindings are made and taken away at once, so there is no operation to ask for but the one that is done.
  app.get(`${path}/last_operation`, async (context) => {
    const { instanceId, bindingId } = ids(context);
    await bindings.binding(instanceId, bindingId);
    return context.json({ state: 'succeeded', description: 'the binding is ready' });
  });
}

function bindingBody(credentials: { readonly host: string; readonly port: number }): object {
  return {
    credentials,
    endpoints: [{ host: credentials.host, ports: [String(credentials.port)], protocol: 'tcp' }],
  };
}

/** @throws BrokerError BadRequest naming the field and the rule */
async function parsed<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  let json: unknown;
  try {
    json = await context.req.json();
  } catch (error) {
    if (error instanceof BrokerError) throw error;
    throw new BrokerError('BadRequest', `The body is not JSON: ${messageOf(error)}`);
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issues = result.error.issues.map(({ path, message }) => `${path.join('.') || 'body'}: ${message}`);
  throw new BrokerError('BadRequest', issues.join('; '));
}

function refuseParameters(body: {
  readonly parameters?: Readonly<Record<string, unknown>> | undefined;
  readonly maintenance_info?: unknown;
}): void {
  const names = Object.keys(body.parameters ?? {});
  if (names.length > 0) throw new BrokerError('BadRequest', `There is no parameter ${names.join(', ')}.`);
  if (body.maintenance_info !== undefined) {
    throw new BrokerError('MaintenanceInfoConflict', 'The catalog has no maintenance information.');
  }
}

function requireQuery(context: Context): void {
  for (const name of ['service_id', 'plan_id']) {
    if ((context.req.query(name) ?? '') === '') {
      throw new BrokerError('BadRequest', `The query has to have ${name}.`);
    }
  }
}

function acceptsIncomplete(context: Context): boolean {
  const value = context.req.query('accepts_incomplete');
  if (value === undefined || value === 'false') return false;
  if (value === 'true') return true;
  throw new BrokerError('BadRequest', 'accepts_incomplete has to be true or false.');
}

function idOf(context: Context, name: 'instance' | 'binding'): string {
  const value = context.req.param(name) ?? '';
  if (value !== '' && value.length <= 255 && !/\p{Cc}/u.test(value)) return value;
  throw new BrokerError('BadRequest', `The id of the ${name} has to have 1 to 255 printable characters.`);
}

/** @throws BrokerError Unauthorized */
function requireLogin(context: Context, login: BrokerAppDeps['login']): void {
  const [scheme, encoded] = (context.req.header('authorization') ?? '').split(' ');
  const given =
    scheme?.toLowerCase() === 'basic' ? Buffer.from(encoded ?? '', 'base64').toString('utf8') : '';
  if (sameText(given, `${login.user}:${login.password}`)) return;
  throw new BrokerError('Unauthorized', 'The service broker takes its user and password only.');
}

/** In a time that does not tell how much of it is right. */
export function sameText(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** @throws BrokerError BadRequest, PreconditionFailed */
function requireVersion(context: Context): void {
  const header = context.req.header('x-broker-api-version');
  if (header === undefined) {
    throw new BrokerError('BadRequest', 'The header X-Broker-API-Version is required: 2.17 is spoken here.');
  }
  const match = /^(\d+)\.(\d+)$/.exec(header.trim());
  if (match && Number(match[1]) === 2 && Number(match[2]) >= OLDEST_MINOR) return;
  throw new BrokerError(
    'PreconditionFailed',
    `Version ${JSON.stringify(header)} is not spoken here: use 2.17, or 2.${OLDEST_MINOR} at the least.`,
  );
}

/** @throws BrokerError BadRequest when the platform's word on its user cannot be read */
function callerOf(context: Context): Caller {
  const requestId = context.req.header('x-broker-api-request-identity')?.slice(0, 255);
  const header = context.req.header('x-broker-api-originating-identity');
  if (header === undefined) return { origin: undefined, requestId };
  const [platform, value] = header.trim().split(/\s+/);
  try {
    const user = object.parse(JSON.parse(Buffer.from(value ?? '', 'base64').toString('utf8')));
    return { origin: { platform, user }, requestId };
  } catch {
    throw new BrokerError(
      'BadRequest',
      'X-Broker-API-Originating-Identity has to be a platform and a JSON object in base64.',
    );
  }
}

/** Reading changes nothing; who is not let in fills no table. */
async function auditFailure(deps: BrokerDeps, context: Context, error: Error): Promise<void> {
  if (context.req.method === 'GET') return;
  if (
    error instanceof BrokerError &&
    ['Unauthorized', 'PreconditionFailed', 'BadRequest'].includes(error.code)
  )
    return;
  try {
    const caller = callerOf(context);
    await deps.control.withConnection((connection) =>
      audit(deps, connection, {
        ...caller,
        action: `${context.req.method} ${context.req.path.includes('/service_bindings/') ? 'binding' : 'instance'}`,
        target: context.req.path.split('/').at(-1) ?? '',
        outcome: error instanceof BrokerError ? 'refused' : 'error',
        detail: { description: error.message },
      }),
    );
  } catch (second) {
    deps.log.warn({ error: messageOf(second) }, 'a failed request could not be written to the audit');
  }
}

function failure(deps: BrokerDeps, context: Context, error: Error): Response {
  deps.log.error({ error, path: context.req.path }, 'a request to the service broker failed');
  if (!(error instanceof VarveError)) {
    return context.json({ error: 'Internal', description: 'This request met a bug; the log has more.' }, 500);
  }
  // A platform takes 4xx as "nothing was changed", which is not known here.
  const status = error.httpStatus >= 500 ? error.httpStatus : 500;
  return context.json({ error: error.code, description: error.message }, status as 500);
}

function tooLarge(context: Context): never {
  // The rest of the body is not read, so nothing else can come over this connection.
  context.header('connection', 'close');
  throw new BrokerError('BadRequest', `The body has more than ${MAX_BODY_BYTES} bytes.`);
}
