import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { addInstance, initialPlacement } from '../../src/placement/change-placement.ts';
import type { Placement } from '../../src/placement/placement.ts';
import { ProtocolKernel } from '../../src/storage/protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../../src/storage/protocol/remote-write.ts';
import { NAMESPACE, nowMsOf, writeHistory, type History } from './history.ts';
import { PeerProcess } from './peer-process.ts';

export interface AddFigures {
  readonly moved: number;
  readonly fairShare: number;
  readonly sentBytes: number;
  readonly ownedBytes: number;
  readonly idle: Latencies;
  readonly during: Latencies;
  readonly tookMs: number;
  readonly firstShardMs: number;
}

export interface Latencies {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const NODES = ['n1', 'n2', 'n3'];
const REPLICAS = 3;
const IDLE_MS = 6000;
/** Of each kind of request; they go to the nodes in turn. */
const WRITE_EVERY_MS = 10;
const READ_EVERY_MS = 50;

/** A fourth node is added to three that have all shards, while clients write to these and read from them. */
export async function addFigures(base: string, history: History): Promise<AddFigures> {
  const folder = join(base, 'add');
  const { shardCount, blocks } = history;
  const nodes: PeerProcess[] = [];
  try {
    await mkdir(folder, { recursive: true });
    await writeHistory(join(folder, 'n1'), history);
    for (const name of ['n2', 'n3']) await cp(join(folder, 'n1'), join(folder, name), { recursive: true });
    const common = { shardCount, nowMs: nowMsOf(history), blocks };
    for (const name of [...NODES, 'n4']) {
      await mkdir(join(folder, name), { recursive: true });
      nodes.push(await PeerProcess.start({ ...common, name, folder: join(folder, name) }));
    }
    const instances = nodes.map(({ name, url }) => ({
      id: name,
      isolationGroup: name,
      weight: 1,
      endpoint: url,
    }));
    const before = available(
      initialPlacement({ instances: instances.slice(0, 3), shardCount, replicaFactor: REPLICAS }),
    );
    const [fourth] = instances.slice(3);
    const [joining] = nodes.slice(3);
    if (!fourth || !joining) throw new Error('there is no fourth node');
    const givers = nodes.slice(0, 3);
    for (const node of givers) await node.place(before);
    const foreground = new Foreground(givers, common.nowMs);
    await foreground.during(new Promise((resolve) => setTimeout(resolve, 1000)));
    const idle = await foreground.during(new Promise((resolve) => setTimeout(resolve, IDLE_MS)));
    const after = addInstance(before, fourth);
    const moved = after.instances.find(({ id }) => id === 'n4')?.shards.length ?? 0;
    const sentBefore = await sentBy(givers);
    const filling = Promise.all([joining.fill(after, moved), ...givers.map((node) => node.place(after))]);
    const during = await foreground.during(filling);
    const [filled] = await filling;
    return {
      moved,
      fairShare: Math.floor((shardCount * REPLICAS) / (NODES.length + 1)),
      sentBytes: (await sentBy(givers)) - sentBefore,
      ownedBytes: filled.filesetBytes,
      idle,
      during,
      tookMs: filled.ms,
      firstShardMs: filled.firstMs,
    };
  } finally {
    for (const node of nodes) await node[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  }
}

/** As after all have been filled. */
function available(placement: Placement): Placement {
  return {
    ...placement,
    instances: placement.instances.map((one) => ({
      ...one,
      shards: one.shards.map(({ id }) => ({ id, state: 'available' })),
    })),
    everAvailable: Array.from({ length: placement.shardCount }, (_, shard) => shard),
  };
}

async function sentBy(nodes: readonly PeerProcess[]): Promise<number> {
  const figures = await Promise.all(nodes.map((node) => node.figures()));
  return figures.reduce((sum, { sentBytes }) => sum + sentBytes, 0);
}

/** Clients at a fixed pace, whatever the answers take. */
class Foreground {
  readonly #nodes: readonly PeerProcess[];
  readonly #kernel = new ProtocolKernel();
  readonly #offsetMs: number;
  #count = 0;

  constructor(nodes: readonly PeerProcess[], nowMs: number) {
    this.#nodes = nodes;
    this.#offsetMs = nowMs - Date.now();
  }

  async during(work: Promise<unknown>): Promise<Latencies> {
    const times: number[] = [];
    const open: Promise<void>[] = [];
    let isDone = false;
    const timed = async (ask: () => Promise<Response>): Promise<void> => {
      const fromMs = performance.now();
      const answer = await ask();
      await answer.arrayBuffer();
      if (!answer.ok) throw new Error(`a client got ${answer.status}`);
      times.push(performance.now() - fromMs);
    };
    const timers = [
      setInterval(() => open.push(timed(() => this.#write())), WRITE_EVERY_MS),
      setInterval(() => open.push(timed(() => this.#read())), READ_EVERY_MS),
    ];
    await work.finally(() => {
      isDone = true;
      for (const timer of timers) clearInterval(timer);
    });
    if (isDone) await Promise.all(open);
    times.sort((a, b) => a - b);
    const at = (share: number): number => times[Math.floor(share * (times.length - 1))] ?? Number.NaN;
    return { count: times.length, p50Ms: at(0.5), p99Ms: at(0.99) };
  }

  #node(): PeerProcess {
    const node = this.#nodes[this.#count++ % this.#nodes.length];
    if (!node) throw new Error('there are no nodes');
    return node;
  }

  async #write(): Promise<Response> {
    const timeNs = BigInt(Date.now() + this.#offsetMs) * 1_000_000n;
    const series = Array.from({ length: 100 }, (_, i) => ({
      labels: [
        ['__name__', 'foreground'],
        ['i', String(i)],
      ] as const,
      samples: [{ timeNs, value: i }],
    }));
    const body = this.#kernel.encodeSnappy(encodeWriteRequest(series)).slice();
    return await fetch(`${this.#node().url}/ns/${NAMESPACE}/api/v1/write`, { method: 'POST', body });
  }

  async #read(): Promise<Response> {
    const host = String(this.#count % 10).padStart(5, '0');
    const query = new URLSearchParams({
      'match[]': `{__name__="up",instance="host-${host}:9100"}`,
      start: String(Math.floor((Date.now() + this.#offsetMs) / 1000) - 6 * 3600),
      end: String(Math.floor((Date.now() + this.#offsetMs) / 1000)),
    });
    return await fetch(`${this.#node().url}/ns/${NAMESPACE}/api/v1/export?${query.toString()}`);
  }
}
