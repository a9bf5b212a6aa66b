import type { Connection } from '../../postgres/connection.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import type { ControlDatabase } from './control-database.ts';
import type { Task } from './task.ts';

export interface NewTask {
  readonly action: string;
  readonly data?: string;
  /** A member's name; anybody of the kind when left out. */
  readonly node?: string;
  readonly nodeType?: Task['nodeType'];
  readonly ttlSeconds?: number;
  readonly maxAttempts?: number;
}

/** Which tasks a member may take. */
export interface Claimant {
  readonly node: string;
  readonly nodeTypes: readonly Task['nodeType'][];
  /** What is for read nodes is taken by anybody after so long: one backup from the write node is better than none. */
  readonly readGraceMs: number;
  readonly leaseMs: number;
}

const TASK_COLUMNS = `id, action, data, node_type as "nodeType", attempt, max_attempts as "maxAttempts",
  lease_token as "leaseToken", created_at as "createdAt"`;

const INTO_HISTORY = `insert into tasks.history (id, schedule_id, cluster_id, node, role, action, data, outcome,
    attempt, worker, error, result, created_at, processing_at, duration_ms)`;

/** The columns of `INTO_HISTORY` from a row `gone` of `tasks.tasks`. */
function historyValues(values: { outcome: string; error: string; result: string }): string {
  return `gone.id, gone.schedule_id, gone.cluster_id, gone.node, gone.role, gone.action, gone.data,
    ${values.outcome}, gone.attempt, gone.locked_by, ${values.error}, ${values.result}, gone.created_at,
    gone.processing_at, (extract(epoch from now() - gone.processing_at) * 1000)::bigint`;
}

/**
 * Tasks and schedules in the control database. All times are those of its server, so the clocks of members do
 * not matter. `task-states.ts` has the states; here is one statement for each row of it.
 *
 * Members ask at the same time: rows are taken by `for update skip locked`, so each is given to one and nobody
 * waits for another.
 */
export class TaskQueue {
  readonly #control: ControlDatabase;
  readonly #shape: GroupShape;

  constructor(control: ControlDatabase, shape: GroupShape) {
    this.#control = control;
    this.#shape = shape;
  }

  /** Makes tasks of all schedules that are due, in one statement; returns how many. `members` are all of the group. */
  async schedule(members: readonly string[], signal?: AbortSignal): Promise<number> {
    return this.#run(
      `with due as (
         select * from tasks.schedules
          where cluster_id = $1 and role in ('all', $2) and enabled and last_scheduled_at + frequency <= now()
            for update skip locked
       ), moved as (
         update tasks.schedules s set last_scheduled_at = now() from due where s.id = due.id
       )
       insert into tasks.tasks (schedule_id, cluster_id, cluster_service, node, role, action, data, ttl, node_type)
       select due.id, due.cluster_id, due.cluster_service, node, due.role, due.action, due.data, due.ttl,
              case due.node_type when 'each' then 'any' else due.node_type end
         from due, unnest(case due.node_type when 'each' then $3::text[] else array['*'] end) as node
       on conflict (cluster_id, action, data, node) do nothing`,
      [this.#shape.cluster, this.#shape.kind, members],
      signal,
    );
  }

  /** False when the same is asked for already and not done. */
  async add(task: NewTask, signal?: AbortSignal): Promise<boolean> {
    return this.#control.withConnection((connection) => this.addIn(connection, task), signal);
  }

  /** As `add`, in the caller's transaction. */
  async addIn(connection: Connection, task: NewTask): Promise<boolean> {
    const { rowCount } = await connection.query(
      `insert into tasks.tasks (cluster_id, cluster_service, role, action, data, node, node_type, ttl, max_attempts)
       values ($1, $2, 'all', $3, $4, $5, $6, $7, $8) on conflict (cluster_id, action, data, node) do nothing`,
      [
        this.#shape.cluster,
        this.#shape.replicated ? 'replicated' : 'postgresql',
        task.action,
        task.data ?? '',
        task.node ?? '*',
        task.nodeType ?? 'any',
        task.ttlSeconds ?? 3600,
        task.maxAttempts ?? 5,
      ],
    );
    return rowCount === 1;
  }

  /** The oldest task that fits, with its lease. */
  async claim(claimant: Claimant, signal?: AbortSignal): Promise<Task | undefined> {
    return this.#control.withConnection(
      (connection) =>
        connection.maybeOne<Task>(
          `with next as (
             select id from tasks.tasks
              where cluster_id = $1 and node in ('*', $2) and attempt < max_attempts
                and (node_type = any ($3) or node_type = 'read' and created_at < now() - $4 * interval '1 ms')
                and created_at + ttl * interval '1 second' > now()
                and case state when 'running' then lease_until < now() else run_after <= now() end
              order by created_at, id limit 1
                for update skip locked
           )
           update tasks.tasks
              set state = 'running', attempt = attempt + 1, locked_by = $2, lease_token = gen_random_uuid(),
                  lease_until = now() + $5 * interval '1 ms', heartbeat_at = now(), processing_at = now()
             from next where tasks.id = next.id
           returning ${TASK_COLUMNS.replace('id,', 'tasks.id,')}`,
          [this.#shape.cluster, claimant.node, claimant.nodeTypes, claimant.readGraceMs, claimant.leaseMs],
        ),
      signal,
    );
  }

