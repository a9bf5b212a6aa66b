/** Waiting times that double from `firstMs` to `maxMs`, each drawn from its upper half so that peers spread out. */
export interface BackoffOptions {
  readonly firstMs: number;
  readonly maxMs: number;
  /** Uniform in [0, 1). */
  readonly random?: () => number;
}

export class Backoff {
  readonly #options: Required<BackoffOptions>;
  #attempt = 0;

  constructor(options: BackoffOptions) {
    this.#options = { random: Math.random, ...options };
  }

  /** The waiting time before the next attempt, in milliseconds. */
  nextMs(): number {
    const { firstMs, maxMs, random } = this.#options;
    const ceilingMs = Math.min(maxMs, firstMs * 2 ** Math.min(this.#attempt, 30));
    this.#attempt += 1;
    return ceilingMs * (0.5 + random() / 2);
  }

  reset(): void {
    this.#attempt = 0;
  }
}
