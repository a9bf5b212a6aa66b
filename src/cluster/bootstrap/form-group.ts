import { randomUUID } from 'node:crypto';
import { VarveError } from '../../core/errors.ts';
import { held } from '../../coordination/coordinator.ts';
import type { StepWork } from '../../run/step.ts';
import type { GroupRecord, MemberRecord, Versioned } from '../group-keys.ts';
import { endSessions } from '../master/client-sessions.ts';
import { letClientsWrite, letWrite, makeReadOnly, readOnlyDatabases } from '../master/read-only.ts';
import { allLinks, type Link } from '../mesh/mesh.ts';
import { addressOf, GROUP_ROLE, type GroupContext } from './context.ts';
import { refuseContent } from './joiner-databases.ts';
import { membersOf, readRoster, type Roster } from './members.ts';
import { checkPeer } from './peers.ts';
import { checkIdentity } from './register.ts';

/**
 * The group while it is made: who creates it, how the first members come together, and who goes on when the
 * creator dies. State machine of the group's record:
 *
 * | from                | to                  | when                                                            |
 * | ------------------- | ------------------- | --------------------------------------------------------------- |
 * | absent              | creating, none      | the first holder of the lock                                    |
 * | creating, none      | creating, none      | another takes over: the owner is away, nothing was committed    |
 * | creating, none      | creating, schema    | enough members are in; the owner, before it commits anything    |
 * | creating, schema    | complete            | schema and rows are on every member that lives                  |
 *
 * Each change is a transaction with the version that was read; those from `none` hold the bootstrap lock, too. So
 * nobody takes over once something is committed, and nobody commits who has been taken over from.
 */

/** Under the lock. Which part this node has: the document's "leader set?". */
export async function chooseRole(context: GroupContext): Promise<void> {
  // Again, under the lock: the group may have come meanwhile.
  await checkIdentity(context);
  const { keys, options } = context;
  const [group, master] = await Promise.all([keys.group.read(), keys.master.read()]);
  // The last thing that a creator does is to become write master.
  const unfinished = group?.value.ownerUuid === options.nodeUuid && !master;
  context.role = !group || unfinished || isOwner(context, group.value) ? 'leader' : 'member';
}

export function isOwner({ options }: GroupContext, group: GroupRecord): boolean {
  return group.state === 'creating' && group.owner === options.node && group.ownerUuid === options.nodeUuid;
}

/** Under the lock: the group's identity first, then this node as its first member. */
export async function createGroup(context: GroupContext): Promise<void> {
  const { keys, options, deps } = context;
  const lock = context.heldLock();
  const present = await keys.group.read();
  if (options.size > 1) await keepClientsOut(context);
  if (!present) {
    const record: GroupRecord = {
      uuid: randomUUID(),
      kind: options.kind,
      state: 'creating',
      owner: options.node,
      ownerUuid: options.nodeUuid,
      token: String(lock.token),
      committed: 'none',
      size: options.size,
      ...(options.accessDatabase === undefined ? {} : { accessDatabase: options.accessDatabase }),
      createdAt: new Date(deps.clock.nowMs()).toISOString(),
    };
    const { committed } = await keys.coordinator.txn(
      [held(lock), keys.group.unchanged(undefined)],
      [keys.group.put(record)],
    );
    if (!committed) throw lockMisused(context);
  }
  await installOwn(context);
  await becomeMember(context);
}

/** Under the lock, while nothing is committed: all databases are empty, so there is nothing to copy. */
export async function joinForming(context: GroupContext, work: StepWork): Promise<void> {
  const members = membersOf(await readRoster(context.keys));
  work.report({ detail: `with ${members.map(({ node }) => node).join(', ')}` });
  await Promise.all(members.map((member) => checkPeer(context, member)));
  await keepClientsOut(context);
  await installOwn(context);
  context.heldLock();
  const links = linksWith(context, members);
  await Promise.all(links.map((link) => connectEmpty(context, link)));
  await becomeMember(context);
}

