import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import { groupIdentity } from '../ddl/install.ts';
import { letWrite } from '../master/read-only.ts';
import { closeDatabase, openDatabase } from './closed-database.ts';
import { CONTROL_DATABASE, GROUP_ROLE, type GroupContext } from './context.ts';
import { createControlExtensions } from './prepare-server.ts';

/**
 * The databases of a node that joins a group with content. They are filled by copying, so they have to be empty. What
 * an attempt that failed has left is ours: a setting of the database says that it is being filled (`JOINING`, set
 * before the first write, reset when the node is a member). Anything else with content is somebody's, and is only
 * dropped when that was asked for: then the setting is made by `markForJoining`.
 */
const JOINING = 'varve_group.joining';

/** Empty databases, marked, with the group's own schema. @throws GROUP_NOT_EMPTY, GROUP_FOREIGN */
export async function prepareJoiner(
  context: GroupContext,
  groupUuid: string,
  databases: readonly string[],
): Promise<void> {
  const states = new Map<string, JoinerDatabase>();
  // All are looked at before any is touched.
  for (const database of databases) states.set(database, await lookAt(context, database));
  for (const [database, state] of states) {
    if (state.exists && !state.marked && state.tables.length > 0) throw notEmpty(context, database, state);
  }
  await context.deps.withAdmin('postgres', (connection) => letWrite(connection, GROUP_ROLE));
  await Promise.all(
    databases.map(async (database) => {
      const state = states.get(database);
      const used = state?.exists && (state.marked || state.hasIdentity);
      if (used || !state?.exists) await recreate(context, database);
      await context.onSelf(database, async (connection) => {
        await setMark(connection, database, groupUuid);
        await context.deps.groupSchema.install(connection, { groupUuid, node: context.options.node });
      });
      await closeDatabase(context, database);
    }),
  );
}

/** Somebody asked for it: the content of these databases may be dropped. */
export async function markForJoining(
  context: GroupContext,
  groupUuid: string,
  databases: readonly string[],
): Promise<void> {
  await context.deps.withAdmin('postgres', async (connection) => {
    for (const database of databases) {
      const there = await connection.maybeOne('select 1 from pg_catalog.pg_database where datname = $1', [
        database,
      ]);
      if (there) await setMark(connection, database, groupUuid);
    }
  });
}

/** The content is the group's from now on, and clients may look at it. */
export async function unmark(context: GroupContext, databases: readonly string[]): Promise<void> {
  await Promise.all(databases.map((database) => openDatabase(context, database)));
  await context.deps.withAdmin('postgres', async (connection) => {
    for (const database of databases) {
      await connection.query(`alter database ${quoteIdent(database)} reset ${JOINING}`);
    }
  });
}

/**
 * A group is made of databases without content: what is in one of them now would be missing in the others.
 * @throws GROUP_NOT_EMPTY
 */
export async function refuseContent(context: GroupContext, databases: readonly string[]): Promise<void> {
  for (const database of databases) {
    const state = await lookAt(context, database);
    if (!state.hasIdentity && state.tables.length > 0) throw notEmpty(context, database, state);
  }
}

/** Of a member: what its join has left to be done. */
export async function unmarkLeft(context: GroupContext, databases: readonly string[]): Promise<void> {
  const left = await context.deps.withAdmin('postgres', (connection) =>
    connection.maybeOne(
      `select 1 from pg_catalog.pg_db_role_setting s join pg_catalog.pg_database d on d.oid = s.setdatabase,
              pg_catalog.unnest(s.setconfig) as c (line)
        where s.setrole = 0 and d.datname = any ($1) and c.line like $2 || '=%' limit 1`,
      [databases, JOINING],
    ),
  );
  if (left) await unmark(context, databases);
}

/** Tables and the like of users, as `schema.name`; a few, for people. */
export async function foreignTables(connection: Connection): Promise<string[]> {
  const { rows } = await connection.query<{ name: string }>(
    `select pg_catalog.format('%I.%I', n.nspname, c.relname) as name
       from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
        and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'varve_group')
        and not exists (select from pg_catalog.pg_depend d
                         where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
                           and d.deptype in ('e', 'i'))
      order by c.relkind = 'S', 1 limit 5`,
  );
  return rows.map(({ name }) => name);
}

interface JoinerDatabase {
  readonly exists: boolean;
  readonly marked: boolean;
  readonly hasIdentity: boolean;
  readonly tables: readonly string[];
}

async function lookAt(context: GroupContext, database: string): Promise<JoinerDatabase> {
  const seen = await context.deps.withAdmin('postgres', (connection) =>
    connection.maybeOne<{ marked: boolean }>(
      `select exists (select from pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) as c (line)
                       where s.setdatabase = d.oid and s.setrole = 0 and c.line like $2 || '=%') as marked
         from pg_catalog.pg_database d where d.datname = $1`,
      [database, JOINING],
    ),
  );
  if (!seen) return { exists: false, marked: false, hasIdentity: false, tables: [] };
  const inside = await context.onSelf(database, async (connection) => ({
    hasIdentity: (await groupIdentity(connection)) !== undefined,
    tables: await foreignTables(connection),
  }));
  return { exists: true, marked: seen.marked, ...inside };
}

async function setMark(connection: Connection, database: string, groupUuid: string): Promise<void> {
  await connection.query(
    `alter database ${quoteIdent(database)} set ${JOINING} = ${quoteLiteral(groupUuid)}`,
  );
}

/** Drops what is there, subscriptions and slots first: with them a database cannot be dropped. */
async function recreate(context: GroupContext, database: string): Promise<void> {
  const { deps, mesh, self, servers } = context;
  const there = await deps.withAdmin('postgres', (connection) =>
    connection.maybeOne('select 1 from pg_catalog.pg_database where datname = $1', [database]),
  );
  if (there) await mesh.sweep(self, database, []);
  await servers.forget(self, database);
  await deps.withAdmin('postgres', async (connection) => {
    await connection.query(`drop database if exists ${quoteIdent(database)} with (force)`);
    const clause = database === CONTROL_DATABASE ? `owner ${quoteIdent(GROUP_ROLE)}` : `connection limit 0`;
    await connection.query(
      `create database ${quoteIdent(database)} template template0 encoding 'UTF8' ${clause}`,
    );
    if (database === CONTROL_DATABASE) {
      await connection.query(`revoke all on database ${quoteIdent(database)} from public`);
    }
  });
  if (database === CONTROL_DATABASE) await createControlExtensions(context);
  await deps.onDatabaseMade?.(database);
}

function notEmpty({ options }: GroupContext, database: string, { tables }: JoinerDatabase): VarveError {
  return new VarveError('GROUP_NOT_EMPTY', `database ${database} of ${options.node} has content of its own`, {
    detail: `Among others: ${tables.join(', ')}.`,
    hint: `Nothing was changed. Move it elsewhere; or, in a group that exists, drop it on purpose: varve cluster reinit ${options.node}`,
  });
}
