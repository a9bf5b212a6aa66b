import type { Clock } from '../../core/clock.ts';
import type { Connection } from '../../postgres/connection.ts';
import type { ControlDatabase } from './control-database.ts';

/** A task that this member has the lease of. */
export interface Task {
  readonly id: string;
  readonly action: string;
  /** What it is about: a database's name, for example; empty where the action needs nothing. */
  readonly data: string;
  readonly nodeType: 'any' | 'read' | 'write';
  /** From 1 on. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** Whoever has another one has lost the lease. */
  readonly leaseToken: string;
  readonly createdAt: Date;
}

/** A pino logger is one. */
export interface WorkLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface TaskContext {
  readonly task: Task;
  /** This member. */
  readonly node: string;
  readonly cluster: string;
  /** Database `rdpg` on the write master. */
  readonly control: ControlDatabase;
  readonly clock: Clock;
  readonly log: WorkLog;
  /** Aborted when the worker stops or the lease is lost: from then on another may carry the task out. */
  readonly signal: AbortSignal;
}

export interface TaskResult {
  /** Kept in the history. */
  readonly result?: Readonly<Record<string, unknown>>;
  /**
   * What the task changes in the control database. It is carried out in the transaction that ends the task,
   * and only by the holder of the lease: once, however often the task was begun.
   */
  readonly effects?: (connection: Connection) => Promise<void>;
}

/**
 * What a task does. It may be carried out more than once, by several members one after the other, and stopped at
 * any point: it looks first and does what is missing.
 */
export type Action = (context: TaskContext) => Promise<TaskResult>;

export type Actions = Readonly<Record<string, Action>>;
