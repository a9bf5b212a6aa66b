import type { Connection } from '../../postgres/connection.ts';
import { quoteQualified } from '../../postgres/sql.ts';
import {
  changeSql,
  insertSql,
  rowsPerInsert,
  truncateSql,
  type ChangeContext,
  type Statement,
  type TargetColumn,
  type TargetTable,
} from './change-sql.ts';
import type { GapEvent, RowChange } from './gap-filter.ts';
import { formatLsn } from './lsn.ts';
import type { RelationMessage } from './pgoutput.ts';
import { VarveError } from '../../core/errors.ts';

type Insert = Extract<RowChange, { readonly kind: 'insert' }>;

/** What was applied of a gap. */
export interface Applied {
  readonly transactions: number;
  readonly rows: number;
  /** Updates and deletions of rows that were not there, which an apply worker would pass over, too. */
  readonly missing: number;
}

/**
 * Applies the transactions of a gap as an apply worker would: as replica, each in a transaction of its own that
 * moves the replication origin to where it ended. What is done before a failure is whole, and the origin says
 * so: the rest can be filled later, from anybody.
 */
export class GapApplier {
  readonly #connection: Connection;
  readonly #relations = new Map<number, RelationMessage>();
  readonly #targets = new Map<number, TargetTable>();
  #inserts: Insert[] = [];
  #transactions = 0;
  #rows = 0;
  #missing = 0;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * Takes the origin for this session; `connection` is good for nothing else until it is closed.
   * @throws QUERY_FAILED with 55006 while an apply worker still has the origin
   */
  static async begin(connection: Connection, originName: string): Promise<GapApplier> {
    await connection.query(`set session_replication_role = replica`);
    await connection.query(`select pg_catalog.pg_replication_origin_session_setup($1)`, [originName]);
    return new GapApplier(connection);
  }

  get applied(): Applied {
    return { transactions: this.#transactions, rows: this.#rows, missing: this.#missing };
  }

  async apply(event: GapEvent): Promise<void> {
    switch (event.kind) {
      case 'begin':
        await this.#connection.query('begin');
        return;
      case 'relation':
        // What is gathered belongs to the table as it was described before.
        await this.#flush();
        this.#relations.set(event.relation.oid, event.relation);
        this.#targets.delete(event.relation.oid);
        return;
      case 'change':
        await this.#change(event.change);
        return;
      case 'commit':
        await this.#flush();
        await this.#connection.query(
          `select pg_catalog.pg_replication_origin_xact_setup($1::pg_lsn,
                    '2000-01-01 00:00:00+00'::timestamptz + $2::text::interval)`,
          [formatLsn(event.lsn), `${event.timeUs} microseconds`],
        );
        await this.#connection.query('commit');
        this.#transactions += 1;
        return;
    }
  }

  async #change(change: RowChange): Promise<void> {
    if (change.kind === 'insert') {
      const [first] = this.#inserts;
      if (first && first.relationOid !== change.relationOid) await this.#flush();
      this.#inserts.push(change);
      const context = await this.#context(change.relationOid);
      if (this.#inserts.length >= rowsPerInsert(context)) await this.#flush();
      return;
    }
    await this.#flush();
    if (change.kind === 'truncate') {
      await this.#run(
        truncateSql(
          change.relationOids.map((oid) => this.#relation(oid)),
          change,
        ),
      );
      return;
    }
    const context = await this.#context(change.relationOid);
    if ((await this.#run(changeSql(context, change))) === 0) this.#missing += 1;
    else this.#rows += 1;
  }

  async #flush(): Promise<void> {
    const inserts = this.#inserts;
    const [first] = inserts;
    if (!first) return;
    this.#inserts = [];
    this.#rows += await this.#run(insertSql(await this.#context(first.relationOid), inserts));
    // Triggers of replicas may have run a definition that came as a row.
    this.#targets.clear();
  }

  async #run({ text, params }: Statement): Promise<number> {
    return (await this.#connection.query(text, params, { timeoutMs: 0 })).rowCount;
  }

  #relation(oid: number): RelationMessage {
    const relation = this.#relations.get(oid);
    if (relation) return relation;
    throw new VarveError('GAP_UNREADABLE', `a change of table ${oid}, which was not described before`);
  }

  async #context(oid: number): Promise<ChangeContext> {
    const relation = this.#relation(oid);
    const known = this.#targets.get(oid);
    if (known) return { relation, target: known };
    const target = await readTarget(this.#connection, relation);
    this.#targets.set(oid, target);
    return { relation, target };
  }
}

async function readTarget(connection: Connection, relation: RelationMessage): Promise<TargetTable> {
  const { rows } = await connection.query<TargetColumn & { name: string }>(
    `select a.attname as name, pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
            a.attgenerated <> '' as generated, a.attidentity = 'a' as "alwaysIdentity",
            b.typtype in ('e', 'r', 'm') or exists (
              select from pg_catalog.pg_opclass c join pg_catalog.pg_am m on m.oid = c.opcmethod
               where c.opcdefault and m.amname in ('btree', 'hash')
                 and (c.opcintype = b.oid
                      or b.typname = 'varchar' and c.opcintype = 'pg_catalog.text'::regtype)) as comparable
       from pg_catalog.pg_attribute a
       join pg_catalog.pg_type t on t.oid = a.atttypid
       join pg_catalog.pg_type b on b.oid = case when t.typtype = 'd' then t.typbasetype
                                                 when t.typcategory = 'A' and t.typelem <> 0 then t.typelem
                                                 else t.oid end
      where a.attrelid = pg_catalog.to_regclass($1) and a.attnum > 0 and not a.attisdropped`,
    [quoteQualified(relation.schema || 'pg_catalog', relation.name)],
  );
  if (rows.length === 0) {
    throw new VarveError('GAP_UNREADABLE', `the table ${relation.schema}.${relation.name} is not there`, {
      hint: 'A change of definitions did not reach this member.',
    });
  }
  return { columns: new Map(rows.map(({ name, ...column }) => [name, column])) };
}
