import { createInterface } from 'node:readline';
import { Connection, type Endpoint } from '../src/postgres/connection.ts';
import { lostRows, makeLoadTable, WriteLoad } from './write-load.ts';

/**
 * Clients of a group, in a process of their own, so that they can be in another network than the test. Reads a command
 * with its arguments per line, as JSON, and answers each with a line.
 */
export interface RemoteCommands {
  /** Makes the table of the load where it can be written, and starts one client for each. */
  start: (endpoints: readonly Endpoint[]) => Promise<void>;
  /** How many rows were acknowledged so far. */
  count: () => Promise<number>;
  /** From now on `turns` counts. */
  mark: () => Promise<void>;
  /** The hosts that acknowledged rows since `mark`, in turn: `a, b, a` went forth and back. */
  turns: () => Promise<readonly string[]>;
  /** For how long since `mark` nobody acknowledged anything, at most; milliseconds. */
  longestGapMs: () => Promise<number>;
  /** Ends the load. */
  stop: () => Promise<void>;
  /** How many of the acknowledged rows that server does not have, and how many it has in all. */
  lost: (endpoint: Endpoint) => Promise<{ readonly lost: number; readonly rows: number }>;
  /** Writes a row there in the background: whether that was acknowledged, is in `loneAnswered`. */
  lone: (endpoint: Endpoint) => Promise<void>;
  loneAnswered: () => Promise<boolean>;
}

const LONE_ID = -1;

let load: WriteLoad | undefined;
let markMs = 0;
let loneAnswered = false;
let lone: Connection | undefined;

const commands: RemoteCommands = {
  start: async (endpoints) => {
    await Promise.any(endpoints.map((endpoint) => makeLoadTable(endpoint)));
    load = new WriteLoad(endpoints);
    load.start();
  },
  count: () => Promise.resolve(load?.acknowledgedIds.length ?? 0),
  mark: () => {
    markMs = performance.now();
    return Promise.resolve();
  },
  turns: () => Promise.resolve((load?.turnsSince(markMs) ?? []).map(({ host }) => host)),
  longestGapMs: () => Promise.resolve(load?.longestGapMs(markMs) ?? 0),
  stop: async () => load?.stop(),
  lost: async (endpoint) => {
    const lost = await lostRows(endpoint, load?.acknowledgedIds ?? []);
    await using connection = await Connection.open(endpoint, { connectTimeoutMs: 5000 });
    const { rows } = await connection.one<{ rows: number }>(
      'select count(*)::int4 as rows from public.load where id > 0',
    );
    return { lost, rows };
  },
  lone: async (endpoint) => {
    lone = await Connection.open(endpoint, { connectTimeoutMs: 5000, statementTimeoutMs: 0 });
    const written = lone.query('insert into public.load (id) values ($1)', [LONE_ID], { timeoutMs: 0 });
    written.then(
      () => (loneAnswered = true),
      () => {},
    );
  },
  loneAnswered: () => Promise.resolve(loneAnswered),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...args] = JSON.parse(line) as [keyof RemoteCommands, ...unknown[]];
  const command = commands[name] as (...given: unknown[]) => Promise<unknown>;
  const answer = await command(...args).then(
    (value) => ({ value }),
    (error: unknown) => ({ error: String(error) }),
  );
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
lone?.destroy();
process.exit(0);
