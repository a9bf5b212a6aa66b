import type { TestGroupServers } from './group-servers.ts';

export interface WriterOptions {
  /** There before the writing begins. */
  readonly rows: number;
  readonly clients: number;
  /** On which servers; the first alone by default. */
  readonly on?: readonly number[];
}

/** Clients of the write master that insert, change and delete rows of table `public.w` in database `varve`. */
export class Writers implements AsyncDisposable {
  /** Transactions that were committed. */
  written = 0;
  readonly errors: unknown[] = [];
  /** The longest time that one transaction took. */
  slowestMs = 0;
  readonly #servers: TestGroupServers;
  readonly #stopping = new AbortController();
  #running: Promise<unknown> = Promise.resolve();

  private constructor(servers: TestGroupServers) {
    this.#servers = servers;
  }

  static async start(
    servers: TestGroupServers,
    { rows, clients, on = [0] }: WriterOptions,
  ): Promise<Writers> {
    const writers = new Writers(servers);
    await using connection = await servers.connect(0, 'varve');
    await connection.query(
      'create table if not exists public.w (id bigint primary key, client int not null, v int not null, pad text)',
    );
    await connection.query(
      `insert into public.w select -i, 0, i, repeat('x', 50) from generate_series(1, $1) i`,
      [rows],
    );
    const sources = Array.from({ length: clients }, (_, i) => ({
      client: i + 1,
      on: on[i % on.length] ?? 0,
    }));
    for (const index of on) await untilTable(servers, index);
    writers.#running = Promise.all(sources.map((source) => writers.#write(source)));
    return writers;
  }

  /** Resolves when that many more transactions were committed. */
  async moreRows(count: number): Promise<void> {
    const goal = this.written + count;
    while (this.written < goal) {
      if (this.errors.length > 0) throw this.errors[0];
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** @throws the first error of a writer */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    if (this.errors.length > 0) throw this.errors[0];
  }

  async digest(index: number): Promise<string> {
    await using connection = await this.#servers.connect(index, 'varve');
    const { digest } = await connection.one<{ digest: string }>(
      `select count(*) || ':' || coalesce(md5(string_agg(w::text, ',' order by id)), '') as digest from public.w w`,
    );
    return digest;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #write({ client, on }: { readonly client: number; readonly on: number }): Promise<void> {
    try {
      await using connection = await this.#servers.connect(on, 'varve');
      for (let i = 1; !this.#stopping.signal.aborted; i += 1) {
        const id = client * 1_000_000 + i;
        const beganMs = performance.now();
        await connection.query(
          `insert into public.w values (${id}, ${client}, ${i}, 'new');
           update public.w set v = v + 1 where id = ${-((i % 100) * 10 + client)};
           delete from public.w where id = ${id - 10}`,
        );
        this.slowestMs = Math.max(this.slowestMs, performance.now() - beganMs);
        this.written += 1;
      }
    } catch (error) {
      this.errors.push(error);
    }
  }
}

async function untilTable(servers: TestGroupServers, index: number): Promise<void> {
  await using connection = await servers.connect(index, 'varve');
  while (
    !(await connection.one<{ there: boolean }>(`select to_regclass('public.w') is not null as there`)).there
  ) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
