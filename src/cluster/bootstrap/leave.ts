import { messageOf, VarveError } from '../../core/errors.ts';
import { held } from '../../coordination/coordinator.ts';
import { quoteIdent } from '../../postgres/sql.ts';
import type { StepWork } from '../../run/step.ts';
import { gapSlotName } from '../master/gap-slot.ts';
import { askSwitchover } from '../master/requests.ts';
import { GROUP_SCHEMA, PUBLICATION } from '../mesh/edge.ts';
import type { MemberRecord } from '../group-keys.ts';
import { groupIdentity } from '../ddl/install.ts';
import { addressOf, CONTROL_DATABASE, type GroupContext } from './context.ts';
import { thaw } from './freeze.ts';
import { joinGroup } from './join-group.ts';
import { markForJoining } from './joiner-databases.ts';
import { isOutside, markAsLeft } from './left.ts';
import { membersOf, readRoster } from './members.ts';
import { claimName } from './register.ts';
import { met, waitsFor, waitUntil } from './wait.ts';

/** Work that somebody has asked for, and may cancel. */
export interface AskedWork extends StepWork {
  /** Before what cannot be taken back. @throws GROUP_REQUEST_CANCELLED */
  readonly commit?: (() => Promise<void>) | undefined;
}

/**
 * A member leaves for good; carried out by any member, also when the leaving one is dead. Its content stays with it.
 * What it made has reached the others before, if it lives. May be repeated after a crash at any point.
 * @throws INVALID_ARGUMENT for the write master, or a node that is no member
 */
export async function leaveGroup(
  context: GroupContext,
  node: string,
  work: AskedWork,
  options: {
    /** What answers where it was is another server by now. */
    readonly isGone?: boolean;
  } = {},
): Promise<void> {
  await context.takeLock(work.signal);
  try {
    // A join that died may have frozen edges of the one who leaves.
    await thaw(context);
    const record = await memberToRemove(context, node);
    if (!record) return;
    const others = membersOf(await readRoster(context.keys)).filter((member) => member.node !== node);
    const alive = options.isGone !== true && (await answers(context, record));
    if (alive && record.state === 'member') await handOver(context, record, others, work);
    await work.commit?.();
    await setState(context, { ...record, state: 'leaving' });
    await forgetEverywhere(context, record, others);
    if (alive) await detach(context, record);
    const mine = context.keys.members.at(node);
    await context.keys.coordinator.txn([held(context.heldLock())], [mine.remove()]);
  } finally {
    await context.releaseLock();
  }
}

/**
 * Another node takes a member's place: it has been started and joins by itself, here its predecessor is made to leave,
 * after it is in where the predecessor still lives, else before. A write master hands over first. Under the same name
 * only a member that is gone is replaced: by a node with a folder of its own.
 * @throws INVALID_ARGUMENT for a successor that nobody has started, or a member that lives to be replaced by itself
 */
export async function replaceMember(
  context: GroupContext,
  { former, successor }: { readonly former: string; readonly successor: string },
  work: AskedWork,
): Promise<void> {
  const { keys, deps, options } = context;
  const wait = { what: `the join of ${successor}`, timeoutMs: options.waitTimeoutMs };
  const isIn = () =>
    waitUntil(deps.clock, work, wait, async () => {
      const record = await keys.members.at(successor).read();
      if (record?.value.state === 'member') return met;
      return waitsFor(record ? `${successor} (${record.value.state})` : `${successor}, to be started`);
    });
  const record = (await keys.members.at(former).read())?.value;
  const isSame = former === successor;
  if (isSame && record) await refuseTwins(context, record);
  const alive = !isSame && record !== undefined && (await answers(context, record));
  if (alive && !(await keys.members.at(successor).read())) {
    throw new VarveError('INVALID_ARGUMENT', `group ${keys.cluster} knows no node ${successor}`, {
      hint: `Start ${successor} with the group's configuration: it joins by itself. Then repeat. Nothing was changed.`,
    });
  }
  if (alive) await isIn();
  await anotherMaster(context, { former, successor, alive }, work);
  await leaveGroup(context, former, work, { isGone: isSame });
  if (!alive) await isIn();
}

