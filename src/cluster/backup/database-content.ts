import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import type {
  DdlFrame,
  ExtensionFrame,
  RelationFrame,
  RoleFrame,
  SequenceFrame,
  TableFrame,
} from './archive-format.ts';

/**
 * What a backup has of a replicated database: the same that its group replicates, because that is what every
 * member has. `varve_group` says which tables those are, and has the statements that made them.
 */
export interface GroupDatabase {
  readonly groupUuid: string;
  readonly node: string;
}

/** @throws BACKUP_UNREPLICATED for a database that is in no group, and so has no history of its structure */
export async function groupOf(connection: Connection): Promise<GroupDatabase> {
  const { there } = await connection.one<{ there: boolean }>(
    `select to_regclass('varve_group.local') is not null as there`,
  );
  const row = there
    ? await connection.maybeOne<GroupDatabase>(
        'select group_uuid as "groupUuid", node from varve_group.local',
      )
    : undefined;
  if (row) return row;
  throw new VarveError(
    'BACKUP_UNREPLICATED',
    `database ${connection.endpoint.database} is not one of the group, so the statements that made its tables are not known`,
    { hint: 'Back it up with pg_dump.' },
  );
}

export interface DatabaseFacts {
  readonly serverVersion: string;
  readonly encoding: string;
  readonly owner: string;
  readonly leftOut: readonly string[];
}

/** Tables whose rows are only here, or are no rows of ordinary tables: counted, to be told. */
export async function readFacts(connection: Connection): Promise<DatabaseFacts> {
  const facts = await connection.one<DatabaseFacts & { foreign: string; unlogged: string; objects: string }>(
    `select current_setting('server_version') as "serverVersion", pg_encoding_to_char(d.encoding) as encoding,
            pg_get_userbyid(d.datdba) as owner,
            (select count(*) from pg_class where relkind = 'f') as foreign,
            (select count(*) from pg_class where relpersistence = 'u' and relkind = 'r') as unlogged,
            (select count(*) from pg_largeobject_metadata) as objects
       from pg_database d where d.datname = current_database()`,
  );
  const leftOut = [
    [facts.foreign, 'foreign tables: their rows are on other servers (shards of hypertables: on data nodes)'],
    [facts.unlogged, 'unlogged tables: their rows are on one member only'],
    [facts.objects, 'large objects: they are not replicated'],
  ].flatMap(([n, what]) => (Number(n) > 0 ? [`${n} ${what}`] : []));
  const { serverVersion, encoding, owner } = facts;
  return { serverVersion, encoding, owner, leftOut };
}

/** By this two sessions tell whether they see the same structure. */
export async function newestDdl(connection: Connection): Promise<string> {
  const { id } = await connection.one<{ id: string }>(
    'select coalesce(max(id), 0)::text as id from varve_group.ddl_queue',
  );
  return id;
}

const DDL_PAGE = 500;

/** In the order in which they were carried out. */
export async function* readDdl(connection: Connection): AsyncGenerator<DdlFrame, void> {
  let after = '0';
  for (;;) {
    const { rows } = await connection.query<{ id: string; entry: DdlFrame }>(
      `select q.id::text as id, to_jsonb(q) as entry from varve_group.ddl_queue q
        where q.id > $1 order by q.id limit ${DDL_PAGE}`,
      [after],
    );
    for (const { entry } of rows) yield entry;
    const last = rows.at(-1);
    if (!last || rows.length < DDL_PAGE) return;
    after = last.id;
  }
}

export interface TableContent {
  readonly table: TableFrame;
  readonly relation: RelationFrame;
}

