import { decodeLabels, type LabelPair } from '../index/labels.ts';
import type { Columns } from './columns.ts';
import type { SeriesOrder } from './segment-order.ts';
import type { ColumnBatch, SeriesRead } from './storage-engine.ts';

/** Columns as they are given out. */
export function batchOf({ times, bits, values, overwrites }: Columns): ColumnBatch {
  const doubles = values ?? new Float64Array(bits.buffer, bits.byteOffset, bits.length);
  return overwrites.length === 0
    ? { times, bits, values: doubles }
    : { times, bits, values: doubles, overwrites };
}

/** A series whose batches are all there. What nobody asks for, as its labels when it is only summed up, is not made. */
export class ReadSeries implements SeriesRead {
  readonly columns: readonly ColumnBatch[];
  readonly #order: SeriesOrder;
  readonly #rank: number;
  #labels: readonly LabelPair[] | undefined;

  constructor(order: SeriesOrder, rank: number, columns: readonly ColumnBatch[]) {
    this.#order = order;
    this.#rank = rank;
    this.columns = columns;
  }

  get labelBytes(): Uint8Array {
    return this.#order.id(this.#rank);
  }

  get labels(): readonly LabelPair[] {
    this.#labels ??= decodeLabels(this.labelBytes);
    return this.#labels;
  }

  get batches(): AsyncIterable<ColumnBatch> {
    return new Batches(this.columns);
  }
}

/** Batches that are all there. */
export class Batches implements AsyncIterable<ColumnBatch> {
  readonly #batches: readonly ColumnBatch[];

  constructor(batches: readonly ColumnBatch[]) {
    this.#batches = batches;
  }

  [Symbol.asyncIterator](): AsyncIterator<ColumnBatch> {
    return new BatchIterator(this.#batches);
  }
}

const NO_MORE_BATCHES: Promise<IteratorResult<ColumnBatch>> = Promise.resolve({
  done: true,
  value: undefined,
});

class BatchIterator implements AsyncIterator<ColumnBatch> {
  readonly #batches: readonly ColumnBatch[];
  #next = 0;

  constructor(batches: readonly ColumnBatch[]) {
    this.#batches = batches;
  }

  next(): Promise<IteratorResult<ColumnBatch>> {
    const value = this.#batches[this.#next++];
    return value ? Promise.resolve({ done: false, value }) : NO_MORE_BATCHES;
  }
}
