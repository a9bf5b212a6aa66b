import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { bootstrap, GroupStage } from '../../../test/group-nodes.ts';
import type { GroupContext } from './context.ts';

let stage: GroupStage;
const contexts: GroupContext[] = [];

beforeAll(async () => {
  stage = await GroupStage.open(3);
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

test('three empty servers become one group with the control schema on each', async () => {
  const nodes = [0, 1, 2].map((i) => node(i, { cluster: 'three' }));
  const t0 = performance.now();
  await Promise.all(nodes.map((one) => bootstrap(one)));
  console.log('took', Math.round(performance.now() - t0));
  const { keys } = nodes[0] as GroupContext;
  expect((await keys.group.read())?.value).toMatchObject({ state: 'complete', kind: 'manager', size: 3 });
  const members = [...(await keys.members.list()).values()].map(({ value }) => value);
  expect(members.map(({ node: name, state }) => [name, state])).toEqual([
    ['n1', 'member'],
    ['n2', 'member'],
    ['n3', 'member'],
  ]);
  for (const one of nodes) {
    const { n } = await one.onSelf('rdpg', (connection) =>
      connection.one<{ n: number }>('select count(*)::int4 as n from tasks.schedules'),
    );
    expect(n).toBeGreaterThan(0);
  }
});
