import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../coordination/contract.suite.ts';
import type { Coordinator, Registration } from '../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../coordination/embedded-server.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { systemClock } from '../core/clock.ts';
import { markAvailable } from '../placement/change-placement.ts';
import { PlacementStore } from '../placement/placement-store.ts';
import type { RegistryOf } from './admission.ts';
import type { Log } from './log.ts';
import { PlacementRegistry } from './placement-registry.ts';
import { NODE_SERVICE } from './registration.ts';
import { StorageAdmission } from './storage-admission.ts';

const log: Log = { ...silentLog, debug: () => {} };
const deps = { clock: systemClock, log };
const rules = { expected: 2, waitMs: 60_000, replicas: 3, goneMs: 0 };
let folder: string;
let server: EmbeddedCoordinator;
let coordinator: Coordinator;
let store: PlacementStore;
let databases: RegistryOf[];
const nodes = new Map<string, { readonly http: Server; readonly registration: Registration }>();

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-admission-'));
  server = await EmbeddedCoordinator.start({ folder }, deps);
  coordinator = openCoordinator({ kind: 'embedded', url: server.url }, deps);
  store = new PlacementStore(coordinator);
  databases = [];
});
afterEach(async () => {
  for (const name of nodes.keys()) await end(name);
  await coordinator[Symbol.asyncDispose]();
  await server.close();
  await rm(folder, { recursive: true });
});

/** What the coordinator and the admission see of a data node. */
async function begin(name: string, storage: object | null = { shardCount: 8 }): Promise<void> {
  const http = createServer((request, response) => {
    response.statusCode = request.headers.authorization === 'Bearer secret' ? 200 : 401;
    response.end(JSON.stringify({ name, storage }));
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const { port } = http.address() as AddressInfo;
  const registration = await coordinator.register(
    { id: `varve-${name}`, name: NODE_SERVICE, address: '127.0.0.1', port, tags: ['data'], meta: { name } },
    { kind: 'ttl', ttlMs: 10_000, status: 'passing' },
  );
  nodes.set(name, { http, registration });
}

async function end(name: string): Promise<void> {
  const node = nodes.get(name);
  nodes.delete(name);
  await node?.registration[Symbol.asyncDispose]();
  node?.http.closeAllConnections();
  await new Promise((resolve) => node?.http.close(resolve));
}

function admission(notes: string[] = []): StorageAdmission {
  return new StorageAdmission(
    { ...deps, coordinator, databases: () => databases, note: (_, text) => void notes.push(text) },
    { node: 'an1', rules, token: 'secret' },
  );
}

const registry = (...names: string[]): RegistryOf => ({
  database: 'varve',
  isWriteMaster: true,
  nodes: names.map((name) => ({ name, host: '127.0.0.1' })),
});

async function fill(): Promise<void> {
  for (const id of ['dn1', 'dn2', 'dn3']) {
    await store.update((was) => was && markAvailable(was, id, [0, 1, 2, 3, 4, 5, 6, 7]));
  }
}

test('data nodes come in with their rows and go out with them, and people are told', async () => {
  const notes: string[] = [];
  const one = admission(notes);
  await one.round();
  await begin('dn1');
  databases = [registry('dn1', 'dn2')];
  await one.round();
  expect(one.waitingFor).toEqual([
    'the storage engine of dn2 does not answer',
    '1 of 2 storage engines are there; 60 s more for the others',
  ]);
  // A data node without a storage engine is as one that does not answer.
  await begin('dn2', null);
  await one.round();
  expect(await store.read()).toBeUndefined();
  await end('dn2');
  await begin('dn2');
  await one.round();
  expect(await store.read()).toMatchObject({ version: 1, replicaFactor: 2, shardCount: 8 });
  expect((await new PlacementRegistry(coordinator).read()).owned).toEqual({
    names: { dn1: ['varve'], dn2: ['varve'] },
    replicas: 3,
  });
  await fill();
  await begin('dn3');
  databases = [registry('dn1', 'dn2', 'dn3')];
  await one.round();
  expect(await store.read()).toMatchObject({
    replicaFactor: 3,
    instances: [{ id: 'dn1' }, { id: 'dn2' }, { id: 'dn3' }],
  });
  await fill();
  // Down is not gone.
  await end('dn3');
  await one.round();
  expect(await store.read()).toMatchObject({ instances: [{}, {}, { id: 'dn3' }] });
  databases = [registry('dn1', 'dn2')];
  // Once to see it, once to do it, once to give the name up.
  for (let i = 0; i < 3; i += 1) await one.round();
  expect(await store.read()).toMatchObject({ replicaFactor: 2, instances: [{ id: 'dn1' }, { id: 'dn2' }] });
  expect(Object.keys((await new PlacementRegistry(coordinator).read()).owned.names)).toEqual(['dn1', 'dn2']);
  expect(notes.map((text) => text.replace(/version \d+/, 'version'))).toEqual([
    'the placement of storage engines, version: made with dn1, dn2',
    'the placement of storage engines, version: dn3 was added',
    'the placement of storage engines, version: dn3 was taken out',
  ]);
  expect((await store.changes()).map(({ by, what }) => [by, what])).toEqual([
    ['the registry of data nodes, on an1', 'dn3 was taken out'],
    ['the registry of data nodes, on an1', 'dn3 was added'],
    ['the registry of data nodes, on an1', 'made with dn1, dn2'],
  ]);
});

test('of two that look at the same time one makes the placement', async () => {
  await Promise.all([begin('dn1'), begin('dn2')]);
  databases = [registry('dn1', 'dn2')];
  const notes: string[] = [];
  const both = [admission(notes), admission(notes)];
  for (let i = 0; i < 3; i += 1) await Promise.all(both.map((one) => one.round()));
  expect(await store.read()).toMatchObject({ version: 1 });
  expect(notes).toHaveLength(1);
});
