import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, DatabaseError, type Submittable } from 'pg';
import { messageOf, VarveError } from '../core/errors.ts';
import { sendCancelRequest, type BackendKey } from './cancel-request.ts';
import { connectError, connectTimeout, passwordMissing } from './connect-error.ts';
import { describeEndpoint, tlsSettings, type Endpoint } from './endpoint.ts';
import { isWaitGivenUp, toNotice, type Notice } from './notice.ts';
import { queryTimeout, unconfirmed } from './query-error.ts';
import { SqlState } from './sqlstate.ts';
import { DEFAULT_STATEMENT_TIMEOUT_MS, sessionSettings, startupOptions } from './session-settings.ts';

export { PLAIN_SESSION } from './session-settings.ts';
export type { Notice } from './notice.ts';
export type { Endpoint, TlsOptions } from './endpoint.ts';

export interface ConnectOptions {
  /** From the name look-up to the end of the login. */
  readonly connectTimeoutMs: number;
  /** The session's `statement_timeout`; 0 is none, 60,000 when left out. */
  readonly statementTimeoutMs?: number | undefined;
  /** The session's `lock_timeout`; the server's when left out. */
  readonly lockTimeoutMs?: number | undefined;
  readonly applicationName?: string | undefined;
  /** Ends the opening or the query under way; queries begun later fail at once. */
  readonly signal?: AbortSignal | undefined;
  readonly onNotice?: ((notice: Notice) => void) | undefined;
  /** Server settings of the session. They travel in the startup packet and cost no round trip. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
  /** The settings are made by a statement instead: poolers do not take them in the startup packet. */
  readonly throughPooler?: boolean | undefined;
}

export interface QueryOptions {
  /** In place of the connection's: `statementTimeoutMs` + 5,000. The server's `statement_timeout` stays. */
  readonly timeoutMs?: number | undefined;
  /** Beside the connection's. */
  readonly signal?: AbortSignal | undefined;
}

export interface QueryResult<R extends object> {
  readonly rows: R[];
  /** Rows returned or changed; 0 for statements that do neither. */
  readonly rowCount: number;
  /** `SELECT`, `INSERT`, `CREATE`, … */
  readonly command: string;
}

/** A result as it is shown to people. */
export interface TextResult {
  /** In order, repeated names included; empty for a statement that returns no rows. */
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
  readonly rowCount: number;
  readonly command: string;
}

/** So long after `statement_timeout` the server should have spoken. */
const SERVER_GRACE_MS = 5_000;
/** For the cancel request and for the cancelled query to end, together. */
const CANCEL_LIMIT_MS = 2_000;
const CLOSE_LIMIT_MS = 1_000;

/**
 * One session of a PostgreSQL server. Every wait has a deadline: a host that falls silent at any point gives
 * an error. Queries run one at a time, in the order of the calls.
 *
 * Errors of the server are `QUERY_FAILED` with its message, detail, hint and SQLSTATE, and node-postgres'
 * `DatabaseError` as cause; a session that ended under a query is `CONNECTION_LOST`; a query that outlasted
 * its deadline is `DEADLINE_EXCEEDED`; one that its signal ended rejects with the signal's reason. PostgreSQL answers a
 * commit whose wait for other servers was cancelled with success and a warning; here that is an error all the same, for
 * the commit can be lost with its server: the reason of the cancelling, or `QUORUM_NOT_REACHED` when others cancelled it.
 */
