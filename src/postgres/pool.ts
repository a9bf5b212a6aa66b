import { VarveError } from '../core/errors.ts';
import { Connection, type ConnectOptions, type Endpoint, type QueryResult } from './connection.ts';
import { describeEndpoint } from './endpoint.ts';

export interface PoolOptions {
  readonly endpoint: Endpoint;
  /** How connections are opened; the signal is given per use instead. */
  readonly connect: Omit<ConnectOptions, 'signal'>;
  /** Connections open at once. */
  readonly maxCount: number;
  /** An unused connection is closed after so long. */
  readonly idleTimeoutMs: number;
  /** The longest wait for a connection when all are in use. */
  readonly waitTimeoutMs: number;
  /**
   * While others are in use, one more is opened only when none of them came back for so long: opening one costs more
   * than most uses take. At once when left out.
   */
  readonly growAfterMs?: number;
}

interface Waiter {
  readonly resolve: () => void;
}

/**
 * Connections to one endpoint, opened when needed and kept for a while. Users wait in the order of their calls
 * when all are in use. A connection that was lost, or comes back inside a transaction, is not used again.
 *
 * It lends `Connection`s, with their deadlines, cancel and errors; node-postgres' own pool lends bare clients.
 */
export class Pool implements AsyncDisposable {
  readonly #options: PoolOptions;
  readonly #idle: { connection: Connection; timer: NodeJS.Timeout }[] = [];
  readonly #inUse = new Set<Connection>();
  readonly #waiting: Waiter[] = [];
  /** Open, being opened, or promised to a waiter. */
  #takenCount = 0;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /**
   * Lends a connection to `work` until it settles. `work` leaves the session as it found it. `signal` ends the
   * wait, the opening and the queries of `work`.
   * @throws DEADLINE_EXCEEDED when none became free in time
   */
  async withConnection<T>(work: (connection: Connection) => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    await this.#takeSlot(signal);
    let connection: Connection;
    try {
      connection =
        this.#takeIdle() ?? (await Connection.open(this.#options.endpoint, this.#openOptions(signal)));
    } catch (error) {
      this.#freeSlot();
      throw error;
    }
    this.#inUse.add(connection);
    connection.useSignal(signal);
    try {
      return await work(connection);
    } finally {
      connection.useSignal(undefined);
      this.#inUse.delete(connection);
      this.#giveBack(connection);
    }
  }

  /** One statement on any connection. */
  query<R extends object>(
    sql: string,
    params?: readonly unknown[],
    signal?: AbortSignal,
  ): Promise<QueryResult<R>> {
    return this.withConnection((connection) => connection.query<R>(sql, params), signal);
  }

  /** Closes what is idle now and what is in use when it comes back; new users are refused. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const waiter of this.#waiting.splice(0)) waiter.resolve();
    await Promise.all(
      this.#idle.splice(0).map(({ connection, timer }) => {
        clearTimeout(timer);
        return connection.close();
      }),
    );
  }

  /** Also cuts what is in use. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#inUse) connection.destroy();
    await this.close();
  }

  #openOptions(signal: AbortSignal | undefined): ConnectOptions {
    return { ...this.#options.connect, ...(signal ? { signal } : {}) };
  }

  async #takeSlot(signal: AbortSignal | undefined): Promise<void> {
    this.#refuseWhenClosed();
    const { endpoint, maxCount, waitTimeoutMs, growAfterMs = 0 } = this.#options;
    const isFree = this.#idle.length > 0 || this.#takenCount === 0;
    if (!isFree && growAfterMs > 0 && this.#takenCount < maxCount && (await this.#wait(growAfterMs, signal)))
      return;
    if (this.#takenCount < maxCount) {
      this.#takenCount += 1;
      return;
    }
    if (await this.#wait(waitTimeoutMs, signal)) return;
    throw new VarveError(
      'DEADLINE_EXCEEDED',
      `no connection to ${describeEndpoint(endpoint)} became free within ${waitTimeoutMs} ms`,
      { detail: `All ${maxCount} are in use.` },
    );
  }

  /** True when a slot was handed over, which then stays counted; false when none was in time. */
  async #wait(timeoutMs: number, signal: AbortSignal | undefined): Promise<boolean> {
    let abort = (): void => {};
    let timer: NodeJS.Timeout | undefined;
    try {
      const isHanded = await new Promise<boolean>((resolve, reject) => {
        const waiter: Waiter = { resolve: () => resolve(true) };
        this.#waiting.push(waiter);
        const leave = (): void => {
          // At once, or a slot could still be handed to one who is leaving.
          const at = this.#waiting.indexOf(waiter);
          if (at >= 0) this.#waiting.splice(at, 1);
        };
        abort = () => {
          leave();
          reject(signal?.reason as Error);
        };
        signal?.addEventListener('abort', abort, { once: true });
        timer = setTimeout(() => {
          leave();
          resolve(false);
        }, timeoutMs);
      });
      this.#refuseWhenClosed();
      return isHanded;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }

  #freeSlot(): void {
    const next = this.#waiting.shift();
    if (next) next.resolve();
    else this.#takenCount -= 1;
  }

  #takeIdle(): Connection | undefined {
    for (;;) {
      // The newest, so that the oldest can age.
      const item = this.#idle.pop();
      if (!item) return undefined;
      clearTimeout(item.timer);
      if (!item.connection.closed) return item.connection;
    }
  }

  #giveBack(connection: Connection): void {
    if (connection.inTransaction) connection.destroy();
    else if (this.#closed) void connection.close();
    else if (!connection.closed) this.#keep(connection);
    this.#freeSlot();
  }

  #keep(connection: Connection): void {
    const drop = (): void => {
      const at = this.#idle.findIndex((item) => item.connection === connection);
      if (at >= 0) this.#idle.splice(at, 1);
      void connection.close();
    };
    const timer = setTimeout(drop, this.#options.idleTimeoutMs);
    timer.unref();
    this.#idle.push({ connection, timer });
  }

  #refuseWhenClosed(): void {
    if (!this.#closed) return;
    throw new VarveError(
      'CONNECTION_LOST',
      `the pool for ${describeEndpoint(this.#options.endpoint)} is closed`,
    );
  }
}
