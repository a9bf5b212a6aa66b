import { VarveError } from '../../core/errors.ts';
import { PLAIN_SESSION, type Connection, type Endpoint } from '../../postgres/connection.ts';
import { Pool } from '../../postgres/pool.ts';

/**
 * Database `rdpg` where it may be written: on the write master, whoever that is at the moment. All of the
 * group's work is kept there, by all members, so that one server decides who gets a task or a database.
 */
export interface ControlDatabase {
  /**
   * @throws WRITE_MASTER_UNKNOWN while there is none
   */
  withConnection<T>(work: (connection: Connection) => Promise<T>, signal?: AbortSignal): Promise<T>;
  /** As `withConnection`, in one transaction. */
  transaction<T>(work: (connection: Connection) => Promise<T>, signal?: AbortSignal): Promise<T>;
}

export interface ControlDatabaseOptions {
  /** The superuser's login to `rdpg` on the write master; undefined while there is none. */
  readonly master: () => Endpoint | undefined;
  readonly connectTimeoutMs?: number;
}

/**
 * Leases and histories wait for no other member: what of them is lost with a server is done again. What must not
 * be lost waits for the others itself. Statements that failed are not logged: sealed secrets stand in some.
 */
const SESSION: Readonly<Record<string, string>> = {
  ...PLAIN_SESSION,
  synchronous_commit: 'local',
  default_transaction_read_only: 'off',
  log_min_error_statement: 'panic',
};

/** Keeps connections to the write master, and new ones when it is another. */
export class MasterControlDatabase implements ControlDatabase, AsyncDisposable {
  readonly #options: ControlDatabaseOptions;
  #pool: { readonly key: string; readonly pool: Pool } | undefined;

  constructor(options: ControlDatabaseOptions) {
    this.#options = options;
  }

  async withConnection<T>(work: (connection: Connection) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#current().withConnection(work, signal);
  }

  transaction<T>(work: (connection: Connection) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.withConnection((connection) => connection.transaction(() => work(connection)), signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool?.pool[Symbol.asyncDispose]();
    this.#pool = undefined;
  }

  #current(): Pool {
    const endpoint = this.#options.master();
    if (endpoint === undefined) {
      throw new VarveError('WRITE_MASTER_UNKNOWN', 'the group has no write master at the moment', {
        hint: 'It elects one by itself when enough members are alive; `varve cluster status` says what it waits for.',
      });
    }
    const { host, port, database, user, password } = endpoint;
    const key = JSON.stringify([host, port, database, user, password]);
    if (this.#pool?.key !== key) {
      // What is in use ends with its work; it may not even notice.
      void this.#pool?.pool.close();
      const pool = new Pool({
        endpoint,
        connect: {
          connectTimeoutMs: this.#options.connectTimeoutMs ?? 5_000,
          applicationName: 'varve group work',
          settings: SESSION,
        },
        maxCount: 8,
        idleTimeoutMs: 30_000,
        waitTimeoutMs: 30_000,
      });
      this.#pool = { key, pool };
    }
    return this.#pool.pool;
  }
}
