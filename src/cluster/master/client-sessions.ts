import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';

const POLL_MS = 10;
const END_TIMEOUT_MS = 10_000;
/** A login under way may have read what was in force before; it shows up by then. */
const LATE_LOGIN_MS = 100;

/**
 * Ends all sessions in these databases but those of role `except`: such as began before this call, or were about to.
 * @throws DEADLINE_EXCEEDED after ten seconds
 */
export async function endSessions(
  { clock, except }: { readonly clock: Clock; readonly except: string },
  connection: Connection,
  { node, databases }: { readonly node: string; readonly databases: readonly string[] },
): Promise<void> {
  const { at } = await connection.one<{ at: string }>('select pg_catalog.clock_timestamp()::text as at');
  const beganMs = clock.monotonicMs();
  const end = async (): Promise<number> => {
    const { rowCount } = await connection.query(
      `select pg_catalog.pg_terminate_backend(pid)
         from pg_catalog.pg_stat_activity
        where backend_type = 'client backend' and datname = any ($1) and usename is distinct from $2
          and backend_start <= $3::timestamptz`,
      [databases, except, at],
    );
    return rowCount;
  };
  for (let left = await end(); ; left = await end()) {
    const passedMs = clock.monotonicMs() - beganMs;
    if (left === 0 && passedMs > LATE_LOGIN_MS) return;
    if (passedMs > END_TIMEOUT_MS) {
      throw new VarveError('DEADLINE_EXCEEDED', `${left} client sessions on ${node} do not end`, {
        hint: 'Look at their processes: a disk or an extension may hang.',
      });
    }
    await clock.sleep(POLL_MS);
  }
}
