import { VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteIdent, quoteQualified } from '../postgres/sql.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import { describeDatabase } from './describe-database.ts';
import { describeTarget } from './target.ts';

/**
 * What is done to shards' tables in a session on their data node. Making them is up to functions of the extension
 * there; dropping them is plain SQL, because what was made has to go even when the extension has gone before.
 */

/** Tables of one transaction: a server has locks for a few thousand objects by default. */
const TABLES_A_TRANSACTION = 16;

/** What the comment of a schema of shards says; see `varve._shard_schema`. */
interface SchemaFacts {
  readonly varve: 'shards';
  readonly operation: string;
  readonly hypertable: string;
}

export interface ShardTable {
  readonly schema: string;
  readonly table: string;
}

/** `spec` is the argument of `varve.create_shards` without its tables. */
export async function createShards(
  session: Connection,
  spec: object,
  tables: readonly string[],
): Promise<void> {
  for (let i = 0; i < tables.length; i += TABLES_A_TRANSACTION) {
    const part = tables.slice(i, i + TABLES_A_TRANSACTION);
    await session.query('select varve.create_shards($1)', [JSON.stringify({ ...spec, tables: part })]);
  }
}

/** Resolves with the roles among the grantees that the server does not have. */
export async function grantShards(
  session: Connection,
  schema: string,
  how: { readonly grants: readonly object[]; readonly revoke: boolean },
): Promise<string[]> {
  const { missing } = await session.one<{ missing: string[] }>(
    'select varve.grant_shards($1, $2, $3)::text[] as missing',
    [schema, JSON.stringify(how.grants), how.revoke],
  );
  return missing;
}

/**
 * Takes back what an operation made here: its schema with everything in it. What a session of that operation would
 * still make fails from now on.
 */
export async function undoShards(session: Connection, schema: string, operation: string): Promise<void> {
  await fence(session, operation);
  const facts = await schemaFacts(session, schema);
  if (facts?.operation !== operation) return;
  const { rows } = await session.query<{ name: string }>(
    `select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relkind in ('r', 'p') and not c.relispartition`,
    [schema],
  );
  for (const { name } of rows) await session.query(`drop table if exists ${quoteQualified(schema, name)}`);
  await session.query(`drop schema if exists ${quoteIdent(schema)} cascade`);
}

/** From now on nothing of this operation can be made here. */
export async function fence(session: Connection, operation: string): Promise<void> {
  const { present } = await session.one<{ present: boolean }>(
    `select to_regprocedure('varve._undo_operation(uuid)') is not null as present`,
  );
  if (present) await session.query('select varve._undo_operation($1)', [operation]);
}

export interface DroppedShard extends ShardTable {
  /** Of its hypertable. */
  readonly hypertable: string;
  /** Its rows were moved: it is dropped only when it is empty indeed. */
  readonly onlyEmpty: boolean;
}

/**
 * Drops tables of one schema, and the schema with the last one. Each that is gone is told to `onGone`, so that what
 * was done before a failure counts.
 * @throws DATA_NODE_FOREIGN when the database belongs to another access database by now
 * @throws SHARD_IN_PLACE with `onlyEmpty`, when it has rows after all
 */
export async function dropShards<S extends DroppedShard>(
  session: Connection,
  shards: readonly S[],
  distId: string,
  onGone: (shard: S) => void,
): Promise<void> {
  const schema = shards[0]?.schema ?? '';
  const facts = await schemaFacts(session, schema);
  if (facts) await refuseForeign(session, distId);
  for (const [i, shard] of shards.entries()) {
    if (facts?.hypertable === shard.hypertable) await dropShard(session, shard);
    // The last one stays known until the schema is gone: nothing else would lead back to that.
    if (facts && i === shards.length - 1) await dropSchemaWhenEmpty(session, schema);
    onGone(shard);
  }
}

async function dropShard(session: Connection, shard: DroppedShard): Promise<void> {
  const name = quoteQualified(shard.schema, shard.table);
  const { present } = await session.one<{ present: boolean }>(
    'select to_regclass($1) is not null as present',
    [name],
  );
  if (present) await session.transaction(() => dropTable(session, name, shard.onlyEmpty));
}

async function dropSchemaWhenEmpty(session: Connection, schema: string): Promise<void> {
  // Asked first, because a DROP that fails takes the locks of everything that is in the schema.
  const { empty } = await session.one<{ empty: boolean }>(
    `select not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname = $1) as empty`,
    [schema],
  );
  if (!empty) return;
  try {
    await session.query(`drop schema if exists ${quoteIdent(schema)}`);
  } catch (error) {
    if (sqlStateOf(error) !== SqlState.dependentObjectsStillExist) throw error;
  }
}

/** The twins of the parent's indexes with these numbers. */
export async function dropShardIndexes(
  session: Connection,
  { schema, table }: ShardTable,
  numbers: readonly number[],
): Promise<void> {
  for (const number of numbers)
    await session.query(`drop index if exists ${quoteQualified(schema, `${table}_i${number}`)}`);
}

async function dropTable(session: Connection, name: string, onlyEmpty: boolean): Promise<void> {
  await session.query(`lock table ${name} in access exclusive mode`);
  if (onlyEmpty) {
    const { filled } = await session.one<{ filled: boolean }>(
      `select exists (select from ${name}) as filled`,
    );
    if (filled) {
      throw new VarveError(
        'SHARD_IN_PLACE',
        `${name} in ${describeTarget(session.endpoint)} has rows, although it is no longer a shard`,
        { hint: 'Somebody wrote to it directly. Save the rows, empty it, and it is dropped.' },
      );
    }
  }
  await session.query(`drop table ${name}`);
}

async function schemaFacts(session: Connection, schema: string): Promise<SchemaFacts | undefined> {
  const { comment } = await session.one<{ comment: string | null }>(
    `select obj_description(to_regnamespace($1), 'pg_namespace') as comment`,
    [quoteIdent(schema)],
  );
  if (!comment?.startsWith('{"varve": "shards"')) return undefined;
  return JSON.parse(comment) as SchemaFacts;
}

/** A restored copy of an access database must not drop what belongs to the original. */
async function refuseForeign(session: Connection, distId: string): Promise<void> {
  const there = await describeDatabase(session);
  if (!there || there.distId === null || there.distId === distId) return;
  throw new VarveError(
    'DATA_NODE_FOREIGN',
    `${describeTarget(session.endpoint)} belongs to another distributed database`,
    { detail: `It belongs to ${there.distOwner ?? there.distId}.`, hint: 'Its shards are left as they are.' },
  );
}
