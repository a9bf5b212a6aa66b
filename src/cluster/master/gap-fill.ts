import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { Connection, PLAIN_SESSION } from '../../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../../postgres/sqlstate.ts';
import { edgeNames, PUBLICATION } from '../mesh/edge.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { originName, readSubscriptions, type Subscription } from '../mesh/subscription.ts';
import { GapApplier, type Applied } from './gap-apply.ts';
import { GapFilter, type Gap } from './gap-filter.ts';
import { gapSlotName, OWN_CHANGES, readGapFloors } from './gap-slot.ts';
import { formatLsn, maxLsn, NO_LSN, parseLsn, type Lsn } from './lsn.ts';
import { decodePgoutput } from './pgoutput.ts';
import { confirmedBy } from './progress.ts';

/** Changes of `origin` that `to` lacks, and `from` has. */
export interface GapRoute {
  readonly database: string;
  /** Whose changes. */
  readonly origin: string;
  readonly from: ServerAddress;
  readonly to: ServerAddress;
  /** In the WAL of `origin`: up to where. */
  readonly upTo: Lsn;
}

export interface GapFillDeps {
  readonly clock: Clock;
  readonly servers: GroupServers;
  readonly signal?: AbortSignal | undefined;
}

const CONNECT_TIMEOUT_MS = 5_000;
const FETCH_ROWS = 500;
const BUSY_PAUSE_MS = 50;
const BUSY_TRIES = 200;
/** One fetch, one statement: a gap is seconds of writes, but one of its statements may touch millions of rows. */
const STATEMENT_TIMEOUT_MS = 600_000;

const SESSION: Readonly<Record<string, string>> = {
  ...PLAIN_SESSION,
  synchronous_commit: 'local',
  default_transaction_read_only: 'off',
  lc_monetary: 'C',
  bytea_output: 'hex',
  xmloption: 'content',
};

/**
 * Gives `to` what it lacks of `origin`'s changes, out of the slot that `from` keeps for that. `to`'s subscription
 * from `origin` is disabled meanwhile; its progress is `upTo` afterwards, so that it carries on from there if it
 * is ever enabled again. Applied transaction by transaction: when it fails, what was applied stays and counts.
 *
 * @throws GAP_NOT_COVERED when `from` does not have all of it
 * @throws GAP_UNREADABLE, and what PostgreSQL says to a change
 */
export async function fillGap(deps: GapFillDeps, route: GapRoute): Promise<Applied> {
  const { servers } = deps;
  const { database, origin, from, to, upTo } = route;
  await using target = await open(deps, servers.endpoint(to, database));
  const subscription = await subscriptionOn(target, { from: origin, to: to.node, database });
  const applied = subscription.progress === null ? NO_LSN : parseLsn(subscription.progress);
  if (applied >= upTo) return { transactions: 0, rows: 0, missing: 0 };
  await using source = await open(deps, servers.endpoint(from, database));
  const after = await reachedBy(source, route, applied);
  const gap: Gap = { origin: await coveredBy(source, route, after), after, upTo };
  const name = originName(subscription.oid);
  const applier = await patiently(deps, () => GapApplier.begin(target, name));
  if (after < upTo) await stream(deps, source, { database, gap, applier });
  await target.query(`select pg_catalog.pg_replication_origin_session_reset()`);
  // Where `upTo` is no transaction's end, nothing of that database lies between.
  await target.query(
    `select pg_catalog.pg_replication_origin_advance($1, $2::pg_lsn)
      where pg_catalog.pg_replication_origin_progress($1, true) is distinct from $2::pg_lsn`,
    [name, formatLsn(upTo)],
  );
  return applier.applied;
}

