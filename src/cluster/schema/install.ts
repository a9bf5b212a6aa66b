import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import {
  clusterServiceOf,
  DEFAULT_CONFIG,
  DEFAULT_PLANS,
  DEFAULT_RETENTION_HOURS,
  DEFAULT_SERVICE,
  defaultSchedules,
  type GroupShape,
} from './default-rows.ts';
import type { Migration } from './migration.ts';
import { migrationHash, MIGRATIONS, schemaVersionOf, type SchemaVersion } from './migrations.ts';

export interface InstallOptions {
  readonly shape: GroupShape;
  /** Identifies the key that secrets are sealed with: `SecretKey.fingerprint`. */
  readonly keyFingerprint: string;
  /** Instead of this program's, for tests: what another program would make. */
  readonly migrations?: readonly Migration[];
}

/** Above all advisory locks of users, below those of sessions that hold numbers of 64 bits: "rdpg". */
const INSTALL_LOCK = 0x72647067;

/**
 * Makes the control schema of database `rdpg` and its default rows, or brings an older one up to date; called
 * on the write master (the leader), as a superuser. Repeating it changes nothing. Everything happens in one
 * transaction, and the row of `rdpg.schema_version` is the last of it: whoever sees that row sees all of it,
 * on every member.
 *
 * Each migration travels to the other members as one entry of the group's queue of DDL, where the database has one;
 * the rows are ordinary rows.
 *
 * @throws SCHEMA_NEWER when a newer program made it
 * @throws SCHEMA_DIFFERS when an applied migration is not this program's
 * @throws SECRET_KEY_DIFFERS when its secrets are sealed with another key
 */
export async function installControlSchema(
  connection: Connection,
  options: InstallOptions,
): Promise<SchemaVersion> {
  const { migrations = MIGRATIONS } = options;
  return connection.transaction(async () => {
    await connection.query('select pg_catalog.pg_advisory_xact_lock($1)', [INSTALL_LOCK]);
    const applied = await appliedMigrations(connection);
    judgeApplied(applied, migrations);
    const replicate = await ddlExecutor(connection);
    const missing = migrations.filter(({ version }) => version > applied.length);
    for (const migration of missing) {
      // In one: each entry of the queue costs every member some twenty milliseconds.
      await replicate(migration.statements.join(';\n'));
    }
    await insertDefaults(connection, options);
    await checkKey(connection, options.shape.cluster, options.keyFingerprint);
    for (const migration of missing) {
      await connection.query('insert into rdpg.schema_version (version, name, sha256) values ($1, $2, $3)', [
        migration.version,
        migration.name,
        migrationHash(migration),
      ]);
    }
    return schemaVersionOf(migrations);
  });
}

interface AppliedMigration {
  readonly version: number;
  readonly sha256: string;
}

/** Oldest first; empty when there is no control schema. */
async function appliedMigrations(connection: Connection): Promise<readonly AppliedMigration[]> {
  const { there } = await connection.one<{ there: boolean }>(
    `select pg_catalog.to_regclass('rdpg.schema_version') is not null as there`,
  );
  if (!there) return [];
  const { rows } = await connection.query<AppliedMigration>(
    'select version, sha256 from rdpg.schema_version order by version',
  );
  return rows;
}

/** @throws SCHEMA_NEWER, SCHEMA_DIFFERS */
export function judgeApplied(applied: readonly AppliedMigration[], migrations: readonly Migration[]): void {
  const newest = applied.at(-1)?.version ?? 0;
  const known = migrations.at(-1)?.version ?? 0;
  if (newest > known) {
    throw new VarveError(
      'SCHEMA_NEWER',
      `the control schema has version ${newest}, and this program knows versions up to ${known}`,
      { hint: 'Start the version of Varve that the other members run.' },
    );
  }
  for (const { version, sha256 } of applied) {
    const migration = migrations.find((one) => one.version === version);
    if (migration && migrationHash(migration) === sha256) continue;
    throw new VarveError(
      'SCHEMA_DIFFERS',
      `version ${version} of the control schema was made by another program than this one`,
      {
        detail: `Recorded: ${sha256}. Here: ${migration ? migrationHash(migration) : 'no such version'}.`,
        hint: 'Start the version of Varve that the other members run, or restore database rdpg from a backup.',
      },
    );
  }
}