export class Connection implements AsyncDisposable {
  readonly endpoint: Endpoint;
  /** Resolves with the reason when the session ends without `close`; it never rejects. */
  readonly lost: Promise<Error>;
  readonly #client: Client & BackendKey;
  readonly #socket: Socket;
  readonly #options: ConnectOptions;
  readonly #encrypted: boolean;
  #signal: AbortSignal | undefined;
  #lostError: Error | undefined;
  /** The statement under way has committed, and the server gave up waiting for those who should confirm it. */
  #isUnconfirmed = false;
  #tail: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(attempt: Attempt, endpoint: Endpoint, options: ConnectOptions) {
    this.endpoint = endpoint;
    this.#client = attempt.client as Client & BackendKey;
    this.#socket = attempt.socket;
    this.#encrypted = attempt.encrypted;
    this.#options = options;
    this.#signal = options.signal;
    attempt.client.on('notice', (notice) => {
      this.#isUnconfirmed ||= isWaitGivenUp(notice);
    });
    this.lost = new Promise((resolve) => {
      const end = (error: Error): void => {
        if (this.#closing === undefined) this.#lostError ??= error;
        if (this.#lostError) resolve(this.#lostError);
      };
      // Without a listener a terminated backend would end the process.
      attempt.client.on('error', end);
      attempt.client.on('end', () => end(new Error('the server closed the connection')));
    });
  }

  /**
   * @throws CONNECTION_FAILED when the server cannot be reached, is silent, or refuses (with its SQLSTATE)
   * @throws LOGIN_FAILED when the login is refused or a password is missing
   * @throws INVALID_ARGUMENT for an endpoint or setting that cannot be sent
   */
  static async open(endpoint: Endpoint, options: ConnectOptions): Promise<Connection> {
    checkEndpoint(endpoint);
    options.signal?.throwIfAborted();
    const until = performance.now() + options.connectTimeoutMs;
    const tls = tlsSettings(endpoint);
    try {
      const attempt = await connect(endpoint, options, { tls, until }).catch((error: unknown) => {
        if (endpoint.tls?.mode !== 'prefer' || !/does not support SSL/.test(messageOf(error))) throw error;
        return connect(endpoint, options, { tls: false, until });
      });
      const connection = new Connection(attempt, endpoint, options);
      if (options.throughPooler === true) {
        await connection.#setSettings().catch((error: unknown) => {
          connection.destroy();
          throw error;
        });
      }
      return connection;
    } catch (error) {
      options.signal?.throwIfAborted();
      throw connectError(endpoint, error);
    }
  }

  /** The server process, as `pg_stat_activity.pid` has it. */
  get backendPid(): number {
    return this.#client.processID;
  }

  /** True between BEGIN and the end of the transaction, failed or not. */
  get inTransaction(): boolean {
    return this.#client.getTransactionStatus() !== 'I';
  }

  /** True once `close` was called or the session was lost. */
  get closed(): boolean {
    return this.#closing !== undefined || this.#lostError !== undefined;
  }

  /**
   * Runs one statement, or without `params` several of which the last one's result is returned. `int8` and
   * `numeric` come as strings, `timestamptz` as `Date`, `json` parsed.
   */
  query<R extends object>(
    sql: string,
    params: readonly unknown[] = [],
    options: QueryOptions = {},
  ): Promise<QueryResult<R>> {
    const result = this.#tail.then(() => {
      this.#signal?.throwIfAborted();
      options.signal?.throwIfAborted();
      return this.#run<R>(sql, params, { ...options, interruptible: true });
    });
    this.#tail = result.catch(() => {});
    return result;
  }

  /**
   * The results of one or more statements as the server's own text, column by column, for showing them. NULL
   * is null.
   */
  async queryText(sql: string, options: QueryOptions = {}): Promise<TextResult[]> {
    const results = this.#tail.then(() => {
      this.#signal?.throwIfAborted();
      options.signal?.throwIfAborted();
      const types = { getTypeParser: () => (value: unknown) => value };
      const query = { text: sql, rowMode: 'array' as const, types };
      return this.#interruptible<RawTextResult>(() => this.#client.query(query as never), {
        ...options,
        interruptible: true,
      });
    });
    this.#tail = results.catch(() => {});
    return (await results).map(({ rows, rowCount, command, fields }) => ({
      columns: (fields ?? []).map(({ name }) => name),
      rows,
      rowCount: rowCount ?? 0,
      command: command ?? '',
    }));
  }

  /**
   * Sends a query that streams, in its turn, and keeps the session for it until `work` settles. For
   * `copyOut` and `copyIn`.
   */
  async streaming<T>(query: Submittable, work: () => Promise<T>, options: QueryOptions = {}): Promise<T> {
    const result = this.#tail.then(() => {
      this.#signal?.throwIfAborted();
      options.signal?.throwIfAborted();
      const start = (): Promise<T> => {
        this.#client.query(query);
        return work();
      };
      return this.#interruptible<{ value: T }>(async () => ({ value: await start() }), {
        ...options,
        interruptible: true,
      });
    });
    this.#tail = result.catch(() => {});
    const [only] = await result;
    return (only as { value: T }).value;
  }

  /** The single row of a query; anything else is a bug of the query. */
  async one<R extends object>(sql: string, params?: readonly unknown[], options?: QueryOptions): Promise<R> {
    const row = await this.maybeOne<R>(sql, params, options);
    if (row === undefined) throw new Error(`assertion failed: one row was expected of ${sql}`);
    return row;
  }

  /** The row of a query that has at most one. */
  async maybeOne<R extends object>(
    sql: string,
    params?: readonly unknown[],
    options?: QueryOptions,
  ): Promise<R | undefined> {
    const { rows } = await this.query<R>(sql, params, options);
    if (rows.length > 1) throw new Error(`assertion failed: ${rows.length} rows instead of one from ${sql}`);
    return rows[0];
  }

  /**
   * Commits when `work` resolves, rolls back when it rejects, and rejects with what it rejected with. Queries
   * of others on this connection meanwhile become part of the transaction.
   * @throws CONNECTION_LOST during the commit: whether it took effect is then unknown
   */
  async transaction<T>(work: () => Promise<T>): Promise<T> {
    await this.query('begin');
    try {
      const result = await work();
      const { command } = await this.query('commit');
      // A transaction in which a statement failed is rolled back by COMMIT, without an error.
      if (command === 'COMMIT') return result;
      throw new VarveError('QUERY_FAILED', 'the transaction was rolled back instead of committed', {
        sqlstate: SqlState.inFailedSqlTransaction,
        detail: 'A statement in it had failed, and the failure was passed over.',
      });
    } catch (error) {
      await this.#rollback();
      throw error;
    }
  }

  /** Replaces the signal of `ConnectOptions` for the queries to come, when the connection changes hands. */
  useSignal(signal: AbortSignal | undefined): void {
    this.#signal = signal;
  }

  /** Says goodbye and resolves when the server process is gone; after 1 s at the latest the socket is cut. */
  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Cuts the socket at once; the server rolls back what was open. */
  destroy(): void {
    this.#closing ??= Promise.resolve();
    this.#socket.destroy();
  }

  async #setSettings(): Promise<void> {
    const settings = Object.entries(sessionSettings(this.#options));
    await this.query(
      'select pg_catalog.set_config(name, value, false) from unnest($1::text[], $2::text[]) as s (name, value)',
      [settings.map(([name]) => name), settings.map(([, value]) => value)],
    );
  }

  async #end(): Promise<void> {
    const ended = this.#client.end().catch(() => {});
    await raceLimit(ended, CLOSE_LIMIT_MS);
    this.#socket.destroy();
  }

  /** Also after the signal has fired: what was begun is to be ended. */
  async #rollback(): Promise<void> {
    const rollback = async (): Promise<void> => {
      if (this.closed || !this.inTransaction) return;
      await this.#run('rollback', [], { timeoutMs: SERVER_GRACE_MS, interruptible: false });
    };
    const rolledBack = this.#tail.then(rollback);
    this.#tail = rolledBack.catch(() => this.destroy());
    await this.#tail;
  }

  async #run<R extends object>(
    sql: string,
    params: readonly unknown[],
    options: QueryOptions & { readonly interruptible: boolean },
  ): Promise<QueryResult<R>> {
    const results = await this.#interruptible<RawResult<R>>(
      () => this.#client.query<R & Record<string, unknown>>(sql, params as unknown[]),
      options,
    );
    const last = results.at(-1);
    return { rows: last?.rows ?? [], rowCount: last?.rowCount ?? 0, command: last?.command ?? '' };
  }

  async #interruptible<T>(
    start: () => Promise<T | T[]>,
    options: QueryOptions & { readonly interruptible: boolean },
  ): Promise<T[]> {
    if (this.closed) throw this.#lostBecause(this.#lostError);
    this.#isUnconfirmed = false;
    const work = start();
    const interruption = this.#interruptOn(work, options);
    try {
      // The type declarations pass over that several statements have several results.
      const results = await work;
      if (this.#isUnconfirmed) throw interruption.reason() ?? unconfirmed(this.endpoint);
      return Array.isArray(results) ? results : [results];
    } catch (error) {
      throw interruption.reason() ?? this.#queryError(error);
    } finally {
      // A cancel request still under way would hit the next query.
      await interruption.end();
    }
  }

  #interruptOn(
    work: Promise<unknown>,
    options: QueryOptions & { readonly interruptible: boolean },
  ): { reason(): Error | undefined; end(): Promise<void> } {
    const statementTimeoutMs = this.#options.statementTimeoutMs ?? DEFAULT_STATEMENT_TIMEOUT_MS;
    const ownMs = statementTimeoutMs === 0 ? 0 : statementTimeoutMs + SERVER_GRACE_MS;
    const timeoutMs = options.timeoutMs ?? ownMs;
    let reason: Error | undefined;
    let cancelling: Promise<void> = Promise.resolve();
    const interrupt = (why: Error): void => {
      if (reason) return;
      reason = why;
      cancelling = this.#cancelOrCut(work);
    };
    const timer =
      timeoutMs === 0
        ? undefined
        : setTimeout(() => interrupt(queryTimeout(this.endpoint, timeoutMs)), timeoutMs);
    const signals = options.interruptible ? [this.#signal, options.signal] : [];
    const listeners = signals
      .filter((signal) => signal !== undefined)
      .map((signal) => {
        const listener = (): void => interrupt(signal.reason as Error);
        signal.addEventListener('abort', listener, { once: true });
        return () => signal.removeEventListener('abort', listener);
      });
    return {
      reason: () => reason,
      end: async () => {
        clearTimeout(timer);
        for (const remove of listeners) remove();
        await cancelling;
      },
    };
  }

  async #cancelOrCut(work: Promise<unknown>): Promise<void> {
    const ended = settled(work);
    const peer = { address: this.#socket.remoteAddress, encrypted: this.#encrypted };
    const asked = sendCancelRequest(this.endpoint, peer, this.#client, CANCEL_LIMIT_MS);
    if (await raceLimit(ended, CANCEL_LIMIT_MS)) await asked;
    else this.#socket.destroy(new Error('the server did not react to a cancel request'));
  }

  #queryError(error: unknown): unknown {
    if (error instanceof DatabaseError) {
      // After a FATAL error the server ends the session.
      if (error.severity === 'FATAL' || error.severity === 'PANIC') return this.#lostBecause(error);
      return new VarveError('QUERY_FAILED', error.message, {
        sqlstate: error.code,
        detail: error.detail,
        hint: error.hint,
        cause: error,
      });
    }
    return this.#lostError || this.#socket.destroyed ? this.#lostBecause(this.#lostError ?? error) : error;
  }

  #lostBecause(cause: unknown): VarveError {
    const how = cause === undefined ? 'is closed' : 'was lost';
    return new VarveError('CONNECTION_LOST', `the connection to ${describeEndpoint(this.endpoint)} ${how}`, {
      sqlstate: cause instanceof DatabaseError ? cause.code : undefined,
      detail: cause === undefined ? undefined : messageOf(cause),
      cause,
    });
  }
}

