import { VarveError } from '../../core/errors.ts';
import { done, todo, type Check, type Step, type StepWork } from '../../run/step.ts';
import type { MemberRecord } from '../group-keys.ts';
import { addressOf, CONTROL_DATABASE, type GroupContext } from './context.ts';
import {
  announceSchema,
  chooseRole,
  completeGroup,
  createGroup,
  ownerIsGone,
  ownerLost,
  isOwner,
  takeOver,
} from './form-group.ts';
import { joinGroup } from './join-group.ts';
import { membersOf, readRoster, type Roster } from './members.ts';
import { prepareSchema } from './prepare-schema.ts';
import { PREPARE_STEPS } from './prepare-server.ts';
import { refreshEdges } from './refresh-edges.ts';
import { REGISTER_STEPS } from './register.ts';
import { met, waitsFor, waitUntil, type Look } from './wait.ts';

/**
 * The bootstrap of a group on one node, in the order of the document; every node runs all of it, and a step that
 * is not its part, or is behind it, has nothing to do. What follows in the document (services reconfigured and
 * registered, watches) is appended by the node.
 */
export function groupBootstrapSteps(): Step<GroupContext>[] {
  return [
    ...PREPARE_STEPS,
    prepareSchema,
    ...REGISTER_STEPS,
    { name: 'take-bootstrap-lock', check: lockNeeded, apply: takeLock },
    {
      name: 'choose-role',
      check: async (context) => {
        await chooseRole(context);
        return done;
      },
      apply: () => Promise.resolve(),
    },
    forRole('leader', 'create-group', notMemberYet, createGroup),
    forRole('member', 'join-group', notMemberYet, joinGroup),
    {
      name: 'release-bootstrap-lock',
      check: (context) => Promise.resolve(context.lock ? todo('others wait for it') : done),
      apply: (context) => context.releaseLock(),
    },
    refreshEdges,
    { name: 'wait-for-members', check: unlessComplete, apply: waitForMembers },
    forRole('leader', 'create-control-schema', unlessComplete, createControlSchema),
    { name: 'wait-for-control-schema', check: schemaAwaited, apply: waitForSchema },
    forRole('leader', 'complete-group', unlessComplete, completeGroup),
    forRole('leader', 'set-write-master', masterMissing, setWriteMaster),
    forRole('member', 'wait-for-write-master', masterMissing, waitForWriteMaster),
  ];
}

function forRole(
  role: GroupContext['role'],
  name: string,
  check: Step<GroupContext>['check'],
  apply: Step<GroupContext>['apply'],
): Step<GroupContext> {
  return {
    name,
    check: (context, work) => (context.role === role ? check(context, work) : Promise.resolve(done)),
    apply,
  };
}

async function ownRecord({ keys, options }: GroupContext): Promise<MemberRecord | undefined> {
  return (await keys.members.at(options.node).read())?.value;
}

async function notMemberYet(context: GroupContext): Promise<Check> {
  const record = await ownRecord(context);
  return record?.state === 'joining' ? todo('not a member yet') : done;
}

async function lockNeeded(context: GroupContext): Promise<Check> {
  const [record, group] = await Promise.all([ownRecord(context), context.keys.group.read()]);
  return group && record?.state !== 'joining' ? done : todo('to create the group, or to join it');
}

async function takeLock(context: GroupContext, work: StepWork): Promise<void> {
  work.report({ waitingFor: 'the bootstrap lock' });
  await context.takeLock(work.signal);
}

async function unlessComplete({ keys }: GroupContext): Promise<Check> {
  const group = await keys.group.read();
  return group?.value.state === 'complete' ? done : todo('the group is being made');
}

/** In a complete group it may be an older one, until the write master runs this program; never one of another program. */
async function schemaAwaited(context: GroupContext): Promise<Check> {
  const state = await unlessComplete(context);
  if (state.state === 'done') {
    await context.onSelf(CONTROL_DATABASE, (connection) => context.deps.controlSchema.isComplete(connection));
  }
  return state;
}

async function waitForMembers(context: GroupContext, work: StepWork): Promise<void> {
  const { keys, deps, options } = context;
  const wait = {
    what: `the members of group ${keys.cluster}`,
    timeoutMs: options.waitTimeoutMs,
    changes: context.changes,
  };
  await waitUntil(deps.clock, work, wait, async () => {
    const [group, roster] = await Promise.all([keys.group.read(), readRoster(keys)]);
    if (group?.value.state === 'complete' || group?.value.committed === 'schema') return met;
    if (group && context.role === 'leader' && !isOwner(context, group.value)) throw ownerLost(context);
    if (group && context.role === 'member' && ownerIsGone(context, group.value, roster)) {
      await takeOver(context, work);
    }
    return enoughMembers(roster, options.size);
  });
}

