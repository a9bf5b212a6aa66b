import type { Clock } from '../../core/clock.ts';

/** The same time as another clock, seen by a machine whose time of day is wrong. */
export class SkewedClock implements Clock {
  readonly #clock: Clock;
  readonly #aheadMs: number;

  constructor(clock: Clock, aheadMs: number) {
    this.#clock = clock;
    this.#aheadMs = aheadMs;
  }

  nowMs(): number {
    return this.#clock.nowMs() + this.#aheadMs;
  }

  monotonicMs(): number {
    return this.#clock.monotonicMs();
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return this.#clock.sleep(ms, signal);
  }
}

/** A clock that the simulation moves. Sleepers wake in the order of their times. */
export class SimulatedClock implements Clock {
  #nowMs: number;
  #monotonicMs = 0;
  readonly #sleepers = new Set<{ readonly wakesAtMs: number; readonly wake: () => void }>();

  constructor(nowMs: number) {
    this.#nowMs = nowMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#monotonicMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason as Error);
        return;
      }
      const abort = (): void => {
        this.#sleepers.delete(sleeper);
        reject(signal?.reason as Error);
      };
      const wake = (): void => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      const sleeper = { wakesAtMs: this.#monotonicMs + Math.max(0, ms), wake };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  advance(ms: number): void {
    this.#nowMs += ms;
    this.#monotonicMs += ms;
    const due = [...this.#sleepers].filter(({ wakesAtMs }) => wakesAtMs <= this.#monotonicMs);
    for (const sleeper of due.sort((a, b) => a.wakesAtMs - b.wakesAtMs)) {
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }

  /** To the next one that sleeps, but no further than this; returns by how much. */
  advanceToNext(mostMs: number): number {
    let ms = mostMs;
    for (const { wakesAtMs } of this.#sleepers) ms = Math.min(ms, wakesAtMs - this.#monotonicMs);
    // Time is told in whole milliseconds, and never stands still.
    const byMs = Math.max(1, Math.ceil(ms));
    this.advance(byMs);
    return byMs;
  }

  /** The time of day is set, as an administrator may; what sleeps does not notice. */
  set(nowMs: number): void {
    this.#nowMs = nowMs;
  }
}
