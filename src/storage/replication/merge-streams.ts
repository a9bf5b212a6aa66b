import { lowerBound, sliceColumns, type Columns } from '../engine/columns.ts';
import type { SeriesBatch } from '../engine/replica-access.ts';
import { compareLabelBytes } from './label-order.ts';
import { mergeReplicas } from './merge-columns.ts';

/** How far a merge has come: all of the series before `id`, and of it what is before `timeNs`. */
export interface MergePosition {
  readonly id: Uint8Array;
  readonly timeNs: bigint;
}

/** One replica's batches; what is before a position is passed over. */
export class BatchCursor {
  id: Uint8Array = NO_ID;
  columns: Columns | undefined;
  readonly #batches: AsyncIterator<SeriesBatch>;
  readonly #from: MergePosition | undefined;

  constructor(batches: AsyncIterable<SeriesBatch>, from: MergePosition | undefined) {
    this.#batches = batches[Symbol.asyncIterator]();
    this.#from = from;
  }

  /** Goes to the next batch; `columns` is undefined behind the last. */
  async next(): Promise<void> {
    for (;;) {
      const { done, value } = await this.#batches.next();
      this.columns = undefined;
      if (done) return;
      const columns = this.#behind(value);
      if (columns.times.length === 0) continue;
      this.id = value.id;
      this.columns = columns;
      return;
    }
  }

  /** Takes what is up to `lastNs`; what is left stays. */
  take(lastNs: bigint): Columns {
    const columns = this.columns as Columns;
    const end = columns.times.at(-1) as bigint;
    if (end <= lastNs) {
      this.columns = undefined;
      return columns;
    }
    const at = lowerBound(columns.times, lastNs + 1n);
    const first = columns.times[0] as bigint;
    this.columns = sliceColumns(columns, columns.times[at] as bigint, end + 1n);
    return sliceColumns(columns, first, lastNs + 1n);
  }

  async end(): Promise<void> {
    await this.#batches.return?.();
  }

  #behind({ id, columns }: SeriesBatch): Columns {
    if (!this.#from) return columns;
    const order = compareLabelBytes(id, this.#from.id);
    if (order > 0) return columns;
    const { times } = columns;
    const end = (times.at(-1) ?? 0n) + 1n;
    return order < 0 ? sliceColumns(columns, end, end) : sliceColumns(columns, this.#from.timeNs, end);
  }
}

const NO_ID = new Uint8Array(0);

/** What to do when a replica's answer breaks off: cursors that take its place, if any. @throws when none can */
export type OnBroken = (cursor: BatchCursor, error: unknown, at: MergePosition) => readonly BatchCursor[];

/**
 * The batches of several replicas as one stream in the same order: every sample once, by `mergeReplicas`. Needs a batch
 * of each in memory. A batch is valid until the next is asked for.
 */
export async function* mergeStreams(
  first: readonly BatchCursor[],
  onBroken: OnBroken,
): AsyncGenerator<SeriesBatch, void, void> {
  const cursors = new Set(first);
  let position: MergePosition = { id: NO_ID, timeNs: LEAST };
  const advance = async (due: readonly BatchCursor[]): Promise<void> => {
    let waiting = due;
    while (waiting.length > 0) {
      const broken: BatchCursor[] = [];
      await Promise.all(
        waiting.map(async (cursor) => {
          try {
            await cursor.next();
            if (!cursor.columns) cursors.delete(cursor);
          } catch (error) {
            cursors.delete(cursor);
            for (const one of onBroken(cursor, error, position)) {
              cursors.add(one);
              broken.push(one);
            }
          }
        }),
      );
      waiting = broken;
    }
  };
  try {
    await advance([...cursors]);
    while (cursors.size > 0) {
      const members = leastOf(cursors);
      const { id } = members[0] as BatchCursor;
      const lastNs = members.reduce((least, { columns }) => {
        const end = columns?.times.at(-1) as bigint;
        return end < least ? end : least;
      }, MOST);
      const columns = mergeReplicas(members.map((cursor) => cursor.take(lastNs)));
      yield { id, columns };
      position = { id, timeNs: lastNs + 1n };
      await advance(members.filter((cursor) => !cursor.columns));
    }
  } finally {
    await Promise.allSettled([...cursors].map((cursor) => cursor.end()));
  }
}

const LEAST = -(1n << 63n);
const MOST = (1n << 63n) - 1n;

/** Those that are at the least series. */
function leastOf(cursors: ReadonlySet<BatchCursor>): BatchCursor[] {
  let members: BatchCursor[] = [];
  for (const cursor of cursors) {
    const order = members[0] ? compareLabelBytes(cursor.id, members[0].id) : -1;
    if (order < 0) members = [cursor];
    else if (order === 0) members.push(cursor);
  }
  return members;
}
