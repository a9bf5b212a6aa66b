import { messageOf } from '../../core/errors.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import { TaskQueue } from './task-queue.ts';
import { Worker, type MemberRole, type WorkerDeps, type WorkerOptions } from './worker.ts';

export interface GroupWorkDeps extends Omit<WorkerDeps, 'queue'> {
  /** All members of the group: each of them gets the tasks that are for each. */
  readonly members: () => Promise<readonly string[]> | readonly string[];
}

export interface GroupWorkOptions extends Partial<Omit<WorkerOptions, 'cluster' | 'alone'>> {
  readonly node: string;
  readonly shape: GroupShape;
  /** Tasks at once on this member. */
  readonly workerCount?: number;
  /** How often schedules are looked at. */
  readonly scheduleMs?: number;
}

export interface GroupWorkStatus {
  readonly node: string;
  readonly running: readonly {
    readonly id: string;
    readonly action: string;
    readonly data: string;
    readonly attempt: number;
  }[];
  /** Why the schedules could not be looked at last time; null when they could. */
  readonly waitingFor: string | null;
}

/**
 * What a member does for its group besides serving: looks at the schedules, and carries out tasks. Every member
 * does both; the control database sees to it that each schedule and task is taken by one.
 */
export class GroupWork {
  readonly queue: TaskQueue;
  readonly #deps: GroupWorkDeps;
  readonly #options: GroupWorkOptions;
  readonly #workers: readonly Worker[];
  #trouble: string | null = null;
  #lastRole: MemberRole | undefined;

  constructor(deps: GroupWorkDeps, options: GroupWorkOptions) {
    this.#deps = deps;
    this.#options = options;
    this.queue = new TaskQueue(deps.control, options.shape);
    const workerOptions: WorkerOptions = {
      leaseMs: 30_000,
      pollMs: 1_000,
      readGraceMs: 60_000,
      retryMs: 5_000,
      ...options,
      cluster: options.shape.cluster,
      alone: !options.shape.replicated,
    };
    this.#workers = Array.from(
      { length: options.workerCount ?? 2 },
      () => new Worker({ ...deps, queue: this.queue }, workerOptions),
    );
  }

  /** Works until the signal. Tasks under way then are given back. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#schedule(signal), ...this.#workers.map((worker) => worker.run(signal))]);
  }

  status(): GroupWorkStatus {
    const running = this.#workers.flatMap(({ current }) =>
      current
        ? [{ id: current.id, action: current.action, data: current.data, attempt: current.attempt }]
        : [],
    );
    return { node: this.#options.node, running, waitingFor: this.#trouble };
  }

  /** Carries out one task, if there is one for this member: for tests and commands. */
  workOnce(signal: AbortSignal = new AbortController().signal): Promise<boolean> {
    const [worker] = this.#workers;
    return worker ? worker.workOnce(signal) : Promise.resolve(false);
  }

  /** Looks at the schedules once; returns how many tasks were made. */
  async scheduleOnce(signal?: AbortSignal): Promise<number> {
    await this.queue.bury(signal);
    return this.queue.schedule(await this.#deps.members(), signal);
  }

  /** A row of `rdpg.events` when this member begins its work, and when it becomes or ceases to be write master. */
  async #tellRole(role: MemberRole | undefined, signal: AbortSignal): Promise<void> {
    const before = this.#lastRole;
    if (role === before) return;
    const { node } = this.#options;
    await this.#deps.control.withConnection(
      (connection) =>
        connection.query('insert into rdpg.events (host, key, msg, detail) values ($1, $2, $3, $4)', [
          node,
          'work/role',
          before === undefined
            ? `${node} works as ${role} node`
            : `${node} is ${role} node now, no longer ${before}`,
          JSON.stringify({ role, before: before ?? null }),
        ]),
      signal,
    );
    this.#lastRole = role;
  }

  async #schedule(signal: AbortSignal): Promise<void> {
    const { clock, log, role } = this.#deps;
    while (!signal.aborted) {
      try {
        if (role() !== undefined) {
          await this.#tellRole(role(), signal);
          await this.scheduleOnce(signal);
        }
        this.#trouble = null;
      } catch (error) {
        if (signal.aborted) return;
        const trouble = messageOf(error);
        if (trouble !== this.#trouble) log.warn({ error: trouble }, 'the schedules could not be looked at');
        this.#trouble = trouble;
      }
      await clock.sleep(this.#options.scheduleMs ?? 10_000, signal).catch(() => {});
    }
  }
}
