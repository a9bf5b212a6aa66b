import { randomUUID } from 'node:crypto';
import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';

const POLL_MS = 5;

/** Writes a row whose arrival elsewhere shows that everything committed before it here has arrived, too. */
export async function writeBarrier(connection: Connection, node: string): Promise<string> {
  const token = randomUUID();
  // Old rows are of no use to anybody; their removal is replicated like their coming.
  await connection.query(
    `with old as (
       delete from varve_group.barrier where at < pg_catalog.clock_timestamp() - interval '1 hour' and node = $2
     )
     insert into varve_group.barrier (token, node) values ($1, $2)`,
    [token, node],
  );
  return token;
}

/** @throws DEADLINE_EXCEEDED when it did not arrive in time */
export async function awaitBarrier(
  { clock, signal }: { readonly clock: Clock; readonly signal?: AbortSignal | undefined },
  connection: Connection,
  token: string,
  wait: { readonly timeoutMs: number; readonly what: string },
): Promise<void> {
  const untilMs = clock.monotonicMs() + wait.timeoutMs;
  while (!(await connection.maybeOne('select 1 from varve_group.barrier where token = $1', [token]))) {
    if (clock.monotonicMs() > untilMs) {
      throw new VarveError('DEADLINE_EXCEEDED', `${wait.what} did not catch up within ${wait.timeoutMs} ms`, {
        hint: 'Look at the replication lag of that edge, and at the subscriber’s log when it stands still.',
      });
    }
    await clock.sleep(POLL_MS, signal);
  }
}
