import { VarveError } from '../../core/errors.ts';
import type { SeriesBatch } from '../engine/replica-access.ts';
import type { ColumnBatch, ReadLimits, SeriesRead } from '../engine/storage-engine.ts';
import { decodeLabels, type LabelPair } from '../index/labels.ts';

/** Batches of ordered series, one series after the other. @throws READ_LIMIT_EXCEEDED */
export async function* seriesOfBatches(
  batches: AsyncGenerator<SeriesBatch, void, void>,
  limits: ReadLimits,
): AsyncGenerator<SeriesRead, void, void> {
  let [seriesCount, samples] = [0, 0];
  let next = await batches.next();
  const count = ({ columns }: SeriesBatch): void => {
    samples += columns.times.length;
    if (limits.maxSamples !== undefined && samples > limits.maxSamples) {
      throw new VarveError('READ_LIMIT_EXCEEDED', `the query reads more than ${limits.maxSamples} samples`, {
        hint: 'Narrow the selectors or the time range, or raise the limit.',
      });
    }
  };
  try {
    while (!next.done) {
      const { id } = next.value;
      if (limits.maxSeries !== undefined && ++seriesCount > limits.maxSeries) {
        throw new VarveError(
          'READ_LIMIT_EXCEEDED',
          `the query selects more than ${limits.maxSeries} series`,
          { hint: 'Narrow the selectors, or raise the limit.' },
        );
      }
      const series = new MergedSeries(Uint8Array.from(id), {
        first: next.value,
        // Of the same series, or undefined behind its last.
        more: async () => {
          next = await batches.next();
          return !next.done && Buffer.compare(next.value.id, id) === 0 ? next.value : undefined;
        },
        count,
      });
      yield series;
      await series.finish();
    }
  } finally {
    await batches.return();
  }
}

interface Supply {
  readonly first: SeriesBatch;
  readonly more: () => Promise<SeriesBatch | undefined>;
  readonly count: (batch: SeriesBatch) => void;
}

class MergedSeries implements SeriesRead {
  readonly labelBytes: Uint8Array;
  readonly batches: AsyncIterable<ColumnBatch>;
  readonly #supply: Supply;
  #labels: readonly LabelPair[] | undefined;
  #current: SeriesBatch | undefined;

  constructor(id: Uint8Array, supply: Supply) {
    this.labelBytes = id;
    this.#supply = supply;
    this.#current = supply.first;
    this.batches = { [Symbol.asyncIterator]: () => this.#iterate() };
  }

  get labels(): readonly LabelPair[] {
    this.#labels ??= decodeLabels(this.labelBytes);
    return this.#labels;
  }

  /** Passes over what nobody asked for. */
  async finish(): Promise<void> {
    while (this.#current) this.#current = await this.#supply.more();
  }

  async *#iterate(): AsyncGenerator<ColumnBatch, void, void> {
    while (this.#current) {
      const { times, bits } = this.#current.columns;
      this.#supply.count(this.#current);
      yield { times, bits, values: new Float64Array(bits.buffer, bits.byteOffset, bits.length) };
      this.#current = await this.#supply.more();
    }
  }
}
