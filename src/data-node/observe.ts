import type { Connection } from '../postgres/connection.ts';
import { describeInstalled } from './describe-database.ts';
import type { DatabaseDescription } from './request.ts';

/** Locale and encoding of a database, as `pg_database` has them. */
export interface DatabaseLocale {
  readonly encoding: string;
  readonly collation: string;
  readonly characterType: string;
  readonly provider: string;
  readonly locale: string | null;
  readonly icuRules: string | null;
  readonly collationVersion: string | null;
}

/** What was seen on a data node's server from its maintenance database. */
export interface ServerObservation {
  readonly serverVersion: number;
  readonly inRecovery: boolean;
  readonly superuser: boolean;
  readonly createDatabase: boolean;
  /** Versions of each extension that `create extension` would find. */
  readonly offers: Readonly<Record<string, readonly string[]>>;
  /** The database that is asked for, when it is there. */
  readonly database: (DatabaseLocale & { readonly acceptsConnections: boolean }) | null;
}

export interface InstalledExtension {
  readonly version: string;
  readonly schema: string;
  readonly schemaOwner: string;
  readonly owner: string;
}

/** What was seen inside of a database that exists. */
export interface DatabaseObservation {
  readonly locale: DatabaseLocale;
  readonly serverVersion: number;
  readonly inRecovery: boolean;
  readonly superuser: boolean;
  readonly mayCreateInDatabase: boolean;
  readonly mayCreateInPublic: boolean;
  readonly offers: Readonly<Record<string, readonly string[]>>;
  readonly extensions: Readonly<Record<string, InstalledExtension>>;
  /** Schemas among those that were asked about. */
  readonly schemas: readonly string[];
  /** What Varve's own objects say; null where they are not installed. */
  readonly description: DatabaseDescription | null;
}

// Columns that only newer servers have are read through to_jsonb: datlocale (17), daticulocale (15, 16),
// daticurules (16).
const LOCALE = `jsonb_build_object(
  'encoding', pg_encoding_to_char(d.encoding), 'collation', d.datcollate, 'characterType', d.datctype,
  'provider', d.datlocprovider,
  'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  'icuRules', to_jsonb(d) ->> 'daticurules', 'collationVersion', d.datcollversion,
  'acceptsConnections', d.datallowconn)`;

// The server reads every control file for this: not where nothing can be created anyway.
const OFFERS = `(select coalesce(jsonb_object_agg(name, versions), '{}') from (
  select name, jsonb_agg(version) as versions from pg_available_extension_versions
  where name in ('varve', 'timescaledb') group by name) offers)`;

const ROLE = `'serverVersion', current_setting('server_version_num')::integer,
  'inRecovery', pg_is_in_recovery(),
  'superuser', r.rolsuper, 'createDatabase', r.rolcreatedb or r.rolsuper`;

/** One round trip on a maintenance database. What is known to be on offer there is not asked for again. */
export async function observeServer(
  connection: Connection,
  database: string,
  known?: ServerObservation['offers'],
): Promise<ServerObservation> {
  const { seen } = await connection.one<{ seen: ServerObservation }>(
    `select jsonb_build_object(${ROLE},
       'offers', case when $2 or exists (select from pg_database where datname = $1) then '{}' else ${OFFERS} end,
       'database', (select ${LOCALE} from pg_database d where d.datname = $1)) as seen
     from pg_roles r where r.rolname = current_user`,
    [database, known !== undefined],
  );
  return known ? { ...seen, offers: known } : seen;
}

/**
 * One round trip on the database itself, a second one where Varve is installed. `schemas` are those in which
 * extensions are wanted; `offers` is left empty unless one of `create` is missing.
 */
export async function observeDatabase(
  connection: Connection,
  wanted: { readonly schemas: readonly string[]; readonly create: readonly string[] },
): Promise<DatabaseObservation> {
  const { seen, described } = await connection.one<{ seen: DatabaseObservation; described: boolean }>(
    `select jsonb_build_object(${ROLE},
       'locale', ${LOCALE},
       'offers', case when exists (
           select from unnest($2::name[]) w where w not in (select extname from pg_extension))
         then ${OFFERS} else '{}' end,
       'mayCreateInDatabase', has_database_privilege(d.oid, 'CREATE'),
       'mayCreateInPublic', coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), false),
       'extensions', (select coalesce(jsonb_object_agg(e.extname, jsonb_build_object(
           'version', e.extversion, 'schema', n.nspname, 'schemaOwner', pg_get_userbyid(n.nspowner),
           'owner', pg_get_userbyid(e.extowner))), '{}')
         from pg_extension e join pg_namespace n on n.oid = e.extnamespace
         where e.extname in ('varve', 'timescaledb')),
       'schemas', (select coalesce(jsonb_agg(nspname), '[]') from pg_namespace where nspname = any ($1))
     ) as seen, to_regprocedure('varve._describe_database()') is not null as described
     from pg_roles r, pg_database d
     where r.rolname = current_user and d.datname = current_database()`,
    [wanted.schemas, wanted.create],
  );
  return { ...seen, description: described ? await describeInstalled(connection) : null };
}
