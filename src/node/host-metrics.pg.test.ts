import { afterEach, beforeEach, expect, test } from 'vitest';
import { testDatabase, type TestDatabase } from '../../test/database.ts';
import { systemClock, type Clock } from '../core/clock.ts';
import type { Connection } from '../postgres/connection.ts';
import { HostMetrics } from './host-metrics.ts';

/** A second takes 20 ms. */
const fastClock: Clock = {
  ...systemClock,
  sleep: (ms, signal) => systemClock.sleep(ms / 50, signal),
};

let database: TestDatabase;
let stop: AbortController;
let notes: string[];

beforeEach(async () => {
  database = await testDatabase();
  stop = new AbortController();
  notes = [];
  await using connection = await database.connect();
  await connection.query(`create table public.host_metrics (
    time timestamptz not null, host text not null, metric text not null, labels jsonb not null,
    value double precision not null)`);
});

afterEach(async () => {
  stop.abort();
  await database[Symbol.asyncDispose]();
});

let taken = 0;
const sampler = {
  limitation: undefined,
  sample: () => {
    taken += 1;
    return Promise.resolve([
      { metric: 'number', labels: {}, value: taken },
      { metric: 'disk', labels: { device: `"odd" \\ {name}` }, value: 0.1 },
    ]);
  },
};

async function numbers(): Promise<number[]> {
  await using connection = await database.connect();
  const { rows } = await connection.query<{ value: number }>(
    "select value from public.host_metrics where metric = 'number' order by value",
  );
  return rows.map(({ value }) => value);
}

test('every reading becomes a row, and what could not be written at once is written later', async () => {
  taken = 0;
  let opened: Connection[] = [];
  let isAway = true;
  const connect = async (): Promise<Connection> => {
    if (isAway) throw new Error('the database is away');
    const connection = await database.connect();
    opened.push(connection);
    return connection;
  };
  const note = (_level: string, text: string): void => void notes.push(text);
  const metrics = new HostMetrics({ clock: fastClock, sampler, connect, host: 'h1', note });
  const run = metrics.run(stop.signal);
  await expect.poll(() => taken).toBeGreaterThan(5);
  isAway = false;
  await expect.poll(async () => (await numbers()).length, { timeout: 10_000 }).toBeGreaterThan(6);

  // The connection breaks: it goes on with another.
  for (const connection of opened) connection.destroy();
  opened = [];
  const before = taken;
  await expect
    .poll(async () => (await numbers()).at(-1) ?? 0, { timeout: 10_000 })
    .toBeGreaterThan(before + 2);
  stop.abort();
  await run;

  const written = await numbers();
  expect(new Set(written)).toEqual(new Set(Array.from({ length: written.at(-1) ?? 0 }, (_, i) => i + 1)));
  expect(notes[0]).toBe('metrics cannot be written: the database is away; they are kept for a while');
  expect(notes[1]).toBe('metrics are written again');
  await using connection = await database.connect();
  const { labels, host, recent } = await connection.one<{ labels: object; host: string; recent: boolean }>(
    `select labels, host, now() - time < interval '1 minute' as recent
       from public.host_metrics where metric = 'disk' limit 1`,
  );
  expect([labels, host, recent]).toEqual([{ device: `"odd" \\ {name}` }, 'h1', true]);
});
