/** What kind of group the control schema is for: it decides which default schedules there are. */
export interface GroupShape {
  /** Name of the group (`--cluster`). */
  readonly cluster: string;
  readonly kind: 'manager' | 'service';
  /** More than one member. */
  readonly replicated: boolean;
}

/** What a plan and an instance call the two shapes. */
export type ClusterService = 'replicated' | 'postgresql';

export function clusterServiceOf(shape: GroupShape): ClusterService {
  return shape.replicated ? 'replicated' : 'postgresql';
}

/** On which members a schedule's tasks are carried out. */
export type ScheduleNodeType = 'any' | 'read' | 'write' | 'each';

export interface DefaultSchedule {
  readonly action: string;
  readonly data: string;
  readonly role: 'all' | 'manager' | 'service';
  readonly nodeType: ScheduleNodeType;
  /** An interval as PostgreSQL reads it. */
  readonly every: string;
  /** After so many seconds a task that was not carried out is given up: its successor is due by then. */
  readonly ttlSeconds: number;
}

/**
 * The schedules that a new group starts with. Times are RDPG's. Where RDPG has one row for read nodes and one
 * for write nodes there is one for `each` member: dead rows and files lie on every one of them, and a group may
 * have more than one read node. In a group of one, what would run on a read node runs on the write node.
 *
 * Not there are the schedules that copy to and from S3, because Varve keeps backups in folders.
 */
export function defaultSchedules(shape: GroupShape): readonly DefaultSchedule[] {
  const read: ScheduleNodeType = shape.replicated ? 'read' : 'write';
  const all: readonly DefaultSchedule[] = [
    schedule('Vacuum', 'all', 'each', '5 minutes'),
    schedule('MeasureDatabases', 'all', 'each', '5 minutes'),
    schedule('DeleteBackupHistory', 'all', 'write', '1 hour'),
    { ...schedule('BackupDatabase', 'all', read, '1 hour'), data: 'rdpg' },
    schedule('BackupAllDatabases', 'manager', 'write', '1 hour'),
    schedule('EnforceFileRetention', 'all', 'each', '1 hour'),
    schedule('ClearStuckTasks', 'all', 'write', '1 hour'),
    schedule('ReconcileAvailableDatabases', 'manager', read, '1 minute'),
    schedule('ReconcileAllDatabases', 'manager', read, '5 minutes'),
    schedule('ScheduleNewDatabaseBackups', 'service', 'write', '1 minute'),
    schedule('PrecreateDatabases', 'service', 'write', '1 minute'),
    schedule('DecommissionDatabases', 'service', 'write', '15 minutes'),
    schedule('Reconfigure', 'service', 'each', '1 hour'),
  ];
  return all.filter(({ role }) => role === 'all' || role === shape.kind);
}

function schedule(
  action: string,
  role: DefaultSchedule['role'],
  nodeType: ScheduleNodeType,
  every: string,
): DefaultSchedule {
  return { action, data: '', role, nodeType, every, ttlSeconds: 3600 };
}

/** The keys of `rdpg.config` that the group's work reads, with the values of a new group. */
export const DEFAULT_CONFIG = {
  /** Rows of histories, metrics and events older than this are deleted. */
  defaultDaysToKeepFileHistory: '180',
  /** So many databases wait to be assigned. */
  poolSize: '10',
  /** The most databases of the group that the operator allows, and that its servers bear; the smaller counts. */
  instanceAllowed: '12',
  instanceLimit: '15',
  /** A task that has run so long is taken from its worker. */
  stuckDuration: '6 hours',
  /** Extensions of a new database, separated by spaces; those that a server does not have are passed over. */
  databaseExtensions: 'btree_gist pg_stat_statements uuid-ossp hstore pg_trgm pgcrypto',
  /** A table is vacuumed when so much of it (from 0 to 1), and so many bytes, are dead or free. */
  vacuumBloatRatio: '0.2',
  vacuumBloatBytes: '1048576',
  /** Tables (`schema.name`, separated by spaces) of database `rdpg` that may be locked for VACUUM FULL. */
  vacuumFullTables: 'tasks.tasks',
  /** Where clients reach the write master: `host:port` for credentials; without it, the master's own address. */
  serviceAddress: '',
} as const;

export type ConfigKey = keyof typeof DEFAULT_CONFIG;

/** Backups are kept for so long where there is no rule for their database. The newest is kept always. */
export const DEFAULT_RETENTION_HOURS = 48;

export const DEFAULT_SERVICE = {
  name: 'postgres',
  description: 'Reliable PostgreSQL databases',
  tags: ['rdpg', 'postgresql', 'relational'],
  metadata: { displayName: 'PostgreSQL' },
} as const;

export const DEFAULT_PLANS: readonly {
  readonly name: string;
  readonly clusterService: ClusterService;
  readonly description: string;
}[] = [
  {
    name: 'shared-nr',
    clusterService: 'postgresql',
    description: 'A database on a shared PostgreSQL server, not replicated',
  },
  {
    name: 'shared',
    clusterService: 'replicated',
    description: 'A database on a shared group of PostgreSQL servers, on each of its members',
  },
];
