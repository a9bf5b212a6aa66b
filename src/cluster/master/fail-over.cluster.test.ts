import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import type { MeshNode } from './mesh.suite.ts';
import { nothingLost, rejoined, TestGroup, TTL_MS, WriteLoad } from './member.suite.ts';

let group: TestGroup;
let load: WriteLoad;
let nextId = 1;

beforeAll(async () => {
  group = await TestGroup.start(3);
});

afterAll(() => group[Symbol.asyncDispose]());

async function termAndReigns(): Promise<readonly [string | undefined, number]> {
  const [record, reigns] = await Promise.all([group.keys.master.read(), group.keys.reigns.list()]);
  return [record?.value.term, reigns.size];
}

function begin(): void {
  load = new WriteLoad(group, { clients: 4, firstId: nextId });
  nextId += 1_000_000;
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
    await nothingLost(group, load);
  });

  test('the master’s machine dies: another takes over, and it comes back as a member', async () => {
    begin();
    const master = await group.master();
    await load.more(100);
    await group.kill(master);
    await group.master(master);
    await load.more(100, { not: master });
    await group.revive(master);
    // What its clients were not told may be committed there all the same.
    await rejoined(group, master);
    await nothingLost(group, load);
  });

  test('the master stands still: another takes over, and what it then wakes up with is never acknowledged', async () => {
    begin();
    const master = await group.master();
    await load.more(100);
    await using client = await group.mesh.client(master, 'varve');
    await client.query('select 1');
    // Its daemon stands still as well, and knows nothing of all this when it goes on.
    const link = group.toCoordinator.get(master.node);
    if (link) link.silent = true;
    let goOn = (): void => {};
    const stands = new Promise<void>((resolve) => (goOn = resolve));
    group.onAction = async (node) => (node === master ? stands : undefined);
    group.freeze(master, true);
    let answered = false;
    const lone = client.query(`insert into public.rows values (-66, 'frozen')`).then(
      () => (answered = true),
      () => {},
    );
    await group.master(master);
    await load.more(100, { not: master });
    // The statement is carried out now, in the belief of being master.
    group.freeze(master, false);
    await group.until('the commit', async () => {
      const waiting = await group.mesh.sql(
        master,
        'varve',
        `select 1 from pg_stat_activity where wait_event = 'SyncRep'`,
      );
      return answered || waiting.length > 0;
    });
    await load.more(100, { not: master });
    expect(answered).toBe(false);
    goOn();
    if (link) {
      link.silent = false;
      link.cut();
    }
    await lone;
    expect(answered).toBe(false);
    expect(await rejoined(group, master)).toBe('rejoin-needed');
    await nothingLost(group, load);
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
    // PostgreSQL answers a commit that does not want to wait any longer with success.
    await using impatient = await group.mesh.client(master, 'varve');
    await expect(
      impatient.query(`insert into public.rows values (-78, 'cut off')`, [], { timeoutMs: 200 }),
    ).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    await group.master(master);
    await load.more(100, { not: master });
    expect(answered).toBe(false);
    group.cutOff(master, false);
    await lone;
    expect(answered).toBe(false);
    // It has a commit that nobody else has.
    await group.until('a decision', () => group.daemon(master).status().state === 'rejoin-needed');
    expect((await group.keys.members.at(master.node).read())?.value.reason).toMatch(
      /committed \d+ transactions in varve that were never confirmed.*public\.rows/,
    );
    await rejoined(group, master);
    await nothingLost(group, load);
    for (const node of group.mesh.nodes) {
      expect(await group.mesh.sql(node, 'varve', 'select 1 from public.rows where id in (-77, -78)')).toEqual(
        [],
      );
    }
  });

  test('a master that has no answer from the coordinator keeps clients out without one', async () => {
    begin();
    const master = await group.master();
    await load.more(100);
    let answer = (): void => {};
    const unanswered = new Promise<void>((resolve) => (answer = resolve));
    group.onLook = async (node) => (node === master ? unanswered : undefined);
    const link = group.toCoordinator.get(master.node);
    if (link) link.silent = true;
    await group.until('the end of its reign', () => group.daemon(master).status().state === 'detached');
    await group.until('a server that keeps clients out', async () => {
      const closed = await group.mesh.sql(
        master,
        'varve',
        `select 1 from pg_db_role_setting where 'default_transaction_read_only=on' = any (setconfig)`,
      );
      return closed.length > 0;
    });
    await group.master(master);
    await load.more(100, { not: master });
    answer();
    if (link) {
      link.silent = false;
      link.cut();
    }
    await rejoined(group, master);
    await nothingLost(group, load);
  });

  test('the master’s daemon alone is killed and comes back: it goes on in the same term, and no client notices', async () => {
    begin();
    const master = await group.master();
    await load.more(50);
    await using client = await group.mesh.client(master, 'varve');
    const [term, reigns] = await termAndReigns();
    await group.killDaemon(master);
    await client.query(`insert into public.rows values (-88, 'without a daemon')`);
    expect(await group.resumeDaemon(master)).toBe(true);
    // Beyond the end of a lease that nobody renews.
    await systemClock.sleep(2.5 * TTL_MS);
    await group.until('the master', () => group.daemon(master).status().state === 'active');
    await load.more(50, master);
    expect(await termAndReigns()).toEqual([term, reigns]);
    // The session of before: it was not ended.
    await client.query(`insert into public.rows values (-89, 'goes on')`);
    await nothingLost(group, load);
  });

  test('a daemon that finds its server started anew does not go on with the lease of before', async () => {
    begin();
    const master = await group.master();
    await load.more(50);
    const [term] = await termAndReigns();
    await group.killDaemon(master);
    await group.restartServer(master);
    expect(await group.resumeDaemon(master)).toBe(false);
    await group.until('a new term', async () => (await termAndReigns())[0] !== term);
    // Whoever is fastest; the same one, too.
    if ((await group.master()) !== master) await rejoined(group, master);
    await load.more(50);
    await nothingLost(group, load);
  });

  test('fail-overs one after the other, each time of whoever is master', async () => {
    begin();
    for (let round = 0; round < 2; round += 1) {
      const master = await group.master();
      await load.more(50);
      await group.kill(master);
      await group.master(master);
      await load.more(50, { not: master });
      await group.revive(master);
      await rejoined(group, master);
      await group.converged();
    }
    await nothingLost(group, load, { inOrder: false });
  });
});
