import { describe, expect, it } from 'vitest';
import { addInstance, initialPlacement, markAvailable } from '../placement/change-placement.ts';
import { checkPlacement } from '../placement/check-placement.ts';
import type { Placement } from '../placement/placement.ts';
import { planAdmission, type AdmissionFacts, type RegistryOf } from './admission.ts';

const rules = { expected: 3, waitMs: 30_000, replicas: 3, goneMs: 10_000 };
const NAMES = ['dn1', 'dn2', 'dn3'];

const registry = (names: readonly string[], more: Partial<RegistryOf> = {}): RegistryOf => ({
  database: 'varve',
  isWriteMaster: true,
  nodes: names.map((name) => ({ name, host: '127.0.0.1' })),
  ...more,
});
const engine = (name: string) => ({ endpoint: `http://127.0.0.1:80${name.at(-1)}0`, shardCount: 32 });
const engines = (names: readonly string[]) => new Map(names.map((name) => [name, engine(name)]));
const owning = (names: readonly string[], replicas: number | null = 3) => ({
  names: Object.fromEntries(names.map((name) => [name, ['varve']])),
  replicas,
});

const settled = (placement: Placement): Placement =>
  placement.instances.reduce(
    (now, { id, shards }) =>
      markAvailable(
        now,
        id,
        shards.map((shard) => shard.id),
      ),
    placement,
  );
const placed = (names: readonly string[], replicaFactor: number): Placement =>
  settled(
    initialPlacement({
      instances: names.map((id) => ({ id, isolationGroup: id, weight: 1, endpoint: engine(id).endpoint })),
      shardCount: 32,
      replicaFactor,
    }),
  );

const facts = (more: Partial<AdmissionFacts>): AdmissionFacts => ({
  placement: undefined,
  owned: { names: {}, replicas: null },
  databases: [registry(NAMES)],
  engines: engines(NAMES),
  waitedMs: 0,
  goneMs: new Map(),
  ...more,
});

function next(more: Partial<AdmissionFacts>): Placement | undefined {
  const change = planAdmission(facts(more), rules)?.change;
  if (change) expect(checkPlacement(change.next)).toEqual([]);
  return change?.next;
}

describe('the first placement', () => {
  it('is made of all expected nodes, with three replicas, and its names are written down', () => {
    const step = planAdmission(facts({}), rules);
    expect(step?.change?.next.instances.map(({ id }) => id)).toEqual(NAMES);
    expect(step?.change?.next).toMatchObject({ replicaFactor: 3, shardCount: 32 });
    expect(step?.owned).toEqual(owning(NAMES));
    expect(step?.waitingFor).toEqual([]);
  });

  it('waits for those that do not answer yet, and goes on without them after its time', () => {
    const two = { engines: engines(['dn1', 'dn3']) };
    const step = planAdmission(facts({ ...two, waitedMs: 1500 }), rules);
    expect(step?.change).toBeUndefined();
    expect(step?.waitingFor).toEqual([
      'the storage engine of dn2 does not answer',
      '2 of 3 storage engines are there; 29 s more for the others',
    ]);
    expect(next({ ...two, waitedMs: 30_000 })).toMatchObject({ replicaFactor: 2 });
  });

  it('is not made of nothing', () => {
    expect(next({ engines: new Map(), waitedMs: 1e9 })).toBeUndefined();
  });

  it('puts data nodes of one other host into one isolation group', () => {
    const nodes = NAMES.map((name) => ({ name, host: name === 'dn3' ? 'b.example' : 'a::1' }));
    const placement = next({ databases: [registry([], { nodes })] });
    expect(placement?.instances.map(({ isolationGroup }) => isolationGroup)).toEqual([
      'a--1',
      'a--1',
      'b.example',
    ]);
    expect(placement?.replicaFactor).toBe(2);
  });
});

describe('an access node that has no say', () => {
  it.each<[string, Partial<AdmissionFacts>]>([
    ['is no write master', { databases: [registry(NAMES, { isWriteMaster: false })] }],
    ['cannot read its registry', { databases: [registry([], { error: 'the server is away' })] }],
    ['has no access database', { databases: [] }],
  ])('does nothing when it %s', (_, more) => {
    expect(planAdmission(facts(more), rules)).toBeUndefined();
  });
});

