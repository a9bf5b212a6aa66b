import { installGroupSchema, prepareGroupSchema } from '../ddl/install.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import { controlSchemaState, installControlSchema } from '../schema/install.ts';
import type { Migration } from '../schema/migration.ts';
import { MIGRATIONS, schemaVersionOf } from '../schema/migrations.ts';
import { replayDdl } from './replay.ts';
import type { ControlSchemaPart, GroupSchemaPart } from './group-parts.ts';

/** The queue of DDL as the bootstrap uses it. */
export const groupSchemaPart: GroupSchemaPart = {
  install: installGroupSchema,
  prepare: prepareGroupSchema,
  replay: replayDdl,
  holdDdl: async (connection) => {
    await connection.query('select varve_group.hold_ddl()');
  },
};

/**
 * The control schema of this program. `keyFingerprint`: of the key that the group's secrets are sealed with.
 * `migrations`: of another program, for tests.
 */
export function controlSchemaPart(
  shape: GroupShape,
  keyFingerprint: string,
  migrations: readonly Migration[] = MIGRATIONS,
): ControlSchemaPart {
  const { version, sha256 } = schemaVersionOf(migrations);
  return {
    version: `${version}-${sha256.slice(0, 12)}`,
    install: async (connection) => {
      await installControlSchema(connection, { shape, keyFingerprint, migrations });
    },
    isComplete: async (connection) => (await controlSchemaState(connection, migrations)) !== undefined,
  };
}
