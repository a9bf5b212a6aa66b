import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { freePorts } from '../../test/free-ports.ts';
import { start } from '../../test/system-process.ts';
import { EmbeddedCoordinator } from '../coordination/embedded-server.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { systemClock } from '../core/clock.ts';
import { initialPlacement } from '../placement/change-placement.ts';
import { PlacementStore } from '../placement/placement-store.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import { readColumns } from '../storage/replication/columns-body.ts';
import { HttpReplicaTransport } from '../storage/replication/http-replica-transport.ts';
import { ProtocolKernel } from '../storage/protocol/protocol-kernel.ts';
import { encodeWriteRequest } from '../storage/protocol/remote-write.ts';
import type { ReplicationStatus } from '../storage/replication/replication.ts';

const SHARDS = 8;
const SERIES = 50;
const quiet = { info: () => {}, warn: () => {}, error: () => {} };
const kernel = new ProtocolKernel();
const { signal } = new AbortController();

let base: string;
let server: EmbeddedCoordinator;
let coordinator: Coordinator;
let nodes: StorageNode[];

/** `varve node` of kind storage as a process. */
class StorageNode {
  readonly id: string;
  readonly port: number;
  output = '';
  #child: ChildProcess | undefined;

  constructor(id: string, port: number) {
    this.id = id;
    this.port = port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const given = { kind: 'storage', name: this.id, folder: join(base, this.id), 'http-port': this.port };
    const more = { 'shard-count': SHARDS, coordinator: server.url, 'replica-timeout': '2s' };
    const flags = Object.entries({ ...given, ...more }).flatMap(([flag, value]) => [
      `--${flag}`,
      String(value),
    ]);
    const child = start(['node', ...flags]);
    this.#child = child;
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    for (;;) {
      const answer = await fetch(`${this.url}/-/ready`).catch(() => undefined);
      if (answer?.ok) return;
      if (child.exitCode !== null) throw new Error(this.output);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async end(how: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(how);
    await once(child, 'exit');
  }

  async replication(): Promise<ReplicationStatus | null> {
    const answer = await fetch(`${this.url}/api/status`);
    return ((await answer.json()) as { storage: { replication: ReplicationStatus | null } }).storage
      .replication;
  }
}

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'varve-test-replication-'));
  server = await EmbeddedCoordinator.start(
    { folder: join(base, 'coordinator') },
    { clock: systemClock, log: quiet },
  );
  coordinator = openCoordinator({ kind: 'embedded', url: server.url }, { clock: systemClock, log: quiet });
  const ports = await freePorts(3);
  nodes = ports.map((port, i) => new StorageNode(`s${i + 1}`, port));
});

afterEach(async () => {
  for (const node of nodes) await node.end('SIGTERM');
});

afterAll(async () => {
  await coordinator[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  await rm(base, { recursive: true });
});

/** All samples `n value` that one node itself has. */
async function held({ id, url }: StorageNode): Promise<Set<string>> {
  await using transport = new HttpReplicaTransport(undefined);
  const found = new Set<string>();
  const question = { kind: 'read', namespace: 'default', startNs: '0', endNs: String(1n << 62n) } as const;
  const matchers = [['__name__', '=', 'm']] as const;
  let name = '';
  for await (const part of transport.ask({ id, endpoint: url }, { ...question, matchers }, signal)) {
    for (const { labels, columns } of readColumns(part)) {
      if (labels.length > 0) name = Buffer.from(labels).toString('latin1').replaceAll(/[^\w]/g, '');
      const values = new Float64Array(columns.bits.buffer, columns.bits.byteOffset, columns.bits.length);
      for (const value of values) found.add(`${name} ${value}`);
    }
  }
  return found;
}

/** Sends to each of `to` in turn until `stop`; an answer that is not a yes ends it. Returns how many requests it sent. */
async function sendUntil(to: readonly StorageNode[], stop: AbortSignal): Promise<number> {
  let sent = 0;
  while (!stop.aborted) {
    const value = sent++;
    const timeNs = BigInt(Date.now()) * 1_000_000n;
    const series = Array.from({ length: SERIES }, (_, i) => ({
      labels: [
        ['__name__', 'm'],
        ['n', String(i)],
      ] as const,
      samples: [{ timeNs, value }],
    }));
    const node = to[value % to.length] as StorageNode;
    const body = kernel.encodeSnappy(encodeWriteRequest(series));
    const answer = await fetch(`${node.url}/api/v1/write`, { method: 'POST', body });
    if (answer.status !== 204) throw new Error(`${node.id}: ${answer.status} ${await answer.text()}`);
    // No two of a millisecond.
    while (BigInt(Date.now()) * 1_000_000n === timeNs) await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return sent;
}

const during = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('one of three nodes is killed under load: no write fails, and it has everything when it is back', async () => {
  await Promise.all(nodes.map((node) => node.start()));
  const instances = nodes.map(({ id, url }) => ({ id, isolationGroup: id, weight: 1, endpoint: url }));
  await new PlacementStore(coordinator).update(() =>
    initialPlacement({ instances, shardCount: SHARDS, replicaFactor: 3 }),
  );
  const store = new PlacementStore(coordinator);
  await expect
    .poll(
      async () =>
        (await store.read())?.instances.every(({ shards }) =>
          shards.every(({ state }) => state === 'available'),
        ),
      { timeout: 30_000 },
    )
    .toBe(true);
  // Each has heard of it.
  await expect
    .poll(async () =>
      (await Promise.all(nodes.map((node) => node.replication()))).every((one) => one !== null),
    )
    .toBe(true);
  const [first, second, third] = nodes as [StorageNode, StorageNode, StorageNode];
  const version = (await store.read())?.version;
  await expect
    .poll(async () => (await first.replication())?.placementVersion, { timeout: 5000 })
    .toBe(version);
  await expect
    .poll(async () => (await second.replication())?.placementVersion, { timeout: 5000 })
    .toBe(version);

  const stop = new AbortController();
  const sending = sendUntil([first, second], stop.signal);
  await during(500);
  await third.end('SIGKILL');
  await during(1000);
  await third.start();
  await during(500);
  stop.abort();
  const sent = await sending;
  expect(sent).toBeGreaterThan(10);

  const expected = sent * SERIES;
  await expect.poll(async () => (await held(first)).size).toBe(expected);
  await expect.poll(async () => (await held(third)).size, { timeout: 30_000 }).toBe(expected);
  const hints = await Promise.all([first, second].map((node) => node.replication()));
  const replayed = hints.flatMap((one) => one?.hints ?? []).reduce((sum, one) => sum + one.replayed, 0);
  expect(replayed).toBeGreaterThan(0);

  // Without another one, readers are told so, as soon as it is asked: a majority is asked, and not always the same.
  await first.end('SIGKILL');
  await expect
    .poll(
      async () => {
        const labels = await fetch(`${third.url}/api/v1/label/n/values`);
        const { data, warnings } = (await labels.json()) as { data: string[]; warnings?: string[] };
        expect(data).toHaveLength(SERIES);
        return warnings?.join();
      },
      { timeout: 10_000 },
    )
    .toContain('replica s1');
  const lines = await (await fetch(`${second.url}/api/v1/export?match[]=m`)).text();
  const values = lines
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { values: number[] }).values.length);
  expect(values.reduce((sum, count) => sum + count, 0)).toBe(expected);
  const metrics = await (await fetch(`${second.url}/metrics`)).text();
  expect(metrics).toMatch(/varve_storage_replication_hints_replayed_total\{replica="s3"\} \d/);
});
