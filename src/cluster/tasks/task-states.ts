/**
 * The life of a task as a table. Rows of `tasks.tasks` are in one of the first three states; in the others a
 * task is a row of `tasks.history`. docs/cluster.md shows the table; the statements of `TaskQueue` are made to it,
 * and their tests walk along its rows.
 */
export type OpenState = 'queued' | 'running' | 'waiting';
export type Outcome = 'done' | 'failed' | 'expired';
export type TaskState = OpenState | Outcome;

export type TaskEvent =
  | 'claimed'
  | 'completed'
  | 'failed'
  | 'refused'
  | 'released'
  | 'lease-ended'
  | 'stuck'
  | 'too-late';

export interface TaskTransition {
  readonly from: OpenState;
  readonly event: TaskEvent;
  /** Only when it was the last attempt, or only when it was not; always, where it is left out. */
  readonly lastAttempt?: boolean;
  readonly to: TaskState;
  readonly comment: string;
}

export const TASK_TRANSITIONS: readonly TaskTransition[] = [
  {
    from: 'queued',
    event: 'claimed',
    to: 'running',
    comment: 'the oldest task that fits the member; it has a lease from then on',
  },
  {
    from: 'waiting',
    event: 'claimed',
    to: 'running',
    comment: 'its back-off is over',
  },
  {
    from: 'running',
    event: 'completed',
    to: 'done',
    comment: 'in one transaction with its effects in the control database',
  },
  {
    from: 'running',
    event: 'failed',
    lastAttempt: false,
    to: 'waiting',
    comment: 'tried again, after a time that doubles',
  },
  { from: 'running', event: 'failed', lastAttempt: true, to: 'failed', comment: 'tried often enough' },
  { from: 'running', event: 'refused', to: 'failed', comment: 'an error that no repetition would cure' },
  {
    from: 'running',
    event: 'released',
    to: 'queued',
    comment: 'the worker stops, or its member is no longer of the kind; this attempt does not count',
  },
  {
    from: 'running',
    event: 'lease-ended',
    lastAttempt: false,
    to: 'running',
    comment: 'its worker is gone: another claims it',
  },
  {
    from: 'running',
    event: 'lease-ended',
    lastAttempt: true,
    to: 'failed',
    comment: 'it took its worker along too often',
  },
  {
    from: 'running',
    event: 'stuck',
    lastAttempt: false,
    to: 'queued',
    comment: 'it ran longer than rdpg.config’s stuckDuration; its worker loses the lease',
  },
  { from: 'running', event: 'stuck', lastAttempt: true, to: 'failed', comment: 'stuck once too often' },
  { from: 'queued', event: 'too-late', to: 'expired', comment: 'nobody took it within its ttl' },
  { from: 'waiting', event: 'too-late', to: 'expired', comment: 'no further attempt within its ttl' },
  {
    from: 'running',
    event: 'too-late',
    to: 'expired',
    comment: 'its worker is gone, and its ttl is over',
  },
];

/** Where a task goes; undefined where the table has no such row. */
export function nextState(from: OpenState, event: TaskEvent, lastAttempt: boolean): TaskState | undefined {
  return TASK_TRANSITIONS.find(
    (row) =>
      row.from === from &&
      row.event === event &&
      (row.lastAttempt === undefined || row.lastAttempt === lastAttempt),
  )?.to;
}
