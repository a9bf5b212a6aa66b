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

/** A data node that joins later gets those shards that hold nothing yet. */
export async function attachToMetricsTable(connection: Connection, node: string): Promise<void> {
  await connection.query(
    "select * from attach_data_node($1, 'public.host_metrics', if_not_attached => true)",
    [node],
  );
}
