import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import { MasterControlDatabase, type ControlDatabase } from './control-database.ts';
import { dyingControl, testControl, testLog, type TestControl } from './control.suite.ts';
import { GroupWork } from './group-work.ts';
import { TaskQueue } from './task-queue.ts';
import type { Action, Actions } from './task.ts';
import { Worker, type MemberRole, type WorkerOptions } from './worker.ts';

let setup: TestControl;
let queue: TaskQueue;
const stop = new AbortController();
beforeAll(async () => {
  setup = await testControl();
  queue = new TaskQueue(setup.control, setup.shape);
});
beforeEach(() =>
  setup.connection.query(
    `update tasks.schedules set enabled = false, cluster_id = 'main';
     truncate tasks.tasks, tasks.history, rdpg.events`,
  ),
);
afterAll(() => setup[Symbol.asyncDispose]());

const options: WorkerOptions = {
  node: 'n1',
  cluster: 'main',
  alone: false,
  leaseMs: 60_000,
  pollMs: 5,
  readGraceMs: 60_000,
  retryMs: 1,
};

function worker(
  actions: Actions,
  more: Partial<WorkerOptions> & { control?: ControlDatabase; role?: () => MemberRole } = {},
): Worker {
  const { control = setup.control, role = () => 'write' as const, ...changed } = more;
  return new Worker(
    {
      log: testLog(),
      clock: systemClock,
      queue: new TaskQueue(control, setup.shape),
      control,
      actions,
      role,
    },
    { ...options, ...changed },
  );
}

const history = async (): Promise<unknown[]> =>
  (
    await setup.connection.query(
      'select action, outcome, attempt, error from tasks.history order by finished_at',
    )
  ).rows;

/** Writes one row when it ends, and one line whenever it is begun. */
function counting(): { action: Action; begun: () => number } {
  let begun = 0;
  return {
    begun: () => begun,
    action: async ({ control, node }) => {
      begun += 1;
      await control.withConnection((connection) => connection.query('select 1'));
      return {
        effects: async (connection) => {
          await connection.query(`insert into rdpg.events (host, key, msg) values ($1, 'effect', '')`, [
            node,
          ]);
        },
      };
    },
  };
}

test('a worker that dies at any statement leaves the task to another, and it takes effect once', async () => {
  const whole = counting();
  await queue.add({ action: 'A' });
  const measured = dyingControl(setup.control, Number.MAX_SAFE_INTEGER, 'before');
  await worker({ A: whole.action }, { control: measured }).workOnce(stop.signal);
  const statementCount = measured.statements();
  expect(statementCount).toBeGreaterThan(4);
  await setup.connection.query('delete from rdpg.events; delete from tasks.history');

  for (const when of ['before', 'after'] as const) {
    for (let at = 1; at <= statementCount; at += 1) {
      const { action } = counting();
      await queue.add({ action: 'A' });
      const control = dyingControl(setup.control, at, when);
      await worker({ A: action }, { control })
        .workOnce(stop.signal)
        .catch(() => {});
      expect(control.dead()).toBe(true);
      // The time of the lease passes.
      await setup.connection.query(
        `update tasks.tasks set lease_until = now() - interval '1 s' where state = 'running'`,
      );
      await worker({ A: action }, { node: 'n2' }).workOnce(stop.signal);
      const outcome = await setup.connection.one(
        `select (select count(*)::int from tasks.tasks) as open,
                (select array_agg(outcome) from tasks.history) as outcomes,
                (select count(*)::int from rdpg.events) as effects`,
      );
      expect({ when, at, ...outcome }).toEqual({ when, at, open: 0, outcomes: ['done'], effects: 1 });
      await setup.connection.query('delete from rdpg.events; delete from tasks.history');
    }
  }
});

test('an error is tried again, later each time, and given up after the last attempt', async () => {
  await queue.add({ action: 'A', maxAttempts: 3 });
  const seen: number[] = [];
  const failing = worker({
    A: ({ task }) => {
      seen.push(task.attempt);
      throw new Error(`no ${task.attempt}`);
    },
  });
  const waits: number[] = [];
  while (await failing.workOnce(stop.signal)) {
    const row = await setup.connection.maybeOne<{ ms: number }>(
      `select extract(epoch from run_after - processing_at)::float8 * 1000 as ms from tasks.tasks`,
    );
    if (row) waits.push(row.ms);
    await setup.connection.query('update tasks.tasks set run_after = now()');
  }
  expect(seen).toEqual([1, 2, 3]);
  expect(await history()).toEqual([{ action: 'A', outcome: 'failed', attempt: 3, error: 'no 3' }]);
  expect(waits).toHaveLength(2);
});

test.each([
  ['an unknown action', {}, /INVALID_ARGUMENT: there is no action "A"/],
  [
    'a refusal',
    {
      A: () => {
        throw new VarveError('INVALID_ARGUMENT', 'not so', { hint: 'do otherwise' });
      },
    },
    /not so\ndo otherwise/,
  ],
])('%s is not tried again', async (_, actions, error) => {
  await queue.add({ action: 'A' });
  await worker(actions).workOnce(stop.signal);
  expect(await history()).toEqual([
    { action: 'A', outcome: 'failed', attempt: 1, error: expect.stringMatching(error) as string },
  ]);
});

