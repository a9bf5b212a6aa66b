import { expect, test } from 'vitest';
import { systemClock, type Clock } from '../core/clock.ts';
import { PostgresService, type RunningPostgres } from './postgres-service.ts';

type Exit = { code?: number; signal?: NodeJS.Signals };

/** Notes the waits instead of making them. */
function impatientClock(): Clock & { waitsMs: number[] } {
  const waitsMs: number[] = [];
  return {
    ...systemClock,
    waitsMs,
    sleep: (ms) => {
      waitsMs.push(ms);
      return Promise.resolve();
    },
  };
}

function service(failures: number) {
  const clock = impatientClock();
  const exits: ((exit: Exit) => void)[] = [];
  const downs: string[] = [];
  let stoppedCount = 0;
  let failing = 0;
  const bringUp = (): Promise<RunningPostgres> => {
    if (exits.length > 0 && failing < failures) {
      failing += 1;
      return Promise.reject(new Error(`attempt ${failing} failed`));
    }
    const exited = new Promise<Exit>((resolve) => exits.push(resolve));
    const own = { pid: exits.length, exited, stop: () => Promise.resolve(void (stoppedCount += 1)) };
    return Promise.resolve({
      version: '18.4',
      endpoint: { host: '127.0.0.1', port: 5432, database: 'd', user: 'u' },
      own,
      credentials: {},
    } as unknown as RunningPostgres);
  };
  const postgres = new PostgresService({
    clock,
    bringUp,
    onUp: () => {},
    onDown: (why) => downs.push(why),
    random: () => 1,
  });
  return { postgres, clock, exits, downs, stopped: () => stoppedCount };
}

test('a server that dies is brought up again, with growing delays while that fails', async () => {
  const { postgres, clock, exits, downs } = service(3);
  const stop = new AbortController();
  await postgres.start(stop.signal);
  const run = postgres.run(stop.signal);
  exits[0]?.({ signal: 'SIGKILL' });
  await expect.poll(() => exits.length).toBe(2);
  expect(downs).toEqual([
    'PostgreSQL ended by SIGKILL',
    'attempt 1 failed',
    'attempt 2 failed',
    'attempt 3 failed',
  ]);
  expect(clock.waitsMs).toEqual([250, 500, 1000, 2000]);
  await expect.poll(() => postgres.status()).toMatchObject({ up: true, pid: 2, restartCount: 1 });
  exits[1]?.({ code: 1 });
  await expect.poll(() => exits.length).toBe(3);
  expect(downs.at(-1)).toBe('PostgreSQL ended with exit code 1');
  stop.abort();
  await run;
});

test('a server that dies while the node stops is left alone, and is stopped with the node', async () => {
  const { postgres, exits, downs, stopped } = service(0);
  const stop = new AbortController();
  await postgres.start(stop.signal);
  const run = postgres.run(stop.signal);
  stop.abort();
  exits[0]?.({ code: 0 });
  await run;
  await postgres[Symbol.asyncDispose]();
  expect([exits.length, downs, stopped()]).toEqual([1, [], 1]);
  expect(postgres.status()).toMatchObject({ up: false, pid: null });
});
