import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { NodeFileSystem } from '../../core/node-file-system.ts';
import {
  BLOCK_NS,
  dump,
  HOUR_NS,
  labelsOf,
  MINUTE_NS,
  openEngine,
  seriesOf,
} from '../engine/engine.suite.ts';
import type { Engine } from '../engine/engine.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { placementOf } from '../engine/placement.suite.ts';
import { RequestBodies } from '../http/request-body.ts';
import { HttpPeerTransport } from './http-peer-transport.ts';
import { SwiftClock } from './peer-cluster.suite.ts';
import { PeerHttp } from './peer-http.ts';
import { PeerServer } from './peer-server.ts';
import { PeersSource } from './peers-source.ts';

const TOKEN = 'a-token-of-some-length';

interface Node extends AsyncDisposable {
  readonly engine: Engine;
  readonly bugs: unknown[];
}

/** An engine on a real disk behind a real port. */
async function nodeAt(
  name: string,
  clock: SwiftClock,
  endpoints: Map<string, string>,
  token = TOKEN,
): Promise<Node> {
  const folder = await mkdtemp(join(tmpdir(), 'varve-test-peers-'));
  const bugs: unknown[] = [];
  const transport = new HttpPeerTransport((node) => endpoints.get(node), token);
  const engine = await openEngine(
    { fs: new NodeFileSystem(), folder, clock },
    {},
    {
      node: name,
      peers: (view, onMemory) =>
        new PeersSource({ view, onMemory, clock, transport, random: Math.random }, { level: 'one' }),
    },
  );
  const http = new PeerHttp({
    server: () => new PeerServer(engine.peerView),
    bodies: new RequestBodies({ maxBytes: 1 << 20, maxWaitingBytes: 1 << 22 }),
    door: { token: TOKEN, isLoopback: true },
    onBug: (error) => bugs.push(error),
  });
  const server: Server = createServer((request, response) => {
    if (!http.handle(request, response)) response.writeHead(404).end('nothing');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  endpoints.set(name, `http://127.0.0.1:${(server.address() as { port: number }).port}`);
  await engine.applyNamespaces([namespaceOptions({ name: 'default' })]);
  await engine.ready();
  return {
    engine,
    bugs,
    [Symbol.asyncDispose]: async () => {
      await engine[Symbol.asyncDispose]();
      await transport[Symbol.asyncDispose]();
      server.close();
      server.closeAllConnections();
      await rm(folder, { recursive: true });
    },
  };
}

test('a node fills its shards over HTTP, from files and memory', async () => {
  const clock = new SwiftClock();
  const endpoints = new Map<string, string>();
  await using one = await nodeAt('n1', clock, endpoints);
  await using two = await nodeAt('n2', clock, endpoints);
  const available = Array.from({ length: 4 }, () => ({ n1: 'available' as const }));
  await one.engine.applyTopology(placementOf('n1', available));
  const write = async (): Promise<void> => {
    const samples = Array.from(
      { length: 200 },
      (_, i) => [clock.nowNs - BigInt(i) * 1_000_000_000n, i] as const,
    );
    const series = Array.from({ length: 100 }, (_, i) => seriesOf(labelsOf('up', { i: String(i) }), samples));
    await one.engine.writeSeries('default', series);
  };
  clock.advance(BLOCK_NS + 30n * MINUTE_NS - clock.nowNs + 2n * HOUR_NS);
  await write();
  clock.advance(3n * HOUR_NS);
  await one.engine.flush();
  await write();
  const both = Array.from({ length: 4 }, () => ({ n1: 'available' as const, n2: 'initializing' as const }));
  await two.engine.applyTopology(placementOf('n2', both));
  await two.engine.ready();
  expect(two.engine.durableShards()).toEqual([0, 1, 2, 3]);
  const expected = await dump(one.engine);
  expect(Object.values(expected)[0]).toHaveLength(400);
  expect(await dump(two.engine)).toEqual(expected);
  expect([...one.bugs, ...two.bugs]).toEqual([]);
});

test('who has not the token, asks nonsense or for what is not there gets an error, not data', async () => {
  const clock = new SwiftClock();
  const endpoints = new Map<string, string>();
  await using one = await nodeAt('n1', clock, endpoints);
  const url = `${endpoints.get('n1')}/peers/v1/shards`;
  const { signal } = new AbortController();
  const post = async (body: string, token = TOKEN): Promise<number> =>
    (await fetch(url, { method: 'POST', body, headers: { authorization: `Bearer ${token}` } })).status;
  expect(await post('{}', 'wrong-token')).toBe(401);
  expect(await post('nonsense')).toBe(400);
  expect(await post('{"kind":"files","namespace":"default"}')).toBe(400);
  expect(await post('{"kind":"columns","namespace":"default","shard":1,"blockStartNs":"0","ids":[5]}')).toBe(
    400,
  );
  await using transport = new HttpPeerTransport((node) => endpoints.get(node), TOKEN);
  const block = { shard: 1, blockStartNs: 0n };
  const file = { kind: 'fileset', namespace: 'default', ...block, volume: 0, inlineBytes: 0 } as const;
  await expect(transport.call('n1', file, signal)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  const elsewhere = { ...file, namespace: '../x' };
  await expect(transport.call('n1', elsewhere, signal)).rejects.toMatchObject({ code: 'NAMESPACE_UNKNOWN' });
  await expect(transport.call('n9', file, signal)).rejects.toMatchObject({ code: 'PEER_UNAVAILABLE' });
  endpoints.set('n9', 'http://127.0.0.1:9');
  await expect(transport.call('n9', file, signal)).rejects.toMatchObject({ code: 'PEER_UNAVAILABLE' });
  expect(one.bugs).toEqual([]);
});
