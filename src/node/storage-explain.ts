import { VarveError } from '../core/errors.ts';
import type { Intervention } from '../storage/bootstrap/interventions.ts';
import { interventionText } from '../storage/bootstrap/plan-intervention.ts';
import type { ShardFill } from '../storage/engine/storage-engine.ts';
import { formatTime } from '../storage/protocol/time-text.ts';

export const EXPLAIN_PATH = '/api/storage/explain';

/** Of one shard: where each of its ranges came from on a node, and why not from elsewhere. */
export interface ShardExplanation {
  readonly node: string;
  readonly shard: number;
  /** The newest run last. */
  readonly fills: readonly {
    readonly namespace: string;
    readonly attempt: number;
    readonly pass: ShardFill['pass'];
    readonly start: string;
    readonly end: string;
    /** Null: nobody had it. */
    readonly source: string | null;
    readonly at: string;
    readonly others: ShardFill['others'];
  }[];
  /** What operators have told the bootstrap that concerns the shard, the newest last. */
  readonly interventions: readonly ToldIntervention[];
}

export function shardExplanation(
  node: string,
  shard: number,
  fills: readonly ShardFill[],
  interventions: readonly Intervention[] = [],
): ShardExplanation {
  const concerns = (one: Intervention): boolean => one.action !== 'acceptLoss' || one.shard === shard;
  return {
    node,
    shard,
    interventions: interventions.filter(concerns).map(toldIntervention),
    fills: fills.map(({ startNs, endNs, atNs, source, ...rest }) => ({
      ...rest,
      start: formatTime(startNs),
      end: formatTime(endNs),
      source: source ?? null,
      at: formatTime(atNs),
    })),
  };
}

export interface ToldIntervention {
  readonly at: string;
  readonly by: string;
  readonly what: string;
}

export function toldIntervention(one: Intervention): ToldIntervention {
  return { at: formatTime(one.atNs), by: one.by, what: interventionText(one) };
}

/** @throws INVALID_ARGUMENT */
export function shardNumber(text: string | null | undefined, shardCount: number): number {
  const shard = /^\d{1,9}$/.test(text ?? '') ? Number(text) : -1;
  if (shard >= 0 && shard < shardCount) return shard;
  throw new VarveError(
    'INVALID_ARGUMENT',
    `"${(text ?? '').slice(0, 20)}" is no shard: there are ${shardCount}`,
    {
      hint: `Shards are numbered from 0 to ${shardCount - 1}.`,
    },
  );
}

/** For people: of each namespace the newest run that was over the shard; with `all`, every run that is remembered. */
export function explanationLines(explanation: ShardExplanation, all: boolean): string[] {
  const { node, shard, fills, interventions } = explanation;
  // What was whole already was filled by a run before.
  const filled = fills.filter(({ source }) => source !== 'whole');
  const last = new Map(filled.map(({ namespace, attempt }) => [namespace, attempt]));
  const shown = fills.filter(({ namespace, attempt }) => all || attempt === last.get(namespace));
  if (shown.length === 0) return [`shard ${shard} on ${node}: nothing is known of it`];
  return [
    `shard ${shard} on ${node}`,
    ...shown.flatMap((fill) => [
      `  ${fill.namespace}, run ${fill.attempt}, ${fill.start} to ${fill.end}: ${fill.source ?? 'nobody has it'} (${fill.at})`,
      ...fill.others.map(({ source, reason }) => `      not ${source}: ${reason}`),
    ]),
    ...interventions.map(({ at, by, what }) => `  ${at}: ${by} ${what}`),
  ];
}