async function stream(
  deps: GapFillDeps,
  source: Connection,
  { database, gap, applier }: { readonly database: string; readonly gap: Gap; readonly applier: GapApplier },
): Promise<void> {
  const filter = new GapFilter(gap);
  const fetch = async (): Promise<{ data: Buffer }[]> =>
    (await source.query<{ data: Buffer }>(`fetch ${FETCH_ROWS} from gap`)).rows;
  // The function runs to its end at the first fetch, and gives the slot back.
  let rows = await patiently(deps, async () => {
    await source.query('begin');
    try {
      await source.query(
        `declare gap no scroll cursor for
         select data from pg_catalog.pg_logical_slot_peek_binary_changes('${gapSlotName(database)}', null, null,
           'proto_version', '1', 'publication_names', '${PUBLICATION}', 'origin', 'any')`,
      );
      return await fetch();
    } catch (error) {
      await source.query('rollback');
      throw error;
    }
  });
  while (rows.length > 0) {
    for (const { data } of rows) {
      for (const event of filter.next(decodePgoutput(data))) await applier.apply(event);
    }
    rows = await fetch();
  }
  await source.query('commit');
}

/**
 * Up to where in the WAL of the origin `to` has all that concerns the database. The progress of a subscription is
 * where the last transaction ended: of a database in which nothing happens, that is long ago, or never. The origin
 * itself knows better what was confirmed since.
 */
async function reachedBy(
  source: Connection,
  { database, origin, from, to }: GapRoute,
  applied: Lsn,
): Promise<Lsn> {
  if (from.node !== origin) return applied;
  return maxLsn([applied, (await confirmedBy(source, { node: to.node, database })) ?? NO_LSN]);
}

/**
 * The name under which `source` knows the origin; undefined for its own changes.
 * @throws GAP_NOT_COVERED
 */
async function coveredBy(source: Connection, route: GapRoute, after: Lsn): Promise<string | undefined> {
  const { database, origin, from, to, upTo } = route;
  const floors = await readGapFloors(source, database);
  const own = from.node === origin;
  const subscription = own
    ? undefined
    : await subscriptionOn(source, { from: origin, to: from.node, database });
  const floor = floors?.get(subscription ? originName(subscription.oid) : OWN_CHANGES);
  const lacking = (why: string): VarveError =>
    new VarveError('GAP_NOT_COVERED', `${from.node} cannot fill ${to.node}’s gap in ${database}`, {
      detail: `Changes of ${origin} from ${formatLsn(after)} to ${formatLsn(upTo)} are wanted; ${why}.`,
      hint: `When no other member can, ${to.node} has to join anew.`,
    });
  if (floor === undefined) throw lacking('it keeps no slot for that, or PostgreSQL gave it up');
  if (floor > after) throw lacking(`it has given up what was before ${formatLsn(floor)}`);
  if (!subscription) {
    const { lsn } = await source.one<{ lsn: string }>(
      `select pg_catalog.pg_current_wal_flush_lsn()::text as lsn`,
    );
    if (parseLsn(lsn) < upTo) throw lacking(`it is at ${lsn}`);
    return undefined;
  }
  const { oid, progress } = subscription;
  if (progress === null || parseLsn(progress) < upTo) throw lacking(`it is at ${progress ?? 'the start'}`);
  return originName(oid);
}

async function subscriptionOn(
  connection: Connection,
  edge: { readonly from: string; readonly to: string; readonly database: string },
): Promise<Subscription> {
  const found = (await readSubscriptions(connection)).get(edgeNames(edge).subscription);
  if (found) return found;
  throw new VarveError('GAP_NOT_COVERED', `${edge.to} takes no changes of ${edge.from} in ${edge.database}`, {
    hint: `Have ${edge.to} join anew: varve cluster reinit ${edge.to}`,
  });
}

/** A slot and an origin have one user at a time. */
async function patiently<T>({ clock, signal }: GapFillDeps, work: () => Promise<T>): Promise<T> {
  for (let tried = 1; ; tried += 1) {
    try {
      return await work();
    } catch (error) {
      if (sqlStateOf(error) !== SqlState.objectInUse || tried >= BUSY_TRIES) throw error;
      await clock.sleep(BUSY_PAUSE_MS, signal);
    }
  }
}

function open({ signal }: GapFillDeps, endpoint: Parameters<typeof Connection.open>[0]): Promise<Connection> {
  return Connection.open(endpoint, {
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
    applicationName: 'varve gap',
    settings: SESSION,
    signal,
  });
}