/**
 * Two servers under one name would take each other's changes out of the same slots, and nobody would notice.
 * @throws INVALID_ARGUMENT while the former one runs
 */
async function refuseTwins(context: GroupContext, record: MemberRecord): Promise<void> {
  const { node, databases } = record;
  if ((await readRoster(context.keys)).alive.has(node)) {
    throw new VarveError('INVALID_ARGUMENT', `${node} lives, and cannot be replaced by itself`, {
      hint: `To have its content made anew: varve cluster reinit ${node}. Nothing was changed.`,
    });
  }
  // What is there may be its successor's server, which is not in the group yet.
  const [some = CONTROL_DATABASE] = databases;
  const { servers } = context;
  const identity = await servers
    .withConnection(addressOf(record), some, groupIdentity)
    .catch(() => undefined);
  if (identity?.node === node) {
    throw new VarveError('INVALID_ARGUMENT', `the former server of ${node} still runs`, {
      detail: `It is at ${record.host}:${record.port}, and would take changes that are meant for its successor.`,
      hint: 'Stop it for good first. Nothing was changed.',
    });
  }
}

/** In place of one who is to leave: its successor, or whoever is fit. One that is dead is followed by itself. */
async function anotherMaster(
  { keys, deps, options }: GroupContext,
  replaced: { readonly former: string; readonly successor: string; readonly alive: boolean },
  work: AskedWork,
): Promise<void> {
  const { former, successor, alive } = replaced;
  const isMaster = async (): Promise<boolean> => (await keys.master.read())?.value.node === former;
  if (!(await isMaster())) return;
  if (alive) {
    const by = `replace ${former} ${successor}`;
    work.report({ detail: `${former} hands over` });
    await askSwitchover({ clock: deps.clock, keys }, { to: successor, by }).catch(async (error: unknown) => {
      if (!(error instanceof VarveError) || error.code !== 'SWITCHOVER_REFUSED') throw error;
      await askSwitchover({ clock: deps.clock, keys }, { by });
    });
  }
  const wait = { what: 'another write master', timeoutMs: options.waitTimeoutMs };
  await waitUntil(deps.clock, work, wait, async () =>
    (await isMaster()) ? waitsFor(`another write master than ${former}`) : met,
  );
}

/**
 * This node's content is dropped and copied anew from the group, also when the node has left it. Only when somebody
 * asked for it. Where it fails or
 * dies behind its first write, the next start of the node carries on, or whoever asks again.
 * @throws INVALID_ARGUMENT for the write master
 */
export async function reinitialise(context: GroupContext, work: AskedWork): Promise<void> {
  const { keys, options, mesh } = context;
  work.report({ waitingFor: 'the bootstrap lock' });
  await context.takeLock(work.signal);
  try {
    await thaw(context);
    const group = await keys.group.read();
    const present = await memberToRemove(context, options.node);
    // One that has left, and goes on running, comes in again like this, too.
    const record = present ?? ((await isOutside(context)) ? await claimName(context) : undefined);
    if (!group || !record) {
      throw new VarveError('INVALID_ARGUMENT', `${options.node} is no member of group ${keys.cluster}`);
    }
    const others = membersOf(await readRoster(keys)).filter(({ node }) => node !== options.node);
    if (others.length === 0) {
      throw new VarveError('INVALID_ARGUMENT', `${options.node} has the only copy of group ${keys.cluster}`, {
        hint: 'Nothing was changed. Restore from a backup instead.',
      });
    }
    await work.commit?.();
    // The mark says that it was asked for; a crash behind it carries on at the next start.
    await markForJoining(context, group.value.uuid, record.databases);
    await setState(context, { ...record, state: 'joining', reason: 'reinitialised on request' });
    for (const database of record.databases) await mesh.sweep(context.self, database, []);
    await joinGroup(context, work);
  } finally {
    await context.releaseLock();
  }
}

