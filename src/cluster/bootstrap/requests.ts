import { randomUUID } from 'node:crypto';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { StepWork } from '../../run/step.ts';
import type { GroupKeys, GroupRequest, Versioned } from '../group-keys.ts';
import type { GroupContext } from './context.ts';
import { thawAbandonedJoin } from './freeze.ts';
import { leaveGroup, reinitialise, replaceMember } from './leave.ts';
import { readRoster } from './members.ts';
import { tendEdges } from './refresh-edges.ts';

const EDGES_EVERY_MS = 10_000;

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
  const [requests, { alive }] = await Promise.all([context.keys.requests.list(), readRoster(context.keys)]);
  for (const request of requests.values()) {
    if (!isMine(context.options.node, request.value, alive)) continue;
    await carryOut(context, request, work);
  }
}

/**
 * Pure: whether this node works on it. A node's content is dropped by itself only; everything else is done by the
 * first of those who live. A worker that died is followed by another.
 */
export function isMine(node: string, request: GroupRequest, alive: ReadonlySet<string>): boolean {
  if (request.kind === 'switchover') return false;
  if (request.state === 'done' || request.state === 'failed') return false;
  const { worker = '' } = request;
  if (request.state === 'running' && worker !== node && alive.has(worker)) return false;
  if (request.kind === 'reinit') return request.node === node;
  const [first] = [...alive].filter((name) => name !== request.node).toSorted();
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
  try {
    await perform(context, value, {
      signal: work.signal,
      report: (progress) => {
        work.report(progress);
        const detail = progress.waitingFor ?? progress.detail;
        if (detail !== undefined) void answer({ detail }).catch(() => {});
      },
    });
    await answer({ state: 'done', detail: '' });
  } catch (error) {
    if (work.signal.aborted) throw error;
    const detail =
      error instanceof VarveError ? [error.message, error.detail, error.hint] : [messageOf(error)];
    await answer({ state: 'failed', detail: detail.filter((line) => line !== undefined).join('\n') });
  }
}

async function perform(context: GroupContext, request: GroupRequest, work: StepWork): Promise<void> {
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
