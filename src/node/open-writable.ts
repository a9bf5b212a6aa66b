import { messageOf, VarveError } from '../core/errors.ts';
import { Connection, type ConnectOptions, type Endpoint } from '../postgres/connection.ts';

/**
 * A session on the server that takes writes, as libpq's `target_session_attrs=read-write` over several hosts.
 * The endpoints are asked one after the other; which one it was is in the connection.
 * @throws WRITE_MASTER_UNKNOWN when none does; with one endpoint, what opening it throws
 */
export async function openWritable(
  endpoints: readonly Endpoint[],
  options: ConnectOptions,
): Promise<Connection> {
  const [only] = endpoints;
  if (only && endpoints.length === 1) return await Connection.open(only, options);
  const reasons: string[] = [];
  for (const endpoint of endpoints) {
    const place = `${endpoint.host}:${endpoint.port}`;
    try {
      const connection = await Connection.open(endpoint, options);
      if (await takesWrites(connection)) return connection;
      await connection.close();
      reasons.push(`${place} is not write master`);
    } catch (error) {
      options.signal?.throwIfAborted();
      reasons.push(`${place}: ${messageOf(error)}`);
    }
  }
  throw new VarveError('WRITE_MASTER_UNKNOWN', 'no access node takes writes at the moment', {
    detail: reasons.join('\n'),
    hint: '`varve cluster status` says what the group waits for.',
  });
}

async function takesWrites(connection: Connection): Promise<boolean> {
  const { readonly } = await connection.one<{ readonly: string }>(
    `select pg_catalog.current_setting('transaction_read_only') as readonly`,
  );
  return readonly === 'off';
}
