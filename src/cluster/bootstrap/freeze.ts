import { messageOf, VarveError } from '../../core/errors.ts';
import { held } from '../../coordination/coordinator.ts';
import type { JoinJournal, MemberRecord } from '../group-keys.ts';
import type { Link } from '../mesh/mesh.ts';
import { addressOf, type GroupContext } from './context.ts';

/** Subscriptions of the donor that stand still for a joiner. */
export type Frozen = readonly Link[];

/**
 * Writes down what is going to be frozen, then freezes it: whoever finds the journal without the lock that it names
 * thaws.
 */
export async function freeze(context: GroupContext, donor: MemberRecord, frozen: Frozen): Promise<void> {
  const { keys, options, deps, mesh } = context;
  const lock = context.heldLock();
  const journal: JoinJournal = {
    joiner: options.node,
    joinerUuid: options.nodeUuid,
    donor: donor.node,
    step: 'frozen',
    frozen: frozen.map(({ from, database }) => ({ from: from.node, database })),
    token: String(lock.token),
    startedAt: new Date(deps.clock.nowMs()).toISOString(),
  };
  const { committed } = await keys.coordinator.txn([held(lock)], [keys.joinJournal.put(journal)]);
  if (!committed) {
    throw new VarveError(
      'SESSION_LOST',
      `the bootstrap lock of group ${keys.cluster} was lost in the middle`,
    );
  }
  await Promise.all(frozen.map((link) => mesh.disable(link)));
}

/** Under the lock: the donor takes changes again, then the journal goes. */
export async function thaw(context: GroupContext): Promise<void> {
  const { keys, mesh } = context;
  const journal = await keys.joinJournal.read();
  if (!journal) return;
  const donor = await keys.members.at(journal.value.donor).read();
  // A donor that is no member any more has no subscriptions either.
  if (donor) {
    const to = addressOf(donor.value);
    for (const { from, database } of journal.value.frozen) {
      const source = await keys.members.at(from).read();
      if (!source) continue;
      await mesh.enable({ from: addressOf(source.value), to, database });
    }
  }
  await keys.coordinator.txn(
    [held(context.heldLock()), keys.joinJournal.unchanged(journal)],
    [keys.joinJournal.remove()],
  );
}

/**
 * Thaws what a joiner that died has left frozen; for every member's loop, once a second or so. False when there
 * is nothing to do, or the joiner is at work.
 */
export async function thawAbandonedJoin(context: GroupContext, signal: AbortSignal): Promise<boolean> {
  const { keys, deps, options } = context;
  const journal = await keys.joinJournal.read();
  if (!journal) return false;
  const { joiner, donor, token } = journal.value;
  const lock = { key: keys.bootstrapLock, token: BigInt(token) };
  if ((await keys.coordinator.txn([held(lock)], [])).committed) return false;
  // Nobody may freeze anew meanwhile.
  await context.takeLock(signal);
  try {
    await thaw(context);
    deps.log.warn(
      { node: options.node, joiner, donor },
      'a join was given up in the middle: thawed its donor',
    );
    return true;
  } catch (error) {
    deps.log.warn(
      { joiner, donor, error: messageOf(error) },
      'the donor of a join that was given up stays frozen',
    );
    throw error;
  } finally {
    await context.releaseLock();
  }
}