  /** False when the lease is lost. */
  async heartbeat(task: Task, leaseMs: number, signal?: AbortSignal): Promise<boolean> {
    const count = await this.#run(
      `update tasks.tasks set heartbeat_at = now(), lease_until = now() + $3 * interval '1 ms'
        where id = $1 and lease_token = $2`,
      [task.id, task.leaseToken, leaseMs],
      signal,
    );
    return count === 1;
  }

  /** Ends a task together with its effects; false, and nothing is changed, when the lease is lost. */
  async complete(
    task: Task,
    result: Readonly<Record<string, unknown>>,
    effects?: (connection: Connection) => Promise<void>,
  ): Promise<boolean> {
    return this.#control.transaction(async (connection) => {
      const { rowCount } = await connection.query(
        `with gone as (delete from tasks.tasks where id = $1 and lease_token = $2 returning *)
         ${INTO_HISTORY} select ${historyValues({ outcome: `'done'`, error: 'null', result: '$3::jsonb' })} from gone`,
        [task.id, task.leaseToken, JSON.stringify(result)],
      );
      if (rowCount === 0) return false;
      await effects?.(connection);
      return true;
    });
  }

  /** `final` ends it; otherwise it waits for `retryAfterMs` and is tried again. False when the lease is lost. */
  async fail(
    task: Task,
    error: string,
    next: { readonly final: true } | { readonly final: false; readonly retryAfterMs: number },
  ): Promise<boolean> {
    const count = next.final
      ? await this.#run(
          `with gone as (delete from tasks.tasks where id = $1 and lease_token = $2 returning *)
           ${INTO_HISTORY} select ${historyValues({ outcome: `'failed'`, error: '$3', result: 'null' })} from gone`,
          [task.id, task.leaseToken, error],
        )
      : await this.#run(
          `update tasks.tasks set state = 'waiting', run_after = now() + $4 * interval '1 ms', last_error = $3,
                  locked_by = null, lease_token = null, lease_until = null
            where id = $1 and lease_token = $2`,
          [task.id, task.leaseToken, error, next.retryAfterMs],
        );
    return count === 1;
  }

  /** Gives a task back as if it had not been taken. */
  async release(task: Task): Promise<void> {
    await this.#run(
      `update tasks.tasks set state = 'queued', attempt = attempt - 1, locked_by = null, lease_token = null,
              lease_until = null where id = $1 and lease_token = $2`,
      [task.id, task.leaseToken],
    );
  }

  /** Ends what nobody will carry out any more: too old, or its last worker is gone. Returns how many. */
  async bury(signal?: AbortSignal): Promise<number> {
    return this.#run(
      `with dead as (
         select id from tasks.tasks
          where cluster_id = $1 and (
            state <> 'running' and created_at + ttl * interval '1 second' <= now()
            or state = 'running' and lease_until < now()
               and (attempt >= max_attempts or created_at + ttl * interval '1 second' <= now()))
            for update skip locked
       ), gone as (
         delete from tasks.tasks using dead where tasks.id = dead.id returning tasks.*
       )
       ${INTO_HISTORY} select ${historyValues({
         outcome: `case when gone.attempt >= gone.max_attempts then 'failed' else 'expired' end`,
         error: `coalesce(gone.last_error, case when gone.state = 'running'
           then format('worker %s did not renew its lease', gone.locked_by)
           else format('not carried out within %s s', gone.ttl) end)`,
         result: 'null',
       })} from gone`,
      [this.#shape.cluster],
      signal,
    );
  }

  /** Takes tasks that have run for too long from their workers. Their names, for the log of events. */
  async returnStuck(stuckAfter: string, signal?: AbortSignal): Promise<readonly StuckTask[]> {
    return this.#control.transaction(async (connection) => {
      const { rows } = await connection.query<StuckTask>(
        `with stuck as (
           select id, locked_by from tasks.tasks
            where cluster_id = $1 and state = 'running' and processing_at < now() - $2::interval
              for update skip locked
         )
         update tasks.tasks set state = 'queued', locked_by = null, lease_token = null, lease_until = null,
                last_error = format('stuck: it ran longer than %s on %s', $2, stuck.locked_by)
           from stuck where tasks.id = stuck.id
         returning tasks.id, action, data, stuck.locked_by as worker, attempt, max_attempts as "maxAttempts"`,
        [this.#shape.cluster, stuckAfter],
      );
      await connection.query(
        `with gone as (
           delete from tasks.tasks where cluster_id = $1 and state = 'queued' and attempt >= max_attempts returning *
         )
         ${INTO_HISTORY} select ${historyValues({
           outcome: `'failed'`,
           error: 'gone.last_error',
           result: 'null',
         })} from gone`,
        [this.#shape.cluster],
      );
      return rows;
    }, signal);
  }

  #run(sql: string, params: readonly unknown[], signal?: AbortSignal): Promise<number> {
    return this.#control.withConnection(async (connection) => {
      const { rowCount } = await connection.query(sql, params);
      return rowCount;
    }, signal);
  }
}

export interface StuckTask {
  readonly id: string;
  readonly action: string;
  readonly data: string;
  readonly worker: string;
}
