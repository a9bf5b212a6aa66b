import { VarveError } from '../../core/errors.ts';
import { Connection } from '../../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import { SqlState, sqlStateOf } from '../../postgres/sqlstate.ts';
import { done, todo, type Step } from '../../run/step.ts';
import { publisherGivesUp } from '../mesh/dead-links.ts';
import { letWrite, makeReadOnly } from '../master/read-only.ts';
import { checkLimits } from '../mesh/limits.ts';
import { CONTROL_DATABASE, GROUP_ROLE, HEALTH_DATABASE, HEALTH_ROLE, type GroupContext } from './context.ts';

/** The oldest server that keeps apart what was made on it from what it received (`origin = none`). */
const OLDEST_SERVER = 160_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** Of the control database. */
const EXTENSIONS = ['btree_gist', 'pg_trgm', 'pgcrypto'];

/** Initial bootstrap, on every role: the document's users, databases and extensions, on this node's own server. */
export const PREPARE_STEPS: readonly Step<GroupContext>[] = [
  {
    name: 'check-server',
    check: async (context) => {
      await checkServer(context);
      return done;
    },
    apply: () => Promise.resolve(),
  },
  {
    name: 'create-users',
    check: async (context) => {
      const missing = await missingRoles(context);
      return missing.length === 0 ? done : todo(`to be made: ${missing.join(', ')}`);
    },
    apply: createUsers,
  },
  {
    name: 'create-databases',
    check: async (context) => {
      const missing = await missingDatabases(context);
      return missing.length === 0 ? done : todo(`to be made: ${missing.join(', ')}`);
    },
    apply: createDatabases,
  },
  {
    name: 'create-group-extensions',
    check: async (context) => {
      const missing = await context.onSelf(CONTROL_DATABASE, missingExtensions);
      return missing.length === 0 ? done : todo(`to be made: ${missing.join(', ')}`);
    },
    apply: createControlExtensions,
  },
];

export async function createControlExtensions(context: GroupContext): Promise<void> {
  await context.onSelf(CONTROL_DATABASE, async (connection) => {
    for (const name of await missingExtensions(connection)) {
      await connection.query(`create extension if not exists ${quoteIdent(name)} with schema public`);
    }
  });
}

async function checkServer({ deps, options, databases }: GroupContext): Promise<void> {
  await deps.withAdmin('postgres', async (connection) => {
    const beforeMs = deps.clock.nowMs();
    const server = await connection.one<{ number: number; version: string; standby: boolean; now: Date }>(
      `select pg_catalog.current_setting('server_version_num')::int4 as number,
              pg_catalog.current_setting('server_version') as version,
              pg_catalog.pg_is_in_recovery() as standby, pg_catalog.clock_timestamp() as now`,
    );
    if (server.number < OLDEST_SERVER) {
      throw new VarveError(
        'CONFIG_INVALID',
        `the server of ${options.node} is PostgreSQL ${server.version}`,
        {
          detail:
            'A group needs version 16 or newer, which can tell what was made on a server from what it received.',
          hint: 'Use a server of version 16 to 18.',
        },
      );
    }
    if (server.standby) {
      throw new VarveError('DATA_NODE_READ_ONLY', `the server of ${options.node} is a standby`, {
        hint: 'Give the address of its primary.',
      });
    }
    checkClocks(
      { name: `the server of ${options.node}`, nowMs: server.now.getTime() },
      { beforeMs, afterMs: deps.clock.nowMs(), maxSkewMs: options.maxClockSkewMs },
    );
    await checkLimits(connection, options.node, { members: options.size, databases: databases.length });
  });
}

/** @throws GROUP_CLOCKS_APART when the other's clock was not between ours before and after it was asked */
export function checkClocks(
  other: { readonly name: string; readonly nowMs: number },
  own: { readonly beforeMs: number; readonly afterMs: number; readonly maxSkewMs: number },
): void {
  const apartMs = Math.max(own.beforeMs - other.nowMs, other.nowMs - own.afterMs, 0);
  if (apartMs <= own.maxSkewMs) return;
  const direction = other.nowMs > own.afterMs ? 'ahead of' : 'behind';
  throw new VarveError(
    'GROUP_CLOCKS_APART',
    `the clock of ${other.name} is ${Math.round(apartMs)} ms ${direction} this machine's`,
    {
      detail: `At most ${own.maxSkewMs} ms are allowed.`,
      hint: 'Synchronise both machines (NTP), then start this node again.',
    },
  );
}

async function missingRoles(context: GroupContext): Promise<string[]> {
  const { groupPassword, healthPassword } = context.options;
  const present = await context.deps.withAdmin('postgres', async (connection) => {
    const { rows } = await connection.query<{ name: string; fit: boolean }>(
      `select rolname as name, rolcanlogin and (rolsuper or rolname <> $1) as fit
         from pg_catalog.pg_roles where rolname in ($1, $2)`,
      [GROUP_ROLE, HEALTH_ROLE],
    );
    return new Map(rows.map(({ name, fit }) => [name, fit]));
  });
  const passwords: readonly (readonly [string, string])[] = [
    [GROUP_ROLE, groupPassword],
    [HEALTH_ROLE, healthPassword],
  ];
  const missing = passwords.filter(([role]) => !present.get(role)).map(([role]) => role);
  for (const [role, password] of passwords) {
    if (present.get(role)) await tryLogin(context, role, password);
  }
  return missing;
}

