import type { Connection } from '../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../postgres/sql.ts';
import { EXTENSION_VERSION, extensionScript } from './extension-files.ts';

/**
 * Extension `varve` in a database: by `create extension` where the server offers it, else by script. A server
 * offers it that was given its control file: before PostgreSQL 18 only an administrator of the machine can do
 * that, so there, and on managed servers, the script is the rule.
 */
export interface InstallOptions {
  /** Where the functions for users go; made when it is missing. */
  readonly schema: string;
  /** Whom it belongs to. Default: who is connected. */
  readonly owner?: string | undefined;
}

export interface Installation {
  readonly version: string;
  readonly schema: string;
  readonly owner: string;
  readonly method: 'extension' | 'script';
  /** False when it was there before. */
  readonly created: boolean;
}

/**
 * Makes extension `varve`, whole or not at all. What is there already stays as it is, in whichever schema and
 * version; several who come at once make it once.
 * @throws QUERY_FAILED with the server's reason, as 42501 for a role that may not create it
 */
export async function installExtension(
  connection: Connection,
  { schema, owner = connection.endpoint.user }: InstallOptions,
): Promise<Installation> {
  return connection.transaction(async () => {
    await connection.query(
      `select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('extension varve', 0))`,
    );
    const present = await installation(connection);
    if (present) return { ...present, created: false };
    const authorization = owner === connection.endpoint.user ? '' : ` authorization ${quoteIdent(owner)}`;
    if (schema !== 'public')
      await connection.query(`create schema if not exists ${quoteIdent(schema)}${authorization}`);
    const offered = await connection.maybeOne(
      `select 1 from pg_catalog.pg_available_extension_versions where name = 'varve' and version = $1`,
      [EXTENSION_VERSION],
    );
    if (offered) await createExtension(connection, schema, owner);
    else await connection.query(await installScript(schema, owner, EXTENSION_VERSION));
    const made = await installation(connection);
    if (!made) throw new Error('assertion failed: what was installed says so');
    return { ...made, created: true };
  });
}

/** An extension's owner is the role that creates it, and cannot be changed afterwards. */
async function createExtension(connection: Connection, schema: string, owner: string): Promise<void> {
  const creation = `create extension varve schema ${quoteIdent(schema)} version ${quoteLiteral(EXTENSION_VERSION)}`;
  if (owner === connection.endpoint.user) await connection.query(creation);
  else await connection.query(`set local role ${quoteIdent(owner)}; ${creation}; reset role`);
}

/** What is installed, by either method; undefined for nothing. */
export async function installation(
  connection: Connection,
): Promise<Omit<Installation, 'created'> | undefined> {
  const { there } = await connection.one<{ there: boolean }>(
    `select pg_catalog.to_regprocedure('varve._installed()') is not null as there`,
  );
  if (!there) return undefined;
  return connection.maybeOne('select version, schema, owner, method from varve._installed()');
}

/**
 * The settings of `create extension`: functions may use what comes after them, and what is named without a schema
 * is PostgreSQL's own.
 */
const LIKE_AN_EXTENSION = `set local check_function_bodies = off;
set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp`;

/**
 * The extension's objects without `create extension`, as one text of statements; the schema must be there. The
 * record that it leaves tells its routines outside of schema `varve` by the transaction that made them: it has
 * to run in one transaction, and not behind a savepoint.
 */
export async function installScript(schema: string, owner: string, version: string): Promise<string> {
  // As PostgreSQL does for extension scripts; this one compares the name with `varve`.
  const name = schema === 'varve' ? schema : quoteIdent(schema);
  const script = (await extensionScript()).replaceAll('@extschema@', name);
  const row = [version, schema, owner].map(quoteLiteral).join(', ');
  return `${LIKE_AN_EXTENSION};
${script}
;insert into varve.installation (version, schema, owner, routines)
  select ${row}, coalesce(pg_catalog.array_agg(pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
      pg_catalog.pg_get_function_identity_arguments(p.oid))), '{}')
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = ${quoteLiteral(schema)} and n.nspname <> 'varve'
      and p.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid
      and not exists (select from pg_catalog.pg_depend d
        where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'e')`;
}

/** Removes the objects of a script, and schema `varve` with them; to be called in a transaction. */
export async function uninstallScript(connection: Connection): Promise<void> {
  const { rows } = await connection.query<{ routine: string }>(
    'select pg_catalog.unnest(routines) as routine from varve.installation',
  );
  for (const { routine } of rows) await connection.query(`drop routine if exists ${routine}`);
  await connection.query('drop schema varve cascade');
}
