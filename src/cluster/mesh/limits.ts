import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';

/** For how much a member's server has to be laid out. */
export interface GroupScale {
  /** Members at most, a joiner among them. */
  readonly members: number;
  /** Replicated databases at most. */
  readonly databases: number;
}

/** Initial copies of a joiner at the same time, per subscription: PostgreSQL's default. */
const COPIES_PER_SUBSCRIPTION = 2;
/** Workers of other kinds: parallel queries, the launcher, extensions. */
const OTHER_WORKERS = 8;

export type Limits = Readonly<Record<LimitName, number>>;

type LimitName =
  | 'max_replication_slots'
  | 'max_wal_senders'
  | 'max_logical_replication_workers'
  | 'max_worker_processes'
  | 'max_active_replication_origins';

/**
 * What a member's server needs. Every edge has a slot and a walsender where it begins, an apply worker and an origin
 * where it ends; each database has a slot of its own for the filling of gaps; and initial copies come on top.
 */
export function requiredLimits({ members, databases }: GroupScale): Limits {
  const edges = Math.max(0, members - 1) * databases;
  const copies = members > 1 ? COPIES_PER_SUBSCRIPTION * databases : 0;
  return {
    max_replication_slots: edges + copies + databases,
    max_wal_senders: edges + copies,
    max_logical_replication_workers: edges + copies,
    max_worker_processes: edges + copies + OTHER_WORKERS,
    // A session that fills a gap has the origin of an edge whose worker is stopped.
    max_active_replication_origins: edges + copies,
  };
}

function groupSettings(scale: GroupScale): Readonly<Record<string, string>> {
  const roomy = { members: scale.members + 1, databases: scale.databases + 2 };
  const { max_active_replication_origins, ...limits } = requiredLimits(roomy);
  return {
    wal_level: 'logical',
    track_commit_timestamp: 'on',
    ...Object.fromEntries(Object.entries(limits).map(([name, value]) => [name, String(Math.max(value, 10))])),
    // The name is new in PostgreSQL 18; older servers take the slots' number for origins.
    max_active_replication_origins: String(Math.max(max_active_replication_origins, 10)),
    // A worker that failed, or whose publisher was away, is started anew after this at the earliest.
    wal_retrieve_retry_interval: '200ms',
    wal_receiver_status_interval: '1s',
    // What is kept for a member that is away; behind that it is told to join anew, before the disk is full.
    max_slot_wal_keep_size: '8GB',
    // What is applied is reported as safe no later than this after its commit; quorums wait for it.
    wal_writer_delay: '10ms',
  };
}

/**
 * Settings of a member's server, to be set before its first start: with room for one more member and some more
 * databases, because changing most of them needs a restart.
 */
export function groupSettingsFor(major: number, scale: GroupScale): Readonly<Record<string, string>> {
  const { max_active_replication_origins: origins = '0', ...settings } = groupSettings(scale);
  if (major >= 18) return { ...settings, max_active_replication_origins: origins };
  const slots = Math.max(Number(settings['max_replication_slots']), Number(origins));
  return { ...settings, max_replication_slots: String(slots) };
}

export interface ObservedLimits {
  readonly major: number;
  readonly walLevel: string;
  readonly settings: Readonly<Record<string, number>>;
}

/** Each setting that is too low, as `name is 4, must be at least 8`. */
export function tooLow(observed: ObservedLimits, required: Limits): string[] {
  const wanted: Record<string, number> = { ...required };
  if (observed.major < 18) {
    // Before 18 the number of origins was that of slots.
    wanted['max_replication_slots'] = Math.max(
      required.max_replication_slots,
      required.max_active_replication_origins,
    );
    delete wanted['max_active_replication_origins'];
  }
  const low = Object.entries(wanted)
    .filter(([name, least]) => (observed.settings[name] ?? 0) < least)
    .map(([name, least]) => `${name} is ${observed.settings[name] ?? 0}, must be at least ${least}`);
  return observed.walLevel === 'logical'
    ? low
    : [`wal_level is ${observed.walLevel}, must be logical`, ...low];
}

/**
 * Makes sure that a server is fit for its part, before anything is created there.
 * @throws GROUP_LIMITS naming every setting that is too low
 */
export async function checkLimits(connection: Connection, node: string, scale: GroupScale): Promise<void> {
  const observed = await readLimits(connection);
  const low = tooLow(observed, requiredLimits(scale));
  if (low.length === 0) return;
  const { members, databases } = scale;
  throw new VarveError(
    'GROUP_LIMITS',
    `the PostgreSQL server of ${node} allows too little for a group of ${members} with ${databases} replicated databases`,
    {
      detail: low.join('\n'),
      hint: 'Set these in the server’s configuration and restart it. Nothing was created.',
    },
  );
}

async function readLimits(connection: Connection): Promise<ObservedLimits> {
  const { rows } = await connection.query<{ name: string; setting: string }>(
    `select name, setting from pg_catalog.pg_settings
      where name = any ($1) or name in ('wal_level', 'server_version_num')`,
    [Object.keys(requiredLimits({ members: 1, databases: 1 }))],
  );
  const values = new Map(rows.map(({ name, setting }) => [name, setting]));
  return {
    major: Math.floor(Number(values.get('server_version_num')) / 10_000),
    walLevel: values.get('wal_level') ?? '',
    settings: Object.fromEntries([...values].map(([name, setting]) => [name, Number(setting)])),
  };
}
