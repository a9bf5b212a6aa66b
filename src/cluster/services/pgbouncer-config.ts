/** What PgBouncer has to know. */
export interface PgbouncerView {
  readonly listenHost: string;
  readonly listenPort: number;
  readonly postgres: { readonly host: string; readonly port: number };
  /** Databases that clients may reach through it. */
  readonly databases: readonly string[];
  readonly usersFile: string;
  readonly pidFile: string;
  readonly logFile: string;
  /** Certificate and key for clients that want TLS. */
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** As PostgreSQL's `max_connections` and what Varve keeps for itself allow. */
  readonly maxServerConnections: number;
  readonly maxClientConnections: number;
  /** Roles that may look into PgBouncer's own `pgbouncer` database. */
  readonly statsUsers: readonly string[];
}

/**
 * The whole `pgbouncer.ini`. Sessions are pooled, not transactions: clients may use everything that a session
 * offers. @see https://www.pgbouncer.org/config.html (1.18)
 */
export function pgbouncerConfig(view: PgbouncerView): string {
  const { postgres, tls } = view;
  const server = `host=${value(postgres.host)} port=${postgres.port}`;
  return [
    '; Written by Varve after each change of the group. Edits are lost.',
    '[databases]',
    ...view.databases.map((database) => `${name(database)} = ${server} dbname=${value(database)}`),
    '',
    '[pgbouncer]',
    `listen_addr = ${view.listenHost}`,
    `listen_port = ${view.listenPort}`,
    'unix_socket_dir =',
    'auth_type = scram-sha-256',
    `auth_file = ${view.usersFile}`,
    `pidfile = ${view.pidFile}`,
    `logfile = ${view.logFile}`,
    'log_connections = 0',
    'log_disconnections = 0',
    `stats_users = ${view.statsUsers.join(', ')}`,
    'pool_mode = session',
    'server_reset_query = DISCARD ALL',
    // Drivers for Java send it with every session; PgBouncer does not track it.
    'ignore_startup_parameters = extra_float_digits',
    `default_pool_size = ${view.maxServerConnections}`,
    `max_db_connections = ${view.maxServerConnections}`,
    `max_client_conn = ${view.maxClientConnections}`,
    'server_login_retry = 1',
    'server_connect_timeout = 5',
    'query_wait_timeout = 30',
    ...(tls
      ? [
          'client_tls_sslmode = allow',
          `client_tls_cert_file = ${tls.certFile}`,
          `client_tls_key_file = ${tls.keyFile}`,
        ]
      : []),
    '',
  ].join('\n');
}

/** A role as `pg_authid` has it. */
export interface PooledRole {
  readonly role: string;
  /** `SCRAM-SHA-256$…`; with it PgBouncer can check a client and log in to the server in its name. */
  readonly verifier: string;
}

/** The users file: verifiers as the server has them, no password in the clear. */
export function pgbouncerUsers(roles: readonly PooledRole[]): string {
  return roles.map(({ role, verifier }) => `${quoted(role)} ${quoted(verifier)}\n`).join('');
}

function quoted(text: string): string {
  return `"${text.replaceAll('"', '""')}"`;
}

/** A key of the databases section: quoted where it is more than a plain word. */
function name(text: string): string {
  return /^[A-Za-z_][\w.-]*$/.test(text) ? text : quoted(text);
}

/** A value of a connection string within the file. */
function value(text: string): string {
  return /^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "''")}'`;
}
