import { Connection } from '../postgres/connection.ts';
import { endpointFromUrl } from '../postgres/existing-server.ts';
import { describeEndpoint } from '../postgres/endpoint.ts';
import { examine, fail, ok, warn, type DoctorCheck, type Finding, type Verdict } from './doctor-finding.ts';
import { leftoverChecks } from './doctor-leftovers.ts';

/** What an existing server tells of itself. */
export interface ServerFacts {
  readonly version_num: number;
  readonly version: string;
  readonly superuser: boolean;
  readonly createdb: boolean;
  readonly extensions: readonly string[] | null;
  readonly wal_level: string;
  readonly max_prepared_transactions: number;
  readonly max_worker_processes: number;
  readonly max_connections: number;
  readonly password_encryption: string;
  readonly encoding: string;
  readonly in_recovery: boolean;
}

const FACTS = `select
  pg_catalog.current_setting('server_version_num')::int4 as version_num,
  pg_catalog.current_setting('server_version') as version,
  r.rolsuper as superuser, r.rolcreatedb as createdb,
  (select pg_catalog.array_agg(e.name::text) from pg_catalog.pg_available_extensions e
    where e.name in ('dblink', 'postgres_fdw', 'varve', 'timescaledb')) as extensions,
  pg_catalog.current_setting('wal_level') as wal_level,
  pg_catalog.current_setting('max_prepared_transactions')::int4 as max_prepared_transactions,
  pg_catalog.current_setting('max_worker_processes')::int4 as max_worker_processes,
  pg_catalog.current_setting('max_connections')::int4 as max_connections,
  pg_catalog.current_setting('password_encryption') as password_encryption,
  pg_catalog.pg_encoding_to_char(d.encoding)::text as encoding,
  pg_catalog.pg_is_in_recovery() as in_recovery
from pg_catalog.pg_roles r, pg_catalog.pg_database d
where r.rolname = current_user and d.datname = pg_catalog.current_database()`;

/** What an existing server must have before a node works with it. */
export async function examineServer(
  url: string,
  { removeLeftovers = false }: { readonly removeLeftovers?: boolean } = {},
): Promise<Finding[]> {
  const further: DoctorCheck[] = [];
  const login: DoctorCheck = {
    check: 'login',
    why: 'The node works on the server as this user.',
    remedy: 'Correct the URL, the password, or pg_hba.conf of the server.',
    look: async () => {
      const endpoint = await endpointFromUrl(url);
      await using connection = await Connection.open(endpoint, {
        connectTimeoutMs: 10_000,
        applicationName: 'varve doctor',
      });
      further.push(...serverChecks(await connection.one<ServerFacts>(FACTS)));
      further.push(...(await leftoverChecks(connection, { remove: removeLeftovers })));
      return ok(describeEndpoint(endpoint));
    },
  };
  const first = await examine([login]);
  return [...first, ...(await examine(further))];
}

/** Judges what a server told. Pure. */
export function serverChecks(facts: ServerFacts): DoctorCheck[] {
  return [
    {
      check: 'server-version',
      why: 'Varve works with PostgreSQL 15 to 18.',
      remedy: 'Use a server of one of these versions.',
      look: () =>
        facts.version_num >= 150_000 && facts.version_num < 190_000 ? ok(facts.version) : fail(facts.version),
    },
    {
      check: 'primary',
      why: 'A standby cannot be written to.',
      remedy: 'Name the primary server.',
      look: () => (facts.in_recovery ? fail('it is a standby') : ok('it is not a standby')),
    },
    {
      check: 'rights',
      why: 'An access node makes extensions dblink and postgres_fdw and user mappings; a data node makes databases.',
      remedy: 'Log in as a superuser on access nodes; on data nodes CREATEDB is enough.',
      look: () => rightsVerdict(facts),
    },
    {
      check: 'extensions',
      why: 'Access nodes reach data nodes through postgres_fdw and their daemon through dblink.',
      remedy: 'Install the contrib modules (Debian: postgresql-contrib).',
      look: () => extensionsVerdict(facts.extensions),
    },
    {
      check: 'wal-level',
      why: 'Shards are copied between data nodes by logical replication.',
      remedy: "alter system set wal_level = 'logical', then restart the server.",
      look: () => (facts.wal_level === 'logical' ? ok(facts.wal_level) : warn(facts.wal_level)),
    },
    {
      check: 'max-prepared-transactions',
      why: 'A change on several data nodes at once is prepared on each before it is committed.',
      remedy: 'alter system set max_prepared_transactions = 64, then restart the server.',
      look: () => figure(facts.max_prepared_transactions, 1),
    },
    {
      check: 'max-worker-processes',
      why: 'Logical replication and parallel queries take workers.',
      remedy: 'alter system set max_worker_processes = 16, then restart the server.',
      look: () => figure(facts.max_worker_processes, 8),
    },
    {
      check: 'max-connections',
      why: 'Each session on an access node may have one on every data node.',
      remedy: 'alter system set max_connections = 100, then restart the server.',
      look: () => figure(facts.max_connections, 50),
    },
    {
      check: 'password-encryption',
      why: 'md5 hashes are as good as passwords to whoever sees them.',
      remedy: "alter system set password_encryption = 'scram-sha-256', then set passwords anew.",
      look: () =>
        facts.password_encryption === 'scram-sha-256' ? ok('scram-sha-256') : warn(facts.password_encryption),
    },
    {
      check: 'encoding',
      why: 'Data nodes must have the encoding of their access node.',
      remedy: 'Make the database with encoding UTF8.',
      look: () => (facts.encoding === 'UTF8' ? ok('UTF8') : warn(facts.encoding)),
    },
  ];
}

function rightsVerdict({ superuser, createdb }: ServerFacts): Verdict {
  if (superuser) return ok('superuser');
  return createdb
    ? warn('CREATEDB, no superuser: fit for a data node only')
    : fail('neither superuser nor CREATEDB');
}

function extensionsVerdict(extensions: readonly string[] | null): Verdict {
  const missing = ['dblink', 'postgres_fdw'].filter((name) => !extensions?.includes(name));
  if (missing.length > 0) return fail(`not available: ${missing.join(', ')}`);
  const varve = extensions?.includes('varve') ? 'varve too' : 'varve is installed by script';
  return ok(`dblink and postgres_fdw are available, ${varve}`);
}

function figure(value: number, least: number): Verdict {
  return value >= least ? ok(String(value)) : warn(`${value}, less than ${least}`);
}
