import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import type { Hono } from 'hono';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GroupStage, quiet } from '../../../test/group-nodes.ts';
import { Connection } from '../../postgres/connection.ts';
import { testControl, testLog, type TestControl } from '../tasks/control.suite.ts';
import { GroupWork } from '../tasks/group-work.ts';
import { systemClock } from '../../core/clock.ts';
import { adminApp } from './admin-app.ts';
import { brokerApp, type BrokerAppDeps } from './broker-app.ts';
import { CoordinatorServiceClusters, HttpServiceCluster } from './http-service-cluster.ts';
import { reconcileActions } from './reconcile-actions.ts';
import { testServiceGroup, type TestServiceGroup } from './service-group.suite.ts';

/**
 * A platform, a manager with the broker, and a service group of one server: between them real HTTP, behind them
 * real PostgreSQL.
 */
const TOKEN = 'token-of-manager-and-service-groups';
const LOGIN = { user: 'platform', password: 'secret of the platform' };

let stage: GroupStage;
let group: TestServiceGroup;
let manager: TestControl;
let deps: BrokerAppDeps;
let url: string;
let clusters: CoordinatorServiceClusters;
let serviceId: string;
let planId: string;
let otherPlanId: string;
const servers: Server[] = [];
const log = testLog();

async function serve(app: Hono, path = ''): Promise<string> {
  const listener = getRequestListener(app.fetch);
  const server = createServer((request, response) => void listener(request, response));
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  servers.push(server);
  const address = server.address();
  return `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}${path}`;
}

beforeAll(async () => {
  stage = await GroupStage.open(1);
  group = await testServiceGroup(stage, 1, 'service1');
  await group.control.withConnection((connection) =>
    connection.query(
      `update rdpg.config set value = case key when 'poolSize' then '3' else 'pg_trgm' end
        where key in ('poolSize', 'databaseExtensions')`,
    ),
  );
  const { Hono } = await import('hono');
  const mounted = new Hono();
  mounted.route(
    '/databases',
    adminApp({ pool: group.pool, token: TOKEN, onBug: (error) => log.error({ error }, 'bug') }),
  );
  const httpUrl = await serve(mounted);
  await group.contexts[0]?.keys.members.at('n1').update((record) => record && { ...record, httpUrl });
  manager = await testControl({ cluster: 'main', kind: 'manager' }, group.key.fingerprint);
  clusters = new CoordinatorServiceClusters(stage.coordinator(), TOKEN);
  deps = {
    control: manager.control,
    clusters,
    key: group.key,
    log,
    cluster: 'main',
    node: 'm1',
    login: LOGIN,
    provisionTimeoutMs: 60_000,
  };
  url = await serve(brokerApp(deps));
  const { body } = await call('GET', '/v2/catalog');
  const [service] = (body as { services: { id: string; plans: { id: string; name: string }[] }[] }).services;
  serviceId = service?.id ?? '';
  planId = service?.plans.find(({ name }) => name === 'shared-nr')?.id ?? '';
  otherPlanId = service?.plans.find(({ name }) => name === 'shared')?.id ?? '';
});

afterAll(async () => {
  for (const server of servers) {
    server.close();
    server.closeAllConnections();
  }
  await manager?.[Symbol.asyncDispose]();
  await group?.[Symbol.asyncDispose]();
  await stage[Symbol.asyncDispose]();
});

interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly headers: Headers;
}

