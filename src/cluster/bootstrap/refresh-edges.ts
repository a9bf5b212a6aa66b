import { messageOf, VarveError } from '../../core/errors.ts';
import { done, todo, type Step } from '../../run/step.ts';
import type { MemberRecord } from '../group-keys.ts';
import type { GroupContext } from './context.ts';
import { linksWith } from './form-group.ts';
import { unmarkLeft } from './joiner-databases.ts';
import { membersOf, readRoster } from './members.ts';

const SWEEP_LOCK_WAIT_MS = 200;

/**
 * At each start of a member: servers may have other addresses than before, and members may have left while it was
 * away. What its peers have of it is corrected, too, where they can be reached; the others do it when they start.
 */
export const refreshEdges: Step<GroupContext> = {
  name: 'refresh-edges',
  check: async (context) => {
    const { keys, options, isNewcomer } = context;
    // In this run; the next one may come after a while.
    context.isNewcomer = false;
    if (isNewcomer) return done;
    const record = await keys.members.at(options.node).read();
    return record?.value.state === 'member' && (await keys.members.list()).size > 1
      ? todo('addresses may have changed')
      : done;
  },
  apply: async (context, work) => {
    const { keys, options, mesh, deps } = context;
    const own = await keys.members.at(options.node).read();
    const members = membersOf(await readRoster(keys));
    const databases = own?.value.databases ?? context.databases;
    await unmarkLeft(context, databases);
    const group = await keys.group.read();
    // Before that there is nothing that could be lacked; the creator mends what is missing.
    if (group?.value.committed !== 'none') await detectLoss(context, members, databases);
    for (const link of linksWith(context, members, databases)) {
      await mesh.readdress(link).catch((error: unknown) => {
        if (link.to.node === options.node) throw error;
        deps.log.warn(
          { member: link.to.node, error: messageOf(error) },
          'a member was not told where this node is',
        );
      });
    }
    await sweepOwn(context, databases, work.signal);
  },
};

/** Every member's look at its own edges, now and then while it runs. Nothing when it cannot be looked at. */
export async function tendEdges(context: GroupContext, signal: AbortSignal): Promise<void> {
  const { keys, options } = context;
  const own = await keys.members.at(options.node).read();
  if (own?.value.state !== 'member') return;
  await unmarkLeft(context, own.value.databases);
  await detectLoss(context, membersOf(await readRoster(keys)), own.value.databases);
  await sweepOwn(context, own.value.databases, signal);
}

/**
 * What is kept here for nodes that have left, or have to join anew anyway, would fill the disk. Under the lock: a
 * joiner makes its edges before it is a member. When somebody joins just now it is done another time.
 */
async function sweepOwn(
  context: GroupContext,
  databases: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { mesh, self, keys } = context;
  const company = async (): Promise<string[]> =>
    [...(await keys.members.list()).values()]
      .filter(({ value }) => value.state === 'member' || value.state === 'joining')
      .map(({ value }) => value.node);
  const before = await company();
  const found = await Promise.all(databases.map((database) => mesh.hasStrays(self, database, before)));
  if (!found.includes(true)) return;
  const had = context.lock !== undefined;
  try {
    await context.takeLock(signal, SWEEP_LOCK_WAIT_MS);
    const now = await company();
    for (const database of databases) {
      context.heldLock();
      await mesh.sweep(self, database, now);
    }
  } catch (error) {
    if (!(error instanceof VarveError) || error.code !== 'LOCK_TIMEOUT') throw error;
  } finally {
    if (!had) await context.releaseLock();
  }
}

/** A member that has been away for longer than the others kept its changes is told so, and does not diverge. */
async function detectLoss(
  context: GroupContext,
  members: readonly MemberRecord[],
  databases: readonly string[],
): Promise<void> {
  const { keys, options, mesh, deps } = context;
  const incoming = linksWith(context, members, databases).filter(({ to }) => to.node === options.node);
  const states = await mesh.status(incoming);
  const lost = states.find(({ state }) => state === 'lost' || state === 'missing');
  if (!lost) return;
  // One that leaves or joins anew says so before it touches its edges.
  const from = members.find(({ node }) => node === lost.edge.from);
  const now = await keys.members.at(lost.edge.from).read();
  if (now?.value.state !== 'member' || now.value.joinedAt !== from?.joinedAt) return;
  const reason = `${lost.edge.from} has not kept the changes of ${lost.edge.database} that ${options.node} lacks`;
  const own = await keys.members
    .at(options.node)
    .update((record) =>
      record?.state === 'member' ? { ...record, state: 'rejoin-needed', reason } : undefined,
    );
  if (own?.state !== 'rejoin-needed') return;
  deps.log.error(
    { node: options.node, edge: lost.edge, hint: `varve cluster reinit ${options.node}` },
    reason,
  );
}
