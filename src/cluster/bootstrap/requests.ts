import { randomUUID } from 'node:crypto';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { StepWork } from '../../run/step.ts';
import { cancelled } from '../cancel-request.ts';
import type { Document, GroupKeys, GroupRequest, Versioned } from '../group-keys.ts';
import type { GroupContext } from './context.ts';
import { thawAbandonedJoin } from './freeze.ts';
import { leaveGroup, reinitialise, replaceMember, type AskedWork } from './leave.ts';
import { membersOf, readRoster } from './members.ts';
import { tendEdges } from './refresh-edges.ts';

const EDGES_EVERY_MS = 10_000;
const KEPT_MS = 24 * 3_600_000;

/** What is asked of a group's members as a whole. */
export type MembershipRequest =
  | { readonly kind: 'leave'; readonly node: string }
  | { readonly kind: 'reinit'; readonly node: string }
  | { readonly kind: 'replace'; readonly node: string; readonly successor: string };

/** Leaves a request for the members' daemons. The result is its id; they answer in place. */
export async function askMembers(
  keys: GroupKeys,
  request: MembershipRequest,
  asker: { readonly by: string; readonly nowMs: number },
): Promise<string> {
  const id = `${request.kind}-${randomUUID().slice(0, 8)}`;
  await keys.requests.at(id).create({
    id,
    kind: request.kind,
    node: request.node,
    arguments: request.kind === 'replace' ? { successor: request.successor } : {},
    by: asker.by,
    at: new Date(asker.nowMs).toISOString(),
    state: 'asked',
  });
  return id;
}

/**
 * Every member's part in what concerns the members as a whole: carries out requests, and thaws what a joiner that died
 * has left. Runs until `signal`; call it again and again, once a second or so.
 */
export async function tendMembership(context: GroupContext, work: StepWork): Promise<void> {
  await thawAbandonedJoin(context, work.signal);
  const nowMs = context.deps.clock.monotonicMs();
  if (nowMs - (context.edgesTendedMs ?? -Infinity) >= EDGES_EVERY_MS) {
    context.edgesTendedMs = nowMs;
    await tendEdges(context, work.signal);
  }
  const [requests, roster] = await Promise.all([context.keys.requests.list(), readRoster(context.keys)]);
  const members = new Set(membersOf(roster).map(({ node }) => node));
  for (const request of requests.values()) {
    if (await forgetOld(context, request)) continue;
    if (!isMine(context.options.node, request.value, { alive: roster.alive, members })) continue;
    await carryOut(context, request, work);
  }
}

/** What is over is kept for a day, for those who ask how it went. */
async function forgetOld({ keys, deps }: GroupContext, request: Versioned<GroupRequest>): Promise<boolean> {
  const { id, state, at } = request.value;
  const isOver = state === 'done' || state === 'failed';
  if (!isOver || deps.clock.nowMs() - Date.parse(at) < KEPT_MS) return false;
  const document = keys.requests.at(id);
  await keys.coordinator.txn([document.unchanged(request)], [document.remove()]);
  return true;
}

/**
 * Pure: whether this node works on it. A node's content is dropped by itself only; everything else is done by the
 * first of the members who live: one that joins may be waiting for just that. A worker that died is followed by
 * another.
 */
export function isMine(
  node: string,
  request: GroupRequest,
  { alive, members }: { readonly alive: ReadonlySet<string>; readonly members: ReadonlySet<string> },
): boolean {
  if (request.kind === 'switchover') return false;
  if (request.state === 'done' || request.state === 'failed') return false;
  const { worker = '' } = request;
  if (request.state === 'running' && worker !== node && alive.has(worker)) return false;
  if (request.kind === 'reinit') return request.node === node;
  const [first] = [...alive].filter((name) => name !== request.node && members.has(name)).toSorted();
  return first === node;
}

async function carryOut(
  context: GroupContext,
  { value, version }: Versioned<GroupRequest>,
  work: StepWork,
): Promise<void> {
  const { keys, options } = context;
  const document = keys.requests.at(value.id);
  if (!(await document.write({ ...value, state: 'running', worker: options.node }, version))) return;
  const answer = async (change: Partial<GroupRequest>): Promise<void> => {
    await document.update((seen) => seen && { ...seen, ...change });
  };
  const over = new AbortController();
  const stop = new AbortController();
  const watching = untilCancelled(document, AbortSignal.any([work.signal, over.signal])).then((by) => {
    if (by !== undefined) stop.abort(cancelled(by));
  });
  try {
    await perform(context, value, {
      signal: AbortSignal.any([work.signal, stop.signal]),
      commit: () => commit(document),
      report: (progress) => {
        work.report(progress);
        const detail = progress.waitingFor ?? progress.detail;
        if (detail !== undefined) void answer({ detail }).catch(() => {});
      },
    });
    await answer({ state: 'done', detail: '' });
  } catch (error) {
    if (work.signal.aborted) throw error;
    const why = stop.signal.aborted ? (stop.signal.reason as unknown) : error;
    const detail = why instanceof VarveError ? [why.message, why.detail, why.hint] : [messageOf(why)];
    await answer({ state: 'failed', detail: detail.filter((line) => line !== undefined).join('\n') });
  } finally {
    over.abort();
    await watching;
  }
}

/** Who wants it given up; undefined when `signal` fires before anybody does. */
async function untilCancelled(
  document: Document<GroupRequest>,
  signal: AbortSignal,
): Promise<string | undefined> {
  try {
    for await (const seen of document.watch(signal)) if (seen?.value.cancel) return seen.value.cancel.by;
  } catch {
    // It is looked at again before what cannot be taken back.
  }
  return undefined;
}

/** @throws GROUP_REQUEST_CANCELLED */
async function commit(document: Document<GroupRequest>): Promise<void> {
  const now = await document.update((seen) =>
    seen && !seen.cancel && seen.irrevocable !== true ? { ...seen, irrevocable: true } : undefined,
  );
  if (now?.irrevocable !== true) throw cancelled(now?.cancel?.by ?? 'somebody who removed the request');
}

async function perform(context: GroupContext, request: GroupRequest, work: AskedWork): Promise<void> {
  const { node = '' } = request;
  switch (request.kind) {
    case 'leave':
      return leaveGroup(context, node, work);
    case 'reinit':
      if (await hasJoinedSince(context, request)) return;
      return reinitialise(context, work);
    case 'replace':
      return replaceMember(context, { former: node, successor: request.arguments['successor'] ?? '' }, work);
    case 'switchover':
      throw new Error('assertion failed: the write master’s matter');
  }
}

/** A worker that died in the middle of it has gone on when it started. */
async function hasJoinedSince({ keys, options }: GroupContext, { at }: GroupRequest): Promise<boolean> {
  const record = await keys.members.at(options.node).read();
  return record?.value.state === 'member' && Date.parse(record.value.joinedAt) > Date.parse(at);
}
