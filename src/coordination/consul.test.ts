import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { silentLog } from './contract.suite.ts';
import type { Coordinator, Entry } from './coordinator.ts';
import { type CoordinatorOptions, openCoordinator } from './open-coordinator.ts';

// Disks and machines that others use as well may be slow.
vi.setConfig({ testTimeout: 60_000 });

/** What a server may answer that the embedded one never does. */
type Reply = { status?: number; index?: number; body?: unknown } | 'silence';

let server: Server;
let url: string;
let replies: Reply[];
let asked: { method: string; path: string; query: URLSearchParams; headers: IncomingMessage['headers'] }[];

beforeEach(async () => {
  replies = [];
  asked = [];
  server = createServer(answer);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => {
  server.close();
  server.closeAllConnections();
});

function answer(request: IncomingMessage, response: ServerResponse): void {
  const { pathname, searchParams } = new URL(request.url ?? '', url);
  asked.push({ method: request.method ?? '', path: pathname, query: searchParams, headers: request.headers });
  const reply = replies.shift() ?? 'silence';
  if (reply === 'silence') return;
  if (reply.index !== undefined) response.setHeader('X-Consul-Index', reply.index);
  response.statusCode = reply.status ?? 200;
  response.end(typeof reply.body === 'string' ? reply.body : JSON.stringify(reply.body ?? true));
}

const open = (options: Partial<CoordinatorOptions> = {}): Coordinator =>
  openCoordinator(
    { kind: 'consul', url, timeoutMs: 2000, ...options },
    { clock: systemClock, log: silentLog },
  );

const row = (version: number, value = String(version)): object => ({
  Key: 'a',
  Value: Buffer.from(value).toString('base64'),
  ModifyIndex: version,
});

async function watched(coordinator: Coordinator, count: number): Promise<string[]> {
  const seen: string[] = [];
  const stop = new AbortController();
  for await (const entries of coordinator.watch('a', stop.signal)) {
    seen.push(entries.map(({ value }: Entry) => value.toString()).join());
    if (seen.length === count) break;
  }
  return seen;
}

describe('a watch of Consul', () => {
  test('asks a majority first, then blocks on the index', async () => {
    replies = [
      { index: 7, body: [row(7)] },
      { index: 9, body: [row(9)] },
    ];
    expect(await watched(open(), 2)).toEqual(['7', '9']);
    expect(
      asked.map(({ query }) => [query.has('consistent'), query.get('index'), query.has('wait')]),
    ).toEqual([
      [true, null, false],
      [false, '7', true],
    ]);
  });

  test('does not show what a server that is behind says, but asks a majority', async () => {
    replies = [
      { index: 20, body: [row(20)] },
      { index: 15, body: [row(15, 'older')] },
      { index: 21, body: [row(21)] },
    ];
    expect(await watched(open(), 2)).toEqual(['20', '21']);
    expect(asked[2]?.query.has('consistent')).toBe(true);
    expect(asked[2]?.query.has('index')).toBe(false);
  });

  test('shows what a majority says after the index went back, as after a restored snapshot', async () => {
    replies = [
      { index: 20, body: [row(20)] },
      { index: 5, body: [row(5)] },
      { index: 5, body: [row(5)] },
      { index: 6, body: [row(6)] },
    ];
    expect(await watched(open(), 3)).toEqual(['20', '5', '6']);
    expect(asked[3]?.query.get('index')).toBe('5');
  });

  test('shows a state once, however often it is woken', async () => {
    replies = [
      { index: 7, body: [row(7)] },
      { index: 8, body: [row(7)] },
      { index: 9, status: 404, body: '' },
      { index: 10, status: 404, body: '' },
      { index: 11, body: [row(11)] },
    ];
    expect(await watched(open(), 3)).toEqual(['7', '', '11']);
  });

  test('goes on after an error of the server, with a majority again', async () => {
    replies = [
      { index: 7, body: [row(7)] },
      { status: 500, body: 'No cluster leader' },
      { index: 7, body: [row(7)] },
      { index: 8, body: [row(8)] },
    ];
    expect(await watched(open(), 2)).toEqual(['7', '8']);
    expect(asked[2]?.query.has('consistent')).toBe(true);
  });

  test('ends with an error when it is not allowed to read', async () => {
    replies = [{ status: 403, body: 'Permission denied' }];
    await expect(watched(open({ token: 'tok3n' }), 1)).rejects.toMatchObject({ code: 'COORDINATOR_REFUSED' });
  });
});

describe('a request to Consul', () => {
  test('brings token and datacenter', async () => {
    replies = [{ index: 1, body: [row(1)] }];
    await open({ token: 'tok3n', datacenter: 'dc7' }).get('a');
    expect(asked[0]?.headers['x-consul-token']).toBe('tok3n');
    expect(asked[0]?.query.get('dc')).toBe('dc7');
  });

  test('keeps the path of the URL', async () => {
    replies = [{ index: 1, body: [row(1)] }];
    await open({ url: `${url}/behind/proxy/` }).get('a');
    expect(asked[0]?.path).toBe('/behind/proxy/v1/kv/a');
  });

  test.each<[string, Reply, string, RegExp]>([
    [
      'no leader',
      { status: 500, body: 'No cluster leader' },
      'COORDINATOR_UNAVAILABLE',
      /500 No cluster leader/,
    ],
    ['too many requests', { status: 429, body: 'slow down' }, 'COORDINATOR_UNAVAILABLE', /429 slow down/],
    ['a wrong token', { status: 403, body: 'ACL not found' }, 'COORDINATOR_REFUSED', /403 ACL not found/],
    ['a web server', { status: 200, body: '<html>' }, 'COORDINATOR_REFUSED', /no coordinator/],
    [
      'a web server without the page',
      { status: 404, body: 'Not found' },
      'COORDINATOR_REFUSED',
      /no coordinator/,
    ],
    ['a redirect', { status: 301, body: '' }, 'COORDINATOR_UNAVAILABLE', /redirect/],
  ])('that meets %s says so, where, and not the token', async (_what, reply, code, message) => {
    replies = [reply];
    const error = await open({ token: 'tok3n' })
      .get('a')
      .catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) as string });
    expect(JSON.stringify(error)).toContain(url);
    expect(JSON.stringify(error)).not.toContain('tok3n');
  });

  test('that is not answered fails after its time', async () => {
    await expect(open({ timeoutMs: 50 }).put('a', 'x')).rejects.toMatchObject({
      code: 'COORDINATOR_UNAVAILABLE',
      message: expect.stringContaining('PUT /v1/kv/a: did not answer within 50 ms') as string,
    });
    expect(asked).toHaveLength(1);
  });

  test.each(['', 'localhost:8500', 'ftp://localhost', 'http://user:secret@localhost:8500'])(
    'to %j is refused at once',
    (wrong) => {
      expect(() => open({ url: wrong })).toThrow(
        expect.objectContaining({
          code: 'INVALID_ARGUMENT',
          message: expect.not.stringContaining('secret') as string,
        }),
      );
    },
  );
});

