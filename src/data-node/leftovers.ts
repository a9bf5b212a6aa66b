import { messageOf, VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteIdent } from '../postgres/sql.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';

/**
 * What TimescaleDB's own multi-node, which ended with 2.13, has left in a database. Its mark `dist_uuid` alone
 * keeps a database from being updated to 2.14 ("cannot upgrade because multi-node has been removed"), and
 * nothing in TimescaleDB takes the mark from a data node, nor the label from an access node. A mark is a leftover
 * only when nothing lives under it any more; data nodes and distributed hypertables are data, and stay.
 */
export type TraceKind =
  | 'dist-uuid'
  | 'security-label'
  | 'data-node'
  | 'distributed-hypertable'
  | 'member-hypertable'
  | 'prepared-transaction'
  | 'access-node-session';

export interface Leftover {
  readonly kind: TraceKind;
  /** The value of the mark, the name of the server, table or transaction. */
  readonly name: string;
  /** What it is and what it does, in words. */
  readonly explanation: string;
  /** True when nothing uses it: `removeLeftovers` takes it away. */
  readonly removable: boolean;
  /** What to do about it. */
  readonly remedy: string;
}

export interface Removal {
  readonly leftover: Leftover;
  readonly removed: boolean;
  /** The statement that removed it, or why it stayed. */
  readonly how: string;
}

/** What was seen of multi-node in a database. */
export interface MultiNodeTraces {
  readonly database: string;
  /** Of the database itself; the same as `distUuid` on an access node. */
  readonly uuid: string | null;
  readonly distUuid: string | null;
  /** `dist_uuid:…`, which TimescaleDB puts on the database of an access node. */
  readonly label: string | null;
  readonly dataNodes: readonly string[];
  readonly distributedHypertables: readonly string[];
  readonly memberHypertables: readonly string[];
  /** Of distributed transactions in doubt. */
  readonly prepared: readonly string[];
  /** Sessions that look like an access node's. */
  readonly sessionCount: number;
}

/** Everything of TimescaleDB's multi-node in this database, leftover or in use; empty where there is nothing. */
export async function findLeftovers(connection: Connection): Promise<Leftover[]> {
  return judgeLeftovers(await observeMultiNode(connection));
}

/**
 * Removes in one transaction those of `leftovers` that are removable when it looks again; whatever is in use
 * stays, whatever is asked.
 * @throws PERMISSION_DENIED when the role may not write TimescaleDB's catalog; nothing is removed then
 */
export async function removeLeftovers(
  connection: Connection,
  leftovers: readonly Leftover[],
): Promise<Removal[]> {
  try {
    return await connection.transaction(async () => {
      const present = judgeLeftovers(await observeMultiNode(connection, { lock: true }));
      const removals: Removal[] = [];
      for (const leftover of leftovers) {
        const now = present.find(({ kind, name }) => kind === leftover.kind && name === leftover.name);
        if (!now) removals.push({ leftover, removed: false, how: 'it is no longer there' });
        else if (!now.removable) removals.push({ leftover: now, removed: false, how: now.remedy });
        else removals.push({ leftover: now, removed: true, how: await remove(connection, now) });
      }
      return removals;
    });
  } catch (error) {
    if (sqlStateOf(error) !== SqlState.insufficientPrivilege) throw error;
    const { user, database } = connection.endpoint;
    throw new VarveError(
      'PERMISSION_DENIED',
      `role "${user}" may not remove the leftovers in database "${database}"`,
      { detail: messageOf(error), hint: 'Repeat it as a superuser. Nothing was removed.', cause: error },
    );
  }
}

/** Judges what was seen. Pure. */
export function judgeLeftovers(traces: MultiNodeTraces): Leftover[] {
  const inUse: Leftover[] = [
    ...traces.dataNodes.map((name) => named('data-node', name)),
    ...traces.distributedHypertables.map((name) => named('distributed-hypertable', name)),
    ...traces.memberHypertables.map((name) => named('member-hypertable', name)),
    ...traces.prepared.map((name) => named('prepared-transaction', name)),
    ...(traces.sessionCount > 0 ? [named('access-node-session', `${traces.sessionCount} sessions`)] : []),
  ];
  return [...judgeMark(traces, inUse), ...judgeLabel(traces, inUse), ...inUse];
}

