import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import { SqlState, sqlStateOf } from '../../postgres/sqlstate.ts';
import { describeEdge, edgeNames, PUBLICATION, type Edge } from './edge.ts';

/** A subscription as its subscriber shows it. */
export interface Subscription {
  readonly oid: string;
  readonly name: string;
  readonly enabled: boolean;
  readonly conninfo: string;
  readonly slot: string | null;
  /** Processes that work for it: the apply worker, and those of initial copies. */
  readonly workers: number;
  /** Tables whose initial copy has not ended. */
  readonly copying: number;
  /** Tables that it takes changes of. */
  readonly tables: number;
  /** Up to where the publisher's changes are applied; null before the first. */
  readonly progress: string | null;
}

export interface SubscriptionOptions {
  readonly conninfo: string;
  readonly enabled: boolean;
  readonly copyData: boolean;
}

const POLL_MS = 10;
/** A worker that has not noticed by then that it is disabled is ended. */
const PATIENCE_MS = 200;

/** Under which PostgreSQL keeps how far a subscription has come. */
export function originName(subscriptionOid: string): string {
  return `pg_${subscriptionOid}`;
}

/** On the subscriber's database. */
export async function readSubscription(
  connection: Connection,
  edge: Edge,
): Promise<Subscription | undefined> {
  const all = await readSubscriptions(connection);
  return all.get(edgeNames(edge).subscription);
}

/** All of the group's subscriptions in this database, by name. */
export async function readSubscriptions(connection: Connection): Promise<ReadonlyMap<string, Subscription>> {
  const { rows } = await connection.query<Subscription>(
    `select s.oid::text as oid, s.subname as name, s.subenabled as enabled, s.subconninfo as conninfo,
            s.subslotname as slot,
            (select pg_catalog.count(w.pid) from pg_catalog.pg_stat_subscription w where w.subid = s.oid)::int4 as workers,
            (select pg_catalog.count(*) from pg_catalog.pg_subscription_rel r
              where r.srsubid = s.oid and r.srsubstate not in ('r', 's'))::int4 as copying,
            (select pg_catalog.count(*) from pg_catalog.pg_subscription_rel r where r.srsubid = s.oid)::int4 as tables,
            case when pg_catalog.pg_replication_origin_oid('pg_' || s.oid) is not null
                 then pg_catalog.pg_replication_origin_progress('pg_' || s.oid, true)::text end as progress
       from pg_catalog.pg_subscription s
       join pg_catalog.pg_database d on d.oid = s.subdbid and d.datname = pg_catalog.current_database()
      where s.subname like 'varve\\_%'`,
  );
  return new Map(rows.map((row) => [row.name, row]));
}

/** The slot has to be there already. Its commands are copied by nobody: the session does not log them. */
export async function createSubscription(
  connection: Connection,
  edge: Edge,
  options: SubscriptionOptions,
): Promise<void> {
  const { subscription, slot } = edgeNames(edge);
  try {
    await connection.query(
      `create subscription ${quoteIdent(subscription)}
         connection ${quoteLiteral(options.conninfo)}
         publication ${quoteIdent(PUBLICATION)}
         with (create_slot = false, slot_name = ${quoteLiteral(slot)}, enabled = ${options.enabled},
               copy_data = ${options.copyData}, origin = none, run_as_owner = true, password_required = false,
               streaming = on)`,
    );
  } catch (error) {
    // Another who makes the same edge was faster.
    if (sqlStateOf(error) !== SqlState.duplicateObject) throw error;
  }
}

export async function setConninfo(connection: Connection, edge: Edge, conninfo: string): Promise<void> {
  await alter(connection, edge, `connection ${quoteLiteral(conninfo)}`);
}

export async function enableSubscription(connection: Connection, edge: Edge): Promise<void> {
  await alter(connection, edge, 'enable');
}

/**
 * Stops taking changes over this edge. Returns when nothing is applied any more: no worker is left, and none will
 * start until it is enabled again. Does nothing when there is no such subscription.
 * @throws DEADLINE_EXCEEDED when a worker does not end
 */
