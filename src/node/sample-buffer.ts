import type { Reading } from './host-metrics-proc.ts';

/** The readings of one instant. */
export interface Sample {
  readonly atMs: number;
  readonly readings: readonly Reading[];
}

/**
 * Samples that wait to be written. Holds no more than `maxCount`: while the database is away the oldest are
 * given up first.
 */
export class SampleBuffer {
  readonly #maxCount: number;
  #samples: Sample[] = [];
  #droppedCount = 0;

  constructor(maxCount: number) {
    this.#maxCount = maxCount;
  }

  get waitingCount(): number {
    return this.#samples.length;
  }

  /** In all. */
  get droppedCount(): number {
    return this.#droppedCount;
  }

  add(sample: Sample): void {
    this.#samples.push(sample);
    if (this.#samples.length > this.#maxCount) {
      this.#samples.shift();
      this.#droppedCount += 1;
    }
  }

  /** The oldest, at most `count`; they stay until `remove` is called with them. */
  oldest(count: number): readonly Sample[] {
    return this.#samples.slice(0, count);
  }

  /** What has been given up meanwhile is passed over. */
  remove(written: readonly Sample[]): void {
    const gone = new Set(written);
    this.#samples = this.#samples.filter((sample) => !gone.has(sample));
  }
}
