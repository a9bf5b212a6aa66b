import { VarveError } from '../../core/errors.ts';
import type { UnfulfilledReason, UnfulfilledStatus } from '../engine/storage-engine.ts';
import { givers } from '../peers/consistency.ts';
import { formatTime } from '../protocol/time-text.ts';
import type { InterventionAction } from './interventions.ts';
import type { TopologySnapshot } from './topology-snapshot.ts';

/** What an operator asks for. Times are nanoseconds since the Unix epoch. */
export type InterventionRequest =
  | { readonly action: 'retry' }
  | { readonly action: 'skipPeer'; readonly peer: string; readonly forMs: number }
  | {
      readonly action: 'acceptLoss';
      readonly shard: number;
      /** All unless given. */
      readonly namespace?: string | undefined;
      readonly startNs?: bigint | undefined;
      readonly endNs?: bigint | undefined;
    };

/** How the bootstrap stands. */
export interface BootstrapState {
  readonly nowNs: bigint;
  readonly topology: TopologySnapshot;
  /** What the last attempt left, of shards that are not whole. */
  readonly unfulfilled: readonly UnfulfilledStatus[];
  /** An attempt failed as a whole, and is to be repeated. */
  readonly isRetrying: boolean;
  /** Undefined when there is none of that name. */
  readonly namespaceId: (name: string) => number | undefined;
}

export interface InterventionPlan {
  readonly actions: readonly InterventionAction[];
  /** In words, a line each. */
  readonly effects: readonly string[];
}

const DAY_NS = 86_400_000_000_000n;

/** Reasons that do not pass by themselves. */
const LASTING: ReadonlySet<UnfulfilledReason> = new Set<UnfulfilledReason>([
  'notAvailable',
  'corruptFile',
  'consistencyNotMet',
  'peerError',
]);

/**
 * What an intervention would do here. Pure.
 * @throws BOOTSTRAP_INTERVENTION_REFUSED when it makes no sense, INVALID_ARGUMENT
 */
export function planIntervention(request: InterventionRequest, state: BootstrapState): InterventionPlan {
  switch (request.action) {
    case 'retry':
      return retry(state);
    case 'skipPeer':
      return skipPeer(request, state);
    case 'acceptLoss':
      return acceptLoss(request, state);
  }
}

function retry({ unfulfilled, isRetrying }: BootstrapState): InterventionPlan {
  if (unfulfilled.length === 0 && !isRetrying) throw refused('nothing waits for another attempt');
  const shards = new Set(unfulfilled.map(({ shard }) => shard));
  const what = shards.size > 0 ? `shards ${listed(shards)} are` : 'everything is';
  return { actions: [{ action: 'retry' }], effects: [`${what} tried again at once, with all peers`] };
}

function skipPeer(
  { peer, forMs }: { readonly peer: string; readonly forMs: number },
  { nowNs, topology, unfulfilled }: BootstrapState,
): InterventionPlan {
  if (peer === topology.origin) throw refused('a node is no peer of itself');
  if (![...topology.shards.values()].some((replicas) => replicas.has(peer))) {
    throw refused(`the placement has no node ${peer}`);
  }
  const waiting = [...new Set(unfulfilled.map(({ shard }) => shard))];
  const concerned = waiting.filter((shard) => givers(topology, shard).includes(peer));
  if (concerned.length === 0) throw refused(`no shard here waits for ${peer}`);
  const untilNs = nowNs + BigInt(Math.round(forMs)) * 1_000_000n;
  const alone = concerned.filter((shard) => givers(topology, shard).length === 1);
  return {
    actions: [{ action: 'skipPeer', peer, untilNs }],
    effects: [
      `${peer} is neither asked nor waited for until ${formatTime(untilNs)}, for shards ${listed(concerned)}`,
      ...(alone.length > 0 ? [`nobody else can give shards ${listed(alone)}: they stay as they are`] : []),
      ...(concerned.length > alone.length
        ? [
            `what only ${peer} has of the others is not in what is got: a repair brings it once ${peer} is back`,
          ]
        : []),
    ],
  };
}

function acceptLoss(
  { shard, namespace, startNs, endNs }: Extract<InterventionRequest, { readonly action: 'acceptLoss' }>,
  { unfulfilled, namespaceId, nowNs }: BootstrapState,
): InterventionPlan {
  const found = unfulfilled.filter(
    (one) =>
      one.shard === shard &&
      LASTING.has(one.reason) &&
      (namespace === undefined || one.namespace === namespace) &&
      (startNs === undefined || one.endNs > startNs) &&
      (endNs === undefined || one.startNs < endNs),
  );
  const lost = new Map<string, Extract<InterventionAction, { readonly action: 'acceptLoss' }>>();
  for (const one of found) {
    const id = namespaceId(one.namespace);
    if (id === undefined) continue;
    // Blocks that begin before the next attempt has ended would be missing again.
    const openEndNs = one.endNs > nowNs ? one.endNs + DAY_NS : one.endNs;
    const range = {
      startNs: startNs !== undefined && startNs > one.startNs ? startNs : one.startNs,
      endNs: endNs !== undefined && endNs < one.endNs ? endNs : openEndNs,
    };
    const reason = `${one.reason}: ${one.detail}`;
    const action = {
      action: 'acceptLoss',
      namespace: one.namespace,
      namespaceId: id,
      shard,
      ...range,
      reason,
    } as const;
    // Data and index may lack the same range, each for its own reason.
    const key = `${id}/${range.startNs}/${range.endNs}`;
    if (!lost.has(key)) lost.set(key, action);
  }
  if (lost.size === 0) {
    const where = startNs === undefined && endNs === undefined ? '' : ' of that range';
    throw refused(`nothing${where} of shard ${shard} is without a source here`);
  }
  const actions = [...lost.values()];
  return {
    actions,
    effects: actions.map(
      (one) =>
        `shard ${shard} of namespace ${one.namespace}, ${formatTime(one.startNs)} to ${formatTime(one.endNs)}, is given up: it counts as empty, for good (${one.reason})`,
    ),
  };
}

/** For history and status: what was done, in words. */
export function interventionText(action: InterventionAction & { readonly isVoid?: boolean }): string {
  switch (action.action) {
    case 'retry':
      return 'asked for another attempt at once';
    case 'skipPeer':
      return `had peer ${action.peer} skipped until ${formatTime(action.untilNs)}`;
    case 'acceptLoss': {
      const { shard, namespace, startNs, endNs, reason, isVoid } = action;
      const since = isVoid ? '; the shard was given to others since' : '';
      return `gave up shard ${shard} of namespace ${namespace}, ${formatTime(startNs)} to ${formatTime(endNs)} (${reason})${since}`;
    }
  }
}

function listed(shards: Iterable<number>): string {
  const all = [...shards].sort((a, b) => a - b);
  const shown = all.slice(0, 10).join(', ');
  return all.length > 10 ? `${shown} and ${all.length - 10} more` : shown;
}

function refused(why: string): VarveError {
  return new VarveError('BOOTSTRAP_INTERVENTION_REFUSED', why, {
    hint: 'Nothing was changed. varve status and varve explain shard N show what is waited for.',
  });
}
