import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { CoordinatorLog } from '../../coordination/coordinator.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { fillGap } from './gap-fill.ts';
import { lostCommits, type LostCommits } from './lost-commits.ts';
import { formatLsn, type Lsn } from './lsn.ts';
import type { Debt } from './reign.ts';

export interface FillingDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly servers: GroupServers;
  readonly signal?: AbortSignal | undefined;
}

/** What came of paying a debt. */
export type FillOutcome = { readonly kind: 'paid' } | Unpaid;

type Unpaid = { readonly databases: readonly string[] } & (
  | {
      /** Somebody who may have it could not be asked now. */
      readonly kind: 'later';
      readonly waitingFor: string;
    }
  | {
      /** Everybody was asked, and nobody has it; or this node has what nobody else has. */
      readonly kind: 'never';
      readonly reason: string;
    }
);

/**
 * Brings `self` to where a debt ends, in each database, from whichever of `sources` has it. For a former master
 * it is looked whether it committed more than that. One database does not keep another from being paid.
 */
export async function payDebt(
  deps: FillingDeps,
  self: ServerAddress,
  debt: Debt,
  sources: readonly ServerAddress[],
): Promise<FillOutcome> {
  const unpaid: Unpaid[] = [];
  for (const [database, upTo] of debt.upTo) {
    const outcome =
      debt.origin === self.node
        ? await clear(deps, self, { database, upTo })
        : await pay(deps, self, { database, upTo, origin: debt.origin }, sources);
    if (outcome) unpaid.push(outcome);
  }
  const worst = unpaid.find(({ kind }) => kind === 'never') ?? unpaid[0];
  return worst ? { ...worst, databases: unpaid.flatMap(({ databases }) => databases) } : { kind: 'paid' };
}

/** Of this node's own changes: undefined when none of them is missing elsewhere. */
async function clear(
  { servers }: FillingDeps,
  self: ServerAddress,
  { database, upTo }: { readonly database: string; readonly upTo: Lsn },
): Promise<Unpaid | undefined> {
  const lost = await lostCommits(servers, self, { database, after: upTo });
  if (lost === 'none') return undefined;
  return { kind: 'never', databases: [database], reason: lostReason(database, lost) };
}

/** Undefined when somebody could give it. */
async function pay(
  deps: FillingDeps,
  self: ServerAddress,
  owed: { readonly database: string; readonly upTo: Lsn; readonly origin: string },
  sources: readonly ServerAddress[],
): Promise<Unpaid | undefined> {
  const { database, upTo, origin } = owed;
  const refusals: string[] = [];
  let missing = sources.length === 0;
  for (const from of sources) {
    if (from.node === self.node) continue;
    try {
      const applied = await fillGap(deps, { ...owed, from, to: self });
      deps.log.info(
        { ...applied, database, origin, from: from.node, upTo: formatLsn(upTo) },
        'a former write master’s last changes are filled in',
      );
      return undefined;
    } catch (error) {
      deps.signal?.throwIfAborted();
      refusals.push(`${from.node}: ${messageOf(error)}`);
      if (!(error instanceof VarveError && error.code === 'GAP_NOT_COVERED')) missing = true;
    }
  }
  const what = `changes of ${origin} in ${database} up to ${formatLsn(upTo)}`;
  const why = refusals.join('; ');
  deps.log.warn({ database, refusals }, `nobody could give ${what}`);
  return missing
    ? { kind: 'later', databases: [database], waitingFor: `a member that has ${what} (${why})` }
    : { kind: 'never', databases: [database], reason: `nobody keeps ${what} any more: ${why}` };
}

function lostReason(database: string, lost: Exclude<LostCommits, 'none'>): string {
  if (lost === 'unknown') {
    return `whether it committed in ${database} what no other member has cannot be told any more`;
  }
  const tables = lost.tables.join(', ');
  return `it committed ${lost.transactions} transactions in ${database} that were never confirmed, the first at ${lost.firstAt}; they changed ${tables}`;
}
