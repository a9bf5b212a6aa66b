import type { Target } from './target.ts';

/**
 * A call whose work outside of the caller's database has to follow the caller's transaction. It is journalled
 * before its first write and settled when the transaction has ended:
 *
 *   begun → confirmed   the transaction was committed with the call in it
 *         → undone      it was not: what the call had made is taken back
 */
export interface Operation {
  readonly id: string;
  readonly kind: string;
  /** Transaction of the caller, as `pg_current_xact_id()` gives it. */
  readonly xid: string;
  /** The access database. */
  readonly database: string;
  readonly caller: string;
  /** What the call is about, for people: the name of a data node or table. */
  readonly subject: string;
  /** The databases on data nodes that it touches. */
  readonly targets: readonly Target[];
  readonly begunAtMs: number;
  /** What its kind needs to confirm or undo it; no secrets. */
  readonly facts: Readonly<Record<string, unknown>>;
}

export type Outcome = 'confirmed' | 'undone';

export type OperationRecord =
  | { readonly type: 'begun'; readonly operation: Operation }
  | { readonly type: 'settled'; readonly id: string; readonly outcome: Outcome; readonly atMs: number };

export type Verdict = 'wait' | 'confirm' | 'undo' | 'unknown';

/**
 * What to do about an operation, from the state of its transaction (`pg_xact_status`, null when that is too
 * long ago) and whether its witness row is there. The row is looked up after the status, or a commit in
 * between would be taken for a rollback.
 */
export function verdict(status: string | null, witnessed: boolean): Verdict {
  if (witnessed) return status === 'in progress' ? 'wait' : 'confirm';
  if (status === 'in progress') return 'wait';
  // `committed` without the row: the call was rolled back to a savepoint.
  if (status === 'aborted' || status === 'committed') return 'undo';
  return 'unknown';
}

/** The operations of a journal that were begun and not settled, oldest first. */
export function unsettled(records: readonly OperationRecord[]): Operation[] {
  const open = new Map<string, Operation>();
  for (const record of records) {
    if (record.type === 'begun') open.set(record.operation.id, record.operation);
    else open.delete(record.id);
  }
  return [...open.values()];
}
