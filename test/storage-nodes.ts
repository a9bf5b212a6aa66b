import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EmbeddedCoordinator } from '../src/coordination/embedded-server.ts';
import { openCoordinator } from '../src/coordination/open-coordinator.ts';
import type { Coordinator } from '../src/coordination/coordinator.ts';
import { systemClock } from '../src/core/clock.ts';
import { VarveError } from '../src/core/errors.ts';
import type { NodeStatus } from '../src/node/node-status.ts';
import type { PlacementRequest } from '../src/node/placement-request.ts';
import { StorageClient } from '../src/node/storage-client.ts';
import type { ShardExplanation } from '../src/node/storage-explain.ts';
import type { StorageStatus } from '../src/node/storage-status.ts';
import { initialPlacement } from '../src/placement/change-placement.ts';
import { PlacementStore } from '../src/placement/placement-store.ts';
import type { Placement } from '../src/placement/placement.ts';
import { decodeLabels } from '../src/storage/index/labels.ts';
import { readColumns } from '../src/storage/replication/columns-body.ts';
import { HttpReplicaTransport } from '../src/storage/replication/http-replica-transport.ts';
import { FaultProxy } from './fault-proxy.ts';
import { freePorts } from './free-ports.ts';
import { TEMP_PREFIX } from './leak-check.ts';
import { SERIES_NAME, sampleKey, type FoundSamples, type SampleLedger } from './sample-ledger.ts';
import { start } from './system-process.ts';

const quiet = { info: () => {}, warn: () => {}, error: () => {} };
const STEP_MS = 50;
const START_LIMIT_MS = 60_000;
const SETTLE_LIMIT_MS = 90_000;
const READ_LIMIT_MS = 40_000;
const { signal: NEVER } = new AbortController();

/** Flags of `varve node` without their dashes. */
export type NodeFlags = Readonly<Record<string, string | number>>;

export interface StorageNodesOptions {
  readonly count: number;
  readonly shardCount: number;
  /** Of all nodes. */
  readonly flags?: NodeFlags | undefined;
}

/** `varve node` of kind storage as a process, which others reach by a link that can be cut. */
export class StorageNode {
  readonly id: string;
  readonly folder: string;
  readonly url: string;
  /** Where the other nodes reach it. */
  readonly endpoint: string;
  readonly link: FaultProxy;
  /** For the next start. */
  flags: NodeFlags;
  output = '';
  #child: ChildProcess | undefined;

  constructor(parts: {
    readonly id: string;
    readonly folder: string;
    readonly port: number;
    readonly link: FaultProxy;
    readonly flags: NodeFlags;
  }) {
    this.id = parts.id;
    this.folder = parts.folder;
    this.url = `http://127.0.0.1:${parts.port}`;
    this.endpoint = `http://127.0.0.1:${parts.link.port}`;
    this.link = parts.link;
    this.flags = parts.flags;
  }

