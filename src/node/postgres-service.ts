import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { ServerCertificate } from '../cluster/services/server-certificate.ts';
import type { CredentialOptions } from '../data-node/credentials.ts';
import type { Endpoint } from '../postgres/connection.ts';
import type { OwnServer } from '../postgres/server.ts';
import type { PostgresStatus } from './node-status.ts';

/** The PostgreSQL of a node, once it was brought up. */
export interface RunningPostgres {
  readonly version: string;
  /** The administrator's login. */
  readonly endpoint: Endpoint;
  /** Undefined for a server that somebody else runs. */
  readonly own: OwnServer | undefined;
  /** How roles log in to data nodes from here. */
  readonly credentials: CredentialOptions;
  /** Of a server of our own, where there is an authority. */
  readonly certificates: OwnCertificates | undefined;
}

export interface OwnCertificates {
  /** True when the server has another one than before, after a reload. */
  readonly renew: (peers: readonly string[]) => Promise<boolean>;
  /** What clients of the server are shown. */
  readonly shown: () => Promise<ServerCertificate>;
}

export interface PostgresServiceDeps {
  readonly clock: Clock;
  /** Brings it up from whatever there is; the run's events tell how it goes. */
  readonly bringUp: (signal: AbortSignal) => Promise<RunningPostgres>;
  readonly onUp: (postgres: RunningPostgres) => void;
  /** Gone, or not to be brought up again; the next attempt is in `delayMs`. */
  readonly onDown: (why: string, delayMs: number) => void;
  readonly random?: () => number;
}

const RECOVERY = { firstMs: 250, maxMs: 15_000 } as const;
/** A server that ran for so long died of something new. */
const STABLE_MS = 30_000;
const RESTART_TIMEOUT_MS = 120_000;
const RESTART_POLL_MS = 20;

/**
 * Keeps the PostgreSQL of a node up: brings it up, watches it, and brings it up again, with growing delays,
 * when it dies. The first bring-up may fail; later ones are repeated.
 */
export class PostgresService implements AsyncDisposable {
  readonly #deps: PostgresServiceDeps;
  #running: RunningPostgres | undefined;
  #restartCount = 0;

  constructor(deps: PostgresServiceDeps) {
    this.#deps = deps;
  }

  get running(): RunningPostgres | undefined {
    return this.#running;
  }

  status(): PostgresStatus | null {
    if (!this.#running) return null;
    const { version, endpoint, own } = this.#running;
    return {
      version,
      host: endpoint.host,
      port: endpoint.port,
      up: this.#up,
      pid: own && this.#up ? own.pid : null,
      restartCount: this.#restartCount,
    };
  }

  #up = false;

  /** @throws whatever the bring-up throws */
  async start(signal: AbortSignal): Promise<RunningPostgres> {
    this.#running = await this.#deps.bringUp(signal);
    this.#up = true;
    this.#deps.onUp(this.#running);
    return this.#running;
  }

  /** Watches what `start` brought up until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, onDown, random } = this.#deps;
    const backoff = new Backoff({ ...RECOVERY, ...(random ? { random } : {}) });
    while (!signal.aborted) {
      const startedAtMs = clock.monotonicMs();
      let why = await this.#gone(signal);
      if (signal.aborted) return;
      this.#up = false;
      if (clock.monotonicMs() - startedAtMs >= STABLE_MS) backoff.reset();
      while (!this.#up && !signal.aborted) {
        const delayMs = backoff.nextMs();
        onDown(why, delayMs);
        await clock.sleep(delayMs, signal).catch(() => {});
        if (signal.aborted) return;
        try {
          await this.start(signal);
          this.#restartCount += 1;
        } catch (error) {
          why = (error as Error).message;
        }
      }
    }
  }

  /**
   * Stops a server of our own, and resolves when `run` has brought it up again.
   * @throws DEADLINE_EXCEEDED when it has not within two minutes; it is tried further
   */
  async restart(): Promise<void> {
    const { clock } = this.#deps;
    const before = this.#restartCount;
    const untilMs = clock.monotonicMs() + RESTART_TIMEOUT_MS;
    await this.#running?.own?.stop();
    while (!this.#up || this.#restartCount === before) {
      if (clock.monotonicMs() > untilMs) {
        throw new VarveError('DEADLINE_EXCEEDED', 'PostgreSQL was stopped and has not come up again in time');
      }
      await clock.sleep(RESTART_POLL_MS);
    }
  }

  /** Stops a server of our own; leaves that of others alone. */
  async [Symbol.asyncDispose](): Promise<void> {
    const own = this.#running?.own;
    this.#up = false;
    await own?.stop();
  }

  /** Resolves when the server is gone or the signal fires. That of others is not watched: each use finds out. */
  async #gone(signal: AbortSignal): Promise<string> {
    let stop = (): void => {};
    const stopped = new Promise<string>((resolve) => {
      stop = () => resolve('stopping');
      if (signal.aborted) stop();
      signal.addEventListener('abort', stop, { once: true });
    });
    const own = this.#running?.own;
    const exited = own?.exited.then(
      ({ code, signal: by }) =>
        `PostgreSQL ended${by ? ` by ${by}` : code === undefined ? '' : ` with exit code ${code}`}`,
    );
    try {
      return await Promise.race(exited ? [stopped, exited] : [stopped]);
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }
}
