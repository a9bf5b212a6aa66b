import { messageOf, VarveError } from '../../core/errors.ts';
import { held } from '../../coordination/coordinator.ts';
import type { Connection } from '../../postgres/connection.ts';
import type { StepWork } from '../../run/step.ts';
import type { MasterRecord, MemberRecord } from '../group-keys.ts';
import { ensureGapSlot } from '../master/gap-slot.ts';
import { followsFromNow } from '../master/group-view.ts';
import { readOrigins } from '../master/progress.ts';
import { reignOf } from '../master/reign.ts';
import type { ServerAddress } from '../mesh/group-servers.ts';
import { checkLimits } from '../mesh/limits.ts';
import type { Link } from '../mesh/mesh.ts';
import { advanceOrigin, untilCopied } from '../mesh/subscription.ts';
import { edgeOf } from '../mesh/mesh.ts';
import { addressOf, CONTROL_DATABASE, type GroupContext } from './context.ts';
import { freeze, thaw } from './freeze.ts';
import { markForJoining, prepareJoiner, unmark } from './joiner-databases.ts';
import { membersOf, readRoster } from './members.ts';
import { checkPeer } from './peers.ts';

/**
 * A node joins a group that takes writes, and loses no row: the freeze protocol. The write master is the donor. For
 * the time of the initial copy the donor takes no changes from the other members m, so that its content has exactly
 * their changes up to a position R(m) that can be read; the joiner then takes m's changes from R(m) on, from a
 * slot that was there before:
 *
 * 1. structure: the donor's queue of DDL is replayed; no DDL until the end
 * 2. every member subscribes to the joiner
 * 3. the joiner makes its subscriptions to the members but the donor, disabled: their slots keep everything from now on
 * 4. a barrier from each of them arrives on the donor: it is past the beginning of these slots
 * 5. the donor's subscriptions to them are disabled, and R(m) is read
 * 6. the joiner subscribes to the donor, with the content
 * 7. the donor takes changes again
 * 8. the joiner's other subscriptions are set to R(m) and enabled
 * 9. the joiner makes its slots for gaps; barriers from each to each: everybody has what these slots do not go back to,
 *    so that whatever a member lacks when the write master dies, the joiner can give it
 * 10. then it is a member
 *
 * Clients go on writing on the donor all the time. With another write master than at the beginning nobody knows which
 * of its changes went where: it is given up as soon as that is seen. When anything fails, all of it is taken back.
 */
export async function joinRunning(context: GroupContext, work: StepWork): Promise<void> {
  const plan = await planJoin(context);
  const group = await context.keys.group.read();
  if (!group) throw new Error('assertion failed: whoever joins has seen the group');
  // First: it tells what is wrong better.
  await Promise.all(plan.members.map((member) => checkPeer(context, member)));
  await checkRoom(context, plan);
  work.report({ detail: `donor ${plan.donor.node}` });
  if (await isReinitAsked(context)) await markForJoining(context, group.value.uuid, plan.databases);
  await prepareJoiner(context, group.value.uuid, plan.databases);
  await using held = await holdDdl(context, plan);
  try {
    await whileReigns(context, plan, work.signal, (signal) =>
      copyAll(context, plan, { ...work, signal }, held),
    );
  } catch (error) {
    await takeBack(context, plan);
    throw error;
  }
}

const LOOK_MS = 500;
const AGAIN_MS = 50;

interface JoinPlan {
  readonly donor: MemberRecord;
  readonly others: readonly MemberRecord[];
  readonly members: readonly MemberRecord[];
  readonly databases: readonly string[];
  /** Undefined while nobody was ever elected. */
  readonly reign: string | undefined;
}

async function planJoin(context: GroupContext): Promise<JoinPlan> {
  const { keys, options } = context;
  const [roster, master] = await Promise.all([readRoster(keys), keys.master.read()]);
  const members = membersOf(roster).filter(({ node }) => node !== options.node);
  const donor = members.find(({ node }) => node === master?.value.node) ?? members[0];
  if (!donor) {
    throw new VarveError('GROUP_MEMBER_AWAY', `group ${keys.cluster} has no member that could be joined`, {
      hint: 'The content of the group is on its members only: bring one of them back.',
    });
  }
  return {
    donor,
    members,
    others: members.filter((member) => member !== donor),
    databases: donor.databases,
    reign: await settledReign(context, members, master?.value),
  };
}

/**
 * The reign that all members follow. Whoever does not yet stops taking changes of everybody at some moment, the
 * joiner's included.
 * @throws GROUP_MEMBER_AWAY while there is no such reign
 */
async function settledReign(
  { keys }: GroupContext,
  members: readonly MemberRecord[],
  master: MasterRecord | undefined,
): Promise<string | undefined> {
  if (!master) return undefined;
  if (master.state !== 'active') {
    throw new VarveError('GROUP_MEMBER_AWAY', `${master.node} is about to become write master`, {
      hint: 'It is tried again.',
    });
  }
  const reign = reignOf(master);
  const fences = await keys.fences(reign).list();
  // Without any there is nobody who fences.
  const late = members.find(({ node }) => fences.size > 0 && fences.get(node)?.value.followed !== true);
  if (!late) return reign;
  throw new VarveError('GROUP_MEMBER_AWAY', `${late.node} does not follow ${master.node} yet`, {
    hint: `It is tried again. varve cluster status tells what ${late.node} waits for.`,
  });
}

