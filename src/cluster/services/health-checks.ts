import { messageOf } from '../../core/errors.ts';
import { Connection, type Endpoint } from '../../postgres/connection.ts';

/**
 * Ways from a client to PostgreSQL on this node, as the document's services are checked: through everything,
 * through PgBouncer, directly.
 */
export const HEALTH_PATHS = {
  haproxy: '/health/ha_pb_pg',
  pgbouncer: '/health/pb',
  postgres: '/health/pg',
} as const;

export type HealthPath = keyof typeof HEALTH_PATHS;

export interface Health {
  readonly healthy: boolean;
  /** Why not, or how long the answer took. */
  readonly detail: string;
}

export interface HealthOptions {
  /** Where the role `health` logs in, each way; undefined where there is no such way on this node. */
  readonly endpoints: Readonly<Record<HealthPath, Endpoint | undefined>>;
  readonly timeoutMs: number;
}

/**
 * Whether a client gets an answer that way: logs in as `health` and asks one question. Checks that come while one
 * is under way share its answer: a slow server is not asked more than once at a time.
 */
export class HealthChecks {
  readonly #options: HealthOptions;
  readonly #underWay = new Map<HealthPath, Promise<Health>>();

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  async check(path: HealthPath): Promise<Health> {
    const running = this.#underWay.get(path);
    if (running) return await running;
    const check = this.#ask(path).finally(() => this.#underWay.delete(path));
    this.#underWay.set(path, check);
    return await check;
  }

  async #ask(path: HealthPath): Promise<Health> {
    const endpoint = this.#options.endpoints[path];
    if (!endpoint) return { healthy: false, detail: `this node has no ${path}` };
    const { timeoutMs } = this.#options;
    const startedAtMs = performance.now();
    try {
      const connect = {
        connectTimeoutMs: timeoutMs,
        applicationName: 'varve-health',
        throughPooler: path !== 'postgres',
      };
      await using connection = await Connection.open(endpoint, connect);
      await connection.query('select 1', [], { signal: AbortSignal.timeout(timeoutMs) });
      return { healthy: true, detail: `answered in ${Math.round(performance.now() - startedAtMs)} ms` };
    } catch (error) {
      return { healthy: false, detail: messageOf(error) };
    }
  }
}
