import { VarveError } from '../../core/errors.ts';
import { Connection, PLAIN_SESSION, type Endpoint } from '../../postgres/connection.ts';
import { copyIn } from '../../postgres/copy.ts';
import { quoteIdent, quoteLiteral, quoteQualified } from '../../postgres/sql.ts';
import {
  ddlFrame,
  extensionFrame,
  relationFrame,
  roleFrame,
  sequenceFrame,
  tableEndFrame,
  tableFrame,
  type DdlFrame,
  type ExtensionFrame,
  type RelationFrame,
  type RoleFrame,
  type TableFrame,
} from './archive-format.ts';
import { parseFrame, readArchive, verifyArchive, type ArchiveSummary, type Frame } from './archive-reader.ts';
import { groupOf, readTables } from './database-content.ts';

export interface RestoreRequest {
  readonly path: string;
  /**
   * A database of the group on its write master, with schema `varve_group` and nothing else; the superuser's login.
   * What is done there reaches the other members as any other change does.
   */
  readonly target: Endpoint;
}

export interface RestoreResult extends ArchiveSummary {
  /** Roles of the backup that were there already: they stay as they are, with their passwords. */
  readonly keptRoles: readonly string[];
}

/**
 * Puts a backup into an empty database of the group: the statements of its history in their order, then the rows,
 * then the sequences, all in one transaction. What was half done when it ended for any reason is not there.
 *
 * The file is read through and checked before anything is changed.
 *
 * @throws BACKUP_DAMAGED, BACKUP_FORMAT_UNKNOWN, BACKUP_UNREPLICATED
 * @throws RESTORE_TARGET_NOT_EMPTY; RESTORE_DIFFERS when statements or rows did not give what the backup says
 */
export async function restoreDatabase(request: RestoreRequest, signal?: AbortSignal): Promise<RestoreResult> {
  const summary = await verifyArchive(request.path, signal);
  await using connection = await Connection.open(request.target, {
    connectTimeoutMs: 10_000,
    statementTimeoutMs: 0,
    applicationName: 'varve restore',
    signal,
    settings: {
      ...PLAIN_SESSION,
      default_transaction_read_only: 'off',
      log_min_error_statement: 'panic',
      log_statement: 'none',
    },
  });
  await groupOf(connection);
  await refuseContent(connection);
  const restoring = new Restoring(connection, request.path);
  await connection.transaction(async () => {
    for await (const frame of readAll(request.path, restoring)) {
      signal?.throwIfAborted();
      await restoring.take(frame);
    }
  });
  // What is restored is restored; without this, autovacuum does it later. Foreign tables are not ours to read.
  if (restoring.tables.length > 0) {
    await connection.query(`analyze ${restoring.tables.join(', ')}`, [], { timeoutMs: 0 }).catch(() => {});
  }
  return { ...summary, keptRoles: restoring.keptRoles };
}

