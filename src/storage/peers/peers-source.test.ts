import {
  readAll,
  requestOf,
  testBootstrapSource,
  type SourceFixture,
} from '../bootstrap/bootstrap-source.suite.ts';
import type { BootstrapSource } from '../bootstrap/bootstrap-source.ts';
import { ShardTimeRanges } from '../bootstrap/shard-time-ranges.ts';
import type { ReplicaState } from '../bootstrap/topology-snapshot.ts';
import { expect, test } from 'vitest';
import { BLOCK_NS, HOUR_NS, MINUTE_NS } from '../engine/engine.suite.ts';
import { placementOf } from '../engine/placement.suite.ts';
import { PeerCluster } from './peer-cluster.suite.ts';

const SHARDS = 4;

/** A source beside a node that is otherwise empty, and two that have data. */
async function fixtureWith(
  own: ReplicaState,
  others: ReplicaState,
): Promise<SourceFixture & { readonly cluster: PeerCluster }> {
  const cluster = new PeerCluster({ shardCount: SHARDS });
  for (const node of ['n1', 'n2', 'n3']) await cluster.start(node);
  await cluster.place({ n1: 'available', n2: 'available', n3: 'available' });
  for (const node of ['n1', 'n2', 'n3']) await cluster.engine(node).ready();
  const names = Array.from({ length: 40 }, (_, i) => `s${i}`);
  await cluster.write(['n1', 'n2'], names, [[BLOCK_NS + 25n * MINUTE_NS, 1]]);
  cluster.clock.advance(3n * HOUR_NS);
  for (const node of ['n1', 'n2']) await cluster.engine(node).flush();
  const [options] = cluster.engine('n3').namespaces();
  if (!options) throw new Error('no namespace');
  const shards = Array.from({ length: SHARDS }, (_, shard) => shard);
  const namespace = { options, shards };
  const topology = placementOf(
    'n3',
    shards.map(() => ({ n3: own, n1: others, n2: others })),
  );
  const at = { namespace, nowNs: cluster.clock.nowNs };
  const source: BootstrapSource = cluster.sourceOf('n3', 'one');
  return {
    cluster,
    source,
    ...at,
    topology,
    has: others === 'initializing' ? ShardTimeRanges.EMPTY : requestOf(at),
    lacks: others === 'initializing' ? shards : [],
    damage: async () => {
      for (const node of ['n1', 'n2']) {
        const [path = ''] = [...cluster.disk(node).files().keys()].filter((file) =>
          file.endsWith('-data.db'),
        );
        const content = cluster.disk(node).files().get(path) ?? Buffer.alloc(0);
        content.writeUInt8(content.readUInt8(content.length >>> 1) ^ 1, content.length >>> 1);
        cluster.disk(node).plant(path, content);
      }
    },
    [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose](),
  };
}

testBootstrapSource('peers', () => fixtureWith('initializing', 'available'));
testBootstrapSource('peers of nodes that give their shards away', () =>
  fixtureWith('initializing', 'leaving'),
);

test('nodes that begin as well have nothing to give', async () => {
  await using fixture = await fixtureWith('initializing', 'initializing');
  const { request, result } = await readAll(fixture);
  expect(request.data.isEmpty).toBe(true);
  expect(result?.detail).toBe('nothing was left to ask for');
  expect(fixture.cluster.calls).toEqual([]);
});

test('the index of what was fetched is there when it is read, and is asked for with it', async () => {
  await using fixture = await fixtureWith('initializing', 'available');
  const { result } = await readAll(fixture);
  expect(result?.index.ranges.isEmpty).toBe(true);
  const namespace = fixture.cluster.engine('n3').peerView.namespace('default');
  expect(namespace?.filesets.count).toBe(SHARDS);
  expect([...(namespace?.filesets.places() ?? [])].every((place) => namespace?.index.covers(place))).toBe(
    true,
  );
});