interface RawTextResult {
  readonly rows: (string | null)[][];
  readonly rowCount: number | null;
  readonly command: string | null;
  readonly fields: readonly { readonly name: string }[] | undefined;
}

interface RawResult<R> {
  readonly rows: R[];
  readonly rowCount: number | null;
  readonly command: string;
}

interface Attempt {
  readonly client: Client;
  readonly socket: Socket;
  readonly encrypted: boolean;
}

async function connect(
  endpoint: Endpoint,
  options: ConnectOptions,
  how: { readonly tls: ReturnType<typeof tlsSettings>; readonly until: number },
): Promise<Attempt> {
  const socket = new Socket();
  // Everything is given, because for what is left out node-postgres looks into PG* environment variables.
  const client = new Client({
    host: endpoint.host,
    port: endpoint.port,
    database: endpoint.database,
    user: endpoint.user,
    password: () => {
      if (endpoint.password === undefined) throw passwordMissing(endpoint);
      return endpoint.password;
    },
    ssl: how.tls,
    sslnegotiation: 'postgres',
    application_name: options.applicationName ?? 'varve',
    ...(options.throughPooler === true ? {} : { options: startupOptions(sessionSettings(options)) }),
    stream: () => socket,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  });
  const { onNotice, signal } = options;
  if (onNotice) client.on('notice', (notice) => onNotice(toNotice(notice)));
  let fail: (reason: Error) => void = () => {};
  const failed = new Promise<never>((_resolve, reject) => (fail = reject));
  const abort = (): void => fail(signal?.reason as Error);
  const late = connectTimeout(endpoint, options.connectTimeoutMs);
  const timer = setTimeout(() => fail(late), how.until - performance.now());
  signal?.addEventListener('abort', abort, { once: true });
  // After a failed login the server's closing of the socket is of no interest.
  client.on('error', () => {});
  try {
    await Promise.race([client.connect(), failed]);
    return { client, socket, encrypted: how.tls !== false };
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}

function checkEndpoint(endpoint: Endpoint): void {
  for (const field of ['host', 'database', 'user'] as const) {
    if (endpoint[field] === '' || endpoint[field].includes('\0')) {
      throw new VarveError('INVALID_ARGUMENT', `the ${field} of a PostgreSQL server cannot be empty`);
    }
  }
  if (!Number.isInteger(endpoint.port) || endpoint.port < 1 || endpoint.port > 65_535) {
    throw new VarveError('INVALID_ARGUMENT', `invalid port number ${endpoint.port}`, {
      hint: 'The port number must be between 1 and 65535.',
    });
  }
}

async function settled(work: Promise<unknown>): Promise<void> {
  await work.catch(() => {});
}

/** True when `work` settled within the limit. `work` must not reject. */
async function raceLimit(work: Promise<void>, limitMs: number): Promise<boolean> {
  const timer = new AbortController();
  const limit = sleep(limitMs, false, { signal: timer.signal }).catch(() => false);
  const inTime = await Promise.race([work.then(() => true), limit]);
  timer.abort();
  return inTime;
}
