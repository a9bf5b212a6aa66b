import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { MeshNode } from './mesh.suite.ts';
import { TestGroup, WriteLoad } from './member.suite.ts';

let group: TestGroup;
let load: WriteLoad;
let nextId = 1;

beforeAll(async () => {
  group = await TestGroup.start(3);
});

afterAll(() => group[Symbol.asyncDispose]());

function begin(): void {
  load = new WriteLoad(group, { clients: 4, firstId: nextId });
}

/** What was promised is there, on every member, once; and the reigns did not overlap. */
async function nothingLost(inOrder = true): Promise<void> {
  await load.stop();
  await group.converged();
  nextId += 1_000_000;
  for (const node of group.mesh.nodes) {
    const rows = await group.mesh.sql<{ id: string }>(node, 'varve', 'select id from public.rows');
    const there = new Set(rows.map(({ id }) => Number(id)));
    expect(
      load.acknowledged.filter(({ id }) => !there.has(id)),
      node.node,
    ).toEqual([]);
  }
  if (!inOrder) return;
  const order = [...new Set(load.acknowledged.map(({ node }) => node))];
  const sorted = load.acknowledged.toSorted((a, b) => a.atMs - b.atMs).map(({ node }) => node);
  const changes = sorted.filter((node, i) => i === 0 || node !== sorted[i - 1]);
  expect(changes.length, changes.join()).toBe(order.length);
}

describe('a group of three', () => {
  test('elects a write master; the others take its rows and refuse to write', async () => {
    begin();
    const master = await group.master();
    await load.more(50);
    const other = group.mesh.nodes.find((node) => node !== master) as MeshNode;
    await using client = await group.mesh.client(other, 'varve');
    await expect(client.query(`insert into public.rows values (-1)`)).rejects.toMatchObject({
      sqlstate: '25006',
    });
    await nothingLost();
  });

  test('the master’s machine dies: another takes over, and it comes back as a member', async () => {
    begin();
    const master = await group.master();
    await load.more(100);
    await group.kill(master);
    const next = await group.master(master);
    await load.more(100, next);
    await group.revive(master);
    await nothingLost();
  });

  test('the master stands still: another takes over, and what it then wakes up with is never acknowledged', async () => {
    begin();
    const master = await group.master();
    await load.more(100);
    const link = group.toCoordinator.get(master.node);
    if (link) link.silent = true;
    group.freeze(master, true);
    const next = await group.master(master);
    await load.more(100, next);
    // Its clients are still connected: what they asked for is carried out now.
    group.freeze(master, false);
    await load.more(50, next);
    if (link) {
      link.silent = false;
      link.cut();
    }
    await rejoined(master);
    await nothingLost();
  });

  test('the master is cut off: its clients get no answer, and lose nothing that they were promised', async () => {
    begin();
    const master = await group.master();
    await load.more(100);
    await using client = await group.mesh.client(master, 'varve');
    group.cutOff(master, true);
    // By the side of the cut, with a session of its own, from before.
    let answered = false;
    const lone = client.query(`insert into public.rows values (-77, 'cut off')`).then(
      () => (answered = true),
      () => {},
    );
    const next = await group.master(master);
    await load.more(100, next);
    expect(answered).toBe(false);
    group.cutOff(master, false);
    await lone;
    expect(answered).toBe(false);
    await rejoined(master);
    await nothingLost();
    for (const node of group.mesh.nodes) {
      expect(await group.mesh.sql(node, 'varve', 'select 1 from public.rows where id = -77')).toEqual([]);
    }
  });

  test('fail-overs one after the other, each time of whoever is master', async () => {
    begin();
    for (let round = 0; round < 3; round += 1) {
      const master = await group.master();
      await load.more(50, master);
      await group.kill(master);
      const next = await group.master(master);
      await load.more(50, next);
      await group.revive(master);
      await rejoined(master);
      await group.converged();
    }
    await load.stop();
    await nothingLost(false);
  });
});

/** A former master is a member again; where it has to join anew, that is told, and done here in its simplest form. */
async function rejoined(node: MeshNode): Promise<void> {
  const state = await group.until('a decision', () => {
    const { state } = group.daemon(node).status();
    return (state === 'following' || state === 'rejoin-needed') && state;
  });
  if (state === 'following') return;
  const { reason } = (await group.keys.members.at(node.node).read())?.value ?? {};
  expect(reason).toMatch(/never confirmed|not confirmed/);
  await group.rejoin(node);
}
