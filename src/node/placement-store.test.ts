import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../coordination/contract.suite.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../coordination/embedded-server.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { systemClock } from '../core/clock.ts';
import {
  addInstance,
  initialPlacement,
  markAvailable,
  moveEndpoint,
  type NewInstance,
} from '../placement/change-placement.ts';
import { PlacementStore } from '../placement/placement-store.ts';
import type { Placement } from '../placement/placement.ts';

const deps = { clock: systemClock, log: silentLog };
let folder: string;
let server: EmbeddedCoordinator;
let coordinator: Coordinator;
let store: PlacementStore;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-test-placement-'));
  server = await EmbeddedCoordinator.start({ folder }, deps);
  coordinator = openCoordinator({ kind: 'embedded', url: server.url }, deps);
  // One in which nothing was ever written has no index that a watch could wait on.
  await coordinator.put('varve/started', 'now');
  store = new PlacementStore(coordinator);
});
afterEach(async () => {
  await coordinator[Symbol.asyncDispose]();
  await server.close();
  await rm(folder, { recursive: true });
});

const instance = (id: string): NewInstance => ({
  id,
  isolationGroup: id,
  weight: 1,
  endpoint: 'http://127.0.0.1:1',
});
const first = (): Placement =>
  initialPlacement({ instances: ['a', 'b'].map(instance), shardCount: 16, replicaFactor: 2 });
const note = (what: string) => ({ at: '2026-01-01T00:00:00.000Z', by: 'somebody', what });

describe('PlacementStore', () => {
  it('lets one of several make the first placement', async () => {
    expect(await store.read()).toBeUndefined();
    let made = 0;
    const make = (was: Placement | undefined): Placement | undefined => {
      if (was) return undefined;
      made += 1;
      return first();
    };
    const all = await Promise.all([1, 2, 3, 4].map(() => new PlacementStore(coordinator).update(make)));
    expect(made).toBeGreaterThan(0);
    for (const one of all) expect(one).toEqual(first());
    expect(await store.read()).toEqual(first());
  });

  it('loses no change of those that are made at the same time', async () => {
    await store.update(first);
    await Promise.all(
      Array.from({ length: 16 }, (_, shard) =>
        new PlacementStore(coordinator).update(
          (was) => was && markAvailable(was, shard % 2 ? 'a' : 'b', [shard]),
        ),
      ),
    );
    const placement = await store.read();
    expect(placement?.version).toBe(17);
    expect(placement?.everAvailable).toEqual(Array.from({ length: 16 }, (_, shard) => shard));
  });

  it('writes nothing when nothing changes, or the change is refused', async () => {
    await store.update(first);
    await store.update((was) => was);
    await store.update(() => undefined);
    await expect(store.update((was) => was && addInstance(was, instance('a')))).rejects.toMatchObject({
      code: 'PLACEMENT_REFUSED',
    });
    expect(await store.read()).toEqual(first());
    expect(await store.changes()).toEqual([]);
  });

  it('keeps a history of what was decided, the newest first', async () => {
    await store.update(first, note('made'));
    await store.update((was) => was && markAvailable(was, 'a', [1]));
    await store.update((was) => was && addInstance(was, instance('c')), note('c was added'));
    expect(await store.changes()).toEqual([
      { version: 3, ...note('c was added') },
      { version: 1, ...note('made') },
    ]);
  });

  it('forgets the oldest of a long history', async () => {
    await store.update(first, note('made'));
    for (let i = 2; i <= 105; i += 1) {
      await store.update((was) => was && moveEndpoint(was, 'a', `http://127.0.0.1:${i}`), note(`moved ${i}`));
    }
    const changes = await store.changes();
    expect(changes).toHaveLength(100);
    expect(changes.at(-1)?.what).toBe('moved 6');
  });

  it('tells who watches of each change, and of nothing else', async () => {
    const stop = new AbortController();
    const seen: (number | undefined)[] = [];
    const watching = (async () => {
      for await (const placement of store.watch(stop.signal)) {
        seen.push(placement?.version);
        if (placement?.version === 2) stop.abort();
        else if (placement === undefined) await store.update(first, note('made'));
        else await store.update((was) => was && addInstance(was, instance('c')), note('c was added'));
      }
    })();
    await watching;
    expect(seen).toEqual([undefined, 1, 2]);
  });

  it('refuses to write what the coordinator cannot hold, and to change what it cannot read', async () => {
    const small = new PlacementStore({
      bounds: { maxValueBytes: 100 },
      get: (key) => coordinator.get(key),
      list: (prefix) => coordinator.list(prefix),
      txn: (compare, operations) => coordinator.txn(compare, operations),
      watch: (prefix, signal) => coordinator.watch(prefix, signal),
    });
    await expect(small.update(first)).rejects.toMatchObject({ code: 'PLACEMENT_TOO_LARGE' });
    await coordinator.put('varve/storage/placement/current', '{"format":7}');
    await expect(store.read()).rejects.toMatchObject({ code: 'PLACEMENT_UNREADABLE' });
    await expect(store.update(first)).rejects.toMatchObject({ code: 'PLACEMENT_UNREADABLE' });
  });
});