/** Pure. */
export function enoughMembers(roster: Roster, size: number): Look {
  const joined = membersOf(roster).filter(({ node }) => roster.alive.has(node));
  if (joined.length >= size) return met;
  const others = [...roster.records.values()]
    .map(({ value }) => value)
    .filter((one) => !joined.includes(one))
    .map(({ node, state }) => `${node} (${roster.alive.has(node) ? state : 'gives no sign of life'})`);
  return waitsFor(others.length > 0 ? others.join(', ') : `${size - joined.length} more of ${size} to join`);
}

async function createControlSchema(context: GroupContext, work: StepWork): Promise<void> {
  await announceSchema(context, work);
  await context.onSelf(CONTROL_DATABASE, (connection) => context.deps.controlSchema.install(connection));
}

/** The schema's version, with `cfsb.instances` as a part of it, on every member that lives. */
async function waitForSchema(context: GroupContext, work: StepWork): Promise<void> {
  const { keys, deps, options } = context;
  // What has arrived on the other members nobody tells.
  const told = context.role === 'member' ? { changes: context.changes } : {};
  const wait = { what: 'the control schema', timeoutMs: options.waitTimeoutMs, ...told };
  await waitUntil(deps.clock, work, wait, async () => {
    const [group, roster] = await Promise.all([keys.group.read(), readRoster(keys)]);
    if (group?.value.state === 'complete') return met;
    if (group && context.role === 'member' && ownerIsGone(context, group.value, roster)) {
      if (group.value.committed === 'none' && (await takeOver(context, work))) {
        await waitForMembers(context, work);
        await createControlSchema(context, work);
      } else return waitsFor(`${group.value.owner}, which creates the group and gives no sign of life`);
    }
    // The creator looks, and says in the group's record that it is on every member.
    if (group && context.role === 'member' && roster.alive.has(group.value.owner)) {
      return waitsFor(`${group.value.owner}, which completes the group`);
    }
    return schemaOnAll(context, roster);
  });
}

async function schemaOnAll(context: GroupContext, roster: Roster): Promise<Look> {
  const living = membersOf(roster).filter(({ node }) => roster.alive.has(node));
  const states = await Promise.all(
    living.map(async (member) => {
      const complete = await context.servers
        .withConnection(addressOf(member), CONTROL_DATABASE, (connection) =>
          context.deps.controlSchema.isComplete(connection),
        )
        .catch((error: unknown) => {
          if (error instanceof VarveError && error.code.startsWith('CONNECTION_')) return false;
          throw error;
        });
      return { node: member.node, complete };
    }),
  );
  const missing = states.filter(({ complete }) => !complete).map(({ node }) => node);
  if (missing.length === 0 && living.length >= context.options.size) return met;
  return missing.length > 0 ? waitsFor(missing.join(', ')) : enoughMembers(roster, context.options.size);
}

/** In a group that was complete before, the election is the members' matter, and waits for nobody here. */
async function masterMissing({ keys }: GroupContext): Promise<Check> {
  const master = await keys.master.read();
  return master ? done : todo('nobody is write master yet');
}

async function setWriteMaster({ deps }: GroupContext): Promise<void> {
  await deps.master.claim('it has created the group');
}

async function waitForWriteMaster(context: GroupContext, work: StepWork): Promise<void> {
  const { keys, deps, options } = context;
  const wait = { what: 'the write master', timeoutMs: options.waitTimeoutMs, changes: context.changes };
  const creator = (await keys.group.read())?.value.owner ?? '';
  const beganMs = deps.clock.monotonicMs();
  await waitUntil(deps.clock, work, wait, async () => {
    const master = await keys.master.read();
    if (master?.value.state === 'active') return met;
    const { alive } = await readRoster(keys);
    // The creator died in between: the members elect one, and that needs them to go on.
    const gone = !alive.has(creator) && deps.clock.monotonicMs() - beganMs > options.takeoverAfterMs;
    return gone ? met : waitsFor(master ? `${master.value.node}, which is ${master.value.state}` : creator);
  });
}
