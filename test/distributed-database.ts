import { randomBytes } from 'node:crypto';
import type { DataNodeServiceOptions } from '../src/data-node/service.ts';
import type { Connection, Endpoint } from '../src/postgres/connection.ts';
import { quoteIdent } from '../src/postgres/sql.ts';
import { testAccessNode, type TestAccessNode } from './access-node.ts';
import { connect, serverEndpoint } from './database.ts';

export interface DistributedDatabaseOptions {
  /** Names of the data nodes; each is a database of its own. */
  readonly nodes?: readonly string[];
  /** The server of the access database. Default: the run's. */
  readonly admin?: Endpoint;
  readonly dataDir?: string;
  /** The server of the data nodes. Default: the run's. */
  readonly there?: Endpoint;
  /** Further logins for the password files. */
  readonly logins?: readonly Endpoint[];
  readonly service?: Partial<DataNodeServiceOptions>;
}

/** An access database with data nodes. */
export interface DistributedDatabase extends AsyncDisposable {
  readonly access: TestAccessNode;
  readonly nodes: readonly string[];
  /** The superuser's login to a data node's database. */
  at(node: string): Endpoint;
  add(session: Connection, node: string): Promise<void>;
  /** With a password that becomes the user mapping's. */
  addWithPassword(session: Connection, node: string, password: string): Promise<void>;
  /** The node's database is no longer there. */
  forget(node: string): void;
  /** One line for everything that shards are made of on the data nodes. */
  remains(): Promise<string[]>;
}

export async function distributedDatabase(
  options: DistributedDatabaseOptions = {},
): Promise<DistributedDatabase> {
  const { nodes = ['dn1', 'dn2', 'dn3'], logins = [], service = {} } = options;
  const there = options.there ?? serverEndpoint();
  const access = await testAccessNode({
    ...(options.admin ? { admin: options.admin } : {}),
    ...(options.dataDir ? { dataDir: options.dataDir } : {}),
    logins: [there, ...logins],
    service,
  });
  const suffix = randomBytes(4).toString('hex');
  const at = (node: string): Endpoint => ({ ...there, database: `${node}_${suffix}` });
  const databases = new Set<string>();
  const addWithPassword = async (
    session: Connection,
    node: string,
    password: string | null,
  ): Promise<void> => {
    const { database } = at(node);
    databases.add(database);
    await session.query('select * from add_data_node($1, $2, $3, $4, password => $5)', [
      node,
      there.host,
      database,
      there.port,
      password,
    ]);
  };
  const add = (session: Connection, node: string): Promise<void> => addWithPassword(session, node, null);
  await using session = await access.connect();
  for (const node of nodes) await add(session, node);
  return {
    access,
    nodes,
    at,
    add,
    addWithPassword,
    forget: (node) => void databases.delete(at(node).database),
    remains: async () => {
      const lines: string[] = [];
      for (const database of databases) {
        await using connection = await connect({ ...there, database });
        const { rows } = await connection.query<{ line: string }>(
          `select 'schema ' || nspname as line from pg_namespace where nspname like 'varve\\_%'
           union all select 'relation ' || c.oid::regclass from pg_class c
             where c.relnamespace::regnamespace::text like 'varve\\_%' order by 1`,
        );
        lines.push(...rows.map(({ line }) => `${database} ${line}`));
      }
      return lines;
    },
    [Symbol.asyncDispose]: async () => {
      await access[Symbol.asyncDispose]();
      await using connection = await connect(there);
      for (const database of databases)
        await connection.query(`drop database if exists ${quoteIdent(database)} with (force)`);
    },
  };
}