/** A role of an earlier run may have another password, and then so may its peers. */
async function tryLogin({ servers, self }: GroupContext, user: string, password: string): Promise<void> {
  const endpoint = { ...servers.endpoint(self, 'postgres'), user, password };
  try {
    await using _ = await Connection.open(endpoint, { connectTimeoutMs: CONNECT_TIMEOUT_MS });
  } catch (error) {
    if (!(error instanceof VarveError) || error.code !== 'LOGIN_FAILED') throw error;
    throw new VarveError('LOGIN_FAILED', error.message, {
      detail: error.detail,
      hint: `Role ${user} is there with another password, or pg_hba.conf does not let it in. Every member needs the same password of the group; correct the file, or set the role's password to it.`,
      sqlstate: error.sqlstate,
      cause: error,
    });
  }
}

async function createUsers({ deps, options }: GroupContext): Promise<void> {
  await deps.withAdmin('postgres', async (connection) => {
    // Statements with passwords are not for the log.
    await connection.query(`set log_statement = 'none'; set log_min_error_statement = 'panic'`);
    const ensure = async (role: string, what: string): Promise<void> => {
      const there = await connection.maybeOne('select 1 from pg_catalog.pg_roles where rolname = $1', [role]);
      await connection.query(`${there ? 'alter' : 'create'} role ${quoteIdent(role)} with ${what}`);
    };
    await connection.transaction(async () => {
      await ensure(
        GROUP_ROLE,
        `login superuser createdb createrole inherit replication password ${quoteLiteral(options.groupPassword)}`,
      );
      await connection.query(publisherGivesUp(GROUP_ROLE));
      await ensure(
        HEALTH_ROLE,
        `login nosuperuser nocreatedb nocreaterole inherit noreplication password ${quoteLiteral(options.healthPassword)}`,
      );
      // What a check may see: statistics, and nothing of the content.
      await connection.query(`grant pg_monitor to ${quoteIdent(HEALTH_ROLE)}`);
    });
  });
}

async function missingDatabases(context: GroupContext): Promise<string[]> {
  const wanted = [...new Set([...context.databases, HEALTH_DATABASE])];
  return context.deps.withAdmin('postgres', async (connection) => {
    const { rows } = await connection.query<{ name: string }>(
      // A database whose DROP was interrupted cannot be used, nor one that was not made to the end.
      `select datname as name from pg_catalog.pg_database
        where datname = any ($1) and datconnlimit <> -2 and datallowconn`,
      [wanted],
    );
    const present = new Set(rows.map(({ name }) => name));
    return wanted.filter((name) => !present.has(name));
  });
}

async function createDatabases(context: GroupContext): Promise<void> {
  const missing = await missingDatabases(context);
  await Promise.all(missing.map((name) => createDatabase(context, name)));
  await context.deps.withAdmin('postgres', async (connection) => {
    const health = quoteIdent(HEALTH_DATABASE);
    for (const name of [quoteIdent(CONTROL_DATABASE), health]) {
      await connection.query(`revoke all on database ${name} from public`);
    }
    await connection.query(`grant connect on database ${health} to ${quoteIdent(HEALTH_ROLE)}`);
  });
}

async function createDatabase({ deps, options }: GroupContext, name: string): Promise<void> {
  const isForClients = name === options.accessDatabase;
  const owner = name === HEALTH_DATABASE ? HEALTH_ROLE : GROUP_ROLE;
  // An access database belongs to whoever its users see as the administrator.
  const clause = isForClients ? 'allow_connections false' : `owner ${quoteIdent(owner)}`;
  await deps.withAdmin('postgres', async (connection) => {
    try {
      await connection.query(
        `create database ${quoteIdent(name)} template template0 encoding 'UTF8' ${clause}`,
      );
    } catch (error) {
      // By a process of this node that was killed: what it had sent goes on to its end.
      const state = sqlStateOf(error);
      if (state !== SqlState.duplicateDatabase && state !== SqlState.uniqueViolation) throw error;
    }
    if (!isForClients) return;
    // So from the first session on, until there is a write master: what somebody wrote here would be nowhere else.
    await letWrite(connection, GROUP_ROLE);
    await makeReadOnly(connection, name);
    await connection.query(`alter database ${quoteIdent(name)} allow_connections true`);
  });
}

async function missingExtensions(connection: Connection): Promise<string[]> {
  const { rows } = await connection.query<{ name: string }>(
    'select extname as name from pg_catalog.pg_extension',
  );
  const present = new Set(rows.map(({ name }) => name));
  return EXTENSIONS.filter((name) => !present.has(name));
}
