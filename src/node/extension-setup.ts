import { EXTENSION_VERSION } from '../data-node/extension-files.ts';
import { installScript } from '../data-node/provision.ts';
import type { Connection } from '../postgres/connection.ts';

const SCHEMA = 'public';
/** What the functions of extension `varve` work with on an access node. */
const NEEDED = ['postgres_fdw', 'dblink'] as const;

/** What an access node's database lacks, in words; '' when nothing. */
export async function missingExtensions(connection: Connection): Promise<string> {
  const missing = [
    ...(await missingOf(connection, NEEDED)),
    ...((await hasVarve(connection)) ? [] : ['varve']),
  ];
  return missing.length === 0 ? '' : `not installed: ${missing.join(', ')}`;
}

/** Makes what is missing; `varve` by script where the server has no control file of it (before 18, managed). */
export async function createExtensions(connection: Connection): Promise<void> {
  for (const name of await missingOf(connection, NEEDED)) {
    await connection.query(`create extension if not exists ${name} schema ${SCHEMA}`);
  }
  if (await hasVarve(connection)) return;
  const offered = await connection.maybeOne(
    "select 1 from pg_catalog.pg_available_extensions where name = 'varve'",
  );
  if (offered) await connection.query(`create extension varve schema ${SCHEMA}`);
  else {
    const script = await installScript(SCHEMA, connection.endpoint.user, EXTENSION_VERSION);
    await connection.transaction(() => connection.query(script));
  }
}

async function missingOf(connection: Connection, names: readonly string[]): Promise<string[]> {
  const { rows } = await connection.query<{ name: string }>(
    `select e.name from pg_catalog.unnest($1::pg_catalog.text[]) as e(name)
      where not exists (select 1 from pg_catalog.pg_extension where extname = e.name)`,
    [names],
  );
  return rows.map(({ name }) => name);
}

/** As an extension, or as the same objects by script. */
async function hasVarve(connection: Connection): Promise<boolean> {
  const { found } = await connection.one<{ found: boolean }>(
    "select pg_catalog.to_regclass('varve.installation') is not null as found",
  );
  return found;
}
