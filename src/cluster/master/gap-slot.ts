import { createHash } from 'node:crypto';
import type { Connection } from '../../postgres/connection.ts';
import { GROUP_SCHEMA } from '../mesh/edge.ts';
import { dropSlot } from '../mesh/slots.ts';
import { formatLsn, parseLsn, type Lsn } from './lsn.ts';

/** The server's own changes have no origin. */
export const OWN_CHANGES = 'own';

/**
 * Each member keeps, in every replicated database, a slot that nobody streams: what it holds is what this member
 * has of everybody's changes, so that another who lacks some of a dead master's can be given them. It is moved on
 * as soon as all members have what is before.
 *
 * Beside it stand *floors*: up to where in each node's WAL the slot may lack that node's changes. They are raised
 * before the slot is moved, so what they promise is there at any time; a slot without its floors is made anew. They go
 * by replication origin: a node that has left, and another that comes under its name, have nothing to do with each
 * other, and nor have the positions in their WAL.
 */
export type GapFloors = ReadonlyMap<string, Lsn>;

/** How far this server has applied each other node's changes, durably; by node. */
export type Progress = ReadonlyMap<string, Lsn>;

/** The same, with the name of the origin that stands for the node on this server, for as long as its edge lives. */
export type Origins = ReadonlyMap<string, { readonly origin: string; readonly lsn: Lsn }>;

/** What a slot can be moved to once every member has `progress`. */
export interface GapMark {
  readonly lsn: Lsn;
  readonly origins: Origins;
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
const FLOORS = `${GROUP_SCHEMA}.gap_origin`;

export function gapSlotName(database: string): string {
  const hash = createHash('sha256').update(database).digest('hex').slice(0, 12);
  return `varve_gap_of_${hash}`;
}

/** Whether everything before `mark` on this member is on `peer`, so that it need not be kept for it. */
export function isPast(mark: GapMark, peer: PeerProgress): boolean {
  if (peer.confirmed === undefined || peer.confirmed < mark.lsn) return false;
  return [...mark.origins].every(
    ([node, { lsn }]) => node === peer.node || (peer.progress.get(node) ?? 0n) >= lsn,
  );
}

/**
 * Sees to the slot and its floors, made anew when PostgreSQL gave the slot up or an origin is gone: changes whose
 * origin was dropped look like the member's own.
 * @returns whether it was made anew
 */
export async function ensureGapSlot(
  connection: Connection,
  database: string,
  readOrigins: () => Promise<Origins>,
): Promise<boolean> {
  const name = gapSlotName(database);
  await makeTable(connection);
  const slot = await connection.maybeOne<{ lost: boolean }>(
    `select coalesce(wal_status = 'lost', false) as lost
       from pg_catalog.pg_replication_slots where slot_name = $1`,
    [name],
  );
  const floors = await readFloors(connection);
  const present = floorsOf(await readOrigins());
  const gone = [...floors.keys()].some((origin) => origin !== OWN_CHANGES && !present.has(origin));
  if (slot && !slot.lost && floors.has(OWN_CHANGES) && !gone) {
    // A node that is new here: all that it ever sends comes behind what it starts with.
    await writeFloors(connection, new Map([...present].filter(([origin]) => !floors.has(origin))));
    return false;
  }
  await connection.query(`delete from ${FLOORS}`);
  if (slot) await dropSlot(connection, name, SLOT_TIMEOUT_MS);
  const made = await connection.one<{ lsn: string }>(
    `select lsn::text as lsn from pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')`,
    [name],
  );
  // What was applied while the slot was made may be missing in it: the progress counts that is read now.
  const since = floorsOf(await readOrigins());
  await writeFloors(connection, new Map([...since, [OWN_CHANGES, parseLsn(made.lsn)]]));
  return true;
}

/** Where this member stands. What is before `lsn` here are changes up to what `origins` says, and its own. */
export async function markGap(connection: Connection, readOrigins: () => Promise<Origins>): Promise<GapMark> {
  const { lsn } = await connection.one<{ lsn: string }>(
    `select pg_catalog.pg_current_wal_flush_lsn()::text as lsn`,
  );
  // After the position: rather too much than too little.
  return { lsn: parseLsn(lsn), origins: await readOrigins() };
}

/** Gives up what is before `mark`. @throws QUERY_FAILED with 55006 while another session reads the slot */
export async function advanceGapSlot(connection: Connection, database: string, mark: GapMark): Promise<void> {
  await writeFloors(connection, new Map([...floorsOf(mark.origins), [OWN_CHANGES, mark.lsn]]));
  await connection.query(
    `select pg_catalog.pg_replication_slot_advance(slot_name, $2::pg_lsn)
       from pg_catalog.pg_replication_slots
      where slot_name = $1 and confirmed_flush_lsn < $2::pg_lsn`,
    [gapSlotName(database), formatLsn(mark.lsn)],
  );
}

function floorsOf(origins: Origins): ReadonlyMap<string, Lsn> {
  return new Map([...origins.values()].map(({ origin, lsn }) => [origin, lsn]));
}

/**
 * Up to where this server's slot may lack changes, by origin (`OWN_CHANGES` for its own); undefined when it has no slot that is any good.
 */
export async function readGapFloors(
  connection: Connection,
  database: string,
): Promise<GapFloors | undefined> {
  const slot = await connection.maybeOne(
    `select 1 from pg_catalog.pg_replication_slots
      where slot_name = $1 and coalesce(wal_status <> 'lost', true)
        and pg_catalog.to_regclass('${FLOORS}') is not null`,
    [gapSlotName(database)],
  );
  return slot ? readFloors(connection) : undefined;
}

async function readFloors(connection: Connection): Promise<GapFloors> {
  const { rows } = await connection.query<{ origin: string; lsn: string }>(
    `select origin, lsn::text as lsn from ${FLOORS}`,
  );
  return new Map(rows.map(({ origin, lsn }) => [origin, parseLsn(lsn)]));
}

async function writeFloors(connection: Connection, floors: ReadonlyMap<string, Lsn>): Promise<void> {
  await connection.query(
    `insert into ${FLOORS} as f (origin, lsn)
     select origin, lsn::pg_lsn
       from rows from (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) as n (origin, lsn)
     on conflict (origin) do update set lsn = greatest(f.lsn, excluded.lsn)
       where f.lsn < excluded.lsn`,
    [[...floors.keys()], [...floors.values()].map(formatLsn)],
  );
}

/** Of this member alone, and no definition for others. */
async function makeTable(connection: Connection): Promise<void> {
  const there = await connection.maybeOne(`select 1 where pg_catalog.to_regclass('${FLOORS}') is not null`);
  if (there) return;
  await connection.transaction(async () => {
    await connection.query(`set local varve_group.ddl = 'off'; set local client_min_messages = warning`);
    await connection.query(
      `create table if not exists ${FLOORS} (origin text primary key, lsn pg_lsn not null)`,
    );
    // Of a former version, by node: without floors the slot is made anew.
    await connection.query(`drop table if exists ${GROUP_SCHEMA}.gap_floor`);
  });
}
