import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { testControl, type TestControl } from './control.suite.ts';
import { TaskQueue, type Claimant } from './task-queue.ts';
import { nextState, TASK_TRANSITIONS, type OpenState, type TaskEvent } from './task-states.ts';
import type { Task } from './task.ts';

let control: TestControl;
let queue: TaskQueue;

beforeAll(async () => {
  control = await testControl();
  queue = new TaskQueue(control.control, control.shape);
});
beforeEach(() =>
  control.connection.query(
    `update tasks.schedules set enabled = false, cluster_id = 'main';
     truncate tasks.tasks, tasks.history, rdpg.events`,
  ),
);
afterAll(() => control[Symbol.asyncDispose]());

const claimant = (node: string, more: Partial<Claimant> = {}): Claimant => ({
  node,
  nodeTypes: ['any', 'write'],
  readGraceMs: 60_000,
  leaseMs: 60_000,
  ...more,
});

async function claimed(more: Partial<Claimant> = {}): Promise<Task> {
  const task = await queue.claim(claimant('n1', more));
  if (!task) throw new Error('no task to claim');
  return task;
}

async function stateOf(id: string): Promise<string> {
  const { state } = await control.connection.one<{ state: string }>(
    `select state from tasks.tasks where id = $1 union all select outcome from tasks.history where id = $1`,
    [id],
  );
  return state;
}

const change = (sql: string): Promise<unknown> => control.connection.query(`update tasks.tasks set ${sql}`);
const OLD = `created_at = now() - interval '1 day'`;
const LEASE_OVER = `lease_until = now() - interval '1 s'`;

/** How each event comes about for a task in `from`. */
const EVENTS: Record<TaskEvent, (task: Task) => Promise<unknown>> = {
  claimed: () => queue.claim(claimant('n2')),
  completed: (task) => queue.complete(task, {}),
  failed: (task) =>
    queue.fail(
      task,
      'x',
      nextState('running', 'failed', task.attempt >= task.maxAttempts) === 'failed'
        ? { final: true }
        : { final: false, retryAfterMs: 3_600_000 },
    ),
  refused: (task) => queue.fail(task, 'x', { final: true }),
  released: (task) => queue.release(task),
  'lease-ended': async () => {
    await change(LEASE_OVER);
    await queue.bury();
    await queue.claim(claimant('n2'));
  },
  stuck: async () => {
    await change(`processing_at = now() - interval '2 hours'`);
    await queue.returnStuck('1 hour');
  },
  'too-late': async () => {
    await change(
      `${OLD}, lease_until = case when lease_until is null then null else now() - interval '1 s' end`,
    );
    await queue.bury();
  },
};

describe('the table of states', () => {
  test.each(TASK_TRANSITIONS)('$from, $event → $to', async ({ from, event, lastAttempt, to }) => {
    await queue.add({ action: 'A', maxAttempts: lastAttempt === true ? 1 : 3 });
    const first = await claimed();
    if (from === 'queued') await queue.release(first);
    if (from === 'waiting') await queue.fail(first, 'x', { final: false, retryAfterMs: 0 });
    expect(await stateOf(first.id)).toBe(from);
    await EVENTS[event](first);
    expect(await stateOf(first.id)).toBe(to);
  });

  test('every state is reached, and no event is written twice for one state', () => {
    const reached = new Set(['queued', ...TASK_TRANSITIONS.map(({ to }) => to)]);
    expect([...reached].sort()).toEqual(['done', 'expired', 'failed', 'queued', 'running', 'waiting']);
    for (const { from, event } of TASK_TRANSITIONS) {
      for (const last of [true, false]) {
        const rows = TASK_TRANSITIONS.filter(
          (row) => row.from === from && row.event === event && (row.lastAttempt ?? last) === last,
        );
        expect(rows).toHaveLength(1);
      }
    }
    expect(nextState('queued' satisfies OpenState, 'completed', false)).toBeUndefined();
  });
});

test('first in, first out, each to one of many who ask at once', async () => {
  for (let i = 0; i < 20; i += 1) {
    await queue.add({ action: 'A', data: String(i) });
  }
  const first = await claimed();
  expect(first.data).toBe('0');
  const rest = await Promise.all(Array.from({ length: 30 }, (_, i) => queue.claim(claimant(`n${i}`))));
  const data = rest.flatMap((task) => (task ? [task.data] : []));
  expect(new Set(data).size).toBe(data.length);
  expect(data).not.toContain('0');
  // Those who found the rows of others locked got nothing; nobody waits for them, they ask again.
  for (;;) {
    const task = await queue.claim(claimant('late'));
    if (!task) break;
    data.push(task.data);
  }
  expect(data).toHaveLength(19);
});

