import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { SqlState } from '../../postgres/sqlstate.ts';
import type { ControlDatabase } from './control-database.ts';
import { nextState } from './task-states.ts';
import type { Claimant, TaskQueue } from './task-queue.ts';
import type { Actions, Task, TaskResult, WorkLog } from './task.ts';

export interface WorkerDeps {
  readonly log: WorkLog;
  readonly clock: Clock;
  readonly queue: TaskQueue;
  readonly control: ControlDatabase;
  readonly actions: Actions;
  /** What this member is now; undefined while it is none of both, and takes no tasks. */
  readonly role: () => MemberRole | undefined;
}

export type MemberRole = 'read' | 'write';

export interface WorkerOptions {
  readonly node: string;
  readonly cluster: string;
  /** A group of one: its only member does what is for read nodes, too. */
  readonly alone: boolean;
  readonly leaseMs: number;
  /** How often it looks for a task when it found none. */
  readonly pollMs: number;
  readonly readGraceMs: number;
  /** Of the first repetition; doubles, up to ten minutes. */
  readonly retryMs: number;
}

const MAX_RETRY_MS = 600_000;

/** Why a task's signal was aborted. */
class TaskInterruption extends Error {
  override readonly name = 'AbortError';
  readonly kind: 'lost' | 'released';

  constructor(kind: 'lost' | 'released', why: string) {
    super(why);
    this.kind = kind;
  }
}

/** Takes one task after the other and carries it out, under a lease that it renews meanwhile. */
export class Worker {
  readonly #deps: WorkerDeps;
  readonly #options: WorkerOptions;
  #current: Task | undefined;

  constructor(deps: WorkerDeps, options: WorkerOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** What it is at, for status pages. */
  get current(): Task | undefined {
    return this.#current;
  }

  /** Works until the signal; a task under way is interrupted and given back. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const worked = await this.workOnce(signal).catch((error: unknown) => {
        if (!signal.aborted) this.#deps.log.warn({ error: messageOf(error) }, 'no task could be asked for');
        return false;
      });
      if (!worked) await this.#deps.clock.sleep(this.#options.pollMs, signal).catch(() => {});
    }
  }

  /** True when there was a task. */
  async workOnce(signal: AbortSignal): Promise<boolean> {
    const role = this.#deps.role();
    if (role === undefined) return false;
    const task = await this.#deps.queue.claim(this.#claimant(role), signal);
    if (!task) return false;
    this.#current = task;
    try {
      await this.#carryOut(task, signal);
    } finally {
      this.#current = undefined;
    }
    return true;
  }

  #claimant(role: MemberRole): Claimant {
    const { node, alone, readGraceMs, leaseMs } = this.#options;
    const nodeTypes = alone ? (['any', 'read', 'write'] as const) : (['any', role] as const);
    return { node, nodeTypes, readGraceMs, leaseMs };
  }

  async #carryOut(task: Task, stop: AbortSignal): Promise<void> {
    const { log, queue } = this.#deps;
    const interrupted = new AbortController();
    const signal = AbortSignal.any([stop, interrupted.signal]);
    const ended = new AbortController();
    const lease = this.#keepLease(task, interrupted, ended.signal);
    try {
      const { result, effects } = await this.#act(task, signal);
      signal.throwIfAborted();
      if (await queue.complete(task, result ?? {}, effects)) {
        log.info({ task: task.id, action: task.action, data: task.data }, 'task done');
      } else {
        log.warn(
          { task: task.id, action: task.action },
          'task done, but its lease was lost: another repeats it',
        );
      }
    } catch (error) {
      await this.#failed(task, error, signal).catch((second: unknown) => {
        // The lease ends by itself, and another takes the task.
        log.warn({ task: task.id, error: messageOf(second) }, 'the end of a task could not be recorded');
      });
    } finally {
      ended.abort();
      await lease;
    }
  }

  async #act(task: Task, signal: AbortSignal): Promise<TaskResult> {
    const { actions, control, clock, log } = this.#deps;
    const action = Object.hasOwn(actions, task.action) ? actions[task.action] : undefined;
    if (!action) {
      throw new VarveError('INVALID_ARGUMENT', `there is no action ${JSON.stringify(task.action)}`, {
        detail: `There are ${Object.keys(actions).join(', ')}.`,
      });
    }
    const { node, cluster } = this.#options;
    return action({ task, node, cluster, control, clock, log, signal });
  }

  async #failed(task: Task, error: unknown, signal: AbortSignal): Promise<void> {
    const { log, queue } = this.#deps;
    if (signal.aborted) {
      const { reason } = signal as { reason: unknown };
      const lost = reason instanceof TaskInterruption && reason.kind === 'lost';
      log.info({ task: task.id, action: task.action, lost }, 'task interrupted');
      if (!lost) await queue.release(task);
      return;
    }
    const last = task.attempt >= task.maxAttempts;
    const final = nextState('running', cured(error) ? 'failed' : 'refused', last) === 'failed';
    const retryAfterMs = Math.min(MAX_RETRY_MS, this.#options.retryMs * 2 ** (task.attempt - 1));
    const fields = { task: task.id, action: task.action, data: task.data, attempt: task.attempt };
    log.warn({ ...fields, error: messageOf(error), final }, 'task failed');
    await queue.fail(task, describe(error), final ? { final } : { final, retryAfterMs });
  }

  /**
   * Renews the lease until `ended`. When the control database says that it is lost, or has not answered for as
   * long as it lasts, the task is interrupted: by then another may have it. The time is measured from before
   * the question, so it ends here before it ends there.
   */
  async #keepLease(task: Task, interrupted: AbortController, ended: AbortSignal): Promise<void> {
    const { clock, queue, role } = this.#deps;
    const { leaseMs, alone } = this.#options;
    let certainUntilMs = clock.monotonicMs() + leaseMs;
    const interrupt = (kind: 'lost' | 'released', why: string): void =>
      interrupted.abort(new TaskInterruption(kind, why));
    while (!interrupted.signal.aborted) {
      await clock.sleep(leaseMs / 3, ended).catch(() => {});
      if (ended.aborted) return;
      if (task.nodeType === 'write' && !alone && role() !== 'write') {
        interrupt('released', 'this member is no longer write master');
        return;
      }
      const askedMs = clock.monotonicMs();
      const patience = AbortSignal.timeout(Math.max(1, Math.floor(certainUntilMs - askedMs)));
      try {
        const kept = await queue.heartbeat(task, leaseMs, AbortSignal.any([ended, patience]));
        if (!kept && !ended.aborted) interrupt('lost', 'the lease of the task was lost');
        certainUntilMs = askedMs + leaseMs;
      } catch {
        if (!ended.aborted && clock.monotonicMs() >= certainUntilMs) {
          interrupt('lost', 'the lease of the task could not be renewed');
        }
      }
    }
  }
}

/** False for what no repetition would cure. */
function cured(error: unknown): boolean {
  return (
    !(error instanceof VarveError && NOT_CURED.has(error.code)) &&
    sqlState(error) !== SqlState.invalidCatalogName
  );
}

const NOT_CURED = new Set<string>(['INVALID_ARGUMENT', 'DATABASE_UNKNOWN', 'GROUP_LIMITS']);

function sqlState(error: unknown): string | undefined {
  return error instanceof VarveError ? error.sqlstate : undefined;
}

/** For the history: with the facts, without a stack. */
function describe(error: unknown): string {
  if (!(error instanceof VarveError)) return messageOf(error);
  return [`${error.code}: ${error.message}`, error.detail, error.hint].filter(Boolean).join('\n');
}
