/** What is known of a table's space. */
export interface TableSpace {
  /** `schema.name`, quoted as needed. */
  readonly relation: string;
  readonly sizeBytes: number;
  /** Of rows that nobody can see any more. */
  readonly deadBytes: number;
  /** Unused within the file. */
  readonly freeBytes: number;
}

export interface VacuumLimits {
  /** From 0 to 1. */
  readonly ratio: number;
  readonly bytes: number;
  /** Tables that may be locked while they are written anew. */
  readonly fullTables: readonly string[];
}

export type VacuumKind = 'none' | 'plain' | 'full';

/**
 * Plain VACUUM makes the space of dead rows usable again; it does not make the file smaller, so free space alone
 * is no reason for it. VACUUM FULL does, and locks the table: only where that is allowed.
 */
export function planVacuum(table: TableSpace, limits: VacuumLimits): VacuumKind {
  const isMuch = (bytes: number): boolean =>
    bytes >= limits.bytes && bytes > 0 && bytes >= table.sizeBytes * limits.ratio;
  if (limits.fullTables.includes(table.relation) && isMuch(table.deadBytes + table.freeBytes)) return 'full';
  return isMuch(table.deadBytes) ? 'plain' : 'none';
}
