import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { bootstrap, GroupStage } from '../../../test/group-nodes.ts';
import { Writers } from '../../../test/group-writers.ts';
import { Killed, MortalNode, type Death } from '../../../test/mortal-node.ts';
import { sampleOf } from '../../../test/seeded-sample.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { groupIdentity } from '../ddl/install.ts';
import type { GroupContext } from './context.ts';
import { tendMembership } from './requests.ts';

/**
 * A node is killed at each of its messages to coordinator and servers, in whatever role it then has, and started again.
 * A few points by a printed seed, where time is short; all of them in the soak.
 */
vi.setConfig({ testTimeout: 240_000 });

let stage: GroupStage;
const nodes: MortalNode[] = [];

beforeAll(async () => {
  stage = await GroupStage.open(4);
});

afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node[Symbol.asyncDispose]()));
  await stage.clean();
});

afterAll(() => stage[Symbol.asyncDispose]());

type Options = Parameters<typeof MortalNode.start>[2];

async function start(index: number, options: Options, death?: Death): Promise<MortalNode> {
  const node = await MortalNode.start(stage, index, options, death);
  nodes.push(node);
  return node;
}

/** Runs it, and again when it was killed. The result is the node that is alive in the end. */
async function survive(index: number, options: Options, death: Death, pauseMs = 0): Promise<MortalNode> {
  const mortal = await start(index, options, death);
  try {
    await bootstrap(mortal.context);
    mortal.spare();
    return mortal;
  } catch (error) {
    if (!(error instanceof Killed) && !mortal.dead) throw error;
  }
  await new Promise((resolve) => setTimeout(resolve, pauseMs));
  const next = await start(index, options);
  await bootstrap(next.context);
  return next;
}

async function expectOneGroup(all: readonly MortalNode[]): Promise<void> {
  const contexts = all.map(({ context }) => context);
  const [first] = contexts as [GroupContext];
  const group = (await first.keys.group.read())?.value;
  expect(group?.state).toBe('complete');
  const members = [...(await first.keys.members.list()).values()].map(({ value }) => value);
  expect(members.map(({ node, state }) => `${node} ${state}`)).toEqual(
    contexts.map(({ options }) => `${options.node} member`).toSorted(),
  );
  for (const context of contexts) {
    for (const database of ['rdpg', 'varve']) {
      expect(await context.onSelf(database, groupIdentity)).toEqual({
        groupUuid: group?.uuid,
        node: context.options.node,
      });
      await first.mesh.barrier(
        context.self,
        contexts.filter((to) => to !== context).map(({ self }) => self),
        { database, timeoutMs: 60_000 },
      );
    }
    expect(
      await context.onSelf('rdpg', (connection) => context.deps.controlSchema.isComplete(connection)),
    ).toBe(true);
    const slots = await context.onSelf('rdpg', (connection) =>
      connection.query('select 1 from pg_replication_slots where slot_name !~ $1', ['gap']),
    );
    expect(slots.rows).toHaveLength((contexts.length - 1) * 2);
  }
}

async function messageCount(index: number, run: () => Promise<readonly MortalNode[]>): Promise<number> {
  const all = await run();
  const { count } = all[index] as MortalNode;
  await Promise.all(nodes.splice(0).map((node) => node[Symbol.asyncDispose]()));
  await stage.clean();
  return count;
}

test(
  'a node killed at any message of the first bootstrap: one group, all in it',
  { timeout: 3_600_000 },
  async () => {
    let run = 0;
    const form = async (victim: number, death: Death): Promise<MortalNode[]> => {
      const options = { cluster: `form-${(run += 1)}` };
      return Promise.all(
        [0, 1, 2].map((i) => survive(i, options, i === victim ? death : { at: 0, when: 'before' })),
      );
    };
    const count = await messageCount(0, () => form(0, { at: 0, when: 'before' }));
    for (const { at, when, victim } of sampleOf(deaths(count, [0, 1, 2]), 2)) {
      await named({ victim, at, when }, async () => expectOneGroup(await form(victim, { at, when })));
      await Promise.all(nodes.splice(0).map((node) => node[Symbol.asyncDispose]()));
      await stage.clean();
    }
  },
);

test(
  'a joiner killed at any message, under writes: no row is lost, nothing stays frozen',
  { timeout: 3_600_000 },
  async () => {
    let run = 0;
    const none: Death = { at: 0, when: 'before' };
    const join = async (death: Death): Promise<MortalNode[]> => {
      const options = { cluster: `join-${(run += 1)}`, size: 2 };
      const members = await Promise.all([0, 1].map((i) => survive(i, options, none)));
      await members[0]?.context.keys.master.update((master) => master && { ...master, node: 'n1' });
      await using writers = await Writers.start(stage.servers, { rows: 500, clients: 2, on: [0, 1] });
      const ended = new AbortController();
      const tending = tend(members, ended.signal);
      const joiner = await survive(2, options, death);
      await writers.moreRows(20);
      await writers.stop();
      ended.abort();
      await tending;
      const all = [...members, joiner];
      await expectOneGroup(all);
      expect(await joiner.context.keys.joinJournal.read()).toBeUndefined();
      expect(new Set(await Promise.all([0, 1, 2].map((i) => writers.digest(i)))).size).toBe(1);
      return all;
    };
    const count = await messageCount(2, () => join(none));
    for (const death of sampleOf(deaths(count, [2]), 1)) {
      await named(death, () => join(death));
      await Promise.all(nodes.splice(0).map((node) => node[Symbol.asyncDispose]()));
      await stage.clean();
    }
  },
);

/** A failure tells at which point. */
async function named(point: object, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const detail = error instanceof VarveError ? error.detail : undefined;
    throw new Error(`at ${JSON.stringify(point)}: ${messageOf(error)} ${detail}`, { cause: error });
  }
}

/** As the members' loops do: whatever goes wrong is tried again. */
async function tend(members: readonly MortalNode[], signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    for (const { context } of members) {
      await tendMembership(context, { signal, report: () => {} }).catch((error: unknown) => {
        if (!signal.aborted && !(error instanceof VarveError)) throw error;
      });
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function deaths(count: number, victims: readonly number[]): (Death & { readonly victim: number })[] {
  return victims.flatMap((victim) =>
    Array.from({ length: count }, (_, i) => i + 1).flatMap((at) => [
      { victim, at, when: 'before' as const },
      { victim, at, when: 'after' as const },
    ]),
  );
}

test('a creator that dies before anything is committed is followed by another, and returns as a member', async () => {
  const options = { cluster: 'followed' };
  // Dead as soon as the group exists.
  const creator = await start(0, options);
  // More than one wait of a node may take, less than the test.
  const signal = AbortSignal.timeout(200_000);
  const dying = bootstrap(creator.context, { signal }).catch(() => {});
  const others = [1, 2].map(async (i) => {
    const node = await start(i, options);
    await bootstrap(node.context, { signal });
    return node;
  });
  // The first to have the lock may be any of them.
  while (!(await stage.coordinator().get('varve/cluster/followed/group'))) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  creator.die();
  await dying;
  const fourth = await start(3, options);
  await bootstrap(fourth.context, { signal });
  const three = [...(await Promise.all(others)), fourth];
  const back = await start(0, options);
  await bootstrap(back.context, { signal });
  await expectOneGroup([back, ...three]);
});
