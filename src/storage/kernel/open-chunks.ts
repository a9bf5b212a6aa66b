import { type LogSample } from './log-batch.ts';

/** A sample as it is read: with the version of its write if it replaced another, or in a cold block. */
export interface OpenSample {
  readonly time: bigint;
  readonly value: bigint;
  readonly version?: bigint;
}

/**
 * The plain counterpart of `assembly/open-chunks.ts` and `open-series.ts`: the samples of one block that is still
 * written. Of those for one time the last write counts; a write that changes nothing is none.
 */
export class OpenChunks {
  readonly #start: bigint;
  readonly #end: bigint;
  readonly #cold: boolean;
  readonly #samples = new Map<number, Map<bigint, OpenSample>>();

  constructor(start: bigint, end: bigint, cold = false) {
    this.#start = start;
    this.#end = end;
    this.#cold = cold;
  }

  append({ reference, time, value }: LogSample, version: bigint): void {
    if (reference < 0 || time < this.#start || time >= this.#end) return;
    const samples = this.#samples.get(reference) ?? new Map<bigint, OpenSample>();
    this.#samples.set(reference, samples);
    const present = samples.get(time);
    if (present?.value === value) return;
    samples.set(time, { time, value, ...(this.#cold || present ? { version } : {}) });
  }

  /** Adds samples from elsewhere; a version tells that one replaced another. */
  insert(reference: number, inserted: readonly OpenSample[]): void {
    const samples = this.#samples.get(reference) ?? new Map<bigint, OpenSample>();
    this.#samples.set(reference, samples);
    for (const sample of inserted) {
      const present = samples.get(sample.time);
      const isNewer =
        present?.version !== undefined && sample.version !== undefined && sample.version > present.version;
      if (present === undefined || isNewer) samples.set(sample.time, sample);
    }
  }

  cut(reference: number, from: bigint, to: bigint): number {
    const samples = this.#samples.get(reference) ?? new Map<bigint, OpenSample>();
    const times = [...samples.keys()].filter((time) => from <= time && time < to);
    for (const time of times) samples.delete(time);
    return times.length;
  }

  read(reference: number): OpenSample[] {
    const samples = [...(this.#samples.get(reference)?.values() ?? [])];
    return samples.sort((a, b) => (a.time < b.time ? -1 : 1));
  }
}
