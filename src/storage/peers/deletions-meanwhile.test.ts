import { expect, test } from 'vitest';
import { BLOCK_NS, HOUR_NS, MINUTE_NS } from '../engine/engine.suite.ts';
import { labelMatcher } from '../index/matcher.ts';
import { PeerCluster } from './peer-cluster.suite.ts';

const ALL_TIMES = { startNs: 0n, endNs: 1n << 62n };

/** n3 is filled by n1 and n2, of which nobody hears of what is deleted on n3 in the meantime. */
async function joined(differs: boolean): Promise<{ readonly settled: number; readonly left: string[] }> {
  let settled = 0;
  let isDue = true;
  await using cluster = new PeerCluster({
    shardCount: 2,
    settleDeletions: async () => {
      settled++;
      return { silent: new Map(), since: cluster.engine('n3').peerView.clock.next() };
    },
  });
  for (const node of ['n1', 'n2']) await cluster.start(node);
  await cluster.place({ n1: 'available', n2: 'available' });
  for (const node of ['n1', 'n2']) await cluster.engine(node).ready();
  const names = ['gone0', 'gone1', 'gone2', 'kept0', 'kept1', 'kept2'];
  await cluster.write(['n1', 'n2'], names, [[BLOCK_NS + 25n * MINUTE_NS, 1]]);
  if (differs) await cluster.write(['n1'], names, [[BLOCK_NS + 26n * MINUTE_NS, 1]]);
  cluster.clock.advance(3n * HOUR_NS);
  for (const node of ['n1', 'n2']) await cluster.engine(node).flush();
  await cluster.write(['n1', 'n2'], names, [[cluster.clock.nowNs, 2]]);
  cluster.fault = async (_to, request, answer) => {
    const asked = await answer();
    // It knows who has what, and none of it has come.
    if (isDue && request.kind !== 'shards') {
      isDue = false;
      const selectors = [[labelMatcher('__name__', '=~', 'gone.*')]];
      await cluster.engine('n3').deleteSeries('default', { selectors, ...ALL_TIMES });
    }
    return asked;
  };
  await cluster.start('n3');
  await cluster.place({ n1: 'available', n2: 'available', n3: 'initializing' });
  await cluster.engine('n3').ready();
  expect(isDue).toBe(false);
  return { settled, left: Object.keys(await cluster.dump('n3')).sort() };
}

test.each([
  ['in files that are copied and in open blocks', false],
  ['in files that are merged', true],
])('what is deleted while it comes from others does not come, %s', async (_, differs) => {
  const { settled, left } = await joined(differs);
  expect(left).toEqual(['kept0', 'kept1', 'kept2']);
  // Files and open blocks are one round.
  expect(settled).toBe(1);
});
