import type { Connection } from '../postgres/connection.ts';

/** Makes the table of the machine's metrics and spreads it over the data nodes. Does nothing when it is there. */
export async function prepareMetricsTable(connection: Connection): Promise<void> {
  await connection.query(
    `create table if not exists public.host_metrics (
       time timestamptz not null,
       host text not null,
       metric text not null,
       labels jsonb not null,
       value double precision not null
     ) partition by hash (host, metric)`,
  );
  await connection.query(
    "select * from create_distributed_hypertable('public.host_metrics', 'time', if_not_exists => true)",
  );
}
