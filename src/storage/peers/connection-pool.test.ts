import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ConnectionPool } from './connection-pool.ts';

const MAX_BODY_BYTES = 1000;
const REQUEST = Buffer.from('POST /x HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\nhi');
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n12345';
const NEVER = new AbortController().signal;

let server: Server;
let pool: ConnectionPool;
/** What becomes of a request, with how many came before on its connection. */
let answer: (socket: Socket, before: number) => void;
let connections: number;

beforeEach(async () => {
  connections = 0;
  server = createServer((socket) => {
    connections++;
    let requests = 0;
    socket.on('error', () => {});
    // A request is one piece.
    socket.on('data', () => answer(socket, requests++));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  pool = new ConnectionPool({ host: '127.0.0.1', port }, { connections: 2, maxBodyBytes: MAX_BODY_BYTES });
});

afterEach(async () => {
  pool.destroy();
  server.close();
  await once(server, 'close');
});

const newRoom = (sizeBytes: number): Buffer => Buffer.alloc(sizeBytes);

async function ask(room = newRoom, signal = NEVER): Promise<string> {
  const { status, body } = await pool.ask(REQUEST, room, signal);
  return `${status} ${body.toString()}`;
}

test('a connection is used again, and an answer is put where it is to be', async () => {
  answer = (socket) => socket.write(OK);
  const room = Buffer.alloc(5);
  expect(await ask(() => room)).toBe('200 12345');
  expect(room.toString()).toBe('12345');
  expect(await ask()).toBe('200 12345');
  expect(connections).toBe(1);
});

test('an answer may come byte by byte', async () => {
  answer = (socket) => {
    socket.setNoDelay(true);
    let at = 0;
    const timer = setInterval(() => {
      socket.write(OK.slice(at, ++at));
      if (at === OK.length) clearInterval(timer);
    }, 0);
  };
  expect(await ask()).toBe('200 12345');
  expect(await ask()).toBe('200 12345');
});

test('a connection that the other side has closed meanwhile is replaced, one that is new is not', async () => {
  answer = (socket, before) => void (before === 0 ? socket.write(OK) : socket.destroy());
  expect(await ask()).toBe('200 12345');
  expect(await ask()).toBe('200 12345');
  expect(connections).toBe(2);
  answer = (socket) => void socket.destroy();
  await expect(ask()).rejects.toThrow();
  expect(connections).toBe(3);
});

test('who wants the connection closed gets another one', async () => {
  answer = (socket) => void socket.end(OK.replace('X: y', 'Connection: close'));
  expect(await ask()).toBe('200 12345');
  expect(await ask()).toBe('200 12345');
  expect(connections).toBe(2);
});

test.each([
  ['nonsense', 'nonsense\r\n\r\n', 'is not HTTP/1.1'],
  ['no length', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 'not saying how long'],
  ['too much', 'HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n', 'longer than any'],
  ['more than it said', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12', 'longer than it said'],
  ['a head without an end', `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(20_000)}`, 'has no end'],
])('%s is no answer', async (_what, bytes, message) => {
  answer = (socket) => void socket.end(bytes);
  await expect(ask()).rejects.toThrow(message);
});

test('an answer that breaks off is an error', async () => {
  answer = (socket) => void socket.end(OK.slice(0, -2));
  await expect(ask()).rejects.toThrow('before its answer');
});

test('a refusal does not take the room of an answer', async () => {
  answer = (socket) => socket.write(OK.replace('200 OK', '404 Not Found'));
  const refused = ask(() => {
    throw new Error('it is not for refusals');
  });
  expect(await refused).toBe('404 12345');
});

test('nothing is written to the room of who waits no longer', async () => {
  const waiting: Socket[] = [];
  answer = (socket) => {
    waiting.push(socket);
    socket.write(OK.slice(0, -2));
  };
  const room = Buffer.alloc(5);
  const done = new AbortController();
  let isAsked = (): void => {};
  const asked = new Promise<void>((resolve) => {
    isAsked = resolve;
  });
  const gone = ask(() => {
    isAsked();
    return room;
  }, done.signal);
  await asked;
  done.abort(new Error('enough'));
  room.fill('x');
  await expect(gone).rejects.toThrow('enough');
  waiting[0]?.write('45');
  answer = (socket) => socket.write(OK);
  expect(await ask()).toBe('200 12345');
  expect(room.toString()).toBe('xxxxx');
});

test('no more connections are opened than allowed, and all who ask get an answer', async () => {
  answer = (socket) => void setTimeout(() => socket.write(OK), 2);
  const answers = await Promise.all(Array.from({ length: 10 }, () => ask()));
  expect(new Set(answers)).toEqual(new Set(['200 12345']));
  expect(connections).toBe(2);
});
