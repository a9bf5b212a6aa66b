import type { Connection } from '../../postgres/connection.ts';
import { edgeNames, slotName } from '../mesh/edge.ts';
import { readSlots } from '../mesh/slots.ts';
import { originName, readSubscriptions, type Subscription } from '../mesh/subscription.ts';
import type { Origins, PeerProgress, Progress } from './gap-slot.ts';
import { NO_LSN, parseLsn } from './lsn.ts';

/** A member's replicated database. */
export interface MemberDatabase {
  readonly node: string;
  readonly database: string;
}

/** The subscriptions of a member's database, by the node that they are from; of nodes without one nothing. */
export async function subscriptionsFrom(
  connection: Connection,
  { node, database }: MemberDatabase,
  others: readonly string[],
): Promise<ReadonlyMap<string, Subscription>> {
  const all = await readSubscriptions(connection);
  return new Map(
    others.flatMap((from) => {
      const found = all.get(edgeNames({ from, to: node, database }).subscription);
      return found && from !== node ? [[from, found] as const] : [];
    }),
  );
}

/** How far the changes of each of `others` are applied here; flushed, so that a crash does not take it back. */
export async function readOrigins(
  connection: Connection,
  member: MemberDatabase,
  others: readonly string[],
): Promise<Origins> {
  const found = await subscriptionsFrom(connection, member, others);
  return new Map(
    [...found].map(([from, { oid, progress }]) => [
      from,
      { origin: originName(oid), lsn: progress === null ? NO_LSN : parseLsn(progress) },
    ]),
  );
}

/** The same, for a look from outside, where origins have other names. */
export async function readProgress(
  connection: Connection,
  member: MemberDatabase,
  others: readonly string[],
): Promise<Progress> {
  const origins = await readOrigins(connection, member, others);
  return new Map([...origins].map(([node, { lsn }]) => [node, lsn]));
}

/** What `member` has confirmed of the server's own changes that `connection` is to; undefined without a slot. */
export async function confirmedBy(
  connection: Connection,
  member: MemberDatabase,
): Promise<PeerProgress['confirmed']> {
  const slot = (await readSlots(connection)).get(slotName(member.node, member.database));
  return slot?.confirmedLsn == null || slot.lost ? undefined : parseLsn(slot.confirmedLsn);
}
