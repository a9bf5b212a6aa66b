import type { Connection } from '../../postgres/connection.ts';
import { quoteIdent } from '../../postgres/sql.ts';

/** Databases in which sessions are read-only from their begin, unless their role or their client says otherwise. */
export async function readOnlyDatabases(connection: Connection): Promise<ReadonlySet<string>> {
  const { rows } = await connection.query<{ name: string }>(
    `select d.datname as name
       from pg_catalog.pg_db_role_setting s join pg_catalog.pg_database d on d.oid = s.setdatabase
      where s.setrole = 0 and 'default_transaction_read_only=on' = any (s.setconfig)`,
  );
  return new Set(rows.map(({ name }) => name));
}

/** For sessions that begin from now on. */
export async function makeReadOnly(connection: Connection, database: string): Promise<void> {
  await connection.query(`alter database ${quoteIdent(database)} set default_transaction_read_only = on`);
}

/** Undoes that. */
export async function letClientsWrite(connection: Connection, database: string): Promise<void> {
  await connection.query(`alter database ${quoteIdent(database)} reset default_transaction_read_only`);
}

/** Of the role as which changes are applied, so that those arrive in databases that are read-only for clients. */
export async function letWrite(connection: Connection, role: string): Promise<void> {
  await connection.query(`alter role ${quoteIdent(role)} set default_transaction_read_only = off`);
}
