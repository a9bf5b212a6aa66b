import { setImmediate as nextTurn } from 'node:timers/promises';
import { VarveError } from '../../core/errors.ts';
import { IndexBlock } from '../index/index-block.ts';
import { decodeLabels, type LabelPair } from '../index/labels.ts';
import type { SeriesSet } from '../index/series-set.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { sliceColumns, type Columns } from './columns.ts';
import type { FilesetLease } from './fileset-store.ts';
import type { Namespace } from './namespace.ts';
import { arrangedSeries, canArrange } from './segment-order.ts';
import {
  SeriesColumns,
  type Found,
  type FoundSet,
  type OpenBlock,
  type ReaderDeps,
} from './series-columns.ts';
import type { ColumnBatch, ReadQuery, SeriesRead } from './storage-engine.ts';

/** The blocks of a namespace that have any sample in a range. */
export function blocksIn(
  namespace: Namespace,
  { startNs, endNs }: { readonly startNs: bigint; readonly endNs: bigint },
): { readonly memory: readonly bigint[]; readonly files: readonly bigint[] } {
  const { blockSizeNs } = namespace.options;
  const isIn = (start: bigint): boolean => start < endNs && start + blockSizeNs > startNs;
  return {
    memory: namespace.buffer.blocks().flatMap((block) => (isIn(block.startNs) ? [block.startNs] : [])),
    files: namespace.filesets.blockStarts().filter(isIn),
  };
}

/** The index of all that has data in the range; whole index blocks, and all of the memory's. */
export async function indexOf(
  namespace: Namespace,
  range: { readonly startNs: bigint; readonly endNs: bigint },
): Promise<IndexBlock> {
  if (!namespace.options.indexEnabled) {
    throw new VarveError('INVALID_ARGUMENT', `namespace ${namespace.name} has no index to search`, {
      hint: 'It was made with indexEnabled = false.',
    });
  }
  const { memory, files } = blocksIn(namespace, range);
  const sealed = await namespace.index.segments(files.map((start) => namespace.index.blockOf(start)));
  return new IndexBlock(memory.length > 0 ? [...namespace.buffer.index().segments, ...sealed] : sealed);
}

/** More blocks than this are read one after the other, as they are asked for; fewer at once. */
const MAX_EAGER_BLOCKS = 16;
/**
 * Reads of more series than this leave what is cached alone, unless all should be: to read files from front to back is
 * faster than to look for each series, and one such read would push out what small ones ask for again and again.
 */
const MAX_CACHED_SERIES = 1000;
/** After so many samples others get their turn. */
const SAMPLES_A_TURN = 2_000_000;

/**
 * One read: what it needs stays until it ends. Made for going through many series: most steps wait for nothing, because
 * a step that does costs more than to decode a block.
 */
export class SeriesReader implements AsyncIterableIterator<SeriesRead> {
  readonly #deps: ReaderDeps;
  readonly #namespace: Namespace;
  readonly #query: ReadQuery;
  readonly #blocks: readonly OpenBlock[];
  #samplesLeft: number;
  #samplesThisTurn = 0;
  #lease: FilesetLease | undefined;
  #parts: { readonly due: Iterator<Found>; readonly columns: SeriesColumns } | undefined;
  #state: 'new' | 'open' | 'done' = 'new';

  constructor(deps: ReaderDeps, namespace: Namespace, query: ReadQuery) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#query = query;
    const { memory, files } = blocksIn(namespace, query);
    const open = new Set(memory);
    this.#blocks = [...new Set([...memory, ...files])]
      .sort((a, b) => (a < b ? -1 : 1))
      .map((startNs) => ({ startNs, inMemory: open.has(startNs) }));
    this.#samplesLeft = query.limits?.maxSamples ?? Number.POSITIVE_INFINITY;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<SeriesRead>> {
    if (this.#state === 'new') return this.#begin();
    return this.#step();
  }

  return(): Promise<IteratorResult<SeriesRead>> {
    this.#end();
    return Promise.resolve({ done: true, value: undefined });
  }

