import { Connection, type Endpoint } from '../src/postgres/connection.ts';

interface Acknowledged {
  readonly id: number;
  readonly atMs: number;
  readonly by: Endpoint;
}

const CONNECT_MS = 500;
const STATEMENT_MS = 2000;
const PAUSE_MS = 5;
const RETRY_MS = 10;

/**
 * Unique rows, written to whichever of the servers takes them: one client per server tries all the time. What was
 * acknowledged is known with its time, so that afterwards it can be said for how long nobody took writes and
 * what of it is gone.
 */
export class WriteLoad implements AsyncDisposable {
  readonly #endpoints: readonly Endpoint[];
  readonly #stop = new AbortController();
  readonly #acknowledged: Acknowledged[] = [];
  #next = 1;
  #running: Promise<unknown> = Promise.resolve();

  constructor(endpoints: readonly Endpoint[]) {
    this.#endpoints = endpoints;
  }

  get acknowledgedIds(): readonly number[] {
    return this.#acknowledged.map(({ id }) => id);
  }

  /** Whose acknowledgements came from `sinceMs` (performance.now) on, in turn: `a, b, a` went forth and back. */
  turnsSince(sinceMs: number): readonly Endpoint[] {
    const by = this.#acknowledged.filter(({ atMs }) => atMs >= sinceMs).map((one) => one.by);
    return by.filter((endpoint, index) => endpoint !== by[index - 1]);
  }

  /** The table `load(id bigint primary key)` is there. */
  start(): void {
    this.#running = Promise.all(this.#endpoints.map((endpoint) => this.#write(endpoint)));
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  /** Resolves with the first acknowledgement after `sinceMs` (performance.now). */
  async firstAfter(sinceMs: number, timeoutMs: number): Promise<number> {
    const until = performance.now() + timeoutMs;
    while (performance.now() < until) {
      const found = this.#acknowledged.findLast(({ atMs }) => atMs > sinceMs);
      if (found) return this.#acknowledged.find(({ atMs }) => atMs > sinceMs)?.atMs ?? found.atMs;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    throw new Error(`no write was acknowledged within ${timeoutMs} ms`);
  }

  /** The longest time between two acknowledgements from `sinceMs` on. */
  longestGapMs(sinceMs: number): number {
    const times = this.#acknowledged.map(({ atMs }) => atMs).filter((atMs) => atMs >= sinceMs - 1000);
    return Math.max(0, ...times.slice(1).map((atMs, index) => atMs - (times[index] ?? atMs)));
  }

  async #write(endpoint: Endpoint): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        await using connection = await Connection.open(endpoint, {
          connectTimeoutMs: CONNECT_MS,
          statementTimeoutMs: STATEMENT_MS,
        });
        while (!this.#stop.signal.aborted) {
          const id = this.#next++;
          await connection.query('insert into public.load (id) values ($1)', [id], {
            timeoutMs: STATEMENT_MS,
          });
          this.#acknowledged.push({ id, atMs: performance.now(), by: endpoint });
          await pause(PAUSE_MS);
        }
      } catch {
        await pause(RETRY_MS);
      }
    }
  }
}

export async function makeLoadTable(endpoint: Endpoint): Promise<void> {
  await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
  await connection.query('create table public.load (id bigint primary key)');
}

/** How many of the acknowledged rows a server does not have. */
export async function lostRows(endpoint: Endpoint, ids: readonly number[]): Promise<number> {
  await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
  const { lost } = await connection.one<{ lost: string }>(
    `select count(*) as lost from unnest($1::bigint[]) as want (id)
     where not exists (select from public.load where load.id = want.id)`,
    [ids],
  );
  return Number(lost);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