describe('a data node more', () => {
  const four = [...NAMES, 'dn4'];
  const before = { placement: placed(NAMES, 3), owned: owning(NAMES), databases: [registry(four)] };

  it('comes in once its engine answers', () => {
    expect(planAdmission(facts(before), rules)).toMatchObject({
      owned: owning(four),
      change: undefined,
      waitingFor: ['the storage engine of dn4 does not answer'],
    });
    const step = planAdmission(facts({ ...before, engines: engines(four) }), rules);
    expect(step?.change?.what).toBe('dn4 was added');
    expect(step?.change?.next.instances.at(-1)).toMatchObject({
      id: 'dn4',
      endpoint: engine('dn4').endpoint,
    });
    expect(step?.change?.next.instances.at(-1)?.shards).toHaveLength(24);
  });

  it('is one replica more while there are fewer than three', () => {
    const one = {
      placement: placed(['dn1'], 1),
      owned: owning(['dn1']),
      databases: [registry(['dn1', 'dn2'])],
    };
    expect(next(one)).toMatchObject({ replicaFactor: 2 });
    expect(next({ ...one, owned: owning(['dn1'], null) })).toMatchObject({ replicaFactor: 1 });
  });

  it('stays out with another number of shards', () => {
    const other = new Map([...engines(NAMES), ['dn4', { ...engine('dn4'), shardCount: 64 }]]);
    expect(planAdmission(facts({ ...before, engines: other }), rules)).toMatchObject({
      change: undefined,
      waitingFor: ['dn4 has 64 shards and not 32: it needs an empty folder'],
    });
  });

  it('comes back when its row comes back while it is on its way out', () => {
    const added = settled(
      addInstance(placed(NAMES, 2), {
        id: 'dn4',
        isolationGroup: 'dn4',
        weight: 1,
        endpoint: engine('dn4').endpoint,
      }),
    );
    const leaving = next({ placement: added, owned: owning(four, 2), goneMs: new Map([['dn4', 10_000]]) });
    expect(leaving?.instances.find(({ id }) => id === 'dn4')?.isLeaving).toBe(true);
    const back = next({ ...before, owned: owning(NAMES, 2), placement: leaving, engines: engines(four) });
    expect(back?.instances).toEqual(added.instances);
  });
});

describe('a data node whose row is gone', () => {
  const two = { databases: [registry(['dn1', 'dn2'])], owned: owning(NAMES) };

  it('is taken out after a while, and keeps its name until then', () => {
    const placement = placed(NAMES, 2);
    const step = planAdmission(facts({ ...two, owned: owning(NAMES, 2), placement }), rules);
    expect(step).toMatchObject({ owned: undefined, change: undefined, gone: ['dn3'] });
    const ripe = planAdmission(
      facts({ ...two, owned: owning(NAMES, 2), placement, goneMs: new Map([['dn3', 10_000]]) }),
      rules,
    );
    expect(ripe?.change?.what).toBe('dn3 was taken out');
    const after = planAdmission(
      facts({ ...two, owned: owning(NAMES, 2), placement: ripe?.change?.next }),
      rules,
    );
    expect(after).toMatchObject({ owned: owning(['dn1', 'dn2'], 2), change: undefined, gone: [] });
  });

  it('goes with a replica when there are only as many nodes as replicas, once the others are whole', () => {
    const ripe = { ...two, goneMs: new Map([['dn3', 10_000]]) };
    const placement = placed(NAMES, 3);
    expect(next({ ...ripe, placement })).toMatchObject({
      replicaFactor: 2,
      instances: [{ id: 'dn1' }, { id: 'dn2' }],
    });
    const filling = {
      ...placement,
      instances: placement.instances.map((one) => ({
        ...one,
        shards: one.shards.map((shard) =>
          one.id === 'dn1' ? { ...shard, state: 'initializing' as const } : shard,
        ),
      })),
    };
    expect(planAdmission(facts({ ...ripe, placement: filling }), rules)).toMatchObject({
      change: undefined,
      waitingFor: [expect.stringMatching(/dn1 is still being filled/)],
    });
    const byHand = planAdmission(facts({ ...ripe, placement, owned: owning(NAMES, null) }), rules);
    expect(byHand?.waitingFor).toEqual([expect.stringMatching(/needs instances in 3 isolation groups/)]);
  });

  it('is not one whose registry cannot be read, or was dropped, or is another master’s', () => {
    const placement = placed(NAMES, 2);
    const goneMs = new Map(NAMES.map((name) => [name, 1e6]));
    const other = registry([], { database: 'other' });
    for (const databases of [
      [other, registry([], { error: 'away' })],
      [other, registry([], { isWriteMaster: false })],
    ]) {
      expect(
        planAdmission(facts({ placement, owned: owning(NAMES, 2), databases, goneMs }), rules),
      ).toMatchObject({ owned: undefined, change: undefined, gone: [] });
    }
    expect(
      planAdmission(facts({ placement, owned: owning(NAMES, 2), databases: [other], goneMs }), rules),
    ).toMatchObject({ owned: { names: {} }, change: undefined, gone: [] });
  });

  it('is not one that somebody added by hand', () => {
    expect(
      next({
        ...two,
        placement: placed([...NAMES, 's9'], 2),
        owned: owning(['dn1', 'dn2'], 2),
        goneMs: new Map([['s9', 1e6]]),
      }),
    ).toBeUndefined();
  });

  it('is not one that is down', () => {
    const down = { placement: placed(NAMES, 3), owned: owning(NAMES), engines: engines(['dn1']) };
    expect(planAdmission(facts(down), rules)).toMatchObject({
      owned: undefined,
      change: undefined,
      gone: [],
      waitingFor: [],
    });
  });
});

it('a node that came up elsewhere is found there', () => {
  const elsewhere = new Map([...engines(NAMES), ['dn2', { endpoint: 'http://127.0.0.1:1', shardCount: 32 }]]);
  const step = planAdmission(
    facts({ placement: placed(NAMES, 3), owned: owning(NAMES), engines: elsewhere }),
    rules,
  );
  expect(step?.change?.what).toBe('dn2 is at http://127.0.0.1:1');
});