test('what is asked for twice before it is done is done once', async () => {
  expect(await queue.add({ action: 'A', data: 'x' })).toBe(true);
  expect(await queue.add({ action: 'A', data: 'x' })).toBe(false);
  expect(await queue.add({ action: 'A', data: 'y' })).toBe(true);
  const task = await claimed();
  expect(await queue.add({ action: 'A', data: 'x' })).toBe(false);
  await queue.complete(task, {});
  expect(await queue.add({ action: 'A', data: 'x' })).toBe(true);
});

test('a task goes to the member and the kind of member that it is for', async () => {
  await queue.add({ action: 'A', node: 'n2' });
  await queue.add({ action: 'B', nodeType: 'write' });
  await queue.add({ action: 'C', nodeType: 'read' });
  const reader = claimant('n3', { nodeTypes: ['any', 'read'] });
  expect((await queue.claim(reader))?.action).toBe('C');
  expect(await queue.claim(reader)).toBeUndefined();
  expect((await queue.claim(claimant('n2')))?.action).toBe('A');
  expect((await queue.claim(claimant('n1')))?.action).toBe('B');
});

test('what no read node takes for a while is taken by the write node', async () => {
  await queue.add({ action: 'C', nodeType: 'read' });
  expect(await queue.claim(claimant('n1'))).toBeUndefined();
  expect((await queue.claim(claimant('n1', { readGraceMs: 0 })))?.action).toBe('C');
});

test('who lost the lease changes nothing any more', async () => {
  await queue.add({ action: 'A' });
  const first = await claimed({ leaseMs: 0 });
  await sleep(2);
  const second = await claimed();
  expect(second).toMatchObject({ id: first.id, attempt: 2 });
  expect(await queue.heartbeat(first, 60_000)).toBe(false);
  expect(await queue.fail(first, 'x', { final: true })).toBe(false);
  await queue.release(first);
  let effects = 0;
  const effect = async (): Promise<void> => void (effects += 1);
  expect(await queue.complete(first, {}, effect)).toBe(false);
  expect(await queue.heartbeat(second, 60_000)).toBe(true);
  expect(await queue.complete(second, { n: 1 }, effect)).toBe(true);
  expect(effects).toBe(1);
  const row = await control.connection.one('select outcome, attempt, worker, result from tasks.history');
  expect(row).toEqual({ outcome: 'done', attempt: 2, worker: 'n1', result: { n: 1 } });
});

test('effects that fail leave the task to be done', async () => {
  await queue.add({ action: 'A' });
  const task = await claimed();
  const failing = queue.complete(task, {}, async (connection) => {
    await connection.query(`insert into rdpg.events (host, key, msg) values ('n1', 'k', 'm')`);
    throw new Error('no');
  });
  await expect(failing).rejects.toThrow('no');
  expect(await stateOf(task.id)).toBe('running');
  expect((await control.connection.query('select from rdpg.events')).rowCount).toBe(0);
});

test('a schedule that is due makes one task, for each member where it is for each, however many look', async () => {
  await control.connection.query(
    `update tasks.schedules set enabled = true, last_scheduled_at = now() - interval '3 hours'
      where action in ('Vacuum', 'PrecreateDatabases')`,
  );
  const made = await Promise.all(Array.from({ length: 8 }, () => queue.schedule(['n1', 'n2', 'n3'])));
  expect(made.reduce((sum, n) => sum + n, 0)).toBe(4);
  const { rows } = await control.connection.query(
    'select action, node, node_type as type from tasks.tasks order by 1, 2',
  );
  expect(rows).toEqual([
    { action: 'PrecreateDatabases', node: '*', type: 'write' },
    { action: 'Vacuum', node: 'n1', type: 'any' },
    { action: 'Vacuum', node: 'n2', type: 'any' },
    { action: 'Vacuum', node: 'n3', type: 'any' },
  ]);
  expect(await queue.schedule(['n1', 'n2', 'n3'])).toBe(0);
  // Due again, while the first are not done: no second ones pile up.
  await control.connection.query(`update tasks.schedules set last_scheduled_at = now() - interval '3 hours'`);
  expect(await queue.schedule(['n1', 'n2', 'n3'])).toBe(0);
});

test('schedules of other groups and of the other kind are left alone', async () => {
  await control.connection.query(
    `update tasks.schedules set enabled = true, last_scheduled_at = '-infinity', role = 'manager' where action = 'Vacuum'`,
  );
  await control.connection.query(
    `update tasks.schedules set enabled = true, last_scheduled_at = '-infinity', cluster_id = 'other' where action = 'Reconfigure'`,
  );
  expect(await queue.schedule(['n1'])).toBe(0);
});
