import { DAEMON_SESSION } from '../cluster/daemon-session.ts';
import { Pool } from '../postgres/pool.ts';
import type { Connection, Endpoint } from '../postgres/connection.ts';

const ADMIN = {
  maxCount: 8,
  // What is asked is short, and often asked for several things at once.
  growAfterMs: 10,
  // Shorter than DROP DATABASE waits for others to leave.
  idleTimeoutMs: 1_000,
  waitTimeoutMs: 30_000,
  connectTimeoutMs: 10_000,
} as const;

/**
 * The administrator's connections to this node's server, a pool for each database. What is derived on each access
 * node is written on members that take no writes of clients, too, and waits for nobody.
 */
export class AdminPools implements AsyncDisposable {
  readonly #pools = new Map<string, { readonly port: number; readonly pool: Pool }>();
  readonly #endpoint: () => Endpoint;

  /** `endpoint`: the administrator's login, as of now. */
  constructor(endpoint: () => Endpoint) {
    this.#endpoint = endpoint;
  }

  withConnection<T>(
    database: string,
    work: (connection: Connection) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    return this.#of(database).withConnection(work, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#pools.values()].map(({ pool }) => pool.close()));
  }

  #of(database: string): Pool {
    const endpoint = this.#endpoint();
    const known = this.#pools.get(database);
    // After a recovery the server may have another port.
    if (known?.port === endpoint.port) return known.pool;
    void known?.pool.close();
    const { connectTimeoutMs, ...limits } = ADMIN;
    const connect = {
      connectTimeoutMs,
      applicationName: 'varve',
      settings: { ...DAEMON_SESSION, default_transaction_read_only: 'off', synchronous_commit: 'local' },
    };
    const pool = new Pool({ endpoint: { ...endpoint, database }, connect, ...limits });
    this.#pools.set(database, { port: endpoint.port, pool });
    return pool;
  }
}