const IN_USE: Record<Exclude<TraceKind, 'dist-uuid' | 'security-label'>, { what: string; remedy: string }> = {
  'data-node': {
    what: 'A data node of this database: a foreign server of timescaledb_fdw, with whatever its tables have there.',
    remedy: 'Once nothing is left on it that is needed: delete_data_node() with TimescaleDB 2.13.',
  },
  'distributed-hypertable': {
    what: 'A distributed hypertable: its rows are on data nodes.',
    remedy: 'Copy its rows into an ordinary hypertable with TimescaleDB 2.13, then drop it.',
  },
  'member-hypertable': {
    what: 'This data node’s part of a distributed hypertable: real rows, which its access node may still use.',
    remedy:
      "If the access node is gone for good, copy the rows out and drop the table. Or keep it: once the mark is deleted by hand (DELETE FROM _timescaledb_catalog.metadata WHERE key = 'dist_uuid'), 2.14 makes it an ordinary hypertable.",
  },
  'prepared-transaction': {
    what: 'A transaction over several nodes whose end this data node does not know.',
    remedy: 'Ask its access node how it ended, then COMMIT PREPARED or ROLLBACK PREPARED.',
  },
  'access-node-session': {
    what: 'Sessions of an access node are connected: it still uses this database.',
    remedy: 'Delete this data node on that access node, and end its sessions.',
  },
};

function named(kind: keyof typeof IN_USE, name: string): Leftover {
  const { what, remedy } = IN_USE[kind];
  return { kind, name, explanation: what, removable: false, remedy };
}

function judgeMark({ uuid, distUuid }: MultiNodeTraces, inUse: readonly Leftover[]): Leftover[] {
  if (distUuid === null) return [];
  const blocks = 'It alone keeps TimescaleDB from being updated to 2.14 or newer.';
  const was =
    distUuid === uuid
      ? 'The mark of an access node'
      : `The mark of a data node, of the access node with uuid ${distUuid}`;
  const removable = inUse.length === 0;
  return [
    {
      kind: 'dist-uuid',
      name: distUuid,
      explanation: `${was}: key dist_uuid in _timescaledb_catalog.metadata. ${blocks}`,
      removable,
      remedy: removable ? removableRemedy(distUuid === uuid) : usedBy(inUse),
    },
  ];
}

function removableRemedy(ownMark: boolean): string {
  return ownMark
    ? 'Nothing uses it: it can be removed.'
    : 'Nothing here uses it: it can be removed, unless that access node is alive and still has this database among its data nodes.';
}

/** It is put on access nodes only, and does not keep them from anything while TimescaleDB knows it. */
function judgeLabel({ label, database }: MultiNodeTraces, inUse: readonly Leftover[]): Leftover[] {
  if (label === null) return [];
  const removable = inUse.length === 0;
  return [
    {
      kind: 'security-label',
      name: label,
      explanation: `A security label of provider timescaledb on database "${database}", which says that it was an access node. Versions from 2.14 on do not know that provider: pg_dumpall writes the label out, and restoring it then fails.`,
      removable,
      remedy: removable ? 'Nothing uses it: it can be removed.' : usedBy(inUse),
    },
  ];
}

function usedBy(inUse: readonly Leftover[]): string {
  const what = inUse.slice(0, 3).map(({ kind, name }) => `${kind.replaceAll('-', ' ')} ${name}`);
  const more = inUse.length > what.length ? ` and ${inUse.length - what.length} more` : '';
  return `It is in use and stays: ${what.join(', ')}${more}.`;
}