/**
 * The version of the control schema that a member has, for those who wait until it is complete; undefined
 * while it has none or only an older one.
 * @throws SCHEMA_NEWER, SCHEMA_DIFFERS
 */
export async function controlSchemaState(
  connection: Connection,
  migrations: readonly Migration[] = MIGRATIONS,
): Promise<SchemaVersion | undefined> {
  const applied = await appliedMigrations(connection);
  judgeApplied(applied, migrations);
  const wanted = schemaVersionOf(migrations);
  return applied.at(-1)?.version === wanted.version ? wanted : undefined;
}

/** One statement of DDL, here and on the other members. In a database that is not replicated, here alone. */
export async function ddlExecutor(connection: Connection): Promise<(statement: string) => Promise<void>> {
  const { queued } = await connection.one<{ queued: boolean }>(
    `select pg_catalog.to_regprocedure('varve_group.replicate_ddl(text)') is not null as queued`,
  );
  return async (statement) => {
    if (queued) await connection.query('select varve_group.replicate_ddl($1)', [statement]);
    else await connection.query(statement);
  };
}

/** Rows that are there stay as they are: people change them. */
async function insertDefaults(connection: Connection, { shape }: InstallOptions): Promise<void> {
  const service = clusterServiceOf(shape);
  const schedules = defaultSchedules(shape);
  await connection.query(
    `insert into tasks.schedules (cluster_id, cluster_service, action, data, role, node_type, frequency, ttl)
     select $1, $2, s.action, s.data, s.role, s.node_type, s.every::interval, s.ttl
       from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[])
         as s (action, data, role, node_type, every, ttl)
     on conflict do nothing`,
    [
      shape.cluster,
      service,
      schedules.map(({ action }) => action),
      schedules.map(({ data }) => data),
      schedules.map(({ role }) => role),
      schedules.map(({ nodeType }) => nodeType),
      schedules.map(({ every }) => every),
      schedules.map(({ ttlSeconds }) => ttlSeconds),
    ],
  );
  await connection.query(
    `insert into rdpg.config (cluster_id, key, value) select $1, c.key, c.value
       from unnest($2::text[], $3::text[]) as c (key, value) on conflict do nothing`,
    [shape.cluster, Object.keys(DEFAULT_CONFIG), Object.values(DEFAULT_CONFIG)],
  );
  await connection.query(
    `insert into backups.retention_rules (dbname, hours) values ('*', $1) on conflict do nothing`,
    [DEFAULT_RETENTION_HOURS],
  );
  await insertCatalog(connection);
}

async function insertCatalog(connection: Connection): Promise<void> {
  const { name, description, tags, metadata } = DEFAULT_SERVICE;
  await connection.query(
    `insert into cfsb.services (name, description, tags, metadata) values ($1, $2, $3, $4)
     on conflict do nothing`,
    [name, description, tags, metadata],
  );
  for (const plan of DEFAULT_PLANS) {
    await connection.query(
      `insert into cfsb.plans (service_id, cluster_service, name, description)
       select service_id, $2, $3, $4 from cfsb.services where name = $1 on conflict do nothing`,
      [name, plan.clusterService, plan.name, plan.description],
    );
  }
}

const KEY_FINGERPRINT = 'secretKeyFingerprint';

/**
 * The first to install says which key the group's secrets are sealed with; everybody else has to have the same.
 * @throws SECRET_KEY_DIFFERS
 */
export async function checkKey(connection: Connection, cluster: string, fingerprint: string): Promise<void> {
  const { value } = await connection.one<{ value: string }>(
    `with first as (
       insert into rdpg.config (cluster_id, key, value) values ($1, $2, $3)
       on conflict do nothing returning value
     )
     select value from first union all
     select value from rdpg.config where cluster_id = $1 and key = $2 limit 1`,
    [cluster, KEY_FINGERPRINT, fingerprint],
  );
  if (value === fingerprint) return;
  throw new VarveError(
    'SECRET_KEY_DIFFERS',
    `the secrets of group ${cluster} are sealed with another key than this node's`,
    {
      detail: `The group's key has fingerprint ${value}, this node's ${fingerprint}.`,
      hint: 'Copy the key file from another member.',
    },
  );
}
