import { createHash } from 'node:crypto';
import { MIGRATION_1 } from './migration-1.ts';
import type { Migration } from './migration.ts';

export const MIGRATIONS: readonly Migration[] = [MIGRATION_1];

/** What tells that an applied migration is the one of this program. */
export function migrationHash(migration: Migration): string {
  return createHash('sha256').update(JSON.stringify(migration.statements)).digest('hex');
}

export interface SchemaVersion {
  readonly version: number;
  /** Over all migrations up to this version. */
  readonly sha256: string;
}

/** The control schema that this program makes and needs. */
export const CONTROL_SCHEMA: SchemaVersion = schemaVersionOf(MIGRATIONS);

export function schemaVersionOf(migrations: readonly Migration[]): SchemaVersion {
  const hash = createHash('sha256');
  for (const migration of migrations) hash.update(migrationHash(migration));
  return { version: migrations.at(-1)?.version ?? 0, sha256: hash.digest('hex') };
}
