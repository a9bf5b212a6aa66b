import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { bootstrap, GroupStage } from '../../../test/group-nodes.ts';
import { Writers } from '../../../test/group-writers.ts';
import type { GroupContext } from './context.ts';

let stage: GroupStage;
const contexts: GroupContext[] = [];

beforeAll(async () => {
  stage = await GroupStage.open(4);
});

afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context[Symbol.asyncDispose]()));
  await stage.clean();
});

afterAll(() => stage[Symbol.asyncDispose]());

function node(...args: Parameters<GroupStage['node']>): GroupContext {
  const context = stage.node(...args);
  contexts.push(context);
  return context;
}

/** A group of the first servers, in which n1 takes the writes. */
async function group(count: number, cluster: string): Promise<GroupContext[]> {
  const nodes = Array.from({ length: count }, (_, i) => node(i, { cluster, size: count }));
  await Promise.all(nodes.map((one) => bootstrap(one)));
  await nodes[0]?.keys.master.update((master) => master && { ...master, node: 'n1' });
  return nodes;
}

test('a node that joins while the group takes writes has every row', async () => {
  const nodes = await group(3, 'joins');
  const first = nodes[0] as GroupContext;
  await using writers = await Writers.start(stage.servers, { rows: 5000, clients: 3 });
  const joiner = node(3, { cluster: 'joins', size: 3 });
  const t0 = performance.now();
  await bootstrap(joiner);
  console.log('join took', Math.round(performance.now() - t0));
  await writers.moreRows(200);
  await writers.stop();
  const all = [...nodes, joiner];
  for (const from of all) {
    await first.mesh.barrier(
      from.self,
      all.filter((to) => to !== from).map(({ self }) => self),
      { database: 'varve', timeoutMs: 20_000 },
    );
  }
  const digests = await Promise.all([0, 1, 2, 3].map((i) => writers.digest(i)));
  expect(new Set(digests).size).toBe(1);
  expect(writers.written).toBeGreaterThan(200);
  expect(await first.keys.joinJournal.read()).toBeUndefined();
});