/** Frames without the rows, which are taken from the same reading while their table is restored. */
async function* readAll(path: string, restoring: Restoring): AsyncGenerator<Frame, void> {
  const frames = readArchive(path);
  restoring.frames = frames;
  try {
    for (;;) {
      const next = await frames.next();
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    await frames.return();
  }
}

/** @throws RESTORE_TARGET_NOT_EMPTY */
async function refuseContent(connection: Connection): Promise<void> {
  const { rows } = await connection.query<{ name: string }>(
    `select c.oid::regclass::text as name
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and c.relpersistence <> 't'
        and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'varve_group', 'varve')
        and not exists (select from pg_depend d
          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
      order by 1 limit 5`,
  );
  if (rows.length === 0) return;
  throw new VarveError(
    'RESTORE_TARGET_NOT_EMPTY',
    `database ${connection.endpoint.database} has content already`,
    {
      detail: `For example ${rows.map(({ name }) => name).join(', ')}.`,
      hint: 'Restore into a new database, or drop what is in this one first.',
    },
  );
}

class Restoring {
  readonly keptRoles: string[] = [];
  frames: AsyncGenerator<Frame, void> | undefined;
  readonly #connection: Connection;
  readonly #path: string;
  readonly #roles: RoleFrame[] = [];
  readonly #extensions: ExtensionFrame[] = [];
  readonly #relations: RelationFrame[] = [];
  /** Whether the statements of the history, and the comparison after them, are behind us. */
  #begun: 'nothing' | 'history' | 'content' = 'nothing';

  constructor(connection: Connection, path: string) {
    this.#connection = connection;
    this.#path = path;
  }

  /** Those of the backup, quoted. */
  get tables(): readonly string[] {
    return this.#relations.map(keyOf);
  }

  async take(frame: Frame): Promise<void> {
    const { kind } = frame;
    switch (kind) {
      case 'manifest':
      case 'rows':
      case 'table-end':
        return;
      case 'role':
        this.#roles.push(parseFrame(this.#path, frame, roleFrame));
        return;
      case 'extension':
        this.#extensions.push(parseFrame(this.#path, frame, extensionFrame));
        return;
      case 'ddl':
        await this.#beginHistory();
        return this.#replay(parseFrame(this.#path, frame, ddlFrame));
      case 'relation':
        this.#relations.push(parseFrame(this.#path, frame, relationFrame));
        return;
      case 'table':
        await this.#beginContent();
        return this.#load(parseFrame(this.#path, frame, tableFrame));
      case 'sequence': {
        await this.#beginContent();
        const { schema, name, lastValue, isCalled } = parseFrame(this.#path, frame, sequenceFrame);
        await this.#connection.query('select setval($1::regclass, $2, $3)', [
          quoteQualified(schema, name),
          lastValue,
          isCalled,
        ]);
        return;
      }
      case 'end':
        await this.#beginContent();
        return this.#refreshViews();
    }
  }

  /** All at once: they come in any order, and are in each other. */
  async #makeRoles(): Promise<void> {
    this.keptRoles.push(...(await makeRoles(this.#connection, this.#roles)));
    for (const role of this.#roles) {
      for (const statement of databaseSettings(role, this.#connection.endpoint.database)) {
        await this.#connection.query(statement);
      }
    }
  }

  async #beginHistory(): Promise<void> {
    if (this.#begun !== 'nothing') return;
    this.#begun = 'history';
    await this.#makeRoles();
  }

  /**
   * Carried out here as on any other member: a row that arrives in the queue is applied by the queue's trigger for
   * replicas. From here it goes on to the other members.
   */
  async #replay(entry: DdlFrame): Promise<void> {
    const created = entry.tag === 'CREATE EXTENSION' ? extensionOf(entry.statement) : undefined;
    if (created !== undefined && (await this.#hasExtension(created))) return;
    if (created === undefined) await this.#missingExtensions();
    await this.#connection.query('set local session_replication_role = replica');
    // Values that ALTER TABLE gave to rows of that time are left out: the rows that come have them.
    const row: Record<string, unknown> = { ...entry, missing: [] };
    const columns = (await this.#queueColumns()).filter((name) => Object.hasOwn(row, name)).map(quoteIdent);
    await this.#connection.query(
      `with locked as materialized (select varve_group._lock_ddl())
       insert into varve_group.ddl_queue (${columns.join(', ')})
       select ${columns.join(', ')} from locked, jsonb_populate_record(null::varve_group.ddl_queue, $1::jsonb
         || jsonb_build_object('id', nextval('varve_group.ddl_queue_id_seq'),
              'node', (select l.node from varve_group.local l)))`,
      [JSON.stringify(row)],
    );
  }

  #columns: readonly string[] | undefined;

  /** A backup may be older than the queue: what it does not have is as the queue has it by itself. */
  async #queueColumns(): Promise<readonly string[]> {
    if (!this.#columns) {
      const { rows } = await this.#connection.query<{ name: string }>(
        `select attname as name from pg_attribute
          where attrelid = 'varve_group.ddl_queue'::regclass and attnum > 0 and not attisdropped order by attnum`,
      );
      this.#columns = rows.map(({ name }) => name);
    }
    return this.#columns;
  }

  #extensionsMade = false;

  /** Those of the backup that no statement of the history makes; before the first that may need them. */
  async #missingExtensions(): Promise<void> {
    if (this.#extensionsMade) return;
    this.#extensionsMade = true;
    const inHistory = new Set<string>();
    for await (const frame of readArchive(this.#path)) {
      if (frame.kind === 'relation' || frame.kind === 'table' || frame.kind === 'end') break;
      if (frame.kind !== 'ddl') continue;
      const { tag, statement } = parseFrame(this.#path, frame, ddlFrame);
      const name = tag === 'CREATE EXTENSION' ? extensionOf(statement) : undefined;
      if (name !== undefined) inHistory.add(name);
    }
    // As a user does it, so that the queue takes it.
    await this.#connection.query('set local session_replication_role = origin');
    for (const { name, schema } of this.#extensions) {
      if (inHistory.has(name) || (await this.#hasExtension(name))) continue;
      await this.#connection.query(`create schema if not exists ${quoteIdent(schema)}`);
      await this.#connection.query(
        `create extension ${quoteIdent(name)} schema ${quoteIdent(schema)} cascade`,
      );
    }
  }

  async #hasExtension(name: string): Promise<boolean> {
    const row = await this.#connection.maybeOne('select 1 from pg_extension where extname = $1', [name]);
    return row !== undefined;
  }

  /** @throws RESTORE_DIFFERS */
  async #beginContent(): Promise<void> {
    if (this.#begun === 'content') return;
    await this.#beginHistory();
    await this.#missingExtensions();
    this.#begun = 'content';
    const found = new Map(
      (await readTables(this.#connection)).map(({ relation }) => [
        keyOf(relation),
        describeColumns(relation),
      ]),
    );
    const wanted = new Map(this.#relations.map((relation) => [keyOf(relation), describeColumns(relation)]));
    const differences = [...new Set([...wanted.keys(), ...found.keys()])]
      .filter((key) => wanted.get(key) !== found.get(key))
      .map((key) => `${key}: in the backup ${wanted.get(key) ?? 'absent'}, made ${found.get(key) ?? 'none'}`);
    if (differences.length > 0) {
      throw new VarveError(
        'RESTORE_DIFFERS',
        `the statements of ${this.#path} did not make the tables it has`,
        {
          detail: differences.join('\n'),
          hint: 'Nothing was kept. Look whether the extensions and their versions are those of the original.',
        },
      );
    }
    // Rows are as they were: no trigger fires, and foreign keys hold because they held.
    await this.#connection.query('set local session_replication_role = replica');
    await this.#clear([...wanted.keys()]);
  }

  /**
   * What statements and extensions have put into the tables of the backup. Row by row, and only where there is
   * something: TRUNCATE is replicated as such, and a member refuses it for a table that one of its own refers to.
   */
  async #clear(tables: readonly string[]): Promise<void> {
    for (const table of tables) {
      const filled = await this.#connection.maybeOne(`select 1 from only ${table} limit 1`);
      if (filled) await this.#connection.query(`delete from only ${table}`);
    }
  }

  /** @throws RESTORE_DIFFERS when not all rows arrive */
  async #load(table: TableFrame): Promise<void> {
    const { frames } = this;
    if (!frames) throw new Error('assertion failed: no reading');
    let wantedCount = -1;
    const path = this.#path;
    async function* rows(): AsyncGenerator<Buffer, void> {
      for (;;) {
        const next = await frames?.next();
        if (!next || next.done === true) return;
        if (next.value.kind === 'rows') yield next.value.content;
        else {
          wantedCount = parseFrame(path, next.value, tableEndFrame).rowCount;
          return;
        }
      }
    }
    const columns = table.columns.length === 0 ? '' : ` (${table.columns.map(quoteIdent).join(', ')})`;
    const name = quoteQualified(table.schema, table.name);
    const rowCount = await copyIn(this.#connection, `copy ${name}${columns} from stdin`, rows());
    if (rowCount === wantedCount) return;
    throw new VarveError('RESTORE_DIFFERS', `${rowCount} of ${wantedCount} rows of ${name} arrived`, {
      hint: 'Nothing was kept. A rule on that table may discard rows.',
    });
  }

  async #refreshViews(): Promise<void> {
    // On the other members, too: as a statement of the queue, behind the rows.
    await this.#connection.query('set local session_replication_role = origin');
    const { rows } = await this.#connection.query<{ name: string }>(
      `select oid::regclass::text as name from pg_class where relkind = 'm' order by oid`,
    );
    for (const { name } of rows) await this.#connection.query(`refresh materialized view ${name}`);
  }
}

const keyOf = ({ schema, name }: RelationFrame): string => quoteQualified(schema, name);

const describeColumns = ({ columns }: RelationFrame): string =>
  `(${columns.map(({ name, type }) => `${name} ${type}`).join(', ')})`;

/** The queue has these statements in one form: `create extension [if not exists] name …`. */
export function extensionOf(statement: string): string | undefined {
  const match = /^\s*create\s+extension\s+(?:if\s+not\s+exists\s+)?(?:"((?:[^"]|"")+)"|([^\s";]+))/i.exec(
    statement,
  );
  return match?.[1]?.replaceAll('""', '"') ?? match?.[2]?.toLowerCase();
}