async function call(
  method: string,
  path: string,
  more: {
    readonly body?: unknown;
    readonly headers?: Record<string, string | undefined>;
    readonly base?: string;
  } = {},
): Promise<Answer> {
  const headers = new Headers({
    'x-broker-api-version': '2.17',
    authorization: `Basic ${Buffer.from(`${LOGIN.user}:${LOGIN.password}`).toString('base64')}`,
    'content-type': 'application/json',
  });
  for (const [name, value] of Object.entries(more.headers ?? {})) {
    if (value === undefined) headers.delete(name);
    else headers.set(name, value);
  }
  const response = await fetch(`${more.base ?? url}${path}`, {
    method,
    headers,
    ...(more.body === undefined
      ? {}
      : { body: typeof more.body === 'string' ? more.body : JSON.stringify(more.body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    body: text === '' ? undefined : JSON.parse(text),
    headers: response.headers,
  };
}

/** The specification's example, with the ids of this catalog. */
const provisionBody = (more: object = {}): object => ({
  service_id: serviceId,
  plan_id: planId,
  context: { platform: 'cloudfoundry', some_field: 'some-contextual-data' },
  organization_guid: 'org-guid-here',
  space_guid: 'space-guid-here',
  ...more,
});
const bindBody = (more: object = {}): object => ({
  context: { platform: 'cloudfoundry', some_field: 'some-contextual-data' },
  service_id: serviceId,
  plan_id: planId,
  bind_resource: { app_guid: 'app-guid-here' },
  ...more,
});
const query = (): string => `service_id=${serviceId}&plan_id=${planId}`;
const instance = (id: string): string => `/v2/service_instances/${id}`;
const binding = (id: string, of: string): string => `${instance(of)}/service_bindings/${id}`;

interface Credentials {
  readonly uri: string;
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
}
const credentialsOf = ({ body }: Answer): Credentials => (body as { credentials: Credentials }).credentials;

function login({ host, port, username, password, database }: Credentials): Promise<Connection> {
  return Connection.open({ host, port, user: username, password, database }, { connectTimeoutMs: 5_000 });
}

/** The tasks of both groups. */
async function reconcile(action: string): Promise<unknown> {
  const work = new GroupWork(
    {
      log: quiet,
      clock: systemClock,
      control: manager.control,
      actions: reconcileActions(clusters),
      role: () => 'read',
      members: () => ['m1'],
    },
    { node: 'm1', shape: manager.shape },
  );
  await work.queue.add({ action });
  await work.workOnce();
  return manager.connection.one(
    'select outcome, error, result from tasks.history where action = $1 order by finished_at desc limit 1',
    [action],
  );
}

describe('every request', () => {
  test('is let in with the platform’s login only', async () => {
    for (const authorization of [
      undefined,
      'Basic',
      `Basic ${Buffer.from('platform:x').toString('base64')}`,
      'Bearer x',
    ]) {
      const answer = await call('GET', '/v2/catalog', { headers: { authorization } });
      expect(answer).toMatchObject({ status: 401, body: { error: 'Unauthorized' } });
      expect(answer.headers.get('www-authenticate')).toContain('Basic');
    }
  });

  test.each([
    [undefined, 400],
    ['1.0', 412],
    ['2.0', 412],
    ['3.0', 412],
    ['2.x', 412],
    ['2.13', 200],
    ['2.17', 200],
    ['2.99', 200],
  ])('says its version: %s gives %i', async (version, status) => {
    const answer = await call('GET', '/v2/catalog', { headers: { 'x-broker-api-version': version } });
    expect(answer.status).toBe(status);
    if (status !== 200)
      expect(answer.body).toMatchObject({ description: expect.stringContaining('2.17') as string });
  });

  test('gets its identity back', async () => {
    const headers = { 'x-broker-api-request-identity': 'e26cee84-6b38-4456-b34e-d1a9f002c956' };
    for (const path of ['/v2/catalog', '/nowhere']) {
      expect((await call('GET', path, { headers })).headers.get('x-broker-api-request-identity')).toBe(
        headers['x-broker-api-request-identity'],
      );
    }
  });

  test.each([
    ['no JSON', 'PUT', '{', /not JSON/],
    ['a field that is missing', 'PUT', { service_id: 'x' }, /plan_id/],
    ['a field of another kind', 'PUT', { service_id: 1 }, /service_id/],
    ['an empty id', 'PUT', { service_id: '' }, /service_id/],
    [
      'a plan of no service',
      'PUT',
      { plan_id: 'nope', service_id: 'nope', organization_guid: 'o', space_guid: 's' },
      /catalog/,
    ],
    ['an unknown parameter', 'PUT', 'parameters', /parameter1/],
    ['a body beyond its limit', 'PUT', JSON.stringify({ x: 'x'.repeat(300_000) }), /bytes/],
  ])('with %s is refused by name', async (_, method, body, description) => {
    const sent = body === 'parameters' ? provisionBody({ parameters: { parameter1: 1 } }) : body;
    const answer = await call(method, instance('bad'), { body: sent });
    expect(answer).toMatchObject({
      status: 400,
      body: { description: expect.stringMatching(description) as string },
    });
  });

  test('with an unreadable user is refused; accepts_incomplete is true or false', async () => {
    const headers = { 'x-broker-api-originating-identity': 'cloudfoundry !!!' };
    expect((await call('DELETE', `${instance('x')}?${query()}`, { headers })).status).toBe(400);
    expect((await call('DELETE', `${instance('x')}?${query()}&accepts_incomplete=maybe`)).status).toBe(400);
    expect((await call('DELETE', instance('x'))).status).toBe(400);
  });
});

test('the catalog has what the specification requires', async () => {
  const { status, body } = await call('GET', '/v2/catalog');
  expect(status).toBe(200);
  expect(body).toMatchObject({
    services: [
      {
        name: 'postgres',
        id: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
        description: expect.stringMatching(/./) as string,
        bindable: true,
        instances_retrievable: true,
        bindings_retrievable: true,
        plan_updateable: false,
        plans: [
          { name: 'shared', free: true, description: expect.stringMatching(/./) as string },
          { name: 'shared-nr', free: true },
        ],
      },
    ],
  });
});

describe('an instance', () => {
  test('waits for the pool where the platform waits, and is refused where not', async () => {
    const refused = await call('PUT', instance('i1'), { body: provisionBody() });
    expect(refused).toMatchObject({ status: 422, body: { error: 'AsyncRequired' } });
    expect((await call('GET', `${instance('i1')}/last_operation`)).body).toMatchObject({ state: 'failed' });
    const path = `${instance('i1')}?accepts_incomplete=true`;
    const accepted = await call('PUT', path, { body: provisionBody() });
    expect(accepted.status).toBe(202);
    expect(await call('PUT', path, { body: provisionBody() })).toMatchObject({
      status: 202,
      body: accepted.body as object,
    });
    expect((await call('PUT', path, { body: provisionBody({ space_guid: 'other' }) })).status).toBe(409);
    expect((await call('GET', instance('i1'))).status).toBe(404);
    expect((await call('PUT', binding('b1', 'i1'), { body: bindBody() })).status).toBe(404);
    const { operation } = accepted.body as { operation: string };
    const poll = `${instance('i1')}/last_operation?${query()}&operation=${encodeURIComponent(operation)}`;
    const waiting = await call('GET', poll);
    expect(waiting).toMatchObject({
      status: 200,
      body: { state: 'in progress', description: expect.stringMatching(/./) as string },
    });
    expect(waiting.headers.get('retry-after')).toMatch(/^\d+$/);

    expect(await group.task('PrecreateDatabases')).toMatchObject({ outcome: 'done', error: null });
    expect((await call('GET', poll)).body).toMatchObject({ state: 'succeeded' });
    expect((await call('GET', poll)).body).toMatchObject({ state: 'succeeded' });
    expect((await call('GET', instance('i1'))).body).toMatchObject({
      service_id: serviceId,
      plan_id: planId,
    });
  });

  test('is 201 when it is new, 200 when it is the same, 409 when it is another', async () => {
    const origin = { user_id: '683ea748-3092-4ff4-b656-39cacc4d5360' };
    const headers = {
      'x-broker-api-originating-identity': `cloudfoundry ${Buffer.from(JSON.stringify(origin)).toString('base64')}`,
      'x-broker-api-request-identity': 'request-1',
    };
    expect(await call('PUT', instance('i2'), { body: provisionBody(), headers })).toMatchObject({
      status: 201,
      body: {},
    });
    expect((await call('PUT', instance('i2'), { body: provisionBody() })).status).toBe(200);
    // Context is the platform's own matter, and unknown fields are passed over.
    expect(
      (await call('PUT', instance('i2'), { body: provisionBody({ context: {}, x_vendor: 1 }) })).status,
    ).toBe(200);
    for (const other of [{ space_guid: 'x' }, { organization_guid: 'x' }, { plan_id: otherPlanId }]) {
      expect(await call('PUT', instance('i2'), { body: provisionBody(other) })).toMatchObject({
        status: 409,
        body: { error: 'Conflict' },
      });
    }
    const { rows } = await manager.connection.query(
      `select action, outcome, origin, request_id, actor from audit.log where target = 'i2' order by at limit 1`,
    );
    expect(rows).toEqual([
      {
        action: 'provision',
        outcome: 'ok',
        actor: 'broker',
        origin: { platform: 'cloudfoundry', user: origin },
        request_id: 'request-1',
      },
    ]);
  });

  test('asked for many times at once is one', async () => {
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        call('PUT', `${instance('i3')}?accepts_incomplete=true`, { body: provisionBody() }),
      ),
    );
    const statuses = answers.map(({ status }) => status);
    expect(statuses.every((status) => [200, 201, 422].includes(status))).toBe(true);
    expect(statuses.filter((status) => status === 201)).toHaveLength(1);
    const { rows } = await group.control.withConnection((connection) =>
      connection.query(`select 1 from cfsb.instances where instance_id = 'i3'`),
    );
    expect(rows).toHaveLength(1);
  });

  test('that comes to be between the look of another request and its begin is that request’s, too', async () => {
    await group.control.withConnection((connection) =>
      connection.query(`update rdpg.config set value = '1' where key = 'poolSize'`),
    );
    await group.task('PrecreateDatabases');
    const path = `${instance('i3a')}?accepts_incomplete=true`;
    let reads = 0;
    const control: typeof deps.control = {
      transaction: (work) => manager.control.transaction(work),
      // The catalog is read first, then what there is of the instance.
      async withConnection(work) {
        const result = await manager.control.withConnection(work);
        reads += 1;
        if (reads === 2) expect((await call('PUT', path, { body: provisionBody() })).status).toBe(201);
        return result;
      },
    };
    const base = await serve(brokerApp({ ...deps, control }));
    expect((await call('PUT', path, { body: provisionBody(), base })).status).toBe(200);
    expect((await call('PUT', path, { body: provisionBody() })).status).toBe(200);
  });

  test('whose provisioning is cut off by a crash gets the database that it has been given', async () => {
    // The service group has assigned, and the broker died before it wrote that down.
    await group.task('PrecreateDatabases');
    const [free] = await group.pool.available();
    const path = `${instance('i4')}?accepts_incomplete=true`;
    await group.control.withConnection((connection) =>
      connection.query(`update cfsb.instances set effective_at = null where dbname = $1`, [free?.database]),
    );
    expect((await call('PUT', path, { body: provisionBody() })).status).toBe(202);
    await group.control.withConnection((connection) =>
      connection.query(`update cfsb.instances set effective_at = now() where dbname = $1`, [free?.database]),
    );
    await group.pool.assign({
      instanceId: 'i4',
      serviceId,
      planId,
      organizationId: 'org-guid-here',
      spaceId: 'space-guid-here',
      request: {
        service_id: serviceId,
        plan_id: planId,
        organization_guid: 'org-guid-here',
        space_guid: 'space-guid-here',
        parameters: {},
      },
    });
    expect((await call('PUT', path, { body: provisionBody() })).status).toBe(201);
    expect((await call('PUT', path, { body: provisionBody() })).status).toBe(200);
    const { database } = await manager.connection.one<{ database: string }>(
      `select dbname as database from cfsb.instances where instance_id = 'i4'`,
    );
    expect(database).toBe(free?.database);
  });

  test('does not change its plan', async () => {
    const body = { service_id: serviceId, plan_id: otherPlanId };
    expect((await call('PATCH', instance('i1'), { body })).status).toBe(422);
    expect((await call('PATCH', instance('i1'), { body: { service_id: serviceId } })).status).toBe(200);
    expect((await call('PATCH', instance('none'), { body })).status).toBe(404);
  });

  test('that nobody has is 404 to ask for and 410 to take away', async () => {
    expect((await call('GET', instance('none'))).status).toBe(404);
    expect((await call('GET', `${instance('none')}/last_operation`)).status).toBe(404);
    expect(await call('DELETE', `${instance('none')}?${query()}&accepts_incomplete=true`)).toMatchObject({
      status: 410,
      body: {},
    });
  });

  test('that is taken away while it is provisioned is halted', async () => {
    const path = `${instance('i9')}?accepts_incomplete=true`;
    expect((await call('PUT', path, { body: provisionBody({ plan_id: otherPlanId }) })).status).toBe(202);
    expect(await call('DELETE', `${instance('i9')}?${query()}`)).toMatchObject({ status: 200, body: {} });
    expect((await call('GET', `${instance('i9')}/last_operation`)).body).toMatchObject({ state: 'failed' });
    expect((await call('DELETE', `${instance('i9')}?${query()}&accepts_incomplete=true`)).status).toBe(410);
  });
});

describe('a binding', () => {
  test('has credentials that log in, are the same when asked again, and end with it', async () => {
    const created = await call('PUT', binding('b1', 'i1'), { body: bindBody() });
    expect(created.status).toBe(201);
    const credentials = credentialsOf(created);
    expect(created.body).toMatchObject({
      endpoints: [{ host: credentials.host, ports: [String(credentials.port)], protocol: 'tcp' }],
    });
    expect(new URL(credentials.uri).password).toBe(credentials.password);
    const again = await call('PUT', binding('b1', 'i1'), { body: bindBody() });
    expect(again.status).toBe(200);
    expect(credentialsOf(again)).toEqual(credentials);
    expect(credentialsOf(await call('GET', binding('b1', 'i1')))).toEqual(credentials);
    expect((await call('PUT', binding('b1', 'i1'), { body: bindBody({ bind_resource: {} }) })).status).toBe(
      409,
    );
    expect((await call('GET', `${binding('b1', 'i1')}/last_operation`)).body).toMatchObject({
      state: 'succeeded',
    });

    const session = await login(credentials);
    await session.query('create table public.t (n int); insert into public.t values (1)');
    const second = credentialsOf(
      await call('PUT', binding('b2', 'i1'), { body: bindBody({ bind_resource: { app_guid: '2' } }) }),
    );
    expect(second.username).not.toBe(credentials.username);

    expect(await call('DELETE', `${binding('b1', 'i1')}?${query()}`)).toMatchObject({
      status: 200,
      body: {},
    });
    await expect(session.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
    await expect(login(credentials)).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
    expect((await call('DELETE', `${binding('b1', 'i1')}?${query()}`)).status).toBe(410);
    expect((await call('GET', binding('b1', 'i1'))).status).toBe(404);
    await using other = await login(second);
    expect((await other.query('select n from public.t')).rows).toEqual([{ n: 1 }]);
    // The id may be used anew, with other credentials.
    const third = credentialsOf(await call('PUT', binding('b1', 'i1'), { body: bindBody() }));
    expect(third.password).not.toBe(credentials.password);
    await (await login(third)).close();
  });

  test('asked for many times at once is one', async () => {
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => call('PUT', binding('b3', 'i1'), { body: bindBody() })),
    );
    expect(answers.every(({ status }) => [200, 201, 422].includes(status))).toBe(true);
    const given = answers
      .filter(({ status }) => status !== 422)
      .map((answer) => credentialsOf(answer).username);
    expect(new Set(given).size).toBe(1);
  });

  test('is refused by the words of the specification', async () => {
    expect((await call('PUT', binding('b', 'none'), { body: bindBody() })).status).toBe(404);
    expect((await call('PUT', binding('b', 'i1'), { body: bindBody({ plan_id: otherPlanId }) })).status).toBe(
      400,
    );
    expect((await call('PUT', binding('b', 'i1'), { body: bindBody({ parameters: { a: 1 } }) })).status).toBe(
      400,
    );
    expect((await call('DELETE', `${binding('none', 'i1')}?${query()}`)).status).toBe(410);
    expect((await call('DELETE', binding('b2', 'i1'))).status).toBe(400);
  });

  test('leaves no password in the clear, in no table, no queue and no log of the server', async () => {
    const { password, username, database } = credentialsOf(await call('GET', binding('b2', 'i1')));
    const secrets = await manager.connection.query<{ row: string }>(
      'select c::text as row from cfsb.credentials c',
    );
    expect(secrets.rows.some(({ row }) => row.includes(username))).toBe(true);
    expect(JSON.stringify(secrets.rows)).not.toContain(password);
    await using connection = await group.connect(0, database);
    const queue = await connection.query('select statement, roles from varve_group.ddl_queue');
    expect(JSON.stringify(queue.rows)).not.toContain(password);
    expect(JSON.stringify(log.lines)).not.toContain(password);
  });
});

test('an instance is deprovisioned asynchronously: shut at once, backed up, dropped, and told so', async () => {
  const credentials = credentialsOf(await call('GET', binding('b2', 'i1')));
  const path = `${instance('i1')}?${query()}`;
  expect(await call('DELETE', path)).toMatchObject({ status: 422, body: { error: 'AsyncRequired' } });
  await (await login(credentials)).close();
  const accepted = await call('DELETE', `${path}&accepts_incomplete=true`);
  expect(accepted.status).toBe(202);
  expect(await call('DELETE', `${path}&accepts_incomplete=true`)).toMatchObject({
    status: 202,
    body: accepted.body as object,
  });
  await expect(login(credentials)).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
  expect(await call('PUT', binding('b9', 'i1'), { body: bindBody() })).toMatchObject({
    status: 422,
    body: { error: 'ConcurrencyError' },
  });
  expect((await call('PUT', instance('i1'), { body: provisionBody() })).body).toMatchObject({
    error: 'ConcurrencyError',
  });
  const { operation } = accepted.body as { operation: string };
  const poll = `${instance('i1')}/last_operation?operation=${operation}`;
  expect((await call('GET', poll)).body).toMatchObject({ state: 'in progress' });
  await group.work();
  expect((await call('GET', poll)).body).toMatchObject({ state: 'succeeded' });
  expect((await call('DELETE', `${path}&accepts_incomplete=true`)).status).toBe(410);
  expect((await call('GET', binding('b2', 'i1'))).status).toBe(404);
  const backups = await group.control.withConnection((connection) =>
    connection.query(
      `select status from backups.file_history where dbname = $1 and action = 'CreateBackup'`,
      [credentials.database],
    ),
  );
  expect(backups.rows).toEqual([{ status: 'ok' }]);
});

describe('the manager', () => {
  test('reconciles what service groups have, once and again', async () => {
    await manager.connection.query('delete from cfsb.instances');
    expect(await reconcile('ReconcileAvailableDatabases')).toMatchObject({
      outcome: 'done',
      result: { groups: 1, failed: [] },
    });
    expect(await reconcile('ReconcileAllDatabases')).toMatchObject({ outcome: 'done' });
    const columns = `dbname, dbuser, cluster_id, instance_id, effective_at, assigned_at, ineffective_at, decommissioned_at`;
    const here = await manager.connection.query(`select ${columns} from cfsb.instances order by dbname`);
    const there = await group.control.withConnection((connection) =>
      connection.query(`select ${columns} from cfsb.instances order by dbname`),
    );
    expect(here.rows).toEqual(there.rows);
    expect(here.rows.length).toBeGreaterThan(2);
    await reconcile('ReconcileAllDatabases');
    expect(
      (await manager.connection.query(`select ${columns} from cfsb.instances order by dbname`)).rows,
    ).toEqual(here.rows);
  });

  test('goes on without a group that does not answer, and says which', async () => {
    const dead = new HttpServiceCluster({
      cluster: 'dead',
      service: 'postgresql',
      urls: ['http://127.0.0.1:1/databases'],
      token: 'x',
    });
    const [live] = await clusters.list();
    const work = (list: typeof clusters.list): GroupWork =>
      new GroupWork(
        {
          log: quiet,
          clock: systemClock,
          control: manager.control,
          actions: reconcileActions({ list }),
          role: () => 'read',
          members: () => ['m1'],
        },
        { node: 'm1', shape: manager.shape },
      );
    const both = work(async () => (live ? [dead, live] : []));
    await both.queue.add({ action: 'ReconcileAllDatabases' });
    await both.workOnce();
    const row = await manager.connection.one<{ outcome: string; result: { failed: string[] } }>(
      `select outcome, result from tasks.history order by finished_at desc limit 1`,
    );
    expect(row).toMatchObject({
      outcome: 'done',
      result: { failed: [expect.stringContaining('dead') as string] },
    });
    await expect(dead.databases()).rejects.toMatchObject({ code: 'SERVICE_CLUSTER_UNREACHABLE' });
  });

  test('is let in with the token only, and errors keep their names across HTTP', async () => {
    const [live] = await clusters.list();
    const wrong = new CoordinatorServiceClusters(stage.coordinator(), 'wrong');
    const [stranger] = await wrong.list();
    await expect(stranger?.databases()).rejects.toMatchObject({ code: 'ADMIN_TOKEN_WRONG' });
    await expect(live?.bind('rdpg', `b${'0'.repeat(32)}`, 'x')).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    await expect(live?.release('nope')).rejects.toMatchObject({ code: 'DATABASE_UNKNOWN' });
    expect(await live?.database('nope')).toBeUndefined();
  });
});

test('a service group that is away is 5xx for a platform, and changes nothing', async () => {
  const dead = new HttpServiceCluster({
    cluster: 'dead',
    service: 'postgresql',
    urls: ['http://127.0.0.1:1'],
    token: 'x',
  });
  const base = await serve(brokerApp({ ...deps, clusters: { list: () => Promise.resolve([dead]) } }));
  const answer = await call('PUT', `${instance('i8')}?accepts_incomplete=true`, {
    body: provisionBody(),
    base,
  });
  expect(answer).toMatchObject({ status: 502, body: { error: 'SERVICE_CLUSTER_UNREACHABLE' } });
  const state = await call('GET', `${instance('i8')}/last_operation`, { base });
  expect(state.body).toMatchObject({ state: 'in progress' });
});
