import { type LogSample } from './log-batch.ts';
import { type APPEND_RESULT } from './kernel.ts';

export type AppendResult = (typeof APPEND_RESULT)[number];

/**
 * The plain counterpart of `assembly/open-chunks.ts`: the samples of one block that is still written, ascending
 * by series.
 */
export class OpenChunks {
  readonly #start: bigint;
  readonly #end: bigint;
  readonly #samples = new Map<number, LogSample[]>();

  constructor(start: bigint, end: bigint) {
    this.#start = start;
    this.#end = end;
  }

  append(sample: LogSample): AppendResult {
    if (sample.reference < 0) return 'no series';
    if (sample.time < this.#start || sample.time >= this.#end) return 'outside';
    const samples = this.samplesOf(sample.reference);
    const last = samples.at(-1);
    if (last !== undefined && sample.time <= last.time) return 'not ascending';
    this.#samples.set(sample.reference, [...samples, sample]);
    return 'appended';
  }

  samplesOf(reference: number): readonly LogSample[] {
    return this.#samples.get(reference) ?? [];
  }
}
