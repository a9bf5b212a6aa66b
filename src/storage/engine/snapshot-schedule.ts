import { Backoff } from '../../core/backoff.ts';
import type { Clock } from '../../core/clock.ts';

export interface SnapshotScheduleOptions {
  readonly snapshotIntervalMs: number;
  /** A longer log makes one due, whatever the interval. */
  readonly maxLogBytes: number;
}

/** What there is that a snapshot would make unnecessary. */
export interface SnapshotNeed {
  /** Of the log behind the last one. */
  readonly logBytes: number;
  /** Blocks went to files since: most of that log is not needed. */
  readonly hasFlushed: boolean;
  /** Some namespace wants them at intervals. */
  readonly isWanted: boolean;
}

const FIRST_RETRY_MS = 5000;

/**
 * When the next snapshot is due. One that failed, mostly for want of room, is tried again soon, with waits that grow up
 * to the interval.
 */
export class SnapshotSchedule {
  readonly #clock: Pick<Clock, 'monotonicMs'>;
  readonly #options: SnapshotScheduleOptions;
  readonly #backoff: Backoff;
  #lastMs: number;
  /** Undefined unless the last one failed. */
  #retryAtMs: number | undefined;

  constructor(clock: Pick<Clock, 'monotonicMs'>, options: SnapshotScheduleOptions) {
    this.#clock = clock;
    this.#options = options;
    const firstMs = Math.min(FIRST_RETRY_MS, options.snapshotIntervalMs);
    // There is nobody to spread out from.
    this.#backoff = new Backoff({ firstMs, maxMs: options.snapshotIntervalMs, random: () => 0 });
    this.#lastMs = clock.monotonicMs();
  }

  isDue({ logBytes, hasFlushed, isWanted }: SnapshotNeed): boolean {
    if (logBytes === 0) return false;
    const nowMs = this.#clock.monotonicMs();
    if (this.#retryAtMs !== undefined) return nowMs >= this.#retryAtMs;
    const { snapshotIntervalMs, maxLogBytes } = this.#options;
    if (logBytes > maxLogBytes) return true;
    return isWanted && (hasFlushed || nowMs - this.#lastMs >= snapshotIntervalMs);
  }

  succeeded(): void {
    this.#lastMs = this.#clock.monotonicMs();
    this.#retryAtMs = undefined;
    this.#backoff.reset();
  }

  failed(): void {
    this.#retryAtMs = this.#clock.monotonicMs() + this.#backoff.nextMs();
  }
}