  get isUp(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get client(): StorageClient {
    return new StorageClient(this.url, undefined);
  }

  /** Resolves when it serves everything; with `untilListening` as soon as it answers at all. */
  async start({ untilListening = false } = {}): Promise<void> {
    const given = {
      kind: 'storage',
      name: this.id,
      folder: this.folder,
      'http-port': new URL(this.url).port,
    };
    const flags: NodeFlags = { ...given, ...this.flags };
    const child = start([
      'node',
      ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]),
    ]);
    this.#child = child;
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    await until(`${this.id} is ready`, START_LIMIT_MS, async () => {
      if (!this.isUp) throw new Error(`${this.id} has ended: ${this.output}`);
      const answer = await fetch(`${this.url}/-/ready`).catch(() => undefined);
      return answer !== undefined && (untilListening || answer.ok);
    });
  }

  async end(how: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(how);
    await exited;
  }

  async status(): Promise<StorageStatus> {
    const { storage } = (await (await fetch(`${this.url}/api/status`)).json()) as NodeStatus;
    if (!storage) throw new Error(`${this.id} has no storage engine`);
    return storage;
  }

  async explain(shard: number): Promise<ShardExplanation> {
    return await this.client.explain(String(shard));
  }

  /** What any client is told by this node, for all replicas. @throws what it answers */
  async exported(namespace = 'default'): Promise<FoundSamples> {
    const found = new Map<string, number>();
    const query = { namespace, match: SERIES_NAME, start: undefined, end: undefined };
    let rest = '';
    for await (const bytes of this.client.export(query)) {
      const lines = (rest + Buffer.from(bytes).toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const { metric, values, timestamps } = JSON.parse(line) as {
          readonly metric: { readonly n: string };
          readonly values: number[];
          readonly timestamps: number[];
        };
        for (const [i, value] of values.entries())
          found.set(sampleKey(metric.n, timestamps[i] as number), value);
      }
    }
    return found;
  }

  /** The same, as often as it takes: on a busy machine too few replicas may answer in time, and that is said. */
  async exportedAtLast(namespace = 'default'): Promise<FoundSamples> {
    let found: FoundSamples | undefined;
    let why: unknown;
    await until(
      () => `everything can be read through ${this.id}: ${String(why)}`,
      READ_LIMIT_MS,
      async () => {
        found = await this.exported(namespace).catch((error: unknown) => {
          why = error;
          return undefined;
        });
        return found !== undefined;
      },
    );
    return found as FoundSamples;
  }

  /** What it has itself, of all of its shards or of some. */
  async held(namespace = 'default', shards?: readonly number[]): Promise<FoundSamples> {
    await using transport = new HttpReplicaTransport(undefined);
    const found = new Map<string, number>();
    const question = { kind: 'read', namespace, startNs: '0', endNs: String(1n << 62n) } as const;
    const asked = {
      ...question,
      matchers: [['__name__', '=', SERIES_NAME]] as const,
      ...(shards ? { shards } : {}),
    };
    let name = '';
    for await (const part of transport.ask({ id: this.id, endpoint: this.url }, asked, NEVER)) {
      for (const { labels, columns } of readColumns(part)) {
        if (labels.length > 0) name = decodeLabels(labels).find(([label]) => label === 'n')?.[1] ?? '';
        const values = new Float64Array(columns.bits.buffer, columns.bits.byteOffset, columns.bits.length);
        for (const [i, value] of values.entries()) {
          found.set(sampleKey(name, Number((columns.times[i] as bigint) / 1_000_000n)), value);
        }
      }
    }
    return found;
  }
}

/** Storage nodes as processes of their own, with a coordinator in this one. */
export class StorageNodes implements AsyncDisposable {
  readonly nodes: readonly StorageNode[];
  readonly store: PlacementStore;
  readonly #base: string;
  readonly #server: EmbeddedCoordinator;
  readonly #coordinator: Coordinator;

  private constructor(
    base: string,
    parts: {
      readonly server: EmbeddedCoordinator;
      readonly coordinator: Coordinator;
      readonly nodes: readonly StorageNode[];
    },
  ) {
    this.#base = base;
    this.#server = parts.server;
    this.#coordinator = parts.coordinator;
    this.nodes = parts.nodes;
    this.store = new PlacementStore(parts.coordinator);
  }

