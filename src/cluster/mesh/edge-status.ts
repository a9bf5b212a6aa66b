import type { Connection } from '../../postgres/connection.ts';
import { edgeNames, type Edge } from './edge.ts';
import type { Slot } from './slots.ts';
import type { Subscription } from './subscription.ts';

/** What people and metrics want to know of one edge. Sides that could not be asked are undefined. */
export interface EdgeStatus {
  readonly edge: Edge;
  readonly state: EdgeState;
  /** Written on `from` and not confirmed by `to`. */
  readonly lagBytes: number | undefined;
  /** WAL that `from` keeps for `to`. */
  readonly retainedBytes: number | undefined;
  readonly progress: string | undefined;
  readonly conflicts: ConflictCounts | undefined;
}

/**
 * `streaming`: changes flow. `copying`: the initial copy is under way. `disabled`: on purpose, for the time being.
 * `down`: enabled, but no worker runs or no walsender serves it; it is tried again by itself. `lost`: the publisher
 * has given up keeping what the subscriber needs; it has to join anew. `missing`: there is no such edge.
 */
export type EdgeState = 'streaming' | 'copying' | 'disabled' | 'down' | 'lost' | 'missing' | 'unknown';

/** Since the subscription exists; by the names of PostgreSQL's statistics, those that are not zero. */
export type ConflictCounts = Readonly<Record<string, number>>;

/** Either side undefined: it is not there. `unreachable`: it could not be asked. */
export interface EdgeSides {
  readonly slot: Slot | undefined | 'unreachable';
  readonly subscription: Subscription | undefined | 'unreachable';
}

export function edgeState({ slot, subscription }: EdgeSides): EdgeState {
  if (subscription === undefined || slot === undefined) return 'missing';
  if (slot !== 'unreachable' && slot.lost) return 'lost';
  if (subscription === 'unreachable') return 'unknown';
  if (!subscription.enabled) return 'disabled';
  if (slot === 'unreachable') return subscription.workers > 0 ? 'unknown' : 'down';
  if (subscription.copying > 0) return 'copying';
  return subscription.workers > 0 && slot.activePid !== null ? 'streaming' : 'down';
}

export function edgeStatus(
  edge: Edge,
  sides: EdgeSides,
  conflicts: ReadonlyMap<string, ConflictCounts> | undefined,
): EdgeStatus {
  const slot = sides.slot === 'unreachable' ? undefined : sides.slot;
  const subscription = sides.subscription === 'unreachable' ? undefined : sides.subscription;
  return {
    edge,
    state: edgeState(sides),
    lagBytes: slot?.lagBytes,
    retainedBytes: slot?.retainedBytes,
    progress: subscription?.progress ?? undefined,
    conflicts: conflicts?.get(edgeNames(edge).subscription),
  };
}

/** Errors and conflicts by subscription, of the database that `connection` is to. */
export async function readConflicts(connection: Connection): Promise<ReadonlyMap<string, ConflictCounts>> {
  // Which counters there are depends on the version.
  const { rows } = await connection.query<{ name: string; counts: Record<string, unknown> }>(
    `select st.subname as name, pg_catalog.to_jsonb(st) as counts
       from pg_catalog.pg_stat_subscription_stats st
       join pg_catalog.pg_subscription s on s.oid = st.subid
       join pg_catalog.pg_database d on d.oid = s.subdbid and d.datname = pg_catalog.current_database()`,
  );
  return new Map(
    rows.map(({ name, counts }) => [
      name,
      Object.fromEntries(
        Object.entries(counts).filter(
          (entry): entry is [string, number] =>
            /^confl_|_error_count$/.test(entry[0]) && typeof entry[1] === 'number' && entry[1] > 0,
        ),
      ),
    ]),
  );
}
