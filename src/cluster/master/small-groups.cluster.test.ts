import { describe, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import { nothingLost, TestGroup, WriteLoad } from './member.suite.ts';

describe('a server that is alone', () => {
  test('is write master, waits for nobody, and has nobody to hand over to', async () => {
    await using group = await TestGroup.start(1);
    const load = new WriteLoad(group, { clients: 2, firstId: 1 });
    const master = await group.master();
    await load.more(20, master);
    await expect(group.daemon(master).switchover({ by: 'test' })).rejects.toMatchObject({
      code: 'SWITCHOVER_REFUSED',
      message: expect.stringContaining('there is no other member'),
    });
    await nothingLost(group, load);
  });
});

describe('a group of two', () => {
  test('with the policy safety commits of one that is left wait for the other', async () => {
    await using group = await TestGroup.start(2);
    const load = new WriteLoad(group, { clients: 2, firstId: 1 });
    const master = await group.master();
    const [other] = group.mesh.nodes.filter((node) => node !== master);
    if (!other) throw new Error('a group of two');
    await load.more(20, master);
    await group.kill(master);
    await group.until('the other takes over', () => group.daemon(other).status().state === 'active');
    const before = load.acknowledged.filter(({ node }) => node === other.node).length;
    await systemClock.sleep(1_000);
    expect(load.acknowledged.filter(({ node }) => node === other.node).length).toBe(before);
    await group.revive(master);
    const state = await group.until('a decision', () => {
      const { state } = group.daemon(master).status();
      return (state === 'following' || state === 'active' || state === 'rejoin-needed') && state;
    });
    if (state === 'rejoin-needed') {
      await load.stop();
      await group.rejoin(master);
    } else await load.more(20);
    await nothingLost(group, load);
  });

  test('with the policy availability the one that is left commits alone', async () => {
    await using group = await TestGroup.start(2, {
      quorum: { policy: 'availability', confirm: 'majority' },
    });
    const load = new WriteLoad(group, { clients: 2, firstId: 1 });
    const master = await group.master();
    const [other] = group.mesh.nodes.filter((node) => node !== master);
    if (!other) throw new Error('a group of two');
    await load.more(20, master);
    await group.kill(master);
    await group.until('the other takes over', () => group.daemon(other).status().state === 'active');
    await load.more(20, other);
    await load.stop();
  });
});