/**
 * Before the first edge: what a client wrote here would be nowhere else, and would stop what comes from the others. A
 * database that this node has made is read-only already; one that was here before becomes so, until there is a write
 * master.
 * @throws GROUP_NOT_EMPTY, and leaves that database to its clients
 */
async function keepClientsOut(context: GroupContext): Promise<void> {
  const { deps, options, databases } = context;
  await refuseContent(context, databases);
  const database = options.accessDatabase;
  if (database === undefined) return;
  await deps.withAdmin('postgres', async (connection) => {
    if ((await readOnlyDatabases(connection)).has(database)) return;
    await letWrite(connection, GROUP_ROLE);
    await makeReadOnly(connection, database);
    try {
      const { clock } = deps;
      await endSessions({ clock, except: GROUP_ROLE }, connection, {
        node: options.node,
        databases: [database],
      });
      // Of those that have just ended.
      await refuseContent(context, databases);
    } catch (error) {
      await letClientsWrite(connection, database);
      throw error;
    }
  });
}

/** Half of an edge may be gone with somebody who was no member in between; there is nothing yet that it could lack. */
async function connectEmpty({ mesh }: GroupContext, link: Link): Promise<void> {
  const options = { enabled: true, copyData: false, foundSlot: 'keep' } as const;
  try {
    await mesh.connect(link, options);
  } catch (error) {
    if (!(error instanceof VarveError) || error.code !== 'GROUP_EDGE_LOST') throw error;
    await mesh.drop(link);
    await mesh.connect(link, options);
  }
}

/** The edges between this node and `members`, both ways. */
export function linksWith(
  context: GroupContext,
  members: readonly MemberRecord[],
  databases: readonly string[] = context.databases,
): Link[] {
  const self = context.options.node;
  const servers = [context.self, ...members.filter(({ node }) => node !== self).map(addressOf)];
  return allLinks(servers, databases).filter(({ from, to }) => from.node === self || to.node === self);
}

/** Identity, queue and publication in this node's databases; old company is shown the door. */
async function installOwn(context: GroupContext): Promise<void> {
  const { keys, options, deps, databases } = context;
  const group = await keys.group.read();
  if (!group) throw lockMisused(context);
  const company = [...(await keys.members.list()).keys()];
  await Promise.all(
    databases.map(async (database) => {
      await context.onSelf(database, (connection) =>
        deps.groupSchema.install(connection, { groupUuid: group.value.uuid, node: options.node }),
      );
      context.heldLock();
      await context.mesh.sweep(context.self, database, company);
    }),
  );
}

async function becomeMember(context: GroupContext): Promise<void> {
  const { keys, options } = context;
  const mine = keys.members.at(options.node);
  const seen = await mine.read();
  if (!seen) throw lockMisused(context);
  const { reason: _, ...record } = seen.value;
  const { committed } = await keys.coordinator.txn(
    [held(context.heldLock()), mine.unchanged(seen)],
    [mine.put({ ...record, state: 'member', databases: context.databases })],
  );
  if (!committed) throw lockMisused(context);
  context.isNewcomer = true;
}

/**
 * The point of no return: from here on only this owner may complete the group.
 * @throws GROUP_OWNER_LOST when another has taken over
 */
export async function announceSchema(context: GroupContext, work: StepWork): Promise<void> {
  const { keys } = context;
  const group = await ownedGroup(context);
  if (group.value.committed === 'schema') return;
  const lock = await context.takeLock(work.signal);
  try {
    await mendEdges(context);
    const { committed } = await keys.coordinator.txn(
      [held(lock), keys.group.unchanged(group)],
      [keys.group.put({ ...group.value, committed: 'schema' })],
    );
    if (!committed) throw ownerLost(context);
  } finally {
    await context.releaseLock();
  }
}

/** Of all members, while there is nothing that one of them could lack: somebody may have lost the lock in the middle. */
async function mendEdges(context: GroupContext): Promise<void> {
  const servers = membersOf(await readRoster(context.keys)).map(addressOf);
  const links = allLinks(servers, context.databases);
  const states = await context.mesh.status(links);
  for (const [i, link] of links.entries()) {
    const state = states[i]?.state;
    if (state === 'missing' || state === 'lost') await connectEmpty(context, link);
  }
}

