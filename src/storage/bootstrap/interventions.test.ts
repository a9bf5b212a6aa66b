import { expect, onTestFinished, test } from 'vitest';
import { SimulatedDisk } from '../../../test/simulated-disk.ts';
import { BLOCK_NS, dump, HOUR_NS, MINUTE_NS, NOW_NS } from '../engine/engine.suite.ts';
import { placementOf } from '../engine/placement.suite.ts';
import type { UnfulfilledStatus } from '../engine/storage-engine.ts';
import type { Engine } from '../engine/engine.ts';
import { canBeGiven, requiredGivers } from '../peers/consistency.ts';
import { PeerCluster } from '../peers/peer-cluster.suite.ts';
import { Interventions, INTERVENTIONS_FILE, type Intervention } from './interventions.ts';
import { interventionText, planIntervention, type BootstrapState } from './plan-intervention.ts';

const HERE = 'n1';
const NAMES = Array.from({ length: 16 }, (_, i) => `m${i}`);

function state(more: Partial<BootstrapState> = {}): BootstrapState {
  const replicas = { n1: 'initializing', n2: 'leaving', n3: 'available' } as const;
  return {
    nowNs: NOW_NS,
    topology: placementOf(HERE, [replicas, replicas, { n3: 'available' }], { majority: 2 }),
    unfulfilled: [missing(0), missing(0, { reason: 'corruptFile' }), missing(1)],
    isRetrying: true,
    namespaceId: (name) => (name === 'default' ? 7 : undefined),
    ...more,
  };
}

function missing(shard: number, more: Partial<UnfulfilledStatus> = {}): UnfulfilledStatus {
  return {
    namespace: 'default',
    shard,
    startNs: BLOCK_NS - 4n * HOUR_NS,
    endNs: BLOCK_NS,
    reason: 'consistencyNotMet',
    detail: 'n2: no answer',
    ...more,
  };
}

test.each<readonly [string, Parameters<typeof planIntervention>[0], Partial<BootstrapState>, string]>([
  ['nothing waits', { action: 'retry' }, { unfulfilled: [], isRetrying: false }, 'nothing waits'],
  ['a node is not its own peer', { action: 'skipPeer', peer: 'n1', forMs: 1 }, {}, 'no peer of itself'],
  ['the peer is unknown', { action: 'skipPeer', peer: 'n9', forMs: 1 }, {}, 'has no node n9'],
  ['nobody waits for it', { action: 'skipPeer', peer: 'n2', forMs: 1 }, { unfulfilled: [] }, 'waits for n2'],
  ['the shard has all', { action: 'acceptLoss', shard: 2 }, {}, 'nothing of shard 2'],
  ['the namespace has all', { action: 'acceptLoss', shard: 0, namespace: 'other' }, {}, 'nothing of shard 0'],
  ['the range has all', { action: 'acceptLoss', shard: 0, startNs: BLOCK_NS }, {}, 'nothing of that range'],
  [
    'it will pass by itself',
    { action: 'acceptLoss', shard: 0 },
    { unfulfilled: [missing(0, { reason: 'rangeAdvanced' })] },
    'nothing of shard 0',
  ],
])('refused: %s', (_, request, more, why) => {
  expect(() => planIntervention(request, state(more))).toThrow(why);
});

test('what is given up is what has no source, cut to what was asked for', () => {
  const startNs = BLOCK_NS - HOUR_NS;
  const { actions, effects } = planIntervention({ action: 'acceptLoss', shard: 0, startNs }, state());
  const { reason, ...action } = actions[0] as Extract<Intervention, { action: 'acceptLoss' }>;
  expect(actions).toHaveLength(1);
  expect(action).toEqual({
    action: 'acceptLoss',
    namespace: 'default',
    namespaceId: 7,
    shard: 0,
    startNs,
    endNs: BLOCK_NS,
  });
  expect(effects[0]).toContain('counts as empty, for good (consistencyNotMet: n2: no answer)');
  expect(interventionText({ ...action, reason })).toContain('gave up shard 0 of namespace default');
});

test('who is skipped is neither asked nor waited for; who is left has to give', () => {
  const { topology } = state();
  expect(requiredGivers('majority', topology, 0)).toBe(2);
  const skipping = { ...topology, skippedPeers: new Set(['n2']) };
  expect([requiredGivers('majority', skipping, 0), canBeGiven('majority', skipping, 0)]).toEqual([1, true]);
  const both = { ...topology, skippedPeers: new Set(['n2', 'n3']) };
  expect(canBeGiven('majority', both, 0)).toBe(false);
  expect(requiredGivers('none', skipping, 0)).toBe(0);
  const { effects } = planIntervention({ action: 'skipPeer', peer: 'n2', forMs: 60_000 }, state());
  expect(effects[0]).toContain(
    'n2 is neither asked nor waited for until 2026-03-05T14:31:00Z, for shards 0, 1',
  );
});

