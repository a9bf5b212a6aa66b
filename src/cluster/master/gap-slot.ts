import { createHash } from 'node:crypto';
import type { Connection } from '../../postgres/connection.ts';
import { GROUP_SCHEMA } from '../mesh/edge.ts';
import { dropSlot } from '../mesh/slots.ts';
import { formatLsn, parseLsn, type Lsn } from './lsn.ts';

/**
 * Each member keeps, in every replicated database, a slot that nobody streams: what it holds is what this member
 * has of everybody's changes, so that another who lacks some of a dead master's can be given them. It is moved on
 * as soon as all members have what is before.
 *
 * Beside it stand *floors*: up to where in each node's WAL the slot may lack that node's changes. They are raised
 * before the slot is moved, so what they promise is there at any time; a slot without its floors is made anew.
 */
export type GapFloors = ReadonlyMap<string, Lsn>;

/** How far this server has applied each other node's changes, durably; by node. */
export type Progress = ReadonlyMap<string, Lsn>;

/** What a slot can be moved to once every member has `progress`. */
export interface GapMark {
  readonly node: string;
  readonly lsn: Lsn;
  readonly progress: Progress;
}

/** What a peer has, as far as this member's slot is concerned. */
export interface PeerProgress {
  readonly node: string;
  /** Of the changes of each other node. */
  readonly progress: Progress;
  /** What it has confirmed of the asking member's own changes; undefined when there is no slot for it. */
  readonly confirmed: Lsn | undefined;
}

const SLOT_TIMEOUT_MS = 20_000;

export function gapSlotName(database: string): string {
  const hash = createHash('sha256').update(database).digest('hex').slice(0, 12);
  return `varve_gap_of_${hash}`;
}

/** Whether everything before `mark` on this member is on `peer`, so that it need not be kept for it. */
export function isPast(mark: GapMark, peer: PeerProgress): boolean {
  if (peer.confirmed === undefined || peer.confirmed < mark.lsn) return false;
  return [...mark.progress].every(
    ([node, lsn]) => node === peer.node || (peer.progress.get(node) ?? 0n) >= lsn,
  );
}

/**
 * Sees to the slot and its floors, made anew when PostgreSQL gave the slot up or an origin is gone: changes whose
 * origin was dropped look like the member's own.
 * @returns whether it was made anew
 */
export async function ensureGapSlot(
  connection: Connection,
  own: { readonly node: string; readonly database: string },
  readProgress: () => Promise<Progress>,
): Promise<boolean> {
  const name = gapSlotName(own.database);
  await makeTable(connection);
  const slot = await connection.maybeOne<{ lost: boolean }>(
    `select coalesce(wal_status = 'lost', false) as lost
       from pg_catalog.pg_replication_slots where slot_name = $1`,
    [name],
  );
  const floors = await readFloors(connection);
  const progress = await readProgress();
  const gone = [...floors.keys()].some((node) => node !== own.node && !progress.has(node));
  if (slot && !slot.lost && floors.has(own.node) && !gone) {
    // A node that is new here: all that it ever sends comes behind what it starts with.
    await writeFloors(connection, new Map([...progress].filter(([node]) => !floors.has(node))));
    return false;
  }
  await connection.query(`delete from ${GROUP_SCHEMA}.gap_floor`);
  if (slot) await dropSlot(connection, name, SLOT_TIMEOUT_MS);
  const made = await connection.one<{ lsn: string }>(
    `select lsn::text as lsn from pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')`,
    [name],
  );
  // What was applied while the slot was made may be missing in it: the progress counts that is read now.
  await writeFloors(connection, new Map([...(await readProgress()), [own.node, parseLsn(made.lsn)]]));
  return true;
}

/** Where this member stands. What is before `lsn` here are changes up to `progress`, and its own. */
export async function markGap(
  connection: Connection,
  node: string,
  readProgress: () => Promise<Progress>,
): Promise<GapMark> {
  const { lsn } = await connection.one<{ lsn: string }>(
    `select pg_catalog.pg_current_wal_flush_lsn()::text as lsn`,
  );
  // After the position: rather too much than too little.
  return { node, lsn: parseLsn(lsn), progress: await readProgress() };
}

/** Gives up what is before `mark`. @throws QUERY_FAILED with 55006 while another session reads the slot */
export async function advanceGapSlot(connection: Connection, database: string, mark: GapMark): Promise<void> {
  await writeFloors(connection, new Map([...mark.progress, [mark.node, mark.lsn]]));
  await connection.query(
    `select pg_catalog.pg_replication_slot_advance(slot_name, $2::pg_lsn)
       from pg_catalog.pg_replication_slots
      where slot_name = $1 and confirmed_flush_lsn < $2::pg_lsn`,
    [gapSlotName(database), formatLsn(mark.lsn)],
  );
}

/**
 * Up to where this server's slot may lack changes, by node; undefined when it has no slot that is any good.
 */
export async function readGapFloors(
  connection: Connection,
  database: string,
): Promise<GapFloors | undefined> {
  const slot = await connection.maybeOne(
    `select 1 from pg_catalog.pg_replication_slots
      where slot_name = $1 and coalesce(wal_status <> 'lost', true)
        and pg_catalog.to_regclass('${GROUP_SCHEMA}.gap_floor') is not null`,
    [gapSlotName(database)],
  );
  return slot ? readFloors(connection) : undefined;
}

async function readFloors(connection: Connection): Promise<GapFloors> {
  const { rows } = await connection.query<{ node: string; lsn: string }>(
    `select node, lsn::text as lsn from ${GROUP_SCHEMA}.gap_floor`,
  );
  return new Map(rows.map(({ node, lsn }) => [node, parseLsn(lsn)]));
}

async function writeFloors(connection: Connection, floors: ReadonlyMap<string, Lsn>): Promise<void> {
  await connection.query(
    `insert into ${GROUP_SCHEMA}.gap_floor as f (node, lsn)
     select node, lsn::pg_lsn from rows from (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) as n (node, lsn)
     on conflict (node) do update set lsn = greatest(f.lsn, excluded.lsn)
       where f.lsn < excluded.lsn`,
    [[...floors.keys()], [...floors.values()].map(formatLsn)],
  );
}

/** Of this member alone, and no definition for others. */
async function makeTable(connection: Connection): Promise<void> {
  const there = await connection.maybeOne(
    `select 1 where pg_catalog.to_regclass('${GROUP_SCHEMA}.gap_floor') is not null`,
  );
  if (there) return;
  await connection.transaction(async () => {
    await connection.query(`set local varve_group.ddl = 'off'`);
    await connection.query(
      `create table if not exists ${GROUP_SCHEMA}.gap_floor (node text primary key, lsn pg_lsn not null)`,
    );
  });
}
