import type { Connection } from '../postgres/connection.ts';
import { ok, warn, type DoctorCheck, type Verdict } from './doctor-finding.ts';

/**
 * What TimescaleDB's multi-node, which ended with 2.13, has left in a database. Its mark `dist_uuid` alone keeps
 * 2.14 and newer from being installed ("cannot upgrade because multi-node has been removed"), and nothing in
 * TimescaleDB takes it away: deleting the last data node leaves it on the data nodes.
 */
export interface MultiNodeTraces {
  /** The extension's version; null when it is not installed. */
  readonly version: string | null;
  readonly dist_uuid: string | null;
  /** The database's own; the same as `dist_uuid` on an access node. */
  readonly uuid: string | null;
  readonly data_nodes: readonly string[];
  readonly distributed_hypertables: number;
}

const EXTENSION = "select extversion as version from pg_catalog.pg_extension where extname = 'timescaledb'";
const MARKS = `select
  (select value from _timescaledb_catalog.metadata where key = 'dist_uuid') as dist_uuid,
  (select value from _timescaledb_catalog.metadata where key = 'uuid') as uuid`;
const DATA_NODES = `select s.srvname::text as name from pg_catalog.pg_foreign_server s
  join pg_catalog.pg_foreign_data_wrapper w on w.oid = s.srvfdw where w.fdwname = 'timescaledb_fdw' order by 1`;
/** 2.14 and newer have no such column. */
const HAS_REPLICATION = `select 1 from pg_catalog.pg_attribute
  where attrelid = pg_catalog.to_regclass('_timescaledb_catalog.hypertable') and attname = 'replication_factor'`;
const DISTRIBUTED = `select pg_catalog.count(*)::int4 as count from _timescaledb_catalog.hypertable
  where replication_factor is not null and replication_factor <> 0`;

export async function multiNodeTraces(connection: Connection): Promise<MultiNodeTraces> {
  const none = { dist_uuid: null, uuid: null, data_nodes: [], distributed_hypertables: 0 };
  const extension = await connection.maybeOne<{ version: string }>(EXTENSION);
  if (!extension) return { version: null, ...none };
  const marks = await connection.one<Pick<MultiNodeTraces, 'dist_uuid' | 'uuid'>>(MARKS);
  const { rows } = await connection.query<{ name: string }>(DATA_NODES);
  const counted = (await connection.maybeOne(HAS_REPLICATION))
    ? await connection.one<{ count: number }>(DISTRIBUTED)
    : { count: 0 };
  return {
    version: extension.version,
    ...marks,
    data_nodes: rows.map(({ name }) => name),
    distributed_hypertables: counted.count,
  };
}

/** True when the mark is all there is, so that taking it away loses nothing. */
export function isLeftover({ dist_uuid, data_nodes, distributed_hypertables }: MultiNodeTraces): boolean {
  return dist_uuid !== null && data_nodes.length === 0 && distributed_hypertables === 0;
}

/** @returns whether there was one; a mark that is in use stays */
export async function removeLeftover(connection: Connection): Promise<boolean> {
  return connection.transaction(async () => {
    if (!isLeftover(await multiNodeTraces(connection))) return false;
    await connection.query("delete from _timescaledb_catalog.metadata where key = 'dist_uuid'");
    return true;
  });
}

export function multiNodeCheck(
  traces: MultiNodeTraces,
  { removed }: { readonly removed: boolean },
): DoctorCheck {
  return {
    check: 'old-multi-node',
    why: 'A mark of TimescaleDB’s old multi-node keeps TimescaleDB 2.14 and newer from being installed.',
    remedy: isLeftover(traces)
      ? 'Repeat with --remove-leftovers: it deletes the mark, which is all that is left.'
      : 'Move the data out of the distributed hypertables, drop them and delete the data nodes with TimescaleDB 2.13; then look again.',
    look: () => {
      const { state, found } = multiNodeVerdict(traces);
      return { state, found: removed ? `${found}; the mark has been removed` : found };
    },
  };
}

function multiNodeVerdict(traces: MultiNodeTraces): Verdict {
  const { version, dist_uuid, uuid, data_nodes, distributed_hypertables } = traces;
  if (version === null) return ok('TimescaleDB is not installed here');
  if (isLeftover(traces)) {
    const was = dist_uuid === uuid ? 'an access node' : 'a data node';
    return warn(`TimescaleDB ${version}: left from being ${was} (dist_uuid ${dist_uuid})`);
  }
  const inUse = [
    ...(data_nodes.length > 0 ? [`data nodes ${data_nodes.join(', ')}`] : []),
    ...(distributed_hypertables > 0 ? [`${distributed_hypertables} distributed hypertables`] : []),
  ];
  if (inUse.length > 0) return warn(`TimescaleDB ${version}: multi-node is in use (${inUse.join('; ')})`);
  return ok(`TimescaleDB ${version}, without traces of it`);
}
