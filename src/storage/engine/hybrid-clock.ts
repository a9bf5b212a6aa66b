import type { Clock } from '../../core/clock.ts';

/**
 * Versions of writes: nanoseconds by the clock, but always larger than every one before, also than those seen in the
 * log or from other nodes. So the order of versions is the order of writes even when the clock is set back.
 */
export class HybridClock {
  readonly #clock: Pick<Clock, 'nowMs'>;
  #last = 0n;
  #newestSeen = 0n;

  constructor(clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
  }

  /** The newest version that was given or seen. */
  get last(): bigint {
    return this.#last;
  }

  /** The newest of those that were seen; what was given counts only when it is seen again. */
  get newestSeen(): bigint {
    return this.#newestSeen;
  }

  /** By the clock, in nanoseconds; no version. */
  nowNs(): bigint {
    return BigInt(Math.floor(this.#clock.nowMs())) * 1_000_000n;
  }

  next(): bigint {
    const now = this.nowNs();
    this.#last = now > this.#last ? now : this.#last + 1n;
    return this.#last;
  }

  /** A version that came from elsewhere: later ones are larger. */
  observe(version: bigint): void {
    if (version > this.#last) this.#last = version;
    if (version > this.#newestSeen) this.#newestSeen = version;
  }
}
