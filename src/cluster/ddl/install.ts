import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PACKAGE_ROOT } from '../../core/package-root.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';

/** `sql/` stands beside both `src/` and `dist/`. */
const SQL_FOLDER = fileURLToPath(new URL('sql/cluster', PACKAGE_ROOT));

export interface GroupIdentity {
  readonly groupUuid: string;
  /** Name of the member whose database it is. */
  readonly node: string;
}

/** Holders of the lock are few and short, so one number for all databases does. */
const INSTALL_LOCK = 0x76726770;

/**
 * Makes schema `varve_group` in a replicated database: the queue of DDL with what fills and empties it, the
 * barrier, and publication `varve` with its tables (which is kept up to date from then on: nobody else adds to
 * it). Done by each member for itself, before its subscriptions. Repeating it changes nothing; another version
 * of the scripts replaces the functions.
 *
 * @throws GROUP_FOREIGN when the database belongs to another group or member
 */
export async function installGroupSchema(
  connection: Connection,
  { groupUuid, node }: GroupIdentity,
): Promise<void> {
  await inInstallation(connection, async () => {
    const present = await groupIdentity(connection);
    if (present && (present.groupUuid !== groupUuid || present.node !== node)) {
      throw new VarveError(
        'GROUP_FOREIGN',
        `database ${connection.endpoint.database} belongs to member ${present.node} of group ${present.groupUuid}`,
        {
          detail: `It was to become that of member ${node} of group ${groupUuid}.`,
          hint: 'Nothing was changed. Look whether this is the right server; leave the other group first.',
        },
      );
    }
    const changed = await runScript(connection);
    if (present && !changed) return;
    await connection.query(
      'insert into varve_group.local (group_uuid, node) values ($1, $2) on conflict do nothing',
      [groupUuid, node],
    );
    await connection.query('select varve_group.adopt_tables()');
  });
}

/**
 * The same for a database that is nobody's yet: all of it but what `installGroupSchema` then adds in a moment, to whom
 * it belongs. Nothing is captured or replicated until then.
 */
export async function prepareGroupSchema(connection: Connection): Promise<void> {
  await inInstallation(connection, () => runScript(connection));
}

/** In one transaction, of which there is one at a time; what it makes is not put into the queue. */
function inInstallation<T>(connection: Connection, work: () => Promise<T>): Promise<T> {
  return connection.transaction(async () => {
    await connection.query(
      `select pg_catalog.pg_advisory_xact_lock($1), pg_catalog.set_config('varve_group.ddl', 'off', true)`,
      [INSTALL_LOCK],
    );
    return work();
  });
}

/** False when this version of the scripts was run here before. */
async function runScript(connection: Connection): Promise<boolean> {
  const script = await groupScript();
  const version = createHash('sha256').update(script).digest('hex').slice(0, 16);
  if ((await installedVersion(connection)) === version) return false;
  await connection.query(
    `set local client_min_messages = warning; set local search_path = pg_catalog, pg_temp;
     set local check_function_bodies = off; ${script};
     comment on schema varve_group is 'Varve: replication in a group, version ${version}'`,
  );
  return true;
}

/** To which group this database belongs, and as whose; undefined for none. */
export async function groupIdentity(connection: Connection): Promise<GroupIdentity | undefined> {
  const { there } = await connection.one<{ there: boolean }>(
    `select pg_catalog.to_regclass('varve_group.local') is not null as there`,
  );
  if (!there) return undefined;
  return connection.maybeOne<GroupIdentity>('select group_uuid as "groupUuid", node from varve_group.local');
}

async function installedVersion(connection: Connection): Promise<string | undefined> {
  const row = await connection.maybeOne<{ version: string | null }>(
    `select pg_catalog.substring(pg_catalog.obj_description(oid, 'pg_namespace'), 'version (.*)$') as version
       from pg_catalog.pg_namespace where nspname = 'varve_group'`,
  );
  return row?.version ?? undefined;
}

async function groupScript(): Promise<string> {
  const parts = (await readdir(SQL_FOLDER)).filter((name) => name.endsWith('.sql')).sort();
  const texts = await Promise.all(parts.map((name) => readFile(join(SQL_FOLDER, name), 'utf8')));
  return texts.join('\n');
}
