/** A storage engine with its HTTP side in a process of its own, at an instant of the past; told what to do over IPC. */
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { NodeFileSystem } from '../../src/core/node-file-system.ts';
import type { Placement } from '../../src/placement/placement.ts';
import { topologyOf } from '../../src/placement/topology.ts';
import { Engine } from '../../src/storage/engine/engine.ts';
import { namespaceOptions } from '../../src/storage/engine/namespace-options.ts';
import { HttpFigures } from '../../src/storage/http/http-figures.ts';
import { ReadGate } from '../../src/storage/http/read-gate.ts';
import { RequestBodies } from '../../src/storage/http/request-body.ts';
import { StorageHttp } from '../../src/storage/http/storage-http.ts';
import { HttpPeerTransport } from '../../src/storage/peers/http-peer-transport.ts';
import { PeerHttp } from '../../src/storage/peers/peer-http.ts';
import type { AnswerParts } from '../../src/storage/peers/peer-messages.ts';
import { PeerServer } from '../../src/storage/peers/peer-server.ts';
import type { PeerRequest } from '../../src/storage/peers/peer-transport.ts';
import { PeersSource } from '../../src/storage/peers/peers-source.ts';
import { ProtocolKernel } from '../../src/storage/protocol/protocol-kernel.ts';
import { engineDeps, FixedClock } from './fixed-clock.ts';
import { namespaceOf } from './history.ts';
import type { PeerCommand, PeerFigures, PeerNodeOptions } from './peer-process.ts';

const options = JSON.parse(process.argv[2] ?? '') as PeerNodeOptions;
const { name, folder, port, shardCount, nowMs, blocks } = options;
const clock = new FixedClock(nowMs);
let placement: Placement | undefined;
let sentBytes = 0;

class CountingServer extends PeerServer {
  override async answerInParts(request: PeerRequest): Promise<AnswerParts> {
    const parts = await super.answerInParts(request);
    for (const { length } of parts) sentBytes += length;
    return parts;
  }
}

const transport = new HttpPeerTransport(
  (node) => placement?.instances.find(({ id }) => id === node)?.endpoint,
  undefined,
);
const openedMs = performance.now();
const engine = await Engine.open(
  {
    ...engineDeps(clock),
    node: name,
    peers: (view, onMemory) =>
      new PeersSource({ view, onMemory, clock, transport, random: Math.random }, { level: 'majority' }),
  },
  { folder, shardCount, logMode: 'behind', tickMs: 0 },
);
// A folder that is new has none.
if (engine.namespaces().length === 0) {
  await engine.applyNamespaces([namespaceOptions(namespaceOf({ blocks }))]);
}
await engine.ready();
const readyMs = performance.now() - openedMs;
await engine.applyNamespaces([namespaceOptions(namespaceOf({ blocks }))]);

const door = { token: undefined, isLoopback: true };
const bodies = new RequestBodies({ maxBytes: 16 << 20, maxWaitingBytes: 64 << 20 });
const onBug = (error: unknown): void => console.error(name, error);
const peers = new PeerHttp({ server: () => new CountingServer(engine.peerView), bodies, door, onBug });
const refuse = (): never => {
  throw new Error('the namespaces of a bench stay what they are');
};
const storage = new StorageHttp({
  clock,
  engine: () => engine,
  notReady: () => undefined,
  namespaces: { list: () => [], put: refuse, remove: refuse },
  kernel: new ProtocolKernel(),
  bodies,
  reads: new ReadGate({ maxReads: 16, timeoutMs: 60_000 }),
  figures: new HttpFigures(),
  door,
  limits: { read: {} },
  onBug,
});
const server = createServer((request, response) => {
  if (storage.handle(request, response) || peers.handle(request, response)) return;
  response.writeHead(404).end();
});
server.listen(port, '127.0.0.1');
await once(server, 'listening');

async function readInfosMs(): Promise<number> {
  const root = join(folder, 'data');
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const paths = entries.flatMap(({ name: file, parentPath }) =>
    file.endsWith('-info.db') ? [join(parentPath, file)] : [],
  );
  const fromMs = performance.now();
  await new NodeFileSystem().readFiles(paths);
  return performance.now() - fromMs;
}

/** So many shards are whole and durable. */
async function untilDurable(count: number): Promise<void> {
  while (engine.durableShards().length < count) await new Promise((resolve) => setTimeout(resolve, 2));
}

async function carryOut(command: PeerCommand): Promise<PeerFigures | undefined> {
  switch (command.kind) {
    case 'place':
      ({ placement } = command);
      await engine.applyTopology(topologyOf(placement, name));
      return undefined;
    case 'fill': {
      ({ placement } = command);
      const cpu = process.cpuUsage();
      const fromMs = performance.now();
      await engine.applyTopology(topologyOf(placement, name));
      await untilDurable(1);
      const firstMs = performance.now() - fromMs;
      await untilDurable(command.shards);
      const ms = performance.now() - fromMs;
      const { user, system } = process.cpuUsage(cpu);
      return { ...(await figures()), ms, firstMs, cpuMs: (user + system) / 1000 };
    }
    case 'figures':
      return await figures();
  }
}

async function figures(): Promise<PeerFigures> {
  const { namespaces, bootstrapRuns } = engine.status();
  const [namespace] = namespaces;
  const sources = bootstrapRuns.at(-1)?.sources ?? [];
  return {
    readyMs,
    infosMs: options.readsInfos ? await readInfosMs() : 0,
    peakBytes: process.resourceUsage().maxRSS * 1024,
    sentBytes,
    filesetBytes: namespace?.filesetBytes ?? 0,
    filesets: namespace?.filesets ?? 0,
    detail: sources.map(({ source, pass, detail }) => `${source}/${pass}: ${detail}`).join(' | '),
    ms: 0,
    firstMs: 0,
    cpuMs: 0,
  };
}

process.on('message', ({ id, command }: { id: number; command: PeerCommand }) => {
  void carryOut(command).then(
    (result) => process.send?.({ id, result }),
    (error: unknown) => process.send?.({ id, error: error instanceof Error ? error.stack : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
process.send?.({ id: 0 });
