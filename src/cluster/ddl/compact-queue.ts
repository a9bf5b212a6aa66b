import type { Connection } from '../../postgres/connection.ts';
import { compactable, type QueuedStatement } from './compaction.ts';

/** What came of it. */
export interface Compaction {
  readonly statements: number;
  readonly removed: number;
}

/** How far a member's database is in the queue. */
export async function lastCarriedOut(connection: Connection): Promise<bigint> {
  const { last } = await connection.one<{ last: string }>(
    `select greatest(pg_catalog.max(q.id), (select replayed from varve_group.local), 0)::text as last
       from varve_group.ddl_queue q`,
  );
  return BigInt(last);
}

/**
 * On the write master: removes from the queue what leaves no trace in the structure, up to `upTo`, which every member
 * has carried out. Undefined when DDL is held at the moment, for a join or by a transaction: nothing is done then.
 */
export async function compactQueue(connection: Connection, upTo: bigint): Promise<Compaction | undefined> {
  const { rows } = await connection.query<QueuedStatement>(
    `select q.id::text as id, q.role::text as role, q.tag, q.statement,
       array(select o ->> 'identity' from pg_catalog.jsonb_array_elements(q.owners) o where o ->> 'type' <> 'schema')
         as touched, q.dropped
       from varve_group.ddl_queue q where q.id <= $1 order by q.id`,
    [upTo.toString()],
  );
  const ids = compactable(rows);
  if (ids.length === 0) return { statements: rows.length, removed: 0 };
  const { compacted } = await connection.one<{ compacted: boolean }>(
    'select varve_group.compact_ddl($1::bigint[]) as compacted',
    [ids],
  );
  return compacted ? { statements: rows.length, removed: ids.length } : undefined;
}
