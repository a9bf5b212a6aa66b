import { systemClock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../../postgres/sqlstate.ts';

/** A replication slot as its server shows it. Positions are text like `0/16B3748`. */
export interface Slot {
  readonly name: string;
  readonly database: string;
  readonly activePid: number | null;
  readonly confirmedLsn: string | null;
  readonly restartLsn: string | null;
  /** What it has been given up for: its consumer has lost changes and cannot carry on. */
  readonly lost: boolean;
  /** From what the consumer has confirmed to what the server has written. */
  readonly lagBytes: number;
  /** WAL that the server keeps for it. */
  readonly retainedBytes: number;
}

const POLL_MS = 15;

/** Varve's slots of the database that `connection` is to, by name. */
export async function readSlots(connection: Connection): Promise<ReadonlyMap<string, Slot>> {
  const { rows } = await connection.query<Slot>(
    `select slot_name as name, database, active_pid as "activePid", confirmed_flush_lsn::text as "confirmedLsn",
            restart_lsn::text as "restartLsn", coalesce(wal_status = 'lost', false) as lost,
            greatest(0, coalesce(pg_catalog.pg_current_wal_lsn() - confirmed_flush_lsn, 0))::float8 as "lagBytes",
            greatest(0, coalesce(pg_catalog.pg_current_wal_lsn() - restart_lsn, 0))::float8 as "retainedBytes"
       from pg_catalog.pg_replication_slots
      where slot_name like 'varve\\_%' and database = pg_catalog.current_database()`,
  );
  return new Map(rows.map((slot) => [slot.name, slot]));
}

/**
 * Makes the slot from which a subscriber takes the changes of this database, unless it is there. Waits for write
 * transactions that are open on this server.
 * @throws DEADLINE_EXCEEDED naming the oldest of them
 */
export async function ensureSlot(connection: Connection, name: string, timeoutMs: number): Promise<void> {
  const present = (await readSlots(connection)).get(name);
  if (present) return;
  try {
    await connection.query(`select pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')`, [name], {
      timeoutMs,
    });
  } catch (error) {
    // Another who makes the same edge was faster.
    if (sqlStateOf(error) === SqlState.duplicateObject) return;
    if (error instanceof VarveError && error.code === 'DEADLINE_EXCEEDED') {
      throw await waitedForTransactions(connection, error);
    }
    throw error;
  }
}

/** Removes a slot if it is there, ending whoever reads it. */
export async function dropSlot(connection: Connection, name: string, timeoutMs: number): Promise<void> {
  const untilMs = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    try {
      await connection.query(
        `select pg_catalog.pg_terminate_backend(active_pid)
           from pg_catalog.pg_replication_slots where slot_name = $1 and active_pid is not null`,
        [name],
      );
      await connection.query(
        `select pg_catalog.pg_drop_replication_slot(slot_name)
           from pg_catalog.pg_replication_slots where slot_name = $1`,
        [name],
      );
      return;
    } catch (error) {
      const state = sqlStateOf(error);
      if (state === SqlState.undefinedObject) return;
      if (state !== SqlState.objectInUse || systemClock.monotonicMs() > untilMs) throw error;
      await systemClock.sleep(POLL_MS);
    }
  }
}

async function waitedForTransactions(connection: Connection, late: VarveError): Promise<VarveError> {
  const oldest = await connection.maybeOne<{ pid: number; user: string; age: string }>(
    `select pid, usename as user, (pg_catalog.now() - xact_start)::text as age
       from pg_catalog.pg_stat_activity
      where backend_xid is not null and pid <> pg_catalog.pg_backend_pid()
      order by xact_start limit 1`,
  );
  return new VarveError('DEADLINE_EXCEEDED', 'a replication slot could not be created in time', {
    detail: oldest
      ? `It waits for a write transaction of ${oldest.user} (process ${oldest.pid}), open for ${oldest.age}.`
      : late.message,
    hint: 'End long write transactions on that server, then repeat.',
    cause: late,
  });
}
