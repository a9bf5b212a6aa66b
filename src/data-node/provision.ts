import { randomInt } from 'node:crypto';
import { messageOf, VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../postgres/sql.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import { describeDatabase } from './describe-database.ts';
import { installScript, uninstallScript } from './install-extension.ts';
import type { PlannedExtension, ProvisionPlan } from './judgement.ts';
import type { DatabaseDescription } from './request.ts';
import { describeTarget, type Target } from './target.ts';

/**
 * The writes of a bootstrap, and what takes them back. A database that is made here gets an OID that was drawn
 * and journalled beforehand, so that a later look can tell it from one that somebody else made under the same
 * name. Everything inside of a database happens in one transaction together with the mark `dist_id`, and the
 * mark lists it.
 */
const FIRST_OID = 1 << 30;
const LAST_OID = 2 ** 32 - 1;

/** Far above what the server hands out by itself in any foreseeable time. */
export function drawDatabaseOid(): number {
  return randomInt(FIRST_OID, LAST_OID);
}

export function createDatabaseSql(
  access: DatabaseDescription,
  database: string,
  owner: string,
  oid: number,
): string {
  const providers: Record<string, string[]> = {
    c: ['locale_provider libc'],
    i: [
      'locale_provider icu',
      `icu_locale ${quoteLiteral(access.locale ?? '')}`,
      ...(access.icuRules === null ? [] : [`icu_rules ${quoteLiteral(access.icuRules)}`]),
    ],
    b: ['locale_provider builtin', `builtin_locale ${quoteLiteral(access.locale ?? '')}`],
  };
  return [
    `create database ${quoteIdent(database)} template template0 owner ${quoteIdent(owner)}`,
    `encoding ${quoteLiteral(access.encoding)} lc_collate ${quoteLiteral(access.collation)}`,
    `lc_ctype ${quoteLiteral(access.characterType)}`,
    ...(providers[access.provider] ?? []),
    `oid ${oid}`,
  ].join(' ');
}

/**
 * Waits until no other session makes or unmakes this data node, and keeps the others waiting until its own
 * session ends. Two access nodes may want the same database at once; and the server finishes what it was sent
 * by a session whose connection has broken meanwhile: whoever takes that back has to come after it. `outside`
 * is in a maintenance database, `inside` in the database itself, which may be the same one.
 * @throws DATA_NODE_BUSY when the others do not end in time
 */
export async function holdDatabase(
  session: Connection,
  target: Target,
  where: 'outside' | 'inside',
): Promise<void> {
  try {
    await session.query('select pg_advisory_lock(hashtextextended($1, 0))', [
      where === 'outside' ? `varve ${target.database}` : 'varve data node',
    ]);
  } catch (error) {
    if (sqlStateOf(error) !== SqlState.lockNotAvailable) throw error;
    throw new VarveError('DATA_NODE_BUSY', `another session works on ${describeTarget(target)}`, {
      detail: messageOf(error),
      hint: 'Another access node may be adding it, or a server is finishing what a broken call began. Repeat the call.',
      cause: error,
    });
  }
}

export interface Membership {
  readonly distId: string;
  readonly token: string;
  /** Where the access database is, in words. */
  readonly owner: string;
}

/** Schemas, extensions and the mark, in one transaction and one round trip. Returns the database's own uuid. */
export async function becomeDataNode(
  connection: Connection,
  plan: ProvisionPlan,
  membership: Membership,
): Promise<string> {
  const caller = connection.endpoint.user;
  const made = { schemas: plan.schemas, extensions: plan.extensions.map((extension) => extension.name) };
  const mark = [membership.distId, membership.token, membership.owner, JSON.stringify(made), plan.seenToken];
  const statements = [
    ...plan.schemas.map(
      (schema) => `create schema ${quoteIdent(schema)} authorization ${quoteIdent(caller)}`,
    ),
    ...(await Promise.all(plan.extensions.map((extension) => creationSql(extension, caller)))),
    `select varve.set_dist_id(${mark.map((value) => (value === null ? 'null' : quoteLiteral(value))).join(', ')}) as uuid`,
  ];
  // Several statements in one message are one transaction.
  const { uuid } = await connection.one<{ uuid: string }>(statements.join(';\n'));
  return uuid;
}

async function creationSql(extension: PlannedExtension, caller: string): Promise<string> {
  if (extension.method === 'script') return installScript(extension.schema, caller, extension.version);
  return `create extension ${extension.name} schema ${quoteIdent(extension.schema)} version ${quoteLiteral(extension.version)} cascade`;
}

/**
 * Takes back what `becomeDataNode` did under `token` in a database that was there before. Nothing happens when
 * the mark is not that call's.
 */
export async function leaveDataNode(connection: Connection, token: string): Promise<void> {
  await connection.transaction(async () => {
    const seen = await describeDatabase(connection);
    if (seen?.distToken !== token) return;
    const { schemas = [], extensions = [] } = seen.distMade ?? {};
    if (!extensions.includes('varve'))
      await connection.query('select varve.clear_dist_id($1, true)', [token]);
    for (const extension of [...extensions].reverse()) {
      if (extension === 'varve' && seen.varve.method === 'script') await uninstallScript(connection);
      else await connection.query(`drop extension ${quoteIdent(extension)}`);
    }
    // A schema `varve` may be gone with the objects of the script.
    for (const schema of schemas) await connection.query(`drop schema if exists ${quoteIdent(schema)}`);
  });
}

/** The name that the database with this OID has by now. */
export async function databaseByOid(connection: Connection, oid: number): Promise<string | undefined> {
  const row = await connection.maybeOne<{ datname: string }>(
    'select datname from pg_database where oid = $1',
    [oid],
  );
  return row?.datname;
}

/** Drops the database with this OID, whatever its name is by now; says whether there was one. */
export async function dropDatabaseByOid(connection: Connection, oid: number): Promise<boolean> {
  const name = await databaseByOid(connection, oid);
  if (name === undefined) return false;
  try {
    await connection.query(`drop database ${quoteIdent(name)} with (force)`);
  } catch (error) {
    // Gone between the look and the drop: another rerun of the same taking back was faster.
    if (sqlStateOf(error) !== SqlState.invalidCatalogName) throw error;
  }
  return true;
}
