import { VarveError } from '../../core/errors.ts';
import { quoteIdent, quoteQualified } from '../../postgres/sql.ts';
import type { RowChange } from './gap-filter.ts';
import { UNCHANGED, type Cell, type RelationMessage, type Tuple } from './pgoutput.ts';

/** The table into which a relation's changes go, as its server describes it. */
export interface TargetTable {
  readonly columns: ReadonlyMap<string, TargetColumn>;
}

export interface TargetColumn {
  /** As `format_type` writes it, qualified. */
  readonly type: string;
  /** Values cannot be given to it. */
  readonly generated: boolean;
  /** `generated always as identity`: an update cannot set it. */
  readonly alwaysIdentity: boolean;
  /** Types without `=` are compared as text. */
  readonly comparable: boolean;
}

export interface Statement {
  readonly text: string;
  readonly params: readonly (string | null)[];
}

export interface ChangeContext {
  readonly relation: RelationMessage;
  readonly target: TargetTable;
}

type Insert = Extract<RowChange, { readonly kind: 'insert' }>;
type RowUpdate = Extract<RowChange, { readonly kind: 'update' }>;

/** Parameters that one statement can have. */
const MAX_PARAMS = 60_000;
const MAX_ROWS = 500;

/** How many rows one insertion into this table may have. */
export function rowsPerInsert({ relation }: ChangeContext): number {
  return Math.max(1, Math.min(MAX_ROWS, Math.floor(MAX_PARAMS / Math.max(1, relation.columns.length))));
}

/** One statement for rows of one table, in their order. */
export function insertSql({ relation, target }: ChangeContext, inserts: readonly Insert[]): Statement {
  const at = usable(relation, target);
  const params: (string | null)[] = [];
  const name = quoteQualified(relation.schema, relation.name);
  const rows = inserts.map(({ row }) => {
    const cells = at.map(({ index, column }) => {
      params.push(sent(row, index));
      return `$${params.length}::${column.type}`;
    });
    return `(${cells.join(', ')})`;
  });
  const names = at.map((column) => quoteIdent(column.name)).join(', ');
  const text =
    at.length === 0
      ? `insert into ${name} default values`
      : `insert into ${name} (${names}) overriding system value values ${rows.join(', ')}`;
  return { text, params };
}

/**
 * The statement for any other change of one row. Each changes one row or none, also where rows are told by all
 * of their columns and several are alike.
 */
export function changeSql(
  context: ChangeContext,
  change: Exclude<RowChange, { readonly kind: 'insert' | 'truncate' }>,
): Statement {
  const params: (string | null)[] = [];
  const name = quoteQualified(context.relation.schema, context.relation.name);
  if (change.kind === 'delete') {
    const where = identity(context, change.old, params);
    return { text: `delete from ${name} where ${oneOf(name, where)}`, params };
  }
  const set = assignments(context, change, params);
  const where = identity(context, change.old ?? { kind: 'key', row: change.row }, params);
  // A row that is left as it was may still have triggers that are to see it.
  const [first] = usable(context.relation, context.target);
  const all = set.length > 0 || !first ? set : [`${quoteIdent(first.name)} = ${quoteIdent(first.name)}`];
  return { text: `update ${name} set ${all.join(', ')} where ${oneOf(name, where)}`, params };
}

/** All tables of a truncation are listed in it, so none has to be found by cascade. */
export function truncateSql(
  relations: readonly Pick<RelationMessage, 'schema' | 'name'>[],
  options: { readonly restartIdentity: boolean },
): Statement {
  const names = relations.map(({ schema, name }) => quoteQualified(schema, name)).join(', ');
  return {
    text: `truncate ${names} ${options.restartIdentity ? 'restart' : 'continue'} identity`,
    params: [],
  };
}

interface UsableColumn {
  readonly index: number;
  readonly name: string;
  readonly key: boolean;
  readonly column: TargetColumn;
}

function usable(relation: RelationMessage, target: TargetTable): UsableColumn[] {
  return relation.columns.flatMap(({ name, key }, index) => {
    const column = target.columns.get(name);
    if (!column) {
      throw new VarveError(
        'GAP_UNREADABLE',
        `the table ${relation.schema}.${relation.name} has no column ${JSON.stringify(name)} here`,
        { hint: 'A change of its definition did not reach this member.' },
      );
    }
    return column.generated ? [] : [{ index, name, key, column }];
  });
}

function assignments(context: ChangeContext, change: RowUpdate, params: (string | null)[]): string[] {
  return usable(context.relation, context.target)
    .filter(({ index, column }) => change.row[index] !== UNCHANGED && !column.alwaysIdentity)
    .map(({ index, name, column }) => {
      params.push(sent(change.row, index));
      return `${quoteIdent(name)} = $${params.length}::${column.type}`;
    });
}

function identity(
  { relation, target }: ChangeContext,
  old: { readonly kind: 'key' | 'full'; readonly row: Tuple },
  params: (string | null)[],
): string {
  const columns = usable(relation, target).filter(({ key }) => old.kind === 'full' || key);
  if (columns.length === 0) {
    throw new VarveError(
      'GAP_UNREADABLE',
      `a change of ${relation.schema}.${relation.name} does not say of which row`,
      { hint: 'The table has no primary key and no replica identity.' },
    );
  }
  return columns
    .map(({ index, name, column }) => {
      params.push(sent(old.row, index));
      const [left, right] = [quoteIdent(name), `$${params.length}::${column.type}`];
      if (!column.comparable) return `${left}::text is not distinct from ${right}::text`;
      // An index serves only `=`.
      return old.row[index] === null ? `${left} is not distinct from ${right}` : `${left} = ${right}`;
    })
    .join(' and ');
}

function oneOf(name: string, where: string): string {
  return `(tableoid, ctid) = (select tableoid, ctid from ${name} where ${where} limit 1)`;
}

function sent(row: Tuple, index: number): string | null {
  const cell: Cell | undefined = row[index];
  if (typeof cell === 'string' || cell === null) return cell;
  throw new VarveError('GAP_UNREADABLE', `a change lacks the value of column ${index + 1} that it needs`);
}