// Names that are absent where TimescaleDB is not installed, or from 2.14 on, are not put into a statement.
const KNOWN = `select to_regclass('_timescaledb_catalog.metadata') is not null as metadata,
  exists (select from pg_attribute where attrelid = to_regclass('_timescaledb_catalog.hypertable')
    and attname = 'replication_factor' and not attisdropped) as replication,
  current_database() as database,
  (select l.label from pg_shseclabel l join pg_database d on d.oid = l.objoid
    where l.classoid = 'pg_database'::regclass and l.provider = 'timescaledb'
      and d.datname = current_database() and l.label like 'dist\\_uuid:%') as label,
  array(select s.srvname::text from pg_foreign_server s
    join pg_foreign_data_wrapper w on w.oid = s.srvfdw where w.fdwname = 'timescaledb_fdw' order by 1) as servers,
  array(select gid from pg_prepared_xacts
    where database = current_database() and gid ~ '^ts-[0-9]+-[0-9]+-[0-9]+-[0-9]+$' order by 1) as prepared,
  (select count(*)::integer from pg_stat_activity where datname = current_database()
    and backend_type = 'client backend' and application_name = 'timescaledb') as sessions`;

const MARKS = `select (select value from _timescaledb_catalog.metadata where key = 'uuid') as uuid,
  (select value from _timescaledb_catalog.metadata where key = 'dist_uuid') as "distUuid"`;

const HYPERTABLES = `select format('%I.%I', schema_name, table_name) as name, replication_factor > 0 as distributed
  from _timescaledb_catalog.hypertable where replication_factor is not null order by 1`;

async function observeMultiNode(
  connection: Connection,
  { lock = false }: { readonly lock?: boolean } = {},
): Promise<MultiNodeTraces> {
  const seen = await connection.one<{
    metadata: boolean;
    replication: boolean;
    database: string;
    label: string | null;
    servers: string[];
    prepared: string[];
    sessions: number;
  }>(KNOWN);
  if (lock && seen.metadata)
    await connection.query('lock table _timescaledb_catalog.metadata in share row exclusive mode');
  const marks = seen.metadata
    ? await connection.one<{ uuid: string | null; distUuid: string | null }>(MARKS)
    : { uuid: null, distUuid: null };
  const { rows } = seen.replication
    ? await connection.query<{ name: string; distributed: boolean }>(HYPERTABLES)
    : { rows: [] };
  return {
    database: seen.database,
    ...marks,
    label: seen.label,
    dataNodes: seen.servers,
    distributedHypertables: rows.filter(({ distributed }) => distributed).map(({ name }) => name),
    memberHypertables: rows.filter(({ distributed }) => !distributed).map(({ name }) => name),
    prepared: seen.prepared,
    sessionCount: seen.sessions,
  };
}

/** @returns the statement that did it */
async function remove(connection: Connection, { kind }: Leftover): Promise<string> {
  if (kind === 'security-label') return removeLabel(connection);
  const statement = `delete from _timescaledb_catalog.metadata where key = 'dist_uuid'`;
  await connection.query(statement);
  return statement;
}

/** By the statement that is made for it, which needs a library that knows the provider; else in the catalog. */
async function removeLabel(connection: Connection): Promise<string> {
  const { database } = await connection.one<{ database: string }>('select current_database() as database');
  const statement = `security label for timescaledb on database ${quoteIdent(database)} is null`;
  await connection.query('savepoint by_statement');
  try {
    await connection.query(statement);
    return statement;
  } catch (error) {
    if (sqlStateOf(error) !== SqlState.invalidParameterValue) throw error;
    await connection.query('rollback to by_statement');
  }
  const catalog = `delete from pg_catalog.pg_shseclabel where provider = 'timescaledb'
    and classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
    and objoid = (select oid from pg_catalog.pg_database where datname = current_database())`;
  await connection.query(`set local allow_system_table_mods = on; ${catalog}; reset allow_system_table_mods`);
  return catalog.replaceAll(/\s+/g, ' ');
}
