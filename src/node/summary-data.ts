import { messageOf } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';

/** What the summary of a running system shows, read from the database as any client could. */
export interface SummaryData {
  readonly dataNodes: readonly {
    readonly name: string;
    readonly address: string;
    readonly available: boolean;
  }[];
  readonly shards: readonly {
    readonly table: string;
    readonly node: string;
    readonly shards: readonly number[];
  }[];
  readonly rows: readonly { readonly node: string; readonly rows: number; readonly newest: string | null }[];
  readonly latest: readonly { readonly metric: string; readonly labels: string; readonly value: number }[];
  /** Why parts are missing. */
  readonly error: string | null;
}

/** So far back the live query looks: its cost does not grow with the table. */
export const LIVE_SECONDS = 60;

const NODES = `select node_name as name, host || ':' || port as address, available
  from varve.data_nodes order by node_name`;

const SHARDS = `select hypertable_schema || '.' || hypertable_name as "table", node_name as node,
    pg_catalog.array_agg(shard order by shard) as shards
  from varve.shards where state = 'AVAILABLE' and hypertable_name is not null group by 1, 2 order by 1, 2`;

const ROWS = `select s.node_name as node, pg_catalog.sum(m.rows)::int4 as rows, pg_catalog.max(m.newest)::text as newest
  from (select tableoid, pg_catalog.count(*) as rows, pg_catalog.max(time) as newest
          from public.host_metrics where time > $1 group by 1) m
    join varve.shards s on s.partition = m.tableoid
  group by 1 order by 1`;

const LATEST = `select distinct on (metric, labels) metric, labels::text as labels, value
  from public.host_metrics
  where time > $1 and (metric in ('load', 'processes') or metric = 'memory_bytes' and labels ->> 'kind' = 'available')
  order by metric, labels, time desc`;

/** Never throws: a part that cannot be read is left out, and the first reason is part of what is shown. */
export async function readSummary(
  connect: () => Promise<Connection>,
  options: { readonly metrics: boolean; readonly nowMs: number },
): Promise<SummaryData> {
  let error: string | null = null;
  const failed = (reason: unknown): never[] => {
    error ??= messageOf(reason);
    return [];
  };
  const connection = await connect().catch(failed);
  if (Array.isArray(connection)) return { dataNodes: [], shards: [], rows: [], latest: [], error };
  await using session = connection;
  const read = async <R extends object>(sql: string, params: unknown[] = []): Promise<readonly R[]> =>
    session.query<R>(sql, params).then(({ rows }) => rows, failed);
  const since = [new Date(options.nowMs - LIVE_SECONDS * 1000).toISOString()];
  const parts = {
    dataNodes: await read<SummaryData['dataNodes'][number]>(NODES),
    shards: await read<SummaryData['shards'][number]>(SHARDS),
    rows: options.metrics ? await read<SummaryData['rows'][number]>(ROWS, since) : [],
    latest: options.metrics ? await read<SummaryData['latest'][number]>(LATEST, since) : [],
  };
  return { ...parts, error };
}