  async #begin(): Promise<IteratorResult<SeriesRead>> {
    this.#state = 'open';
    if (this.#blocks.length === 0) return await this.return();
    try {
      const { ordered = false, limits = {} } = this.#query;
      this.#lease = this.#namespace.filesets.lease(this.#blocks.map(({ startNs }) => startNs));
      const { count, atMost, series } = await this.#find();
      const { maxSeries } = limits;
      if (maxSeries !== undefined && count() > maxSeries) {
        throw new VarveError(
          'READ_LIMIT_EXCEEDED',
          `the query selects ${count()} series, more than ${maxSeries}`,
          { hint: 'Narrow the selectors, or raise the limit.' },
        );
      }
      const columns = new SeriesColumns(this.#deps, this.#namespace, this.#lease, {
        blocks: this.#blocks.length,
        ordered,
        usesCache: atMost <= MAX_CACHED_SERIES || this.#namespace.cache.policy === 'all',
      });
      this.#parts = { due: series[Symbol.iterator](), columns };
    } catch (error) {
      this.#end();
      const isDamage = error instanceof VarveError && error.code === 'INDEX_SEGMENT_DAMAGED';
      if (isDamage) this.#deps.onIndexDamage(this.#namespace);
      throw error;
    }
    return await this.#step();
  }

  #step(): Promise<IteratorResult<SeriesRead>> {
    try {
      while (this.#state === 'open' && this.#parts) {
        this.#query.signal?.throwIfAborted();
        if (this.#samplesThisTurn > SAMPLES_A_TURN) return this.#yield();
        const { due, columns } = this.#parts;
        const { done, value: one } = due.next();
        if (done) break;
        if (this.#blocks.length > MAX_EAGER_BLOCKS) return this.#lazy(one, columns);
        const batches: ColumnBatch[] = [];
        const waiting = this.#collect(one, columns, batches);
        if (waiting) return this.#wait(waiting, one, batches);
        // Otherwise its samples are all outside of the range.
        if (batches.length > 0) {
          return Promise.resolve({ done: false, value: new FoundSeries(one, new Batches(batches)) });
        }
      }
      return this.return();
    } catch (error) {
      this.#end();
      return Promise.reject(error);
    }
  }

  /** Others get their turn. */
  async #yield(): Promise<IteratorResult<SeriesRead>> {
    this.#samplesThisTurn = 0;
    await nextTurn();
    return await this.#step();
  }

  /** Puts the batches of a series together from block `from` on; a promise when something has to be read first. */
  #collect(one: Found, columns: SeriesColumns, batches: ColumnBatch[], from = 0): Promise<void> | undefined {
    for (let place = from; place < this.#blocks.length; place++) {
      const part = columns.read(one, this.#blocks[place] as OpenBlock, place);
      if (part instanceof Promise) {
        return part.then((read) => {
          this.#take(read, batches);
          return this.#collect(one, columns, batches, place + 1);
        });
      }
      this.#take(part, batches);
    }
    return undefined;
  }

  async #wait(
    waiting: Promise<void>,
    one: Found,
    batches: ColumnBatch[],
  ): Promise<IteratorResult<SeriesRead>> {
    try {
      await waiting;
    } catch (error) {
      this.#end();
      throw error;
    }
    if (batches.length === 0 || !this.#parts) return await this.#step();
    return { done: false, value: new FoundSeries(one, new Batches(batches)) };
  }

  async #lazy(one: Found, columns: SeriesColumns): Promise<IteratorResult<SeriesRead>> {
    try {
      const batches = this.#oneByOne(one, columns);
      const first = await batches.next();
      if (!first.done && this.#parts) {
        return { done: false, value: new FoundSeries(one, continued(first.value, batches)) };
      }
    } catch (error) {
      this.#end();
      throw error;
    }
    return await this.#step();
  }

  async *#oneByOne(one: Found, columns: SeriesColumns): AsyncGenerator<ColumnBatch, void, void> {
    for (const block of this.#blocks) {
      this.#query.signal?.throwIfAborted();
      const batches: ColumnBatch[] = [];
      this.#take(await columns.read(one, block, 0), batches);
      yield* batches;
    }
  }

  #take(columns: Columns, batches: ColumnBatch[]): void {
    if (columns.times.length === 0) return;
    const { times, bits, values, overwrites } = sliceColumns(columns, this.#query.startNs, this.#query.endNs);
    if (times.length === 0) return;
    this.#samplesLeft -= times.length;
    this.#samplesThisTurn += times.length;
    if (this.#samplesLeft < 0) {
      const limit = this.#query.limits?.maxSamples;
      throw new VarveError('READ_LIMIT_EXCEEDED', `the query reads more than ${limit} samples`, {
        hint: 'Narrow the selectors or the time range, or raise the limit.',
      });
    }
    const doubles = values ?? new Float64Array(bits.buffer, bits.byteOffset, bits.length);
    batches.push(
      overwrites.length === 0
        ? { times, bits, values: doubles }
        : { times, bits, values: doubles, overwrites },
    );
  }

  /** The series that match, of the shards that are asked for. */
  async #find(): Promise<FoundSet> {
    const { shards } = this.#query;
    const { ownership } = this.#namespace;
    const all = await this.#findAll();
    if (!shards && ownership.ownsAll) return all;
    const asked = shards && new Set(shards);
    const isWanted = ({ shard }: Found): boolean => ownership.owns(shard) && (asked?.has(shard) ?? true);
    const wanted = filtered(all.series, isWanted);
    // Who wants to know how many there are has them all looked at.
    let counted: readonly Found[] | undefined;
    return {
      count: () => (counted ??= [...wanted]).length,
      atMost: all.atMost,
      series: { [Symbol.iterator]: () => (counted ?? wanted)[Symbol.iterator]() },
    };
  }

  /** The series that match, each once; in the order of their labels, or as they are read best. */
  async #findAll(): Promise<FoundSet> {
    const { matchers, ordered = false, shards } = this.#query;
    const { shardCount, index } = this.#namespace;
    const isEverything = matchers.length === 0 && shards !== undefined;
    if (
      !ordered &&
      !isEverything &&
      this.#namespace.options.indexEnabled &&
      this.#blocks.every(({ inMemory }) => !inMemory)
    ) {
      const segments = await index.segments(this.#blocks.map(({ startNs }) => index.blockOf(startNs)));
      if (canArrange(segments)) return arrangedSeries(segments, matchers, shardCount);
    }
    const all = await indexOf(this.#namespace, this.#query);
    const found = all.series(isEverything ? { ordered } : { selectors: [matchers], ordered });
    const { count } = found;
    return { count: () => count, atMost: count, series: this.#arranged(found, ordered) };
  }

  /** Unless an order is asked for: as the files have them, so that these are read from front to back. */
  *#arranged(found: SeriesSet, ordered: boolean): Iterable<Found> {
    const { shardCount, buffer } = this.#namespace;
    const isInMemory = this.#blocks.every(({ startNs }) => !this.#namespace.filesets.hasBlock(startNs));
    const one = (index: number): Found => {
      // Without files all that was found is of the memory's own index.
      const reference = isInMemory ? found.ref(index) : undefined;
      const id = reference === undefined ? found.labelBytes(index) : buffer.labelsOf(reference);
      const shard = reference === undefined ? murmur3(id, 0) % shardCount : buffer.shardOf(reference);
      return { id, shard, reference };
    };
    if (ordered || isInMemory) {
      for (let index = 0; index < found.count; index++) yield one(index);
      return;
    }
    const all = Array.from({ length: found.count }, (_, index) => one(index));
    yield* all.sort((a, b) => a.shard - b.shard || Buffer.compare(a.id, b.id));
  }

  #end(): void {
    this.#state = 'done';
    this.#parts = undefined;
    this.#lease?.[Symbol.dispose]();
    this.#lease = undefined;
  }
}

function* filtered<T>(all: Iterable<T>, isWanted: (one: T) => boolean): Iterable<T> {
  for (const one of all) if (isWanted(one)) yield one;
}

class FoundSeries implements SeriesRead {
  readonly labelBytes: Uint8Array;
  readonly batches: AsyncIterable<ColumnBatch>;
  #labels: readonly LabelPair[] | undefined;

  constructor({ id }: Found, batches: AsyncIterable<ColumnBatch>) {
    this.labelBytes = id;
    this.batches = batches;
  }

  /** Made when they are asked for: whoever sums up does not need them. */
  get labels(): readonly LabelPair[] {
    this.#labels ??= decodeLabels(this.labelBytes);
    return this.#labels;
  }
}

/** Batches that are all there. */
class Batches implements AsyncIterable<ColumnBatch> {
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

async function* continued<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T, void, void> {
  yield first;
  yield* rest;
}
