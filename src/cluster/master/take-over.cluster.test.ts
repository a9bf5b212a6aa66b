import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import type { MeshNode } from './mesh.suite.ts';
import { nothingLost, rejoined, TestGroup, TTL_MS, WriteLoad } from './member.suite.ts';
import type { Action } from './plan.ts';

let group: TestGroup;
let load: WriteLoad;
let nextId = 1;

beforeAll(async () => {
  group = await TestGroup.start(3);
  await group.converged();
});

afterAll(() => group[Symbol.asyncDispose]());

function begin(): void {
  load = new WriteLoad(group, { clients: 4, firstId: nextId });
  nextId += 1_000_000;
}

function others(node: MeshNode): [MeshNode, MeshNode] {
  const [a, b] = group.mesh.nodes.filter((other) => other !== node);
  if (!a || !b) throw new Error('a group of three');
  return [a, b];
}

describe('on purpose', () => {
  test('a switch-over under load: the target takes over, the former master follows, nothing is lost', async () => {
    begin();
    const master = await group.master();
    const [to] = others(master);
    await load.more(50, master);
    const answer = await group.daemon(others(master)[1]).switchover({ to: to.node, by: 'test' });
    expect(answer).toContain(`${to.node} is write master`);
    await load.more(50, to);
    await group.until('the former master follows', () => group.daemon(master).status().state === 'following');
    expect(group.daemon(master).status().lastWriteGapMs).toBeGreaterThan(0);
    await nothingLost(group, load);
  });

  test('a switch-over is refused when the target cannot take over, and says why', async () => {
    const master = await group.master();
    const [to, third] = others(master);
    const daemon = group.daemon(master);
    await expect(daemon.switchover({ to: master.node, by: 'test' })).rejects.toMatchObject({
      code: 'SWITCHOVER_REFUSED',
      message: expect.stringContaining('already'),
    });
    await expect(daemon.switchover({ to: 'n9', by: 'test' })).rejects.toThrow('there is no member n9');
    await group.tag(to, { nofailover: true });
    await expect(daemon.switchover({ to: to.node, by: 'test' })).rejects.toThrow('nofailover');
    // Without a target the other one is taken.
    await daemon.switchover({ by: 'test' });
    expect(await group.master(master)).toBe(third);
    await group.tag(to, {});
    await group.converged();
  });

  test('a member that was away during a switch-over is filled up and follows', async () => {
    begin();
    const master = await group.master();
    const [to, away] = others(master);
    await load.more(50);
    await group.kill(away);
    await load.more(50);
    await group.daemon(master).switchover({ to: to.node, by: 'test' });
    await load.more(50, to);
    await group.revive(away);
    expect(await rejoined(group, away)).toBe('following');
    await nothingLost(group, load);
  });

  test('in maintenance nobody is elected; afterwards somebody is', async () => {
    begin();
    const master = await group.master();
    const [a, b] = others(master);
    await load.more(20, master);
    await group.daemon(a).pause('test');
    await group.until('all know', () => group.mesh.nodes.every((node) => group.daemon(node).status().paused));
    await group.kill(master);
    await systemClock.sleep(3 * TTL_MS);
    for (const node of [a, b]) expect(group.daemon(node).status().master).toBe(master.node);
    await group.daemon(b).resume('test');
    await group.master(master);
    await load.more(20, { not: master });
    await group.revive(master);
    await rejoined(group, master);
    await nothingLost(group, load);
  });
});

describe('the candidate dies in the middle of the take-over', () => {
  const points = drawn<Action['do']>(['claim', 'fence', 'promote']);

  test.each(points)('before it does %s', async (point) => {
    begin();
    const master = await group.master();
    await load.more(30, master);
    let died: MeshNode | undefined;
    group.onAction = async (node, action) => {
      if (node === master || action !== point || died) return;
      // Followers fence, too; it is to be the one who stands.
      const record = (await group.keys.master.read())?.value;
      if (point !== 'claim' && record?.node !== node.node) return;
      died = node;
      await group.kill(node);
    };
    await group.kill(master);
    await group.until('the candidate died', () => died);
    group.onAction = () => Promise.resolve();
    // One of three is left: there is no quorum, and it says for whom it waits.
    await systemClock.sleep(1_500);
    const left = group.mesh.nodes.find((node) => node !== master && node !== died) as MeshNode;
    expect(group.daemon(left).status().state).not.toBe('active');
    await group.revive(died as unknown as MeshNode);
    await load.more(30);
    await group.revive(master);
    for (const node of group.mesh.nodes) await settled(node);
    await nothingLost(group, load);
  });
});