async function memberToRemove({ keys }: GroupContext, node: string): Promise<MemberRecord | undefined> {
  const [record, master] = await Promise.all([keys.members.at(node).read(), keys.master.read()]);
  if (master?.value.node === node) {
    throw new VarveError('INVALID_ARGUMENT', `${node} is the write master of group ${keys.cluster}`, {
      hint: 'Switch over first: varve cluster switchover. Nothing was changed.',
    });
  }
  return record?.value;
}

async function answers({ servers }: GroupContext, member: MemberRecord): Promise<boolean> {
  try {
    await servers.withConnection(addressOf(member), 'postgres', (connection) => connection.query('select 1'));
    return true;
  } catch (error) {
    if (error instanceof VarveError && error.code.startsWith('CONNECTION_')) return false;
    throw error;
  }
}

/** What the leaving member has made reaches the others. */
async function handOver(
  context: GroupContext,
  record: MemberRecord,
  others: readonly MemberRecord[],
  { signal }: StepWork,
): Promise<void> {
  const { timeoutMs } = { timeoutMs: context.options.waitTimeoutMs };
  const reachable: MemberRecord[] = [];
  for (const other of others) if (await answers(context, other)) reachable.push(other);
  await Promise.all(
    record.databases.map((database) =>
      context.mesh.barrier(addressOf(record), reachable.map(addressOf), { database, timeoutMs, signal }),
    ),
  );
}

async function setState(context: GroupContext, record: MemberRecord): Promise<void> {
  const { keys } = context;
  const { committed } = await keys.coordinator.txn(
    [held(context.heldLock())],
    [keys.members.at(record.node).put(record)],
  );
  if (!committed) {
    throw new VarveError(
      'SESSION_LOST',
      `the bootstrap lock of group ${keys.cluster} was lost in the middle`,
    );
  }
}

/** A member that cannot be reached does its part when it starts. */
async function forgetEverywhere(
  context: GroupContext,
  record: MemberRecord,
  others: readonly MemberRecord[],
): Promise<void> {
  const company = others.map(({ node }) => node);
  await Promise.all(
    others.flatMap((other) =>
      record.databases.map((database) =>
        context.mesh.sweep(addressOf(other), database, company).catch((error: unknown) => {
          context.deps.log.warn(
            { member: other.node, gone: record.node, error: messageOf(error) },
            'a former member is not forgotten yet',
          );
        }),
      ),
    ),
  );
}

/**
 * Its databases become ordinary ones again. Only their default stays read-only: clients that look for whoever takes
 * writes are not to find it.
 */
async function detach(context: GroupContext, record: MemberRecord): Promise<void> {
  const group = await context.keys.group.read();
  if (group) await markAsLeft(context, record, group.value.uuid);
  for (const database of record.databases) {
    await context.mesh.sweep(addressOf(record), database, []);
    await context.servers.withConnection(addressOf(record), database, async (connection) => {
      // It would keep WAL for ever.
      await context.mesh.dropSlots(connection, [gapSlotName(database)]);
      await connection.transaction(async () => {
        await connection.query(`set local client_min_messages = warning`);
        await connection.query(`select pg_catalog.set_config('varve_group.ddl', 'off', true)`);
        await connection.query(`drop publication if exists ${quoteIdent(PUBLICATION)}`);
        await connection.query(`drop schema if exists ${quoteIdent(GROUP_SCHEMA)} cascade`);
      });
    });
  }
  await context.servers.withConnection(addressOf(record), 'postgres', async (connection) => {
    // Its commits would wait for ever for a confirmation that nobody gives.
    await connection.query('alter system reset synchronous_standby_names');
    await connection.query('select pg_catalog.pg_reload_conf()');
  });
}