/** Ends `work` when the reign of the beginning does. */
async function whileReigns(
  context: GroupContext,
  { reign }: JoinPlan,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { keys, deps } = context;
  const changed = new AbortController();
  const over = new AbortController();
  const look = async (): Promise<void> => {
    for (;;) {
      await deps.clock.sleep(LOOK_MS, over.signal);
      // While the coordinator is away the lock decides.
      const master = await keys.master.read().catch(() => 'unknown' as const);
      if (master !== 'unknown' && reign !== (master && reignOf(master.value))) {
        return changed.abort(masterChanged());
      }
    }
  };
  const looking = look().catch(() => {});
  try {
    await work(AbortSignal.any([signal, changed.signal]));
  } catch (error) {
    throw changed.signal.aborted && !signal.aborted ? changed.signal.reason : error;
  } finally {
    over.abort();
    await looking;
  }
}

function masterChanged(): VarveError {
  return new VarveError('GROUP_MEMBER_AWAY', 'the write master changed in the middle of a join', {
    hint: 'It is tried again.',
  });
}

/** Somebody wants what this node holds to be dropped. Asked of a node that does not come up for what it holds, too. */
export async function isReinitAsked({ keys, options }: GroupContext): Promise<boolean> {
  return [...(await keys.requests.list()).values()].some(
    ({ value: { kind, node, state } }) =>
      kind === 'reinit' && node === options.node && (state === 'asked' || state === 'running'),
  );
}

/** Before anything is made, on every server. @throws GROUP_LIMITS */
async function checkRoom(context: GroupContext, { members, databases }: JoinPlan): Promise<void> {
  const scale = { members: members.length + 1, databases: databases.length };
  await Promise.all(
    [context.self, ...members.map(addressOf)].map((server) =>
      context.servers.withConnection(server, CONTROL_DATABASE, (connection) =>
        checkLimits(connection, server.node, scale),
      ),
    ),
  );
}

interface DdlHold extends AsyncDisposable {
  /** @throws CONNECTION_LOST when DDL may have been committed meanwhile */
  check(): void;
}

