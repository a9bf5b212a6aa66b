import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../coordination/contract.suite.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../coordination/embedded-server.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { systemClock } from '../core/clock.ts';
import { NodeFileSystem } from '../core/node-file-system.ts';
import {
  addInstance,
  initialPlacement,
  removeInstance,
  type NewInstance,
} from '../placement/change-placement.ts';
import { PlacementStore } from '../placement/placement-store.ts';
import type { Placement } from '../placement/placement.ts';
import type { TopologySnapshot } from '../storage/bootstrap/topology-snapshot.ts';
import type { Log } from './log.ts';
import { StoragePlacement } from './storage-placement.ts';

const log: Log = { ...silentLog, debug: () => {} };
const deps = { clock: systemClock, log };
let folder: string;
let server: EmbeddedCoordinator;
let coordinator: Coordinator;
let store: PlacementStore;
let stop: AbortController;
let running: Promise<void>[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-agent-'));
  server = await EmbeddedCoordinator.start({ folder }, deps);
  coordinator = openCoordinator({ kind: 'embedded', url: server.url }, deps);
  store = new PlacementStore(coordinator);
  stop = new AbortController();
  running = [];
});
afterEach(async () => {
  stop.abort();
  await Promise.all(running);
  await coordinator[Symbol.asyncDispose]();
  await server.close();
  await rm(folder, { recursive: true });
});

/** An engine that says what it is told to say. */
class ToldEngine {
  readonly applied: TopologySnapshot[] = [];
  durable: readonly number[] = [];
  /** While it is open, a topology is not in force. */
  gate: Promise<void> = Promise.resolve();

  async applyTopology(topology: TopologySnapshot): Promise<void> {
    await this.gate;
    this.applied.push(topology);
  }

  durableShards(): readonly number[] {
    return this.durable;
  }
}

async function agent(node: string, engine: ToldEngine): Promise<StoragePlacement> {
  const options = { node, file: join(folder, `${node}.placement`), engine };
  const all = { ...deps, random: Math.random, fs: new NodeFileSystem(), store };
  const placement = await StoragePlacement.open(all, options);
  running.push(placement.run(stop.signal));
  return placement;
}

const instance = (id: string): NewInstance => ({
  id,
  isolationGroup: id,
  weight: 1,
  endpoint: 'http://127.0.0.1:1',
});
const first = (): Placement =>
  initialPlacement({ instances: ['a', 'b'].map(instance), shardCount: 4, replicaFactor: 1 });
const soon = { timeout: 15_000 };

async function states(node: string): Promise<string[]> {
  const placement = await store.read();
  return placement?.instances.find(({ id }) => id === node)?.shards.map(({ state }) => state) ?? [];
}

test('an engine gets each placement, and its shards are available as they become durable', async () => {
  const engine = new ToldEngine();
  const placement = await agent('a', engine);
  expect([placement.current, placement.status()]).toEqual([undefined, null]);
  const told: number[] = [];
  placement.onChange(({ version }) => told.push(version));
  await store.update(first);
  await expect
    .poll(() => engine.applied.map(({ version, origin }) => [version, origin]), soon)
    .toEqual([[1, 'a']]);
  expect(placement.status()).toMatchObject({
    version: 1,
    instances: [{ node: 'a', shards: { initializing: 2, available: 0, leaving: 0 } }, { node: 'b' }],
    problem: null,
  });
  const own = (await store.read())?.instances[0]?.shards.map(({ id }) => id) ?? [];
  engine.durable = own.slice(0, 1);
  await expect.poll(() => states('a'), soon).toEqual(['available', 'initializing']);
  engine.durable = [0, 1, 2, 3];
  await expect.poll(() => states('a'), soon).toEqual(['available', 'available']);
  // What is durable here is not its to say of others.
  expect(await states('b')).toEqual(['initializing', 'initializing']);
  await expect.poll(() => told, soon).toEqual([1, 2, 3]);
});

test('shards are not available by what the engine said of an older placement', async () => {
  const engine = new ToldEngine();
  await agent('b', engine);
  await store.update(first);
  await expect.poll(() => engine.applied.length, soon).toBe(1);
  let open = (): void => {};
  engine.gate = new Promise((resolve) => (open = resolve));
  // A shard may have been taken away and given back since: others took writes of it meanwhile.
  await store.update((was) => was && removeInstance(was, 'a'));
  await store.update((was) => was && addInstance(was, instance('c')));
  engine.durable = [0, 1, 2, 3];
  await systemClock.sleep(2500);
  expect(await states('b')).toEqual(['initializing', 'initializing']);
  open();
  await expect.poll(() => states('b'), soon).toEqual(['available', 'available']);
});

test('the last placement is known without the coordinator, and one that vanishes or cannot be read stays in force', async () => {
  await store.update(first);
  const engine = new ToldEngine();
  const placement = await agent('a', engine);
  await expect.poll(() => engine.applied.length, soon).toBe(1);
  await coordinator.put('varve/storage/placement/current', '{}');
  await expect.poll(() => placement.status()?.problem, soon).toMatch(/cannot be used/);
  await coordinator.delete('varve/storage/placement/current');
  await expect.poll(() => placement.status()?.problem, soon).toBeNull();
  expect(placement.current).toEqual(first());
  expect(engine.applied).toHaveLength(1);
  const options = { node: 'a', file: join(folder, 'a.placement'), engine };
  const parts = { ...deps, random: Math.random, fs: new NodeFileSystem(), store };
  expect((await StoragePlacement.open(parts, options)).current).toEqual(first());
  expect((await StoragePlacement.open({ ...parts, store: undefined }, options)).current).toBeUndefined();
  await writeFile(options.file, (await readFile(options.file)).subarray(0, 50));
  expect((await StoragePlacement.open(parts, options)).current).toBeUndefined();
});
