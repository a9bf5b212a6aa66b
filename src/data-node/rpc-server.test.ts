import { connect } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { Connection } from '../postgres/connection.ts';
import { RpcServer, type RpcHandler } from './rpc-server.ts';

const SECRET = 'a secret';
let server: RpcServer | undefined;

afterEach(async () => {
  await server?.[Symbol.asyncDispose]();
});

async function listen(handler: RpcHandler, maxRequestBytes?: number): Promise<number> {
  const limit = maxRequestBytes === undefined ? {} : { maxRequestBytes };
  server = await RpcServer.listen(
    { listen: { host: '127.0.0.1', port: 0 }, secret: SECRET, ...limit },
    handler,
  );
  return server.port;
}

function open(port: number, password = SECRET): Promise<Connection> {
  const endpoint = { host: '127.0.0.1', port, database: 'varve', user: 'varve', password };
  return Connection.open(endpoint, { connectTimeoutMs: 2_000 });
}

it('answers one request after the other to a client that knows the secret', async () => {
  const port = await listen((request) => Promise.resolve(`<${request}>`));
  await using client = await open(port);
  expect((await client.query('one')).rows).toEqual([{ r: '<one>' }]);
  expect((await client.query('zwei ü')).rows).toEqual([{ r: '<zwei ü>' }]);
});

it('refuses a client with a wrong secret', async () => {
  const port = await listen(() => Promise.reject(new Error('must not be asked')));
  await expect(open(port, 'wrong')).rejects.toMatchObject({ code: 'LOGIN_FAILED', sqlstate: '28P01' });
});

it('tells the handler when the caller goes away', async () => {
  let gone: (reason: unknown) => void = () => {};
  const reason = new Promise((resolve) => (gone = resolve));
  let asked = (): void => {};
  const called = new Promise<void>((resolve) => (asked = resolve));
  const port = await listen((_request, signal) => {
    signal.addEventListener('abort', () => gone(signal.reason));
    asked();
    return new Promise(() => {});
  });
  const client = await open(port);
  client.query('slow').catch(() => {});
  await called;
  client.destroy();
  expect(await reason).toMatchObject({ code: 'CANCELLED' });
});

it('refuses a request beyond the limit and goes on serving', async () => {
  const port = await listen(() => Promise.resolve('ok'), 20_000);
  const client = await open(port);
  await expect(client.query('x'.repeat(30_000))).rejects.toMatchObject({
    detail: expect.stringContaining('the limit is 20000') as string,
  });
  await client.close();
  await using next = await open(port);
  expect((await next.query('x')).rows).toEqual([{ r: 'ok' }]);
});

it.each([
  ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ['an old protocol', Buffer.from([0, 0, 0, 8, 0, 2, 0, 0])],
  ['a huge length', Buffer.from([255, 255, 255, 255, 0, 3, 0, 0])],
  ['a length below its own size', Buffer.from([0, 0, 0, 1])],
  [
    'a query before the login',
    Buffer.concat([Buffer.from([0, 0, 0, 9, 0, 3, 0, 0, 0]), Buffer.from('Q\0\0\0\x06x\0')]),
  ],
])('closes the connection on %s', async (_what, bytes) => {
  const port = await listen(() => Promise.reject(new Error('must not be asked')));
  const socket = connect(port, '127.0.0.1');
  socket.write(bytes);
  await new Promise((resolve) => socket.on('data', () => {}).on('close', resolve));
  expect(socket.destroyed).toBe(true);
});
