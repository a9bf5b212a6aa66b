import type { Connection } from '../../postgres/connection.ts';
import { quoteIdent, quoteQualified } from '../../postgres/sql.ts';
import { GROUP_SCHEMA, PUBLICATION } from './edge.ts';

/** Tables of the group's own schema that are replicated; what else is in it belongs to one node. */
export const REPLICATED_GROUP_TABLES = ['ddl_queue', 'barrier'] as const;

/**
 * Makes the publication of a replicated database, or adds what it lacks: the group's own tables, and every schema
 * of the user's or of the control database that is there. Schemas that come later are added by the DDL queue.
 */
export async function ensurePublication(connection: Connection, schemas: readonly string[]): Promise<void> {
  const name = quoteIdent(PUBLICATION);
  const there = await connection.maybeOne(`select 1 from pg_catalog.pg_publication where pubname = $1`, [
    PUBLICATION,
  ]);
  const tables = REPLICATED_GROUP_TABLES.map((table) => quoteQualified(GROUP_SCHEMA, table));
  const wanted = [
    ...tables.map((table) => `table ${table}`),
    ...schemas.map((schema) => `tables in schema ${quoteIdent(schema)}`),
  ];
  if (!there) {
    await connection.query(`create publication ${name} for ${wanted.join(', ')}`);
    return;
  }
  const present = await publishedParts(connection);
  const missing = [
    ...REPLICATED_GROUP_TABLES.filter((table) => !present.tables.has(`${GROUP_SCHEMA}.${table}`)).map(
      (table) => `table ${quoteQualified(GROUP_SCHEMA, table)}`,
    ),
    ...schemas
      .filter((schema) => !present.schemas.has(schema))
      .map((schema) => `tables in schema ${quoteIdent(schema)}`),
  ];
  if (missing.length > 0) await connection.query(`alter publication ${name} add ${missing.join(', ')}`);
}

/** Schemas whose tables are replicated unless they are the system's, an extension's or the group's own. */
export async function replicatedSchemas(connection: Connection): Promise<string[]> {
  const { rows } = await connection.query<{ name: string }>(
    `select nspname as name
       from pg_catalog.pg_namespace n
      where nspname !~ '^pg_' and nspname not in ('information_schema', $1)
        and not exists (select from pg_catalog.pg_depend d
                         where d.classid = 'pg_catalog.pg_namespace'::regclass and d.objid = n.oid
                           and d.deptype = 'e')
      order by 1`,
    [GROUP_SCHEMA],
  );
  return rows.map(({ name }) => name);
}

async function publishedParts(
  connection: Connection,
): Promise<{ tables: ReadonlySet<string>; schemas: ReadonlySet<string> }> {
  const tables = await connection.query<{ name: string }>(
    `select pr.prrelid::regclass::text as name
       from pg_catalog.pg_publication p join pg_catalog.pg_publication_rel pr on pr.prpubid = p.oid
      where p.pubname = $1`,
    [PUBLICATION],
  );
  const schemas = await connection.query<{ name: string }>(
    `select n.nspname as name
       from pg_catalog.pg_publication p
       join pg_catalog.pg_publication_namespace pn on pn.pnpubid = p.oid
       join pg_catalog.pg_namespace n on n.oid = pn.pnnspid
      where p.pubname = $1`,
    [PUBLICATION],
  );
  return {
    tables: new Set(tables.rows.map(({ name }) => name)),
    schemas: new Set(schemas.rows.map(({ name }) => name)),
  };
}