  /** Named `s1`, `s2` and so on; none of them runs yet. */
  static async open(name: string, { count, shardCount, flags }: StorageNodesOptions): Promise<StorageNodes> {
    const base = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}${name}-`));
    const folder = join(base, 'coordinator');
    await mkdir(folder);
    const deps = { clock: systemClock, log: quiet };
    const server = await EmbeddedCoordinator.start({ folder }, deps);
    const coordinator = openCoordinator({ kind: 'embedded', url: server.url }, deps);
    const ports = await freePorts(count);
    const nodes = await Promise.all(
      ports.map(async (port, i) => {
        const id = `s${i + 1}`;
        const link = await FaultProxy.open({ host: '127.0.0.1', port });
        const own = { 'shard-count': shardCount, coordinator: server.url, 'memory-mb': 64, ...flags };
        return new StorageNode({ id, folder: join(base, id), port, link, flags: own });
      }),
    );
    return new StorageNodes(base, { server, coordinator, nodes });
  }

  /** By its place, from 1 on, as its name has it. */
  node(number: number): StorageNode {
    return this.nodes[number - 1] as StorageNode;
  }

  get running(): readonly StorageNode[] {
    return this.nodes.filter(({ isUp }) => isUp);
  }

  /** Starts the first so many at once and makes a placement of them. */
  async begin(count: number, replicaFactor: number): Promise<void> {
    const members = this.nodes.slice(0, count);
    await Promise.all(members.map((node) => node.start()));
    const instances = members.map(({ id, endpoint }) => ({ id, isolationGroup: id, weight: 1, endpoint }));
    const shardCount = Number(this.nodes[0]?.flags['shard-count']);
    await this.store.update(() => initialPlacement({ instances, shardCount, replicaFactor }));
    await this.settled();
  }

  /** Changes the placement as an operator does, by way of any node that runs. */
  async change(change: PlacementRequest): Promise<void> {
    await until('the placement is changed', 20_000, async () => {
      const [by] = this.running;
      if (!by) throw new Error('nobody runs');
      try {
        await by.client.changePlacement(change, 'test');
        return true;
      } catch (error) {
        // The coordinator may learn of a node a moment after it is ready.
        if (error instanceof VarveError && error.code === 'NODE_UNKNOWN') return false;
        throw error;
      }
    });
  }

  add(node: StorageNode): Promise<void> {
    return this.change({ action: 'add', node: { id: node.id, endpoint: node.endpoint } });
  }

  remove(node: StorageNode): Promise<void> {
    return this.change({ action: 'remove', id: node.id });
  }

  replace(node: StorageNode, by: StorageNode): Promise<void> {
    return this.change({ action: 'replace', id: node.id, by: { id: by.id, endpoint: by.endpoint } });
  }

  /** Makes the same namespace on all of them, by way of one. */
  async namespace(name: string, settings: object): Promise<void> {
    const [by] = this.running;
    await by?.client.putNamespace(name, settings);
    await until(`namespace ${name} is everywhere`, 20_000, async () => {
      const lists = await Promise.all(this.running.map(async (node) => await node.status()));
      return lists.every(({ namespaces }) => namespaces.some((one) => one.name === name));
    });
  }

  async placement(): Promise<Placement> {
    const placement = await this.store.read();
    if (!placement) throw new Error('there is no placement');
    return placement;
  }

  /** Every shard is available where it is to be, and every node that runs knows that. */
  async settled(): Promise<Placement> {
    let last: Placement | undefined;
    let why = '';
    await until(
      () => `all shards are available: ${why}`,
      SETTLE_LIMIT_MS,
      async () => {
        last = await this.placement();
        const waiting = last.instances.flatMap(({ id, shards }) => {
          const count = shards.filter(({ state }) => state !== 'available').length;
          return count > 0 ? [`${id} has ${count} that are not`] : [];
        });
        const statuses = await Promise.all(
          this.running.map(async (node) => [node.id, await node.status()] as const),
        );
        const late = statuses.filter(([, { placement }]) => placement?.version !== last?.version);
        const open = statuses.flatMap(([id, { bootstrap }]) =>
          (bootstrap?.unfulfilled ?? [])
            .slice(0, 1)
            .map(({ reason, detail }) => `${id}: ${reason}, ${detail}`),
        );
        why = [...waiting, ...late.map(([id]) => `${id} knows another placement`), ...open].join('; ');
        return waiting.length === 0 && late.length === 0;
      },
    );
    return last as Placement;
  }

  /** How many of the acknowledged samples are not on exactly so many of the nodes that run. */
  async lacking(ledger: SampleLedger, copies: number): Promise<number> {
    const counts = new Map<string, number>();
    for (const node of this.running) {
      for (const key of (await node.held(ledger.namespace)).keys())
        counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    return [...ledger.acknowledgedNow().keys()].filter((key) => counts.get(key) !== copies).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.end('SIGKILL')));
    await Promise.all(this.nodes.map(({ link }) => link[Symbol.asyncDispose]()));
    await this.#coordinator[Symbol.asyncDispose]();
    await this.#server[Symbol.asyncDispose]();
    await rm(this.#base, { recursive: true, force: true });
  }
}

/** Tries until it is so. @throws what the condition throws, and an error that says what did not come about */
export async function until(
  what: string | (() => string),
  limitMs: number,
  condition: () => Promise<boolean>,
): Promise<void> {
  const limit = Date.now() + limitMs;
  while (!(await condition())) {
    if (Date.now() >= limit) throw new Error(`too late: ${typeof what === 'string' ? what : what()}`);
    await new Promise((resolve) => setTimeout(resolve, STEP_MS));
  }
}
