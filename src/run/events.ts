import type { RunEvent } from './step.ts';

export type RunListener = (event: RunEvent) => void;

/**
 * The one stream from which terminal, log, `/api/events` and dashboard are rendered. Keeps the newest
 * `historyCount` events for those who come later. Listeners are called synchronously and must not throw.
 */
export class RunEvents {
  readonly #listeners = new Set<RunListener>();
  readonly #history: RunEvent[] = [];
  readonly #historyCount: number;

  constructor(options: { historyCount?: number } = {}) {
    this.#historyCount = options.historyCount ?? 1000;
  }

  publish(event: RunEvent): void {
    this.#history.push(event);
    if (this.#history.length > this.#historyCount) this.#history.shift();
    for (const listener of this.#listeners) listener(event);
  }

  /** Calls `listener` for every later event until the returned function is called. */
  subscribe(listener: RunListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Oldest first; the caller may keep the array. */
  history(): RunEvent[] {
    return [...this.#history];
  }
}