/** All in the long run; one, by a printed seed, where time is short. */
function drawn<T>(all: readonly T[]): readonly T[] {
  if (process.env['VARVE_SOAK'] === '1') return all;
  const seed = Number(process.env['VARVE_SEED'] ?? Date.now() % 1_000_000);
  console.log(`drawn with VARVE_SEED=${seed}`);
  return all.filter((_, i) => i === seed % all.length);
}

/** Master, or follows, or was made to. */
async function settled(node: MeshNode): Promise<void> {
  const state = await group.until('a state', () => {
    const { state } = group.daemon(node).status();
    return (state === 'active' || state === 'following' || state === 'rejoin-needed') && state;
  });
  if (state === 'rejoin-needed') await group.rejoin(node);
}

describe('the coordinator', () => {
  test('restarts: the master goes on', async () => {
    begin();
    const master = await group.master();
    const term = group.daemon(master).status().reign;
    await load.more(20, master);
    await group.stopCoordinator();
    await group.startCoordinator();
    await load.more(100, master);
    expect(group.daemon(master).status()).toMatchObject({ state: 'active', reign: term });
    await nothingLost(group, load);
  });

  test('is away: nobody is elected, clients are kept out when the session is over; it comes back and all goes on', async () => {
    begin();
    const master = await group.master();
    await load.more(20, master);
    await group.stopCoordinator();
    await group.until('the master gives up', () => group.daemon(master).status().state === 'detached');
    await systemClock.sleep(2_000);
    for (const node of group.mesh.nodes) expect(group.daemon(node).status().state).not.toBe('active');
    await using client = await group.mesh.client(master, 'varve');
    await expect(client.query('insert into public.rows values (-5)')).rejects.toMatchObject({
      sqlstate: '25006',
    });
    await group.startCoordinator();
    await group.master();
    await load.more(50);
    for (const node of group.mesh.nodes) await settled(node);
    await nothingLost(group, load);
  });
});

describe('what daemons commit themselves', () => {
  test('is waited for until a quorum has it, on the write master only', async () => {
    const master = await group.master();
    const [a, b] = others(master);
    await group.converged();
    const commit = async (): Promise<string> => {
      const [row] = await group.mesh.sql<{ lsn: string }>(
        master,
        'rdpg',
        `insert into public.rows values (${nextId++}, 'daemon'); select pg_current_wal_insert_lsn()::text as lsn`,
      );
      return row?.lsn ?? '';
    };
    const daemon = group.daemon(master);
    await daemon.waitForQuorum(await commit(), 'rdpg', { timeoutMs: 5_000 });
    await expect(group.daemon(a).waitForQuorum('0/1', 'rdpg', { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'NOT_WRITE_MASTER',
      hint: expect.stringContaining(master.node),
    });
    // Nobody can confirm any more.
    for (const link of [master.link]) link.silent = true;
    await expect(daemon.waitForQuorum(await commit(), 'rdpg', { timeoutMs: 500 })).rejects.toMatchObject({
      code: 'QUORUM_NOT_REACHED',
      detail: expect.stringContaining(b.node),
    });
    for (const link of [master.link]) {
      link.silent = false;
      link.cut();
    }
    await daemon.waitForQuorum(await commit(), 'rdpg', { timeoutMs: 10_000 });
  });
});

describe('settings of the group', () => {
  test('that need a restart are told, and restarted for one by one, the write master last', async () => {
    begin();
    const master = await group.master();
    await load.more(20);
    await group.converged();
    await group.keys.config.update((was) => ({
      ...was,
      version: (was?.version ?? 0) + 1,
      settings: { max_connections: '90', work_mem: '5MB', synchronous_standby_names: 'me' },
    }));
    await group.until('three restarts', () => group.restarts.length === 3);
    expect(group.restarts[2]).toBe(master.node);
    expect(new Set(group.restarts).size).toBe(3);
    const values = async (node: MeshNode): Promise<string> => {
      const [row] = await group.mesh.sql<{ v: string }>(
        node,
        'postgres',
        `select current_setting('max_connections') || ' ' || current_setting('work_mem') as v`,
      );
      return row?.v ?? '';
    };
    for (const node of group.mesh.nodes) {
      await group.until('its settings', async () => (await values(node).catch(() => '')) === '90 5MB');
    }
    await load.more(20);
    for (const node of group.mesh.nodes) await settled(node);
    await nothingLost(group, load);
  });
});