export async function disableSubscription(
  deps: { readonly clock: Clock },
  connection: Connection,
  edge: Edge,
  timeoutMs: number,
): Promise<void> {
  if (!(await readSubscription(connection, edge))) return;
  await alter(connection, edge, 'disable');
  await untilWorkerGone(deps, connection, edge, timeoutMs);
}

/**
 * Removes the subscriber's side, whether the publisher is there or not; its slot there stays. In one transaction:
 * nobody can enable it again in between. PostgreSQL ends the workers.
 */
export async function dropSubscription(connection: Connection, name: string): Promise<void> {
  const quoted = quoteIdent(name);
  await connection.transaction(async () => {
    const there = await connection.maybeOne(
      `select 1 from pg_catalog.pg_subscription s
         join pg_catalog.pg_database d on d.oid = s.subdbid and d.datname = pg_catalog.current_database()
        where s.subname = $1`,
      [name],
    );
    if (!there) return;
    await connection.query(`alter subscription ${quoted} disable`);
    await connection.query(`alter subscription ${quoted} set (slot_name = none)`);
    await connection.query(`drop subscription ${quoted}`);
  });
}

/** Resolves when every table's initial copy has ended. @throws DEADLINE_EXCEEDED telling how many are left */
export async function untilCopied(
  { clock, signal }: { readonly clock: Clock; readonly signal?: AbortSignal | undefined },
  connection: Connection,
  edge: Edge,
  timeoutMs: number,
): Promise<void> {
  const untilMs = clock.monotonicMs() + timeoutMs;
  for (;;) {
    const present = await readSubscription(connection, edge);
    if (present?.copying === 0) return;
    if (clock.monotonicMs() > untilMs) {
      throw new VarveError(
        'DEADLINE_EXCEEDED',
        `the initial copy over ${describeEdge(edge)} took longer than ${timeoutMs} ms`,
        {
          detail: present
            ? `${present.copying} of ${present.tables} tables are left.`
            : 'The subscription is gone.',
          hint: 'The log of the subscriber’s server has the reason when it does not go on.',
        },
      );
    }
    await clock.sleep(POLL_MS, signal);
  }
}

/** How far the changes of `edge.from` are applied on `edge.to`; undefined before the first. */
export async function originProgress(connection: Connection, edge: Edge): Promise<string | undefined> {
  return (await readSubscription(connection, edge))?.progress ?? undefined;
}

/** Has a disabled subscription carry on behind `lsn` when it is enabled. */
export async function advanceOrigin(connection: Connection, edge: Edge, lsn: string): Promise<void> {
  await connection.query(
    `select pg_catalog.pg_replication_origin_advance('pg_' || oid, $2::pg_lsn)
       from pg_catalog.pg_subscription where subname = $1`,
    [edgeNames(edge).subscription, lsn],
  );
}

/** Has a subscription take the changes of tables that were published since. */
export async function refreshSubscription(connection: Connection, edge: Edge): Promise<void> {
  await alter(connection, edge, 'refresh publication with (copy_data = false)');
}

async function untilWorkerGone(
  { clock }: { readonly clock: Clock },
  connection: Connection,
  edge: Edge,
  timeoutMs: number,
): Promise<void> {
  const beganMs = clock.monotonicMs();
  for (;;) {
    const present = await readSubscription(connection, edge);
    if (!present || present.workers === 0) return;
    const passedMs = clock.monotonicMs() - beganMs;
    if (passedMs > timeoutMs) {
      throw new VarveError('DEADLINE_EXCEEDED', `a worker of ${describeEdge(edge)} does not end`, {
        detail: `It was disabled ${timeoutMs} ms ago.`,
        hint: 'Look at that server: its disk may hang.',
      });
    }
    if (passedMs > PATIENCE_MS) {
      await connection.query(
        `select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_subscription
          where subid = $1::oid and pid is not null`,
        [present.oid],
      );
    }
    await clock.sleep(POLL_MS);
  }
}

async function alter(connection: Connection, edge: Edge, what: string): Promise<void> {
  await connection.query(`alter subscription ${quoteIdent(edgeNames(edge).subscription)} ${what}`);
}
