import { Connection, type Endpoint } from '../../src/postgres/connection.ts';
import { pause } from './contender.ts';

export interface PacedLoadOptions {
  readonly rowsPerSecond: number;
  /** There before the load begins. */
  readonly rowsBefore: number;
}

const CLIENTS = 10;
const ROWS_PER_STATEMENT = 10;
const BEAT_MS = 20;
const STATEMENT_MS = 30_000;

/**
 * Clients of one server that insert rows at a given rate, whether the server keeps up or not: who is late catches
 * up. One more changes and deletes rows that are there, and one writes a number to `public.beat` every
 * {@link BEAT_MS}, so that on each member it can be seen when the stream stood still.
 */
export class PacedLoad implements AsyncDisposable {
  /** Of statements that were answered: when, by performance.now, and how long each took. */
  readonly answers: { readonly atMs: number; readonly tookMs: number }[] = [];
  readonly errors: unknown[] = [];
  readonly #endpoint: Endpoint;
  readonly #options: PacedLoadOptions;
  readonly #stop = new AbortController();
  readonly #rowsOf: number[] = Array.from({ length: CLIENTS }, () => 0);
  #running: Promise<unknown> = Promise.resolve();

  private constructor(endpoint: Endpoint, options: PacedLoadOptions) {
    this.#endpoint = endpoint;
    this.#options = options;
  }

  /** Makes the tables and begins. */
  static async start(endpoint: Endpoint, options: PacedLoadOptions): Promise<PacedLoad> {
    const load = new PacedLoad(endpoint, options);
    await using connection = await load.#connect();
    await connection.query('create table public.load (id bigint primary key, v int not null, pad text)');
    await connection.query('create table public.beat (n int primary key)');
    await connection.query(
      `insert into public.load select -i, 0, repeat('x', 50) from generate_series(1, $1::int) as i`,
      [options.rowsBefore],
    );
    const loops = Array.from({ length: CLIENTS }, (_, client) => load.#insert(client));
    load.#running = Promise.all([...loops, load.#change(), load.#beat()]);
    return load;
  }

  /** @throws the first error of a client */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    if (this.errors.length > 0) throw this.errors[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  /** Rows that were acknowledged in that span of performance.now. */
  rowsPerSecond(fromMs: number, toMs: number): number {
    const answers = this.answers.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
    return (answers.length * ROWS_PER_STATEMENT * 1000) / (toMs - fromMs);
  }

  /** Acknowledged rows that a server does not have. */
  async lostRows(endpoint: Endpoint): Promise<number> {
    await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
    const { lost } = await connection.one<{ lost: string }>(
      `select count(*) as lost from unnest($1::int[]) with ordinality as client (rows, ordinality),
              generate_series(1, client.rows) as i
       where not exists (select from public.load where id = (client.ordinality - 1) * 1000000000 + i)`,
      [this.#rowsOf],
    );
    return Number(lost);
  }

  #connect(): Promise<Connection> {
    return Connection.open(this.#endpoint, { connectTimeoutMs: 5000, statementTimeoutMs: STATEMENT_MS });
  }

  async #insert(client: number): Promise<void> {
    const everyMs = (1000 * CLIENTS * ROWS_PER_STATEMENT) / this.#options.rowsPerSecond;
    let next = 1;
    await this.#repeat(everyMs, async (connection) => {
      const began = performance.now();
      const first = client * 1_000_000_000 + next;
      await connection.query(
        `insert into public.load select i, 1, 'new' from generate_series($1::bigint, $2::bigint) as i`,
        [first, first + ROWS_PER_STATEMENT - 1],
      );
      const atMs = performance.now();
      this.answers.push({ atMs, tookMs: atMs - began });
      next += ROWS_PER_STATEMENT;
      this.#rowsOf[client] = next - 1;
    });
  }

  /** Of rows that were there before: what is changed or deleted on one member only is a loss, too. */
  async #change(): Promise<void> {
    let next = 1;
    await this.#repeat(10, async (connection) => {
      const id = -((next % this.#options.rowsBefore) + 1);
      await connection.query(
        next % 3 === 0
          ? 'delete from public.load where id = $1'
          : 'update public.load set v = v + 1 where id = $1',
        [id],
      );
      next += 1;
    });
  }

  async #beat(): Promise<void> {
    let next = 1;
    await this.#repeat(BEAT_MS, async (connection) => {
      await connection.query('insert into public.beat values ($1)', [next]);
      next += 1;
    });
  }

  async #repeat(everyMs: number, work: (connection: Connection) => Promise<void>): Promise<void> {
    try {
      await using connection = await this.#connect();
      let dueMs = performance.now();
      while (!this.#stop.signal.aborted) {
        await work(connection);
        dueMs += everyMs;
        const aheadMs = dueMs - performance.now();
        if (aheadMs > 0) await pause(aheadMs);
      }
    } catch (error) {
      this.errors.push(error);
    }
  }
}

/** Looks on one member when new beats arrive. */
export class BeatWatch implements AsyncDisposable {
  /** When there was something new, by performance.now. */
  readonly #arrivals: number[] = [];
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  constructor(endpoint: Endpoint) {
    this.#running = this.#watch(endpoint);
  }

  /** Times between arrivals that ended in that span. */
  gapsMs(fromMs: number, toMs: number): number[] {
    return this.#arrivals
      .map((atMs, index) => ({ atMs, gapMs: atMs - (this.#arrivals[index - 1] ?? atMs) }))
      .filter(({ atMs }) => atMs >= fromMs && atMs <= toMs)
      .map(({ gapMs }) => gapMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #watch(endpoint: Endpoint): Promise<void> {
    await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
    let last = 0;
    while (!this.#stop.signal.aborted) {
      const { newest } = await connection.one<{ newest: number }>(
        'select coalesce(max(n), 0) as newest from public.beat',
      );
      if (newest > last) this.#arrivals.push(performance.now());
      last = newest;
      await pause(BEAT_MS / 2);
    }
  }
}
