import { VarveError } from '../../core/errors.ts';
import type { Rejection, RejectReason } from '../engine/storage-engine.ts';
import { LabelCursor, textOf } from '../index/labels.ts';
import { ENTRY, type Kernel } from '../kernel/kernel.ts';
import type { WorkingSpace } from './buffer-memory.ts';

/** The samples of a request that can be taken: in the working space, until the next call. */
export interface WriteBatch {
  /** Entries, of which some may have no samples or no series. */
  readonly series: number;
  readonly samples: number;
  readonly leastNs: bigint;
  readonly newSeries: number;
  readonly rejected: readonly Rejection[];
  readonly exemplars: number;
  readonly histograms: number;
  /** Samples of shards that are not this node's, which were passed over. */
  readonly notOwned: number;
  /** Which use of the working space it is. */
  readonly use: number;
}

const EXAMPLE_BYTES = 300;

/** Collects what was refused, with one example for each reason. */
export class Rejections {
  readonly #kernel: Kernel;
  readonly #space: WorkingSpace;
  readonly #found = new Map<RejectReason, { count: number; readonly example: string }>();

  constructor(kernel: Kernel, space: WorkingSpace) {
    this.#kernel = kernel;
    this.#space = space;
  }

  get all(): Rejection[] {
    return [...this.#found].map(([reason, { count, example }]) => ({ reason, count, example }));
  }

  /** Of samples of an entry of the working space; `timeNs` is that of one of them. */
  add(reason: RejectReason, count: number, entry: number, timeNs: bigint | undefined): void {
    const found = this.#found.get(reason);
    if (found) found.count += count;
    else this.#found.set(reason, { count, example: this.#describe(entry, timeNs) });
  }

  #describe(entry: number, timeNs: bigint | undefined): string {
    const { bytes } = this.#kernel;
    const numbers = new Uint32Array(bytes.buffer, this.#space.entries.address, (entry + 1) * ENTRY.length);
    const from = numbers[entry * ENTRY.length + ENTRY.labels] ?? 0;
    const to = from + (numbers[entry * ENTRY.length + ENTRY.labelsBytes] ?? 0);
    const labels = describeLabels(bytes, from, to);
    return timeNs === undefined ? labels : `${labels} at ${timeText(timeNs)}`;
  }
}

/** Labels as a selector shows them, in the order in which they came, cut where they are long. */
export function describeLabels(bytes: Uint8Array, from: number, to: number): string {
  const cursor = new LabelCursor();
  cursor.reset(bytes, from, Math.min(to, from + EXAMPLE_BYTES));
  const parts: string[] = [];
  while (cursor.next()) {
    const name = textOf(bytes, cursor.start, cursor.stop);
    if (!cursor.next()) break;
    parts.push(`${name}=${JSON.stringify(textOf(bytes, cursor.start, cursor.stop))}`);
  }
  const rest = cursor.broken || to > from + EXAMPLE_BYTES ? ['…'] : [];
  return `{${[...parts, ...rest].join(', ')}}`;
}

function timeText(timeNs: bigint): string {
  const ms = Number(timeNs / 1_000_000n);
  // Beyond that a Date has no words.
  return Math.abs(ms) <= 8.64e15 ? new Date(ms).toISOString() : `${timeNs} ns`;
}

export function spentBatch(): VarveError {
  return new VarveError('INVALID_ARGUMENT', 'the batch is not the last one that was decoded');
}
