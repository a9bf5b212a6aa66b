import type { Clock } from '../../core/clock.ts';

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

  /** The time of day is set, as an administrator may; what sleeps does not notice. */
  set(nowMs: number): void {
    this.#nowMs = nowMs;
  }
}
