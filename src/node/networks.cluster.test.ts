import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { mayMakeNetworks } from '../../test/network-spaces.ts';
import { NetworkedGroup } from '../../test/networked-group.ts';
import { systemClock } from '../core/clock.ts';
import { findEtcd, skipWithoutEtcd } from '../coordination/etcd-process.suite.ts';

const LIMIT_MS = 90_000;
/** The product's own. */
const LEASE_S = 3;
/** A session that is not renewed has ended by then, and another has been elected. */
const LONG_MS = 3 * LEASE_S * 1000;
/** TCP repeats what it has sent after twice as long each time: the next time would be 16 s after the healing. */
const AWAY_MS = 35_000;
const SOON_MS = 12_000;
const LOOK_MS = 200;
const FLAPS = 8;

const etcd = findEtcd();
if (etcd === undefined) skipWithoutEtcd('a group whose links are cut');
else if (mayMakeNetworks()) testCuts(etcd);
else {
  process.stderr.write('SKIPPED: a group whose links are cut: network namespaces may not be made here\n');
  it.skip('a group whose links are cut (no network namespaces)', () => {});
}

/** Each machine in a network of its own: what is cut is really cut, for every program. */
function testCuts(program: string): void {
  describe('three nodes and three members of etcd, on one switch', () => {
    let group: NetworkedGroup;

    beforeAll(async () => {
      group = await NetworkedGroup.start(program, LEASE_S);
      await master();
      await group.clients.ask(
        'start',
        group.nodes.map((node) => group.endpoint(node)),
      );
      await moreRows();
    });

    afterEach(async ({ task }) => {
      const gapMs = await group.clients.ask('longestGapMs');
      group.spaces.heal();
      const healedMs = systemClock.monotonicMs();
      const asked = new Set<string>();
      await until('everybody follows', async () => {
        const members = (await group.statusBy(await master()))?.members ?? [];
        for (const { node, role } of members) {
          // A commit that waited for its quorum when it was cut off may be on its disk alone.
          if (role !== 'rejoin-needed' || asked.has(node)) continue;
          asked.add(node);
          await group.reinit(node);
        }
        return members.filter(({ role }) => role === 'following').length === group.nodes.length - 1;
      });
      const seconds = (ms: number): string => (ms / 1000).toFixed(1);
      const again = seconds(systemClock.monotonicMs() - healedMs);
      console.log(
        `${task.name}: nobody could write for ${seconds(gapMs)} s; all followed ${again} s after the healing` +
          (asked.size > 0 ? `, ${[...asked].join()} made anew` : ''),
      );
      await nothingLost();
    });

    afterAll(() => group?.[Symbol.asyncDispose]());

    async function until(what: string, isSo: () => Promise<boolean>, limitMs = LIMIT_MS): Promise<void> {
      const untilMs = systemClock.monotonicMs() + limitMs;
      while (!(await isSo())) {
        if (systemClock.monotonicMs() > untilMs) {
          throw new Error(`waited in vain: ${what}\n${await group.complaints()}`);
        }
        await systemClock.sleep(LOOK_MS);
      }
    }

    /** By the word of most. */
    async function master(not?: string): Promise<string> {
      let found = '';
      await until('a write master', async () => {
        const words = await Promise.all(
          group.nodes.map(async (node) => (await group.statusBy(node))?.master),
        );
        found =
          group.nodes.find((node) => node !== not && words.filter((word) => word === node).length > 1) ?? '';
        return found !== '';
      });
      return found;
    }

    async function moreRows(): Promise<void> {
      const before = await group.clients.ask('count');
      await until('more rows', async () => (await group.clients.ask('count')) > before + 20);
    }

    /** On every node, all that was acknowledged. */
    async function nothingLost(): Promise<void> {
      for (const node of group.nodes) {
        await until(`what was acknowledged is on ${node}`, async () => {
          const { lost } = await group.clients.ask('lost', group.endpoint(node)).catch(() => ({ lost: -1 }));
          return lost === 0;
        });
      }
    }

    async function termOf(node: string): Promise<string | null | undefined> {
      return (await group.statusBy(node))?.term;
    }

    /** The write master, to whom something happens now, and one of the others. */
    async function begin(): Promise<readonly [string, string]> {
      const now = await master();
      await group.clients.ask('mark');
      return [now, group.nodes.find((node) => node !== now) ?? ''];
    }

    /** Another is write master, and what the former one acknowledged was acknowledged before. */
    async function isFollowed(former: string): Promise<string> {
      const next = await master(former);
      const isIn = async (): Promise<boolean> => {
        const turns = await group.clients.ask('turns');
        return turns.includes(group.endpoint(next).host);
      };
      await until(`rows that ${next} acknowledged`, isIn);
      await moreRows();
      const turns = await group.clients.ask('turns');
      const [last, ...before] = turns.toReversed();
      expect(last).toBe(group.endpoint(next).host);
      expect(before.filter((host) => host !== group.endpoint(former).host)).toEqual([]);
      expect(before.length).toBeLessThan(2);
      return next;
    }

    /** The write master goes on, in the same term, whatever `happens`. */
    async function goesOn(now: string, happens: () => Promise<unknown>): Promise<void> {
      const term = await termOf(now);
      await happens();
      await moreRows();
      await systemClock.sleep(LONG_MS);
      await moreRows();
      expect([await master(), await termOf(now)]).toEqual([now, term]);
    }

    it('a member whose cable is pulled is missed by nobody, and catches up', async () => {
      const [now, one] = await begin();
      await goesOn(now, async () => group.spaces.unplug(one));
    });

    it('a member that was away for longer does not wait for TCP when it is back', async () => {
      const [now, one] = await begin();
      for (const other of [...group.nodes, ...group.stores]) {
        if (other !== one) group.spaces.separate(one, other);
      }
      await systemClock.sleep(AWAY_MS);
      const there = async (node: string): Promise<number> =>
        (await group.clients.ask('lost', group.endpoint(node)).catch(() => ({ rows: 0 }))).rows;
      const missing = await there(now);
      group.spaces.heal();
      await until('its rows', async () => (await there(one)) >= missing, SOON_MS);
    });

    it('a master and a member that do not reach each other go on by the third', async () => {
      const [now, one] = await begin();
      await goesOn(now, async () => group.spaces.separate(now, one));
    });

    it('a member that hears, and is not heard, is missed by nobody', async () => {
      const [now, one] = await begin();
      await goesOn(now, async () => group.spaces.mute(one));
    });

    it('the leader of etcd is cut off: the master goes on, or another does', async () => {
      await begin();
      group.spaces.unplug(await group.leadingStore());
      await moreRows();
      await systemClock.sleep(LONG_MS);
      await moreRows();
    });

    it('a master that does not reach the store is followed by another, though everybody reaches it', async () => {
      const [now] = await begin();
      for (const store of group.stores) group.spaces.separate(now, store);
      await isFollowed(now);
    });

    it('a master that hears, and is not heard, is followed by another', async () => {
      const [now] = await begin();
      group.spaces.mute(now);
      await isFollowed(now);
    });

    it('a master that is heard, and does not hear, is followed by another', async () => {
      const [now] = await begin();
      group.spaces.deafen(now);
      await isFollowed(now);
    });

    it('a cable that comes and goes: whoever is master then, nothing is lost', async () => {
      const [now] = await begin();
      for (let flap = 1; flap <= FLAPS; flap += 1) {
        group.spaces.unplug(now);
        await systemClock.sleep((flap % 3) * 1000 + 300);
        group.spaces.plug(now);
        await systemClock.sleep((flap % 2) * 1000 + 300);
      }
      await moreRows();
    });

    it('a master whose cable is pulled acknowledges nothing any more, and another takes over', async () => {
      const [now] = await begin();
      await using beside = group.clientsIn(now);
      group.spaces.unplug(now);
      await beside.ask('lone', group.endpoint(now, '127.0.0.1'));
      await isFollowed(now);
      expect(await beside.ask('loneAnswered')).toBe(false);
      group.spaces.heal();
      // What it alone has committed is told, and nothing of it comes back by itself.
      await until('it has to join anew', async () => {
        const members = (await group.statusBy(await master(now)))?.members ?? [];
        return members.find(({ node }) => node === now)?.role === 'rejoin-needed';
      });
      expect(await beside.ask('loneAnswered')).toBe(false);
    });
  });
}