/** Sessions of their own: what they hold ends with them. */
async function holdDdl({ deps, servers }: GroupContext, { donor, databases }: JoinPlan): Promise<DdlHold> {
  const sessions: Connection[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(sessions.map((session) => session.close()));
  };
  try {
    for (const database of databases) {
      const session = await servers.session(addressOf(donor), database);
      sessions.push(session);
      await deps.groupSchema.holdDdl(session);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    check: () => {
      const lost = sessions.find(({ closed }) => closed);
      if (lost)
        throw new VarveError('CONNECTION_LOST', `the donor ${donor.node} was lost in the middle of a join`);
    },
    [Symbol.asyncDispose]: close,
  };
}

async function copyAll(context: GroupContext, plan: JoinPlan, work: StepWork, hold: DdlHold): Promise<void> {
  const { mesh, self, options, servers } = context;
  const donor = addressOf(plan.donor);
  const others = plan.others.map(addressOf);
  const links = linksOf(self, donor, others, plan.databases);
  await dropFormer(context, Object.values(links).flat());
  await Promise.all(
    plan.databases.map((database) =>
      servers.withConnection(donor, database, (source) =>
        context.onSelf(database, (own) => context.deps.groupSchema.replay(source, own)),
      ),
    ),
  );
  await connectAll(context, [...links.toOthers, ...links.toDonor], { enabled: true, copyData: false });
  await connectAll(context, links.fromOthers, { enabled: false, copyData: false });
  const wait = { timeoutMs: options.waitTimeoutMs, signal: work.signal };
  await eachDatabase(plan, (database) =>
    Promise.all(others.map((from) => mesh.barrier(from, [donor], { ...wait, database }))),
  );
  context.heldLock();
  const frozen = linksBetween(others, donor, plan.databases);
  await freeze(context, plan.donor, frozen);
  const positions = await Promise.all(frozen.map((link) => mesh.progress(link)));
  work.report({ detail: `copying from ${donor.node}` });
  await connectAll(context, links.fromDonor, { enabled: true, copyData: true });
  await Promise.all(
    links.fromDonor.map((link) =>
      context.onSelf(link.database, (connection) =>
        untilCopied(
          { clock: context.deps.clock, signal: work.signal },
          connection,
          edgeOf(link),
          options.waitTimeoutMs,
        ),
      ),
    ),
  );
  await thaw(context);
  await startFrom(context, links.fromOthers, frozen, positions);
  work.report({ detail: 'waiting until everybody has caught up' });
  await eachDatabase(plan, (database) => keepForGaps(context, plan, database));
  const all = [self, donor, ...others];
  await eachDatabase(plan, (database) =>
    Promise.all(
      all.map((from) =>
        mesh.barrier(
          from,
          all.filter((to) => to !== from),
          { ...wait, database },
        ),
      ),
    ),
  );
  hold.check();
  await finish(context, plan);
}

/** What an earlier life of this node has left with the members, who all answer. */
async function dropFormer({ mesh, options }: GroupContext, links: readonly Link[]): Promise<void> {
  const left = (await Promise.all(links.map((link) => mesh.drop(link)))).flat();
  if (left.length === 0) return;
  throw new VarveError(
    'GROUP_MEMBER_AWAY',
    `edges of an earlier life of ${options.node} could not be removed`,
    {
      detail: left.join('\n'),
      hint: 'It is tried again.',
    },
  );
}

/** What this node has from now on of everybody's changes can be had from it. */
async function keepForGaps(context: GroupContext, { members }: JoinPlan, database: string): Promise<void> {
  const own = { node: context.options.node, database };
  const others = members.map(({ node }) => node);
  await context.onSelf(database, (connection) =>
    ensureGapSlot(connection, database, () => readOrigins(connection, own, others)),
  );
}

/** Carries on behind what the donor's content had of each member. */
async function startFrom(
  context: GroupContext,
  links: readonly Link[],
  frozen: readonly Link[],
  positions: readonly (string | undefined)[],
): Promise<void> {
  await Promise.all(
    links.map(async (link) => {
      const at = frozen.findIndex(
        ({ from, database }) => from.node === link.from.node && database === link.database,
      );
      const lsn = positions[at];
      // Without a position the donor has nothing of that member, and the slot has everything.
      await context.onSelf(link.database, async (connection) => {
        if (lsn !== undefined) await advanceOrigin(connection, edgeOf(link), lsn);
      });
      await context.mesh.enable(link);
    }),
  );
}

async function finish(context: GroupContext, plan: JoinPlan): Promise<void> {
  const { keys, options, deps } = context;
  const mine = keys.members.at(options.node);
  const databases = [...plan.databases];
  for (;;) {
    const [seen, master] = await Promise.all([mine.read(), keys.master.read()]);
    if (!seen) throw new Error('assertion failed: a joiner is registered');
    if (plan.reign !== (master && reignOf(master.value))) throw masterChanged();
    const { reason: _, ...record } = seen.value;
    const nowMs = deps.clock.nowMs();
    const joinedAt = new Date(nowMs).toISOString();
    const { committed } = await keys.coordinator.txn(
      [held(context.heldLock()), mine.unchanged(seen), keys.master.unchanged(master)],
      [
        mine.put({ ...record, state: 'member', databases, joinedAt }),
        ...followsFromNow(keys, options.node, master?.value, nowMs),
      ],
    );
    if (committed) return letClientsIn(context, plan);
    // The record of a master changes in its reign, too: with the members, say.
    await deps.clock.sleep(AGAIN_MS);
  }
}

/** The node is a member, whatever happens to this: it is looked at again. */
async function letClientsIn(context: GroupContext, { databases }: JoinPlan): Promise<void> {
  await unmark(context, databases).catch((error: unknown) => {
    const trouble = { node: context.options.node, error: messageOf(error) };
    context.deps.log.warn(trouble, 'clients are let in a little later');
  });
}

/** Thaws at once, and leaves nothing of the joiner with the members that can be reached. */
async function takeBack(context: GroupContext, plan: JoinPlan): Promise<void> {
  const { deps, mesh, options } = context;
  try {
    await thaw(context);
  } catch (error) {
    // The journal stays: a member thaws.
    deps.log.warn({ joiner: options.node, error: messageOf(error) }, 'the donor is still frozen');
  }
  const links = linksOf(context.self, addressOf(plan.donor), plan.others.map(addressOf), plan.databases);
  const left = await Promise.all(
    Object.values(links)
      .flat()
      .map((link: Link) => mesh.drop(link)),
  );
  if (left.flat().length > 0) deps.log.warn({ joiner: options.node, left: left.flat() }, 'left of a join');
}

function connectAll(
  context: GroupContext,
  links: readonly Link[],
  options: { readonly enabled: boolean; readonly copyData: boolean },
): Promise<unknown> {
  return Promise.all(links.map((link) => context.mesh.connect(link, { ...options, foundSlot: 'renew' })));
}

function linksOf(
  self: ServerAddress,
  donor: ServerAddress,
  others: readonly ServerAddress[],
  databases: readonly string[],
): Record<'toDonor' | 'toOthers' | 'fromDonor' | 'fromOthers', Link[]> {
  return {
    toDonor: linksBetween([self], donor, databases),
    toOthers: others.flatMap((to) => linksBetween([self], to, databases)),
    fromDonor: linksBetween([donor], self, databases),
    fromOthers: linksBetween(others, self, databases),
  };
}

function linksBetween(
  from: readonly ServerAddress[],
  to: ServerAddress,
  databases: readonly string[],
): Link[] {
  return databases.flatMap((database) => from.map((one) => ({ from: one, to, database })));
}

function eachDatabase(plan: JoinPlan, work: (database: string) => Promise<unknown>): Promise<unknown> {
  return Promise.all(plan.databases.map(work));
}
