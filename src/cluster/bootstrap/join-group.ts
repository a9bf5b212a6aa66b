import { messageOf, VarveError } from '../../core/errors.ts';
import type { StepWork } from '../../run/step.ts';
import type { GroupRecord } from '../group-keys.ts';
import type { GroupContext } from './context.ts';
import { joinForming, ownerIsGone, takeOver } from './form-group.ts';
import { thaw } from './freeze.ts';
import { joinRunning } from './join-running.ts';
import { readRoster } from './members.ts';
import { met, waitsFor, waitUntil, type Look } from './wait.ts';

/** Under the lock. A group that is being made is joined at once; one that has content by the freeze protocol. */
export async function joinGroup(context: GroupContext, work: StepWork): Promise<void> {
  const { keys, deps, options } = context;
  const wait = { what: `group ${keys.cluster}`, timeoutMs: options.waitTimeoutMs, changes: context.changes };
  await waitUntil(deps.clock, work, wait, async () => {
    const group = await keys.group.read();
    if (!group) return waitsFor('the group');
    if (group.value.state === 'complete') {
      await context.takeLock(work.signal);
      return joinComplete(context, work);
    }
    if (group.value.committed !== 'none') {
      await context.releaseLock();
      return waitsFor(`${group.value.owner}, which completes the group`);
    }
    await context.takeLock(work.signal);
    return joinOrTakeOver(context, work, group.value);
  });
}

/** Under the lock. What was left of a join that died is taken back first. */
async function joinComplete(context: GroupContext, work: StepWork): Promise<Look> {
  try {
    await thaw(context);
    await joinRunning(context, work);
    return met;
  } catch (error) {
    const again = error instanceof VarveError && RETRIED.has(error.code);
    if (!again) throw error;
    context.deps.log.warn({ node: context.options.node, error }, 'the join is tried again');
    // Meanwhile somebody may have to leave, for which the lock is needed.
    await context.releaseLock();
    // What a person could do about it, too.
    return waitsFor([error.message, error.hint].filter((part) => part !== undefined).join('; '));
  }
}

/** Somebody was away for a moment, this node itself included; everything was taken back. */
const RETRIED: ReadonlySet<string> = new Set([
  'GROUP_MEMBER_AWAY',
  'CONNECTION_LOST',
  'CONNECTION_FAILED',
  'SESSION_LOST',
]);

async function joinOrTakeOver(context: GroupContext, work: StepWork, group: GroupRecord): Promise<Look> {
  try {
    await joinForming(context, work);
    return met;
  } catch (error) {
    if (!(error instanceof VarveError) || error.code !== 'GROUP_MEMBER_AWAY') throw error;
    const roster = await readRoster(context.keys);
    if (ownerIsGone(context, group, roster)) await takeOver(context, work);
    else await context.releaseLock();
    return waitsFor(messageOf(error));
  }
}