/** Settings whose values are lists of names, quoted already. */
const LISTS = new Set([
  'search_path',
  'local_preload_libraries',
  'session_preload_libraries',
  'temp_tablespaces',
]);

function settingStatement(role: string, setting: string, where: string): string {
  const at = setting.indexOf('=');
  const key = setting.slice(0, at);
  const value = setting.slice(at + 1);
  const name = key.split('.').map(quoteIdent).join('.');
  return `alter role ${quoteIdent(role)} ${where} set ${name} = ${LISTS.has(key) ? value || "''" : quoteLiteral(value)}`;
}

function databaseSettings(role: RoleFrame, database: string): string[] {
  const where = `in database ${quoteIdent(database)}`;
  return role.databaseSettings.map((setting) => settingStatement(role.name, setting, where));
}

/** The roles of a backup. @throws BACKUP_DAMAGED */
export async function readArchiveRoles(path: string): Promise<readonly RoleFrame[]> {
  const roles: RoleFrame[] = [];
  for await (const frame of readArchive(path)) {
    if (frame.kind === 'role') roles.push(parseFrame(path, frame, roleFrame));
    else if (frame.kind !== 'manifest') break;
  }
  return roles;
}

/**
 * Makes those that are missing on this server, with verifiers, settings and memberships. The names of those that
 * were there: they stay as they are.
 */