/** The tables whose rows are replicated, but the queue and the barrier, which belong to the group. */
export async function readTables(connection: Connection): Promise<readonly TableContent[]> {
  const { rows } = await connection.query<{
    schema: string;
    name: string;
    columns: { name: string; type: string; generated: boolean; taken: boolean }[];
  }>(
    // The list of columns that _published() has is the one of a publication: quoted names between commas.
    `select n.nspname as schema, c.relname as name,
            (select coalesce(jsonb_agg(jsonb_build_object('name', a.attname,
                      'type', format_type(a.atttypid, a.atttypmod), 'generated', a.attgenerated <> '',
                      'taken', p.columns is null or quote_ident(a.attname) = any (regexp_split_to_array(p.columns, '\\s*,\\s*')))
                    order by a.attnum), '[]')
               from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
       from varve_group._published() p join pg_class c on c.oid = p.relation join pg_namespace n on n.oid = c.relnamespace
      where n.nspname <> 'varve_group'
      order by n.nspname, c.relname`,
  );
  return rows.map(({ schema, name, columns }) => ({
    table: {
      schema,
      name,
      columns: columns.filter(({ generated, taken }) => taken && !generated).map((column) => column.name),
    },
    relation: {
      schema,
      name,
      columns: columns.map((column) => ({ name: column.name, type: column.type })),
    },
  }));
}

/** All but those that every server and every group has. */
export async function readRoles(connection: Connection): Promise<readonly RoleFrame[]> {
  const { rows } = await connection.query<RoleFrame>(
    `select r.rolname as name,
            jsonb_build_object('superuser', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole,
              'createdb', r.rolcreatedb, 'login', r.rolcanlogin, 'replication', r.rolreplication,
              'bypassrls', r.rolbypassrls) as attributes,
            r.rolconnlimit as "connectionLimit", to_json(r.rolvaliduntil) #>> '{}' as "validUntil",
            r.rolpassword as verifier,
            array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
                   where m.member = r.oid group by 1 order by 1) as "memberOf",
            coalesce((select s.setconfig from pg_db_role_setting s where s.setrole = r.oid and s.setdatabase = 0),
              '{}') as settings,
            coalesce((select s.setconfig from pg_db_role_setting s where s.setrole = r.oid and s.setdatabase =
              (select oid from pg_database where datname = current_database())), '{}') as "databaseSettings"
       from pg_authid r where not varve_group._is_internal(r.rolname) and ${OF_THIS_DATABASE}
      order by r.rolname`,
  );
  return rows;
}

/**
 * The roles that own or may do something here, and the groups that they are in. Others of the server belong to
 * other databases, and their passwords are nobody's business who restores this one.
 */
const OF_THIS_DATABASE = `r.oid in (
  with recursive wanted (oid) as (
    select d.refobjid from pg_shdepend d
     where d.refclassid = 'pg_authid'::regclass
       and (d.dbid = (select oid from pg_database where datname = current_database())
         or d.classid = 'pg_database'::regclass
            and d.objid = (select oid from pg_database where datname = current_database()))
    union select setrole from pg_db_role_setting
     where setdatabase = (select oid from pg_database where datname = current_database())
    union select r.oid from varve_group.ddl_queue q join pg_roles r on r.rolname = q.role
    union select case when m.member = w.oid then m.roleid else m.member end
      from pg_auth_members m join wanted w on w.oid in (m.member, m.roleid)
  ) select oid from wanted)`;

export async function readExtensions(connection: Connection): Promise<readonly ExtensionFrame[]> {
  const { rows } = await connection.query<ExtensionFrame>(
    `select e.extname as name, n.nspname as schema, e.extversion as version
       from pg_extension e join pg_namespace n on n.oid = e.extnamespace
      where e.extname <> 'plpgsql' order by e.oid`,
  );
  return rows;
}

/**
 * From the write master: only there do sequences move. Read after the snapshot of the rows, they are at least as
 * far as any row of it.
 */
export async function readSequences(connection: Connection): Promise<readonly SequenceFrame[]> {
  const { rows } = await connection.query<{ schema: string; name: string; relation: string }>(
    `select n.nspname as schema, c.relname as name, c.oid::regclass::text as relation
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind = 'S' and c.relpersistence <> 't' and n.nspname not in ('varve', 'varve_group')
        and not exists (select from pg_depend d
          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
      order by 1, 2`,
  );
  const sequences: SequenceFrame[] = [];
  for (const { schema, name, relation } of rows) {
    // `regclass` quotes where it is needed.
    const value = await connection.one<{ lastValue: string; isCalled: boolean }>(
      `select last_value::text as "lastValue", is_called as "isCalled" from ${relation}`,
    );
    sequences.push({ schema, name, ...value });
  }
  return sequences;
}
