import { expect, test } from 'vitest';
import { addInstance, removeInstance } from '../../placement/change-placement.ts';
import { namespaceOptions } from '../engine/namespace-options.ts';
import { labelMatcher } from '../index/matcher.ts';
import { keyOf, labelsOf, readEverything } from './check.suite.ts';
import { instance, SimulatedCluster } from './simulated-cluster.suite.ts';

const START_MS = 1_767_225_600_000;
const MS_NS = 1_000_000n;
const ALL = '{__name__=~".+"}';
const SERIES = keyOf([['__name__', 'up']]);

test('nodes that come in after a deletion have neither what was deleted nor delete what was written since', async () => {
  const cluster = new SimulatedCluster({
    seed: 1,
    startMs: START_MS,
    shardCount: 2,
    namespaces: [namespaceOptions({ name: 'default' })],
    // None has room: who was away hears of nothing by itself.
    replication: { hintMaxBytes: 0, repairIntervalMs: 0, repairSettledMs: 0, replicaTimeoutMs: 1000 },
  });
  try {
    await cluster.start('a', 'b', 'c');
    await cluster.place(['a', 'b', 'c'], 3);
    await cluster.settled();
    const { engine } = cluster.node('a');
    const nowNs = (): bigint => BigInt(cluster.clock.nowMs()) * MS_NS;
    const write = async (timeNs: bigint, value: number): Promise<void> => {
      const series = [{ labels: labelsOf(SERIES), samples: [{ timeNs, value }] }];
      await cluster.patiently('a write', engine.writeSeries('default', series));
    };
    const deletedNs = nowNs();
    await write(deletedNs, 1);
    await cluster.pass(1000);
    cluster.node('c').kill();
    const selectors = [[labelMatcher('__name__', '=', 'up')]];
    const everything = { selectors, startNs: 0n, endNs: 1n << 62n };
    await cluster.patiently('a deletion', engine.deleteSeries('default', everything));
    await cluster.pass(1000);
    const keptNs = nowNs();
    await write(keptNs, 2);
    await cluster.start('c');

    for (const [added, removed] of [
      ['d', 'a'],
      ['e', 'b'],
    ] as const) {
      await cluster.start(added);
      await cluster.store.update((was) => was && addInstance(was, instance(added)));
      await cluster.settled();
      await cluster.store.update((was) => was && removeInstance(was, removed));
      await cluster.settled();
    }

    const { signal } = new AbortController();
    for (const id of ['c', 'd', 'e']) {
      await cluster.patiently('repair', cluster.node(id).life.replication.repair.round(signal));
    }
    for (const id of ['c', 'd', 'e']) {
      const { found } = await cluster.patiently(
        'a read',
        readEverything(cluster.node(id).own, 'default', ALL),
      );
      expect([...(found.get(SERIES)?.keys() ?? [])], id).toEqual([keptNs]);
    }
  } finally {
    await cluster.end();
  }
});
