import { isLoopback } from '../../core/loopback.ts';
import { Connection, PLAIN_SESSION, type Endpoint, type TlsOptions } from '../../postgres/connection.ts';
import { Pool } from '../../postgres/pool.ts';
import { SUBSCRIBER_GIVES_UP } from './dead-links.ts';

/** Where a member's PostgreSQL is reached by its peers. */
export interface ServerAddress {
  readonly node: string;
  readonly host: string;
  readonly port: number;
}

/** As whom members reach each other: the same role with the same password on all of them. */
export interface GroupLogin {
  readonly user: string;
  readonly password: string;
  /** Where it is left out: as the server has it on other machines, in the clear on this one. */
  readonly tls?: TlsOptions | undefined;
}

/** Against those who listen in; whose certificate it is, is not looked at. */
const ENCRYPTED: TlsOptions = { mode: 'prefer' };
const CONNECT_TIMEOUT_MS = 5_000;
/** A walsender or worker that is cut off notices by this. */
const CONNECT_TIMEOUT_S = 5;
const STATEMENT_TIMEOUT_MS = 30_000;
/** As long as opening one takes, and longer than most of what is asked: a fail-over hardly waits for it. */
const GROW_AFTER_MS = 10;

/**
 * Settings of the group's own sessions. Their commits wait for no quorum: changing a subscription must be possible
 * when members are gone. Statements that failed are not logged: passwords stand in some.
 */
const SESSION: Readonly<Record<string, string>> = {
  ...PLAIN_SESSION,
  synchronous_commit: 'local',
  default_transaction_read_only: 'off',
  log_min_error_statement: 'panic',
  log_statement: 'none',
  log_min_duration_statement: '-1',
};

const CONNECT = {
  connectTimeoutMs: CONNECT_TIMEOUT_MS,
  statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  applicationName: 'varve group',
  settings: SESSION,
};

/** Connections of this node's daemon to the servers of all members, as the group's role. */
export class GroupServers implements AsyncDisposable {
  readonly #login: GroupLogin;
  readonly #pools = new Map<string, Pool>();

  constructor(login: GroupLogin) {
    this.#login = login;
  }

  get user(): string {
    return this.#login.user;
  }

  endpoint({ host, port }: ServerAddress, database: string): Endpoint {
    const { user, password, tls = isLoopback(host) ? undefined : ENCRYPTED } = this.#login;
    return { host, port, database, user, password, tls };
  }

  /** @throws CONNECTION_FAILED, LOGIN_FAILED, and whatever `work` throws */
  withConnection<T>(
    server: ServerAddress,
    database: string,
    work: (connection: Connection) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    return this.#pool(server, database).withConnection(work, signal);
  }

  /** A session of its own, for what lasts as long as it does. */
  session(server: ServerAddress, database: string): Promise<Connection> {
    return Connection.open(this.endpoint(server, database), CONNECT);
  }

  /**
   * What a subscription is given to reach `server`. libpq reads it on the subscriber's machine: it names everything
   * that could otherwise come from that server's environment.
   */
  conninfo(server: ServerAddress, database: string, applicationName: string): string {
    const { user, password, tls } = this.#login;
    const parts: Record<string, string> = {
      host: server.host,
      port: String(server.port),
      dbname: database,
      user,
      password,
      application_name: applicationName,
      connect_timeout: String(CONNECT_TIMEOUT_S),
      // On this machine nobody listens in: TLS only where the server insists.
      sslmode: tls?.mode ?? (isLoopback(server.host) ? 'allow' : 'prefer'),
      ...SUBSCRIBER_GIVES_UP,
    };
    return Object.entries(parts)
      .map(([name, value]) => `${name}='${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`)
      .join(' ');
  }

  /** Closes idle connections to a database, which would otherwise keep it from being dropped. */
  async forget(server: ServerAddress, database: string): Promise<void> {
    const key = keyOf(server, database);
    const pool = this.#pools.get(key);
    this.#pools.delete(key);
    await pool?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool[Symbol.asyncDispose]()));
  }

  #pool(server: ServerAddress, database: string): Pool {
    const key = keyOf(server, database);
    const known = this.#pools.get(key);
    if (known) return known;
    const pool = new Pool({
      endpoint: this.endpoint(server, database),
      connect: CONNECT,
      maxCount: 6,
      growAfterMs: GROW_AFTER_MS,
      idleTimeoutMs: 5_000,
      waitTimeoutMs: 30_000,
    });
    this.#pools.set(key, pool);
    return pool;
  }
}

function keyOf({ host, port }: ServerAddress, database: string): string {
  return JSON.stringify([host, port, database]);
}