export async function makeRoles(connection: Connection, roles: readonly RoleFrame[]): Promise<string[]> {
  const { rows } = await connection.query<{ name: string }>(
    'select rolname as name from pg_roles where rolname = any ($1)',
    [roles.map(({ name }) => name)],
  );
  const kept = new Set(rows.map(({ name }) => name));
  const missing = roles.filter(({ name }) => !kept.has(name));
  for (const role of missing) {
    await connection.query(createRole(role));
    for (const setting of role.settings) await connection.query(settingStatement(role.name, setting, ''));
  }
  for (const { name, memberOf } of missing) {
    for (const group of memberOf) await connection.query(`grant ${quoteIdent(group)} to ${quoteIdent(name)}`);
  }
  return [...kept].sort();
}

const ATTRIBUTES: Readonly<Record<string, string>> = {
  superuser: 'superuser',
  inherit: 'inherit',
  createrole: 'createrole',
  createdb: 'createdb',
  login: 'login',
  replication: 'replication',
  bypassrls: 'bypassrls',
};

function createRole(role: RoleFrame): string {
  const attributes = Object.entries(ATTRIBUTES).map(([key, word]) =>
    role.attributes[key] === true ? word : `no${word}`,
  );
  const parts = [
    `create role ${quoteIdent(role.name)} ${attributes.join(' ')} connection limit ${role.connectionLimit}`,
    role.verifier === null ? '' : `password ${quoteLiteral(role.verifier)}`,
    role.validUntil === null ? '' : `valid until ${quoteLiteral(role.validUntil)}`,
  ];
  return parts.filter(Boolean).join(' ');
}