export async function completeGroup(context: GroupContext): Promise<void> {
  const { keys, deps } = context;
  const group = await ownedGroup(context);
  const record: GroupRecord = {
    ...group.value,
    state: 'complete',
    schemaVersion: deps.controlSchema.version,
  };
  if (!(await keys.group.write(record, group.version))) throw ownerLost(context);
}

async function ownedGroup(context: GroupContext): Promise<Versioned<GroupRecord>> {
  const group = await context.keys.group.read();
  if (!group || !isOwner(context, group.value)) throw ownerLost(context);
  return group;
}

/** Whether the creator of an unfinished group has given no sign of life for as long as it takes. */
export function ownerIsGone(context: GroupContext, group: GroupRecord, roster: Roster): boolean {
  const nowMs = context.deps.clock.monotonicMs();
  if (group.state === 'complete' || roster.alive.has(group.owner)) {
    context.ownerMissingSinceMs = undefined;
    return false;
  }
  context.ownerMissingSinceMs ??= nowMs;
  return nowMs - context.ownerMissingSinceMs >= context.options.takeoverAfterMs;
}

/**
 * Takes the lock, and with it the unfinished group of an owner that is gone, if nothing was committed. The old
 * owner is no member any more: when it returns it joins like anybody else. False when there is nothing to take
 * over after all.
 */
export async function takeOver(context: GroupContext, work: StepWork): Promise<boolean> {
  const { keys, options, deps } = context;
  const had = context.lock !== undefined;
  const lock = await context.takeLock(work.signal);
  try {
    const group = await keys.group.read();
    if (!group || group.value.committed !== 'none' || isOwner(context, group.value)) return false;
    const roster = await readRoster(keys);
    if (!ownerIsGone(context, group.value, roster)) return false;
    const former = keys.members.at(group.value.owner);
    const { committed } = await keys.coordinator.txn(
      [held(lock), keys.group.unchanged(group)],
      [
        keys.group.put({
          ...group.value,
          owner: options.node,
          ownerUuid: options.nodeUuid,
          token: String(lock.token),
        }),
        former.remove(),
      ],
    );
    if (!committed) return false;
    deps.log.warn(
      { node: options.node, former: group.value.owner },
      'the creator of the group is gone and had committed nothing: this node goes on in its place',
    );
    context.role = 'leader';
    await forget(context, group.value.owner, membersOf(await readRoster(keys)));
    return true;
  } finally {
    if (!had) await context.releaseLock();
  }
}

/**
 * Removes what members have of a node that is none any more. Best effort: it is repeated when they start; one that has
 * come back sees to its edges itself.
 */
async function forget(context: GroupContext, node: string, members: readonly MemberRecord[]): Promise<void> {
  const company = members.map((member) => member.node).filter((name) => name !== node);
  const servers = members.filter((member) => member.node !== node).map(addressOf);
  for (const database of context.databases) {
    if (await context.keys.members.at(node).read()) return;
    context.heldLock();
    await Promise.all(
      servers.map((server) =>
        context.mesh.sweep(server, database, company).catch((error: unknown) => {
          context.deps.log.warn(
            { error, member: server.node, gone: node },
            'a former member is not forgotten yet',
          );
        }),
      ),
    );
  }
}

export function ownerLost({ options, keys }: GroupContext): VarveError {
  return new VarveError(
    'GROUP_OWNER_LOST',
    `another node has taken over the creation of group ${keys.cluster}`,
    {
      detail: `${options.node} gave no sign of life for too long, and had committed nothing.`,
      hint: 'Start this node again: it joins.',
    },
  );
}

/** A transaction under the lock was refused although the lock is ours, as far as we know. */
function lockMisused({ keys }: GroupContext): VarveError {
  return new VarveError(
    'SESSION_LOST',
    `the bootstrap lock of group ${keys.cluster} was lost in the middle`,
    {
      hint: 'Nothing was changed by what was refused. It is tried again at the next start.',
    },
  );
}