/** An action that runs until it is interrupted, and says when it has begun. */
function endless(): { action: Action; begun: Promise<void>; reason: Promise<Error> } {
  const begun = deferred<void>();
  const reason = deferred<Error>();
  return {
    begun: begun.promise,
    reason: reason.promise,
    action: async ({ signal }) => {
      begun.resolve(undefined);
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      reason.resolve(signal.reason as Error);
      throw signal.reason as Error;
    },
  };
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((done) => (resolve = done));
  return { promise, resolve };
}

test('a long task keeps its lease', async () => {
  await queue.add({ action: 'A' });
  let beats = 0;
  const slow = worker(
    {
      A: async () => {
        for (const seen = new Set<string>(); seen.size < 4;) {
          const { at } = await setup.connection.one<{ at: Date }>(
            'select heartbeat_at as at from tasks.tasks',
          );
          seen.add(at.toISOString());
          beats = seen.size;
          await systemClock.sleep(10);
        }
        expect(
          await queue.claim({ node: 'n2', nodeTypes: ['any'], readGraceMs: 0, leaseMs: 1 }),
        ).toBeUndefined();
        return {};
      },
    },
    { leaseMs: 1_500 },
  );
  await slow.workOnce(stop.signal);
  expect(beats).toBe(4);
  expect(await history()).toMatchObject([{ outcome: 'done', attempt: 1 }]);
});

test('a task that is taken away interrupts its worker', async () => {
  await queue.add({ action: 'A' });
  const { action, begun, reason } = endless();
  const working = worker({ A: action }, { leaseMs: 90 }).workOnce(stop.signal);
  await begun;
  await setup.connection.query(`update tasks.tasks set processing_at = now() - interval '7 hours'`);
  expect(await queue.returnStuck('6 hours')).toMatchObject([{ action: 'A', worker: 'n1' }]);
  expect((await reason).message).toMatch(/lease of the task was lost/);
  await working;
  expect(await setup.connection.one('select state, attempt from tasks.tasks')).toEqual({
    state: 'queued',
    attempt: 1,
  });
});

test('a worker that cannot reach the control database stops before another may begin', async () => {
  await queue.add({ action: 'A' });
  const { action, begun, reason } = endless();
  let reachable = true;
  const control = new MasterControlDatabase({
    master: () => (reachable ? setup.database.endpoint : undefined),
  });
  const working = worker({ A: action }, { leaseMs: 200, control }).workOnce(stop.signal);
  await begun;
  reachable = false;
  expect((await reason).message).toMatch(/lease of the task/);
  await working;
  const { over } = await setup.connection.one<{ over: boolean }>(
    'select lease_until < now() as over from tasks.tasks',
  );
  const taken = await queue.claim({ node: 'n2', nodeTypes: ['any'], readGraceMs: 0, leaseMs: 1_000 });
  expect(over ? taken?.attempt : taken).toBe(over ? 2 : undefined);
  await control[Symbol.asyncDispose]();
});

test('a task for the write node is given back when the node is that no more', async () => {
  await queue.add({ action: 'A', nodeType: 'write' });
  const { action, begun, reason } = endless();
  let role: MemberRole = 'write';
  const working = worker({ A: action }, { leaseMs: 90, role: () => role }).workOnce(stop.signal);
  await begun;
  role = 'read';
  expect((await reason).message).toMatch(/no longer write master/);
  await working;
  expect(await setup.connection.one('select state, attempt from tasks.tasks')).toEqual({
    state: 'queued',
    attempt: 0,
  });
});

test('stopping gives tasks back, and two members do all that is scheduled', async () => {
  await setup.connection.query(
    `update tasks.schedules set enabled = true, last_scheduled_at = '-infinity' where action in ('Vacuum', 'Reconfigure')`,
  );
  const done: string[] = [];
  const hanging = endless();
  const actions: Actions = {
    Vacuum: async ({ node }) => {
      done.push(`Vacuum ${node}`);
      return {};
    },
    Reconfigure: async (context) => {
      if (context.node === 'n2') return hanging.action(context);
      done.push('Reconfigure n1');
      return {};
    },
  };
  const halt = new AbortController();
  const works = ['n1', 'n2'].map(
    (node) =>
      new GroupWork(
        {
          log: testLog(),
          clock: systemClock,
          control: setup.control,
          actions,
          role: () => (node === 'n1' ? 'write' : 'read'),
          members: () => ['n1', 'n2'],
        },
        { node, shape: setup.shape, pollMs: 5, scheduleMs: 5 },
      ),
  );
  const running = Promise.all(works.map((work) => work.run(halt.signal)));
  await hanging.begun;
  await expect.poll(() => [...done].sort()).toEqual(['Reconfigure n1', 'Vacuum n1', 'Vacuum n2']);
  await expect.poll(() => works[1]?.status().running).toMatchObject([{ action: 'Reconfigure', attempt: 1 }]);
  expect(works[0]?.status().waitingFor).toBeNull();
  halt.abort();
  await running;
  const { rows } = await setup.connection.query('select action, node, state, attempt from tasks.tasks');
  expect(rows).toEqual([{ action: 'Reconfigure', node: 'n2', state: 'queued', attempt: 0 }]);
  const events = await setup.connection.query(
    `select host, msg from rdpg.events where key = 'work/role' order by host`,
  );
  expect(events.rows).toEqual([
    { host: 'n1', msg: 'n1 works as write node' },
    { host: 'n2', msg: 'n2 works as read node' },
  ]);
});
