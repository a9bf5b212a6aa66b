import { once } from 'node:events';
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises';
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { silentLog } from './contract.suite.ts';
import { EmbeddedCoordinator, type EmbeddedOptions } from './embedded-server.ts';

// Disks and machines that others use as well may be slow.
vi.setConfig({ testTimeout: 60_000 });

let folder: string;
let server: EmbeddedCoordinator;
const deps = { clock: systemClock, log: silentLog };

const start = async (options: Partial<EmbeddedOptions> = {}): Promise<EmbeddedCoordinator> => {
  server = await EmbeddedCoordinator.start({ folder, ...options }, deps);
  return server;
};

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-server-'));
  await start();
});
afterEach(async () => {
  await server.close();
  await rm(folder, { recursive: true });
});

interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly index: number;
  readonly headers: Headers;
}

async function call(method: string, path: string, body?: unknown, headers: object = {}): Promise<Answer> {
  const response = await fetch(`${server.url}/v1/${path}`, {
    method,
    headers: headers as Record<string, string>,
    ...(body === undefined
      ? {}
      : { body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const json = response.headers.get('Content-Type') === 'application/json';
  return {
    status: response.status,
    body: json ? (JSON.parse(text) as unknown) : text,
    index: Number(response.headers.get('X-Consul-Index') ?? 0),
    headers: response.headers,
  };
}

const get = (path: string): Promise<Answer> => call('GET', path);
const put = (path: string, body?: unknown): Promise<Answer> => call('PUT', path, body);
const newSession = async (body: object = {}): Promise<string> =>
  ((await put('session/create', { TTL: '10s', ...body })).body as { ID: string }).ID;

describe('/v1/kv', () => {
  test('answers as Consul does: fields, base64, null for nothing, 404 with an index', async () => {
    expect(await get('kv/a')).toMatchObject({ status: 404, body: '', index: 1 });
    expect(await put('kv/a?flags=42', 'value')).toMatchObject({ status: 200, body: true });
    await put('kv/a/b');
    expect((await get('kv/a')).body).toEqual([
      { LockIndex: 0, Key: 'a', Flags: 42, Value: 'dmFsdWU=', CreateIndex: 2, ModifyIndex: 2 },
    ]);
    expect((await get('kv/?recurse')).body).toMatchObject([{ Key: 'a' }, { Key: 'a/b', Value: null }]);
    expect(await get('kv/a?raw')).toMatchObject({ status: 200, body: 'value', index: 3 });
    expect((await get('kv/?keys')).body).toEqual(['a', 'a/b']);
    expect((await get('kv/?keys&separator=/')).body).toEqual(['a', 'a/']);
    expect((await get('kv/z?keys')).status).toBe(404);
    expect((await call('DELETE', 'kv/a?recurse')).body).toBe(true);
    expect((await get('kv/?keys')).body).toEqual([]);
  });

  test('acquires and releases, and says which session holds', async () => {
    const [one, two] = [await newSession(), await newSession()];
    expect((await put(`kv/lock?acquire=${one}`, 'one')).body).toBe(true);
    expect((await put(`kv/lock?acquire=${two}`, 'two')).body).toBe(false);
    expect((await put(`kv/lock?acquire=${one}`, 'one')).body).toBe(true);
    expect((await get('kv/lock')).body).toMatchObject([{ LockIndex: 1, Session: one }]);
    expect((await put(`kv/lock?release=${two}`)).body).toBe(false);
    expect((await put(`kv/lock?release=${one}`)).body).toBe(true);
    expect((await put(`kv/lock?acquire=${two}`)).body).toBe(true);
    expect((await get('kv/lock')).body).toMatchObject([{ LockIndex: 2, Session: two }]);
    await put('kv/lock', 'a plain write');
    expect((await get('kv/lock')).body).toMatchObject([{ LockIndex: 0, Session: two }]);
    expect(await put('kv/lock?acquire=unknown')).toMatchObject({
      status: 500,
      body: 'invalid session "unknown"',
    });
  });

  test.each([
    ['PUT', 'kv/', 400, 'Missing key name'],
    ['GET', 'kv/', 400, 'Missing key name'],
    ['PUT', 'kv/a?cas=1&acquire=x', 400, 'Conflicting flags'],
    ['PUT', 'kv/a?cas=x', 400, 'Invalid cas'],
    ['GET', 'kv/a?index=x', 400, 'Invalid index'],
    ['GET', 'kv/a?index=1&wait=soon', 400, 'Invalid wait time'],
    ['POST', 'kv/a', 405, 'method POST not allowed'],
    ['GET', 'kv/%ff', 400, 'Invalid URL path'],
    ['GET', 'unknown', 404, 'Invalid URL path'],
    ['PUT', 'txn', 400, 'Request decode failed'],
    ['PUT', 'session/create?', 500, 'must be between'],
  ])('%s %s is answered with %d: %s', async (method, path, status, text) => {
    const body = path === 'session/create?' ? { TTL: '1ms' } : undefined;
    expect(await call(method, path, body)).toMatchObject({
      status,
      body: expect.stringContaining(text) as string,
    });
  });

  test('refuses a body beyond 512 KiB, and reads no more than it must of one without end', async () => {
    expect((await put('kv/a', Buffer.alloc(512 * 1024))).status).toBe(200);
    expect((await put('kv/a', Buffer.alloc(512 * 1024 + 1))).status).toBe(413);
    const endless = httpRequest(`${server.url}/v1/kv/a`, { method: 'PUT' });
    endless.on('error', () => {});
    const answered = once(endless, 'response') as Promise<[{ statusCode: number; resume: () => void }]>;
    const chunk = Buffer.alloc(512 * 1024);
    const feed = setInterval(() => endless.write(chunk), 1);
    const [response] = await answered.finally(() => clearInterval(feed));
    expect(response.statusCode).toBe(413);
    endless.destroy();
  });
});

describe('a blocking query', () => {
  test('returns when its key changes, and not for another', async () => {
    await put('kv/a', '1');
    const { index } = await get('kv/a');
    let returned = false;
    const blocked = get(`kv/a?index=${index}&wait=30s`).then((answer) => {
      returned = true;
      return answer;
    });
    await put('kv/b', '1');
    await get('kv/b');
    expect(returned).toBe(false);
    await put('kv/a', '2');
    expect(await blocked).toMatchObject({ body: [{ Value: 'Mg==' }], index: index + 2 });
  });

  test('returns the same when its time is up', async () => {
    await put('kv/a', '1');
    const first = await get('kv/a');
    expect(await get(`kv/a?index=${first.index}&wait=50ms`)).toMatchObject({
      body: first.body,
      index: first.index,
    });
  });

  test('returns at once for what changed meanwhile, after a restart too, and for an index of the future', async () => {
    await put('kv/a', '1');
    const { index } = await get('kv/a');
    await put('kv/a', '2');
    expect((await get(`kv/a?index=${index}&wait=30s`)).index).toBe(index + 1);
    await server.close();
    await start();
    expect((await get(`kv/a?index=${index}&wait=30s`)).index).toBe(index + 1);
    expect((await get(`kv/a?index=${index + 1000}&wait=30s`)).index).toBe(index + 1);
  });

  test('ends with the server', async () => {
    await put('kv/a', '1');
    const { index } = await get('kv/a');
    const blocked = get(`kv/a?index=${index}&wait=30s`);
    const outcome = expect(blocked).rejects.toThrow('fetch failed');
    await get('kv/a');
    await server.close();
    await outcome;
  });
});

describe('/v1/txn', () => {
  const kv = (Verb: string, Key: string, more: object = {}): object => ({ KV: { Verb, Key, ...more } });

  test('answers with results in order, or 409 with every error and nothing done', async () => {
    const done = await put('txn', [
      kv('set', 'a', { Value: 'MQ==', Flags: 3 }),
      kv('get', 'a'),
      kv('check-not-exists', 'b'),
      kv('get-tree', ''),
      kv('delete', 'a'),
    ]);
    const row = { LockIndex: 0, Key: 'a', Flags: 3, CreateIndex: 2, ModifyIndex: 2 };
    const whole = { KV: { ...row, Value: 'MQ==' } };
    expect(done).toMatchObject({
      status: 200,
      body: { Results: [{ KV: { ...row, Value: null } }, whole, whole], Errors: null },
    });
    const refused = await put('txn', [kv('set', 'a'), kv('get', 'x'), kv('check-index', 'a', { Index: 9 })]);
    expect(refused).toMatchObject({
      status: 409,
      body: {
        Results: null,
        Errors: [
          { OpIndex: 1, What: 'key "x" doesn\'t exist' },
          { OpIndex: 2, What: expect.stringContaining('failed index check for key "a"') as string },
        ],
      },
    });
    expect((await get('kv/a')).status).toBe(404);
  });

  test('refuses an unknown verb, too many operations, and a value that is no base64', async () => {
    expect((await put('txn', [kv('explode', 'a')])).status).toBe(400);
    expect((await put('txn', [kv('set', 'a', { Value: '*' })])).status).toBe(400);
    expect(
      (
        await put(
          'txn',
          Array.from({ length: 65 }, () => kv('set', 'a')),
        )
      ).status,
    ).toBe(413);
    expect((await put('txn', [{ Node: {} }])).status).toBe(400);
  });
});

describe('/v1/session', () => {
  test('creates, shows, renews and destroys', async () => {
    const ID = await newSession({ Name: 'n', LockDelay: '5s', Behavior: 'delete', Checks: [] });
    const shown = { ID, Name: 'n', Node: 'varve', LockDelay: 5e9, Behavior: 'delete', TTL: '10s' };
    for (const path of [`info/${ID}`, 'list', 'node/varve']) {
      expect((await get(`session/${path}`)).body).toMatchObject([shown]);
    }
    expect((await get('session/node/other')).body).toEqual([]);
    expect(await put(`session/renew/${ID}`)).toMatchObject({ status: 200, body: [shown] });
    expect(await put(`session/destroy/${ID}`)).toMatchObject({ status: 200, body: true });
    expect((await get(`session/info/${ID}`)).body).toEqual([]);
    expect(await put(`session/renew/${ID}`)).toMatchObject({ status: 404 });
  });

  test.each([
    [{ LockDelay: 30 }, 30e9],
    [{ LockDelay: 5e9 }, 5e9],
    [{ LockDelay: '250ms' }, 250e6],
    [{ LockDelay: '5m' }, 60e9],
    [{}, 15e9],
  ])('takes the lock delay %j as %d ns', async (body, LockDelay) => {
    expect((await get(`session/info/${await newSession(body)}`)).body).toMatchObject([{ LockDelay }]);
  });

  test('knows no node but itself, and no check but that of the node', async () => {
    expect(await put('session/create', { Node: 'other' })).toMatchObject({ status: 500 });
    expect(await put('session/create', { Checks: ['other'] })).toMatchObject({ status: 500 });
    expect(await put('session/create', { Node: 'varve', Checks: ['serfHealth'] })).toMatchObject({
      status: 200,
    });
  });
});

describe('services', () => {
  const register = (more: object = {}): Promise<Answer> =>
    put('agent/service/register', { ID: 'w1', Name: 'web', Port: 80, Check: { TTL: '10s' }, ...more });

  test('are shown as Consul shows them', async () => {
    await register({ Tags: ['a'], Address: '10.0.0.1', Meta: { k: 'v' } });
    await put('agent/check/pass/service:w1?note=fine');
    expect((await get('catalog/services')).body).toEqual({ web: ['a'] });
    expect((await get('catalog/service/web')).body).toMatchObject([
      {
        ServiceID: 'w1',
        ServiceName: 'web',
        ServiceAddress: '10.0.0.1',
        ServicePort: 80,
        ServiceMeta: { k: 'v' },
      },
    ]);
    expect((await get('health/service/web?passing')).body).toMatchObject([
      {
        Node: { Node: 'varve' },
        Service: { ID: 'w1', Service: 'web', Tags: ['a'], Address: '10.0.0.1', Port: 80, Meta: { k: 'v' } },
        Checks: [{ CheckID: 'serfHealth' }, { CheckID: 'service:w1', Status: 'passing', Output: 'fine' }],
      },
    ]);
    await put('agent/check/warn/service:w1');
    expect((await get('health/service/web?passing')).body).toEqual([]);
    expect((await get('health/state/warning')).body).toMatchObject([
      { CheckID: 'service:w1', ServiceName: 'web' },
    ]);
    await put('agent/check/update/service:w1', { Status: 'critical', Output: 'x' });
    expect((await get('health/state/critical')).body).toMatchObject([{ Output: 'x' }]);
    expect((await get('health/state/any')).body).toHaveLength(2);
    expect(await put('agent/service/deregister/w1')).toMatchObject({ status: 200 });
    expect(await put('agent/service/deregister/w1')).toMatchObject({ status: 404 });
    expect(await put('agent/check/pass/service:w1')).toMatchObject({ status: 404 });
  });

  test.each([
    [{ Name: '' }, 'Missing service name'],
    [{ Port: 70_000 }, 'Port'],
    [{ Check: { TTL: 'soon' } }, 'is not a duration'],
    [{ Check: {} }, 'must have TTL or HTTP'],
    [{ Check: { HTTP: 'http://localhost:1/' } }, 'Interval must be > 0'],
    [{ Check: { HTTP: 'file:///etc/passwd', Interval: '1s' } }, 'HTTP'],
  ])('are refused when they are wrong: %j', async (body, text) => {
    expect(await register(body)).toMatchObject({
      status: 400,
      body: expect.stringContaining(text) as string,
    });
  });

  test('with an HTTP check follow what the URL answers, also after a restart', async () => {
    let status = 200;
    const target: Server = createServer((_request, response) => {
      response.statusCode = status;
      response.end('body');
    });
    target.listen(0, '127.0.0.1');
    await once(target, 'listening');
    const HTTP = `http://127.0.0.1:${(target.address() as AddressInfo).port}/`;
    await register({ Check: { HTTP, Interval: '20ms', Timeout: '1s' } });
    const becomes = async (expected: string): Promise<void> => {
      for (let index = 0; ;) {
        const answer = await get(`health/service/web?index=${index}&wait=10s`);
        index = answer.index;
        const [found] = answer.body as { Checks: { Status: string; Output: string }[] }[];
        if (found?.Checks[1]?.Status === expected) return;
      }
    };
    await becomes('passing');
    status = 429;
    await becomes('warning');
    status = 500;
    await becomes('critical');
    await server.close();
    status = 200;
    await start();
    await becomes('passing');
    target.close();
    target.closeAllConnections();
    await becomes('critical');
  });
});

describe('who may ask', () => {
  test('only those with the token, when there is one', async () => {
    await server.close();
    await start({ token: 'secret' });
    expect(await get('kv/?keys')).toMatchObject({ status: 403 });
    for (const headers of [{ 'X-Consul-Token': 'secret2' }, { Authorization: 'Bearer wrong' }]) {
      expect((await call('GET', 'kv/?keys', undefined, headers)).status).toBe(403);
    }
    for (const headers of [{ 'X-Consul-Token': 'secret' }, { Authorization: 'Bearer secret' }]) {
      expect((await call('GET', 'kv/?keys', undefined, headers)).status).toBe(200);
    }
  });

  test('without a token, no address but loopback is listened on', async () => {
    await server.close();
    for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.org']) {
      await expect(start({ host })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: `the embedded coordinator may not listen on ${host} without a token`,
      });
    }
    await start({ host: '0.0.0.0', token: 'secret' });
  });

  test('without a token, no page that made its name resolve to this machine', async () => {
    const { port } = new URL(server.url);
    const ask = async (host: string): Promise<number> => {
      const request = httpRequest({ port, host: '127.0.0.1', path: '/v1/kv/?keys', headers: { Host: host } });
      request.end();
      const [response] = (await once(request, 'response')) as [{ statusCode: number; resume: () => void }];
      response.resume();
      return response.statusCode;
    };
    expect(await ask('evil.example')).toBe(403);
    expect(await ask(`localhost:${port}`)).toBe(200);
    expect(await ask(`[::1]:${port}`)).toBe(200);
  });
});

describe('the server', () => {
  test('says who leads and what it is', async () => {
    expect((await get('status/leader')).body).toBe(new URL(server.url).host);
    expect((await get('agent/self')).body).toMatchObject({
      Config: { NodeName: 'varve', Version: '1.10.0' },
    });
  });

  test('has its folder for itself, and leaves it when it is closed', async () => {
    await expect(EmbeddedCoordinator.start({ folder }, deps)).rejects.toMatchObject({
      code: 'FOLDER_IN_USE',
      message: expect.stringContaining(folder) as string,
    });
    await server.close();
    await server.close();
    await start();
  });

  test('leaves its folder when it cannot listen', async () => {
    const { port } = new URL(server.url);
    const other = await mkdtemp(join(tmpdir(), 'varve-test-server-'));
    for (let i = 0; i < 2; i += 1) {
      await expect(
        EmbeddedCoordinator.start({ folder: other, port: Number(port) }, deps),
      ).rejects.toMatchObject({ code: 'EADDRINUSE' });
    }
    await rm(other, { recursive: true });
  });

  test('answers nothing any more once it cannot write, neither the write nor what was read of it', async () => {
    await put('kv/a', '1');
    const { index } = await get('kv/a');
    const blocked = get(`kv/a?index=${index}&wait=30s`);
    await get('kv/a');
    const failure = vi.spyOn(await fileHandlePrototype(), 'datasync').mockRejectedValueOnce(new Error('EIO'));
    expect(await put('kv/a', '2')).toMatchObject({
      status: 500,
      body: expect.stringContaining('cannot be written: EIO') as string,
    });
    failure.mockRestore();
    expect((await blocked).status).toBe(500);
    expect((await get('kv/a')).status).toBe(500);
    expect((await put('kv/b', '2')).status).toBe(500);
    expect(server.broken.aborted).toBe(true);
    await server.close();
    await start();
    expect(await get('kv/a')).toMatchObject({ status: 200 });
    expect((await put('kv/b', '2')).status).toBe(200);
  });

  test('ends overdue sessions and silent services by itself', async () => {
    await server.close();
    await start({ minTtlMs: 1 });
    const ID = await newSession({ TTL: '40ms', LockDelay: 0 });
    await put(`kv/lock?acquire=${ID}`);
    await put('agent/service/register', {
      Name: 'web',
      Check: { TTL: '40ms', Status: 'passing', DeregisterCriticalServiceAfter: '60ms' },
    });
    const untilChanged = async (path: string, done: (body: unknown) => boolean): Promise<void> => {
      for (let index = 0; ;) {
        const answer = await get(`${path}?index=${index}&wait=10s`);
        if (done(answer.body)) return;
        index = answer.index;
      }
    };
    await Promise.all([
      untilChanged('kv/lock', (body) => !JSON.stringify(body).includes(ID)),
      untilChanged('health/service/web', (body) => JSON.stringify(body).includes('TTL expired')),
      untilChanged('catalog/services', (body) => JSON.stringify(body) === '{}'),
    ]);
    expect((await get('session/list')).body).toEqual([]);
  });
});

async function fileHandlePrototype(): Promise<FileHandle> {
  await using file = await open(join(folder, 'any'), 'w');
  return Object.getPrototypeOf(file) as FileHandle;
}
