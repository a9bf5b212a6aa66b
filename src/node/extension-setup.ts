import { installation, installExtension } from '../data-node/install-extension.ts';
import type { Connection } from '../postgres/connection.ts';

const SCHEMA = 'public';
/** What the functions of extension `varve` work with on an access node. */
const NEEDED = ['postgres_fdw', 'dblink'] as const;

/** What an access node's database lacks, in words; '' when nothing. */
export async function missingExtensions(connection: Connection): Promise<string> {
  const missing = [
    ...(await missingOf(connection, NEEDED)),
    ...((await installation(connection)) ? [] : ['varve']),
  ];
  return missing.length === 0 ? '' : `not installed: ${missing.join(', ')}`;
}

/** Makes what is missing; `varve` by script where the server has no control file of it (before 18, managed). */
export async function createExtensions(connection: Connection): Promise<void> {
  for (const name of await missingOf(connection, NEEDED)) {
    await connection.query(`create extension if not exists ${name} schema ${SCHEMA}`);
  }
  await installExtension(connection, { schema: SCHEMA });
}

async function missingOf(connection: Connection, names: readonly string[]): Promise<string[]> {
  const { rows } = await connection.query<{ name: string }>(
    `select e.name from pg_catalog.unnest($1::pg_catalog.text[]) as e(name)
      where not exists (select 1 from pg_catalog.pg_extension where extname = e.name)`,
    [names],
  );
  return rows.map(({ name }) => name);
}
