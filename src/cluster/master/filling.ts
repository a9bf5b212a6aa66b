import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { CoordinatorLog } from '../../coordination/coordinator.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { fillGap } from './gap-fill.ts';
import { lostCommits, type LostCommits } from './lost-commits.ts';
import { formatLsn } from './lsn.ts';
import type { Debt } from './reign.ts';

export interface FillingDeps {
  readonly clock: Clock;
  readonly log: CoordinatorLog;
  readonly servers: GroupServers;
  readonly signal?: AbortSignal | undefined;
}

/** What came of paying a debt. */
export type FillOutcome =
  | { readonly kind: 'paid' }
  /** Somebody who may have it could not be asked now. */
  | { readonly kind: 'later'; readonly waitingFor: string }
  /** Everybody was asked, and nobody has it; or this node has what nobody else has. */
  | { readonly kind: 'never'; readonly reason: string };

/**
 * Brings `self` to where a debt ends, in each database, from whichever of `sources` has it. For a former master
 * it is looked whether it committed more than that.
 */
export async function payDebt(
  deps: FillingDeps,
  self: ServerAddress,
  debt: Debt,
  sources: readonly ServerAddress[],
): Promise<FillOutcome> {
  for (const [database, upTo] of debt.upTo) {
    if (debt.origin === self.node) {
      const lost = await lostCommits(deps.servers, self, { database, after: upTo });
      if (lost !== 'none') return { kind: 'never', reason: lostReason(database, lost) };
      continue;
    }
    const refusals: string[] = [];
    let covered = false;
    let missing = sources.length === 0;
    for (const from of sources) {
      if (from.node === self.node) continue;
      try {
        const applied = await fillGap(deps, { database, origin: debt.origin, from, to: self, upTo });
        deps.log.info(
          { ...applied, database, origin: debt.origin, from: from.node, upTo: formatLsn(upTo) },
          'a former write master’s last changes are filled in',
        );
        covered = true;
        break;
      } catch (error) {
        deps.signal?.throwIfAborted();
        refusals.push(`${from.node}: ${messageOf(error)}`);
        if (!(error instanceof VarveError && error.code === 'GAP_NOT_COVERED')) missing = true;
      }
    }
    if (covered) continue;
    const what = `changes of ${debt.origin} in ${database} up to ${formatLsn(upTo)}`;
    deps.log.warn({ database, refusals }, `nobody could give ${what}`);
    return missing
      ? { kind: 'later', waitingFor: `a member that has ${what} (${refusals.join('; ')})` }
      : { kind: 'never', reason: `nobody keeps ${what} any more: ${refusals.join('; ')}` };
  }
  return { kind: 'paid' };
}

function lostReason(database: string, lost: Exclude<LostCommits, 'none'>): string {
  if (lost === 'unknown') {
    return `whether it committed in ${database} what no other member has cannot be told any more`;
  }
  const tables = lost.tables.join(', ');
  return `it committed ${lost.transactions} transactions in ${database} that were never confirmed, the first at ${lost.firstAt}; they changed ${tables}`;
}
