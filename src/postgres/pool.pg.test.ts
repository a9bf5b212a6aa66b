import { afterEach, beforeEach, expect, it } from 'vitest';
import { connect, serverEndpoint } from '../../test/database.ts';
import { Pool, type PoolOptions } from './pool.ts';

let pool: Pool;
const make = (more: Partial<PoolOptions> = {}): Pool =>
  new Pool({
    endpoint: serverEndpoint(),
    connect: { connectTimeoutMs: 5000 },
    maxCount: 2,
    idleTimeoutMs: 10_000,
    waitTimeoutMs: 5000,
    ...more,
  });
beforeEach(() => (pool = make()));
afterEach(() => pool[Symbol.asyncDispose]());

const pidOf = (from: Pool): Promise<number> =>
  from.withConnection(async (connection) => connection.backendPid);

it('uses a connection again', async () => {
  expect(await pidOf(pool)).toBe(await pidOf(pool));
});

it('never opens more than its maximum, and serves all in the order of their calls', async () => {
  let openCount = 0;
  let highest = 0;
  const order: number[] = [];
  await Promise.all(
    Array.from({ length: 10 }, (_, i) =>
      pool.withConnection(async (connection) => {
        order.push(i);
        highest = Math.max(highest, (openCount += 1));
        await connection.query('select pg_sleep(0.01)');
        openCount -= 1;
      }),
    ),
  );
  expect(highest).toBe(2);
  expect(order.slice(2)).toEqual([2, 3, 4, 5, 6, 7, 8, 9]);
});

it('does not lend a connection that the server ended while it was idle', async () => {
  const pid = await pidOf(pool);
  await using other = await connect();
  await other.query('select pg_terminate_backend($1, 5000)', [pid]);
  await expect.poll(() => pidOf(pool)).not.toBe(pid);
});

it('does not lend a connection that came back inside a transaction', async () => {
  const pid = await pool.withConnection(async (connection) => {
    await connection.query('begin');
    return connection.backendPid;
  });
  expect(await pidOf(pool)).not.toBe(pid);
});

it('gives the place back when opening fails', async () => {
  await using bad = make({ endpoint: { ...serverEndpoint(), password: 'wrong' }, maxCount: 1 });
  for (let i = 0; i < 3; i += 1) {
    await expect(bad.query('select 1')).rejects.toMatchObject({ code: 'LOGIN_FAILED' });
  }
});

it('gives the place back when the work fails, and passes on what it threw', async () => {
  const failure = new Error('no');
  for (let i = 0; i < 3; i += 1) {
    await expect(pool.withConnection(() => Promise.reject(failure))).rejects.toBe(failure);
  }
  expect((await pool.query('select 1 as n')).rows).toEqual([{ n: 1 }]);
});

/** Takes a pool's only connection until `free` is called. */
async function occupy(from: Pool): Promise<() => void> {
  let free = (): void => {};
  const held = new Promise<void>((resolve) => (free = resolve));
  await new Promise<void>((taken) => {
    void from.withConnection(async () => {
      taken();
      await held;
    });
  });
  return free;
}

it('shares a connection among short uses when it is to grow late, and grows beside a long one', async () => {
  await using late = make({ growAfterMs: 200 });
  const pids = await Promise.all(Array.from({ length: 5 }, () => pidOf(late)));
  expect(new Set(pids).size).toBe(1);
  const free = await occupy(late);
  expect(await pidOf(late)).not.toBe(pids[0]);
  free();
});

it('ends a wait by its deadline or signal, and the place goes to those who still wait', async () => {
  await using one = make({ maxCount: 1, waitTimeoutMs: 100 });
  const free = await occupy(one);
  await expect(one.query('select 1')).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  const abort = new AbortController();
  const reason = new Error('enough');
  const given = one.query('select 1', [], abort.signal);
  const waiting = one.query('select 1 as n');
  abort.abort(reason);
  free();
  await expect(given).rejects.toBe(reason);
  expect((await waiting).rows).toEqual([{ n: 1 }]);
});

it('cancels the queries of a signal, and the next user’s are not concerned', async () => {
  await using one = make({ maxCount: 1 });
  const abort = new AbortController();
  const sleeping = one.query('select pg_sleep(60)', [], abort.signal);
  setTimeout(() => abort.abort(new Error('enough')), 50);
  await expect(sleeping).rejects.toThrow('enough');
  expect((await one.query('select 1 as n')).rows).toEqual([{ n: 1 }]);
});

it('closes a connection that was not used for long', async () => {
  await using brief = make({ idleTimeoutMs: 20 });
  const pid = await pidOf(brief);
  await using other = await connect();
  await expect
    .poll(() => other.maybeOne('select 1 from pg_stat_activity where pid = $1', [pid]))
    .toBeUndefined();
});

it('refuses users after close, those who wait included', async () => {
  const one = make({ maxCount: 1 });
  const free = await occupy(one);
  const waiting = one.query('select 1');
  await one.close();
  await expect(waiting).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  await expect(one.query('select 1')).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  free();
});