test('interventions outlive a loss of power, and what is void stays void', async () => {
  const fs = new SimulatedDisk({ seed: 1 });
  await fs.makeFolder('/engine');
  await fs.syncFolder('/');
  const fail = (): never => expect.unreachable();
  const first = await Interventions.open(fs, '/engine', fail);
  const loss = planIntervention({ action: 'acceptLoss', shard: 0 }, state()).actions;
  const skip = planIntervention({ action: 'skipPeer', peer: 'n2', forMs: 60_000 }, state()).actions;
  await first.add([...loss, ...skip].map((action) => ({ ...action, atNs: NOW_NS, by: 'eve' })));
  const disk = fs.powerLoss(1);
  const second = await Interventions.open(disk, '/engine', fail);
  expect(second.all).toEqual(first.all);
  expect([...second.skippedPeers(NOW_NS)]).toEqual(['n2']);
  expect([...second.skippedPeers(NOW_NS + MINUTE_NS)]).toEqual([]);
  expect(second.acceptedLoss(7).shards).toEqual([0]);
  expect(second.acceptedLoss(8).isEmpty).toBe(true);
  await second.voidLoss([0, 1]);
  const third = await Interventions.open(disk.powerLoss(2), '/engine', fail);
  expect(third.acceptedLoss(7).isEmpty).toBe(true);
  expect(third.all.map(({ by }) => by)).toEqual(['eve', 'eve']);
});

test('a damaged file of interventions is put aside and told', async () => {
  const fs = new SimulatedDisk({ seed: 1 });
  await fs.makeFolder('/engine');
  await using file = await fs.open(`/engine/${INTERVENTIONS_FILE}`, 'create');
  await file.write(0, Buffer.from('nonsense that is long enough'));
  const told: string[] = [];
  const { all } = await Interventions.open(fs, '/engine', ({ message }) => told.push(message));
  expect([all.length, told.length]).toEqual([0, 1]);
  expect((await fs.list('/engine')).map(({ name }) => name)).toEqual([`${INTERVENTIONS_FILE}.damaged`]);
});

const at = (minutes: number): bigint => BLOCK_NS + BigInt(minutes) * MINUTE_NS;

async function stuck(options: { readonly givers: readonly string[] }): Promise<PeerCluster> {
  const cluster = new PeerCluster({
    majority: Math.floor((options.givers.length + 1) / 2) + 1,
    shardCount: 2,
  });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  for (const node of options.givers) await cluster.start(node);
  await cluster.place(Object.fromEntries(options.givers.map((node) => [node, 'initializing'])), {
    isNew: true,
  });
  for (const node of options.givers) await cluster.engine(node).ready();
  await cluster.place(Object.fromEntries(options.givers.map((node) => [node, 'available'])));
  await cluster.write(options.givers, NAMES, [[at(5), 1]]);
  return cluster;
}

async function waiting(engine: Engine, shard: number): Promise<void> {
  await expect
    .poll(() =>
      engine
        .status()
        .bootstrapRuns.at(-1)
        ?.unfulfilled.some((one) => one.shard === shard),
    )
    .toBe(true);
}

test('a shard whose only replica is gone stays without a source until its loss is accepted; history tells', async () => {
  const cluster = await stuck({ givers: ['lost'] });
  await cluster.stop('lost');
  const joiner = await cluster.start('joiner');
  await cluster.place({ lost: 'leaving', joiner: 'initializing' });
  await waiting(joiner, 0);
  expect(joiner.durableShards()).toEqual([]);
  expect(() => joiner.operator.plan({ action: 'acceptLoss', shard: 5 })).toThrow('nothing of shard 5');
  await joiner.operator.act({ action: 'acceptLoss', shard: 0 }, 'eve');
  await expect.poll(() => joiner.durableShards()).toEqual([0]);
  // The other one waits on; a restart changes neither.
  await waiting(joiner, 1);
  await cluster.kill('joiner');
  const again = await cluster.start('joiner');
  await cluster.tell('joiner');
  await expect.poll(() => again.durableShards()).toEqual([0]);
  const [fill] = again.explain(0).filter(({ source }) => source === 'acceptedLoss');
  expect(fill?.others.map(({ source }) => source)).toContain('peers');
  expect(again.operator.history.map(({ action, by }) => [action, by])).toEqual([
    ['acceptLoss', 'eve'],
    ['acceptLoss', 'eve'],
  ]);
  // Given to others and back: now somebody may have it.
  await cluster.place([{ lost: 'leaving' }, { lost: 'leaving', joiner: 'initializing' }]);
  expect(again.operator.history.every((one) => one.action === 'acceptLoss' && one.isVoid)).toBe(true);
});

test('a peer that hangs is skipped, and the shards become whole by the others', async () => {
  const cluster = await stuck({ givers: ['a', 'b'] });
  cluster.cut.add('a');
  const joiner = await cluster.start('joiner');
  await cluster.place({ a: 'available', b: 'available', joiner: 'initializing' });
  await waiting(joiner, 0);
  expect(() => joiner.operator.plan({ action: 'skipPeer', peer: 'joiner', forMs: 1000 })).toThrow();
  await joiner.operator.act({ action: 'skipPeer', peer: 'a', forMs: 3_600_000 }, 'eve');
  await joiner.ready();
  expect(joiner.durableShards()).toEqual([0, 1]);
  expect(await dump(joiner)).toEqual(await dump(cluster.engine('b')));
  expect(joiner.operator.history.map(interventionText)).toEqual([
    'had peer a skipped until 2026-03-05T15:30:00Z',
  ]);
});

test('a bootstrap that waits tries again at once, and asks peers that it has left alone', async () => {
  const cluster = await stuck({ givers: ['a', 'b'] });
  cluster.cut.add('a');
  const joiner = await cluster.start('joiner');
  await cluster.place({ a: 'available', b: 'available', joiner: 'initializing' });
  await waiting(joiner, 0);
  cluster.cut.delete('a');
  await joiner.operator.act({ action: 'retry' }, 'eve');
  await joiner.ready();
  expect(joiner.durableShards()).toEqual([0, 1]);
  expect(() => joiner.operator.plan({ action: 'retry' })).toThrow('nothing waits');
});
