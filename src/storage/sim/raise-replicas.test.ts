import { expect, test } from 'vitest';
import { raiseReplicas } from '../../placement/change-replicas.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { keyOf, labelsOf, readEverything } from './check.suite.ts';
import { instance, SimulatedCluster } from './simulated-cluster.suite.ts';

const ALL = '{__name__=~".+"}';
const MS_NS = 1_000_000n;
const SERIES = Array.from({ length: 8 }, (_, number) => keyOf([['__name__', `up${number}`]]));

test('while one replica more is filled, writes are taken and read as before, and are all there afterwards', async () => {
  const cluster = new SimulatedCluster({
    seed: 1,
    startMs: 1_767_225_600_000,
    shardCount: 4,
    namespaces: [namespaceOptions({ name: 'default' })],
    // None has room for hints: who has a write was there when it was taken, or was filled with it.
    replication: { hintMaxBytes: 0, repairIntervalMs: 0, repairSettledMs: 0, replicaTimeoutMs: 1000 },
  });
  const written = new Set<bigint>();
  const write = async (through: string): Promise<void> => {
    await cluster.pass(10);
    const timeNs = BigInt(cluster.clock.nowMs()) * MS_NS;
    const series = SERIES.map((key) => ({ labels: labelsOf(key), samples: [{ timeNs, value: 1 }] }));
    const { engine } = cluster.node(through);
    await cluster.patiently('a write', engine.writeSeries('default', series));
    written.add(timeNs);
  };
  const expectAll = async (through: string): Promise<void> => {
    const { engine } = cluster.node(through);
    const { found } = await cluster.patiently('a read', readEverything(engine, 'default', ALL));
    for (const key of SERIES) expect([...(found.get(key)?.keys() ?? [])]).toEqual([...written]);
  };
  const states = async (id: string): Promise<string[]> => {
    const placement = await cluster.store.read();
    const shards = placement?.instances.find((one) => one.id === id)?.shards ?? [];
    return [...new Set(shards.map(({ state }) => state))];
  };
  try {
    await cluster.start('a');
    await cluster.place(['a'], 1);
    await cluster.settled();
    await write('a');
    for (const added of ['b', 'c']) {
      await cluster.start(added);
      // It hears of the placement, takes what is written, and gets nothing from the others yet.
      for (const other of ['a', 'b', 'c']) if (other !== added) cluster.network.cut.add(`${added}>${other}`);
      await cluster.store.update((was) => was && raiseReplicas(was, instance(added)));
      for (let count = 0; count < 5; count++) {
        await cluster.pass(3000);
        expect(await states(added)).toEqual(['initializing']);
        await write('a');
        await expectAll('a');
      }
      // Not even while it is away.
      cluster.node(added).kill();
      await write('a');
      await expectAll('a');
      await cluster.start(added);
      cluster.network.heal();
      await cluster.settled();
      expect(await states(added)).toEqual(['available']);
      await write(added);
      await expectAll(added);
    }
    cluster.node('a').kill();
    await write('c');
    await expectAll('b');
  } finally {
    await cluster.end();
  }
});
