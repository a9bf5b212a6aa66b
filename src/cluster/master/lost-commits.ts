import { SqlState, sqlStateOf } from '../../postgres/sqlstate.ts';
import { GROUP_SCHEMA, PUBLICATION } from '../mesh/edge.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { GapFilter } from './gap-filter.ts';
import { gapSlotName, OWN_CHANGES, readGapFloors } from './gap-slot.ts';
import type { Lsn } from './lsn.ts';
import { decodePgoutput } from './pgoutput.ts';

/** What a former master committed behind the point at which its changes were ended. */
export type LostCommits =
  | 'none'
  /** Its slot does not reach back that far. */
  | 'unknown'
  | {
      readonly transactions: number;
      /** ISO time of the first. */
      readonly firstAt: string;
      readonly tables: readonly string[];
    };

const MAX_LSN = 0xffffffffffffffffn;
const EPOCH_MS = Date.UTC(2000, 0, 1);

/**
 * Looks through the server's own changes of a database behind `after`. Barriers do not count: every member
 * writes them, and they say nothing.
 */
export async function lostCommits(
  servers: GroupServers,
  server: ServerAddress,
  { database, after }: { readonly database: string; readonly after: Lsn },
): Promise<LostCommits> {
  return servers.withConnection(server, database, async (connection) => {
    // What is before a floor is on every member.
    const floor = (await readGapFloors(connection, database))?.get(OWN_CHANGES);
    if (floor === undefined) return 'unknown';
    const { rows } = await connection
      .query<{ data: Buffer }>(
        `select data from pg_catalog.pg_logical_slot_peek_binary_changes($1, null, null,
           'proto_version', '1', 'publication_names', $2, 'origin', 'any')`,
        [gapSlotName(database), PUBLICATION],
      )
      .catch((error: unknown) => {
        if (sqlStateOf(error) === SqlState.objectNotInPrerequisiteState) return { rows: undefined };
        throw error;
      });
    if (!rows) return 'unknown';
    return summary(
      rows.map(({ data }) => data),
      after,
    );
  });
}

function summary(messages: readonly Buffer[], after: Lsn): LostCommits {
  const filter = new GapFilter({ origin: undefined, after, upTo: MAX_LSN });
  const names = new Map<number, string>();
  const tables = new Set<string>();
  let touched = new Set<string>();
  let transactions = 0;
  let firstAt = '';
  for (const data of messages) {
    for (const event of filter.next(decodePgoutput(data))) {
      if (event.kind === 'relation') {
        names.set(event.relation.oid, `${event.relation.schema}.${event.relation.name}`);
      } else if (event.kind === 'begin') touched = new Set();
      else if (event.kind === 'change') {
        const { change } = event;
        const oids = change.kind === 'truncate' ? change.relationOids : [change.relationOid];
        for (const oid of oids) touched.add(names.get(oid) ?? String(oid));
      } else {
        touched.delete(`${GROUP_SCHEMA}.barrier`);
        if (touched.size === 0) continue;
        transactions += 1;
        if (firstAt === '') firstAt = new Date(EPOCH_MS + Number(event.timeUs / 1000n)).toISOString();
        for (const table of touched) tables.add(table);
      }
    }
  }
  return transactions === 0 ? 'none' : { transactions, firstAt, tables: [...tables].toSorted() };
}
