import type { Connection } from '../postgres/connection.ts';

const EXTENSIONS = ['postgres_fdw', 'dblink', 'varve'] as const;

/** The extensions of an access node's database that are missing, in words; '' when none is. */
export async function missingExtensions(connection: Connection): Promise<string> {
  const { rows } = await connection.query<{ name: string }>(
    `select e.name from pg_catalog.unnest($1::pg_catalog.text[]) as e(name)
      where not exists (select 1 from pg_catalog.pg_extension where extname = e.name)`,
    [EXTENSIONS],
  );
  return rows.length === 0 ? '' : `not installed: ${rows.map(({ name }) => name).join(', ')}`;
}

export async function createExtensions(connection: Connection): Promise<void> {
  for (const name of EXTENSIONS)
    await connection.query(`create extension if not exists ${name} schema public`);
}
