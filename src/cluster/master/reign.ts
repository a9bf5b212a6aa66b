import type { FenceRecord, MasterRecord, ReignRecord } from '../group-keys.ts';
import { maxLsn, NO_LSN, parseLsn, type Lsn } from './lsn.ts';

/** By database. */
export type Positions = ReadonlyMap<string, Lsn>;

export function positionsOf(record: Readonly<Record<string, string>> | undefined): Positions {
  return new Map(Object.entries(record ?? {}).map(([database, lsn]) => [database, parseLsn(lsn)]));
}

/** Changes of a former master that have to be here before those of the next may come. */
export interface Debt {
  /** The reign that ended them. */
  readonly reign: string;
  /** Whose changes. */
  readonly origin: string;
  readonly upTo: Positions;
}

/** That of the record: the term with which it began. */
export function reignOf(record: Pick<MasterRecord, 'reign' | 'term'>): string {
  return record.reign ?? record.term;
}

/** Terms are numbers that outgrow a double. */
export function isLater(a: string, b: string): boolean {
  return BigInt(a) > BigInt(b);
}

/**
 * What a member that followed `followed` last (undefined: none of them) owes before it may follow the master of
 * `record`, oldest first: one entry for each reign that ended meanwhile.
 */
export function debts(
  record: MasterRecord,
  history: ReadonlyMap<string, ReignRecord>,
  followed: string | undefined,
): Debt[] {
  const reign = reignOf(record);
  const later = [...history]
    .filter(([at]) => (followed === undefined || isLater(at, followed)) && isLater(reign, at))
    .toSorted(([a], [b]) => (isLater(a, b) ? 1 : -1));
  const ended = later.map(([at, { previous, fill }]) => ({ reign: at, origin: previous, fill }));
  if (record.previous && record.fill && followed !== reign) {
    ended.push({ reign, origin: record.previous.node, fill: record.fill });
  }
  return ended.flatMap(({ reign, origin, fill }) =>
    origin === null ? [] : [{ reign, origin, upTo: positionsOf(fill) }],
  );
}

/** The most that any of the fenced members has of the former master's changes, by database. */
export function mostAdvanced(fences: Iterable<Pick<FenceRecord, 'progress'>>): Positions {
  const most = new Map<string, Lsn>();
  for (const { progress } of fences) {
    for (const [database, lsn] of positionsOf(progress)) {
      most.set(database, maxLsn([most.get(database) ?? NO_LSN, lsn]));
    }
  }
  return most;
}

/** Databases in which `has` is not as far as `wanted`. */
export function behind(has: Positions, wanted: Positions): string[] {
  return [...wanted].flatMap(([database, lsn]) => ((has.get(database) ?? NO_LSN) < lsn ? [database] : []));
}
