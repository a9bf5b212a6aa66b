import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { connect, createServer as createTcpServer, type Server as TcpServer, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { RequestBodies } from '../http/request-body.ts';
import { NO_OVERWRITES } from '../engine/columns.ts';
import { encodeLabels } from '../index/labels.ts';
import { ColumnsWriter, readColumns } from './columns-body.ts';
import { FrameReader, dataFrame, endFrame } from './answer-frames.ts';
import { HttpReplicaTransport } from './http-replica-transport.ts';
import { ReplicaHttp } from './replica-http.ts';
import type { ReplicaQuestion } from './replica-transport.ts';
import { TestCluster } from './test-cluster.suite.ts';

const TOKEN = 'secret-token';
const { signal } = new AbortController();
let cluster: TestCluster;
let server: Server;
let transport: HttpReplicaTransport;
const bugs: unknown[] = [];
let node: { id: string; endpoint: string };

beforeEach(async () => {
  cluster = await TestCluster.open();
  const http = new ReplicaHttp({
    local: () => cluster.node('a').live.local,
    bodies: new RequestBodies({ maxBytes: 1 << 22, maxWaitingBytes: 1 << 24 }),
    door: { token: TOKEN, isLoopback: true },
    readTimeoutMs: 10_000,
    aliveMs: 20,
    onBug: (error) => bugs.push(error),
  });
  server = createServer((request, response) => {
    if (!http.handle(request, response)) response.writeHead(404).end('nothing');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  node = { id: 'a', endpoint: `http://127.0.0.1:${(server.address() as { port: number }).port}` };
  transport = new HttpReplicaTransport(TOKEN);
});

afterEach(async () => {
  await transport[Symbol.asyncDispose]();
  server.close();
  server.closeAllConnections();
  await cluster[Symbol.asyncDispose]();
  expect(bugs.splice(0)).toEqual([]);
});

const nowNs = (): bigint => BigInt(cluster.clock.nowMs()) * 1_000_000n;

/** Series of which each has samples before `endNs`, a nanosecond apart. */
function bodyOf(series: number, samples: number, endNs: bigint): Uint8Array {
  const writer = new ColumnsWriter();
  for (let i = 0; i < series; i++) {
    writer.add(encodeLabels([['n', String(i).padStart(5, '0')]]), {
      times: BigInt64Array.from({ length: samples }, (_, k) => endNs - BigInt(samples - k)),
      bits: BigUint64Array.from({ length: samples }, (_, k) => BigInt(i * samples + k)),
      overwrites: NO_OVERWRITES,
    });
  }
  return writer.take();
}

const ALL: ReplicaQuestion = {
  kind: 'read',
  namespace: 'default',
  matchers: [['n', '!=', '']],
  startNs: '0',
  endNs: String(1n << 62n),
};

async function samplesOf(parts: AsyncIterable<Uint8Array>): Promise<bigint[]> {
  const found: bigint[] = [];
  for await (const part of parts) for (const { columns } of readColumns(part)) found.push(...columns.bits);
  return found;
}

test('writes, deletions and reads go through as they are', async () => {
  const write = { namespace: 'default', format: 'columns' as const, body: bodyOf(200, 200, nowNs()) };
  const outcome = await transport.write(node, { ...write, stamp: nowNs() }, signal);
  expect([outcome.samples, outcome.series]).toEqual([40_000, 200]);
  const found = await samplesOf(transport.ask(node, ALL, signal));
  expect(found).toEqual(Array.from({ length: 40_000 }, (_, i) => BigInt(i)));
  const deletion = { namespace: 'default', stamp: nowNs(), startNs: 0n, endNs: 1n << 62n };
  await transport.delete(node, { ...deletion, selectors: [[['n', '=~', '0000[1-9]']]] }, signal);
  expect(await samplesOf(transport.ask(node, ALL, signal))).toHaveLength(191 * 200);
  const parts: Uint8Array[] = [];
  for await (const part of transport.ask(node, { kind: 'deletions' }, signal)) parts.push(part);
  expect(Buffer.concat(parts).toString()).toContain('0000[1-9]');
});

test('what the other node refuses comes with its code', async () => {
  const body = Buffer.from('no snappy');
  const codeOf = (work: Promise<unknown>): Promise<string> =>
    work.then(
      () => 'none',
      (error: unknown) => (error instanceof VarveError ? error.code : String(error)),
    );
  const write = { namespace: 'default', format: 1 as const, body, stamp: nowNs() };
  expect(await codeOf(transport.write(node, write, signal))).toBe('WRITE_INVALID');
  expect(await codeOf(transport.write(node, { ...write, namespace: 'none' }, signal))).toBe(
    'NAMESPACE_UNKNOWN',
  );
  const ahead = { ...write, stamp: nowNs() + 3_600_000_000_000n };
  expect(await codeOf(transport.write(node, ahead, signal))).toBe('CLOCK_AHEAD');
  const question = { ...ALL, matchers: [['n', '=~', '(']] } as ReplicaQuestion;
  expect(await codeOf(samplesOf(transport.ask(node, question, signal)))).toBe('SELECTOR_INVALID');
  expect(await codeOf(samplesOf(transport.ask(node, { kind: 'new' } as never, signal)))).toBe(
    'INVALID_ARGUMENT',
  );
  await using stranger = new HttpReplicaTransport('another-token');
  expect(await codeOf(stranger.write(node, write, signal))).toBe('TOKEN_REFUSED');
});

test('a node that is not there, or says something else, is unreachable', async () => {
  const gone = { id: 'x', endpoint: 'http://127.0.0.1:1' };
  const write = { namespace: 'default', format: 1 as const, body: Buffer.alloc(0), stamp: 1n };
  await expect(transport.write(gone, write, signal)).rejects.toMatchObject({ code: 'REPLICA_UNREACHABLE' });
  const other = { ...node, endpoint: `${node.endpoint}/elsewhere` };
  await expect(transport.write(other, write, signal)).rejects.toThrow(/it answered 404 nothing/);
});

test('an answer that is cut off or damaged on its way is never taken for whole', async () => {
  const write = { namespace: 'default', format: 'columns' as const, body: bodyOf(200, 200, nowNs()) };
  await transport.write(node, { ...write, stamp: nowNs() }, signal);
  const { port } = new URL(node.endpoint);
  for (const harm of ['cut', 'flip'] as const) {
    for (const at of [200, 50_000, 500_000]) {
      await using link = await Link.open(Number(port), (bytes, sent) => {
        if (at < sent || at >= sent + bytes.length) return bytes;
        if (harm === 'cut') return undefined;
        const harmed = Buffer.from(bytes);
        harmed[at - sent] = (harmed[at - sent] as number) ^ 0x10;
        return harmed;
      });
      const work = samplesOf(transport.ask({ id: 'a', endpoint: link.url }, ALL, signal));
      await expect(work, `${harm} at ${at}`).rejects.toBeInstanceOf(VarveError);
    }
  }
});

test('an answer that takes long says that it is coming', async () => {
  const { engine } = cluster.node('a').live.local;
  const cardinality = engine.cardinality.bind(engine);
  engine.cardinality = async (...asked) => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    return await cardinality(...asked);
  };
  const question = {
    kind: 'cardinality',
    namespace: 'default',
    selectors: [],
    startNs: '0',
    endNs: '1',
  } as const;
  const lengths: number[] = [];
  for await (const part of transport.ask(node, question, signal)) lengths.push(part.length);
  expect(lengths.length).toBeGreaterThan(2);
  expect(lengths.slice(0, -1).every((length) => length === 0)).toBe(true);
  expect(lengths.at(-1)).toBeGreaterThan(0);
});

test('frames are put together from pieces of any size', () => {
  const contents = [Buffer.alloc(0), Buffer.from('a'), Buffer.alloc(5000, 7)];
  const stream = Buffer.concat([...contents.map(dataFrame), endFrame()]);
  for (const size of [1, 7, 4096, stream.length]) {
    const reader = new FrameReader();
    const found: Buffer[] = [];
    for (let at = 0; at < stream.length; at += size)
      found.push(...[...reader.read(stream.subarray(at, at + size))].map((part) => Buffer.from(part)));
    expect([found, reader.isDone]).toEqual([contents, true]);
  }
});

/** Passes bytes on to a port, those that come back through `harm`; undefined ends the connection. */
class Link implements AsyncDisposable {
  readonly url: string;
  readonly #server: TcpServer;
  readonly #sockets: Set<Socket>;

  private constructor(server: TcpServer, sockets: Set<Socket>) {
    this.#server = server;
    this.#sockets = sockets;
    this.url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  }

  static async open(port: number, harm: (bytes: Buffer, sent: number) => Buffer | undefined): Promise<Link> {
    const sockets = new Set<Socket>();
    const server = createTcpServer((client) => {
      const behind = connect(port, '127.0.0.1');
      let sent = 0;
      for (const socket of [client, behind]) {
        sockets.add(socket);
        socket.on('error', () => {});
        socket.on('close', () => {
          client.destroy();
          behind.destroy();
        });
      }
      client.on('data', (bytes) => behind.write(bytes));
      behind.on('data', (bytes: Buffer) => {
        const harmed = harm(bytes, sent);
        sent += bytes.length;
        if (harmed) client.write(harmed);
        else client.destroy();
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Link(server, sockets);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
