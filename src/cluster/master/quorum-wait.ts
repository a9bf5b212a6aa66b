import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { QuorumRule } from '../group-keys.ts';
import { slotName } from '../mesh/edge.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { readSlots } from '../mesh/slots.ts';
import { NO_LSN, parseLsn } from './lsn.ts';

const FIRST_PAUSE_MS = 2;
const MAX_PAUSE_MS = 50;

/** What is to be confirmed. */
export interface QuorumWait {
  readonly server: ServerAddress;
  readonly database: string;
  readonly lsn: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** The rules of the master that this node is now, or who is master instead. */
export type Mastership = { readonly rules: readonly QuorumRule[] } | { readonly master: string | undefined };

/**
 * Resolves when under each rule enough members have confirmed what is before the position.
 * @throws NOT_WRITE_MASTER, also when this node stops being it meanwhile
 * @throws QUORUM_NOT_REACHED
 */
export async function awaitQuorum(
  { clock, servers }: { readonly clock: Clock; readonly servers: GroupServers },
  wait: QuorumWait,
  mastership: () => Mastership,
): Promise<void> {
  const wanted = parseLsn(wait.lsn);
  const untilMs = clock.monotonicMs() + wait.timeoutMs;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(MAX_PAUSE_MS, pauseMs * 1.5)) {
    const now = mastership();
    if (!('rules' in now)) throw notMaster(wait.server.node, now.master);
    const slots = await servers.withConnection(wait.server, wait.database, readSlots, wait.signal);
    const confirmed = (node: string): boolean => {
      const lsn = slots.get(slotName(node, wait.database))?.confirmedLsn;
      return (lsn == null ? NO_LSN : parseLsn(lsn)) >= wanted;
    };
    const lacking = now.rules.find(
      ({ others, count }) => others.filter((node) => confirmed(node)).length < count,
    );
    if (!lacking) return;
    if (clock.monotonicMs() > untilMs) {
      const missing = lacking.others.filter((node) => !confirmed(node));
      throw new VarveError(
        'QUORUM_NOT_REACHED',
        `${lacking.count} of ${lacking.others.join(', ')} did not confirm ${wait.lsn} of ${wait.database} within ${wait.timeoutMs} ms`,
        { detail: `Not yet: ${missing.join(', ')}.` },
      );
    }
    await clock.sleep(pauseMs, wait.signal);
  }
}

function notMaster(node: string, master: string | undefined): VarveError {
  return new VarveError('NOT_WRITE_MASTER', `${node} is not the group’s write master`, {
    hint: master === undefined ? 'None is elected now; repeat later.' : `Write on ${master}.`,
  });
}