describe('a session of Consul', () => {
  test('asks for what Consul takes, bound to nothing but its TTL', async () => {
    replies = [{ body: { ID: 's' } }];
    const bodies: string[] = [];
    server.prependListener('request', (request: IncomingMessage) => {
      request.on('data', (chunk: Buffer) => bodies.push(chunk.toString()));
    });
    const session = await open().session({ ttlMs: 10_000, name: 'node one' });
    expect(JSON.parse(bodies[0] ?? '')).toEqual({
      Name: 'node one',
      TTL: '10000ms',
      LockDelay: '15000ms',
      Behavior: 'release',
      Checks: [],
    });
    replies = [{ body: true }];
    await session.close();
    expect(asked.at(-1)).toMatchObject({ method: 'PUT', path: '/v1/session/destroy/s' });
  });

  test('does not take a TTL below that of Consul', async () => {
    await expect(open().session({ ttlMs: 9999, name: 'x' })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(asked).toEqual([]);
  });

  test('survives renewals that fail for a while, and is lost when they fail for its TTL', async () => {
    replies = [
      { body: { ID: 's' } },
      ...Array.from({ length: 2 }, () => ({ status: 500, body: 'no' })),
      { body: [] },
    ];
    const session = await open({ minTtlMs: 1 }).session({ ttlMs: 600, name: 'x' });
    const lost = new Promise<void>((resolve) => session.lost.addEventListener('abort', () => resolve()));
    while (asked.length < 4) await systemClock.sleep(5);
    expect(session.lost.aborted).toBe(false);
    await lost;
    expect(session.lost.reason).toMatchObject({ code: 'SESSION_LOST' });
    // The last of these was never answered: a hanging renewal does not keep the loss from being seen.
    expect(asked.length).toBeGreaterThan(4);
  });
});
