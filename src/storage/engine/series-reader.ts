import { setImmediate as nextTurn } from 'node:timers/promises';
import { VarveError } from '../../core/errors.ts';
import { IndexBlock } from '../index/index-block.ts';
import { decodeLabels, type LabelPair } from '../index/labels.ts';
import type { SeriesSet } from '../index/series-set.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { sliceColumns, type Columns } from './columns.ts';
import type { FilesetLease } from './fileset-store.ts';
import type { Namespace } from './namespace.ts';
import { completeIndex } from './complete-index.ts';
import { PageReader, type ReadPage } from './page-reader.ts';
import { batchOf, Batches } from './read-series.ts';
import { ArrangedSeries, arrangedSeries, canArrange } from './segment-order.ts';
import {
  checkThere,
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
  for (;;) {
    const { movedBlocks, buffer, index } = namespace;
    const { memory, files } = blocksIn(namespace, range);
    const sealed = await index.segments(files.map((start) => index.blockOf(start)));
    if (memory.length > 0) await completeIndex(namespace);
    checkThere(namespace);
    // Otherwise a block that went to files meanwhile would be found nowhere.
    if (namespace.movedBlocks !== movedBlocks) continue;
    return new IndexBlock(memory.length > 0 ? [...buffer.index().segments, ...sealed] : sealed);
  }
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
  /** Of the two one is there: what goes through pages, or through series. */
  #pages: PageReader | undefined;
  #parts: { readonly due: Iterator<Found>; readonly columns: SeriesColumns } | undefined;
  /** What is left of a page. */
  #page: readonly SeriesRead[] = [];
  #inPage = 0;
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
    const value = this.#page[this.#inPage];
    if (value && this.#state === 'open') {
      this.#inPage++;
      return Promise.resolve({ done: false, value });
    }
    return this.#state === 'new' || this.#pages ? this.#later() : this.#step();
  }

  return(): Promise<IteratorResult<SeriesRead>> {
    this.#end();
    return Promise.resolve({ done: true, value: undefined });
  }

  /** Some series at a time; instead of `next`. */
  async *pages(): AsyncGenerator<readonly SeriesRead[], void, void> {
    try {
      await this.#begin();
      while (this.#state === 'open') {
        const page = this.#pages ? await this.#nextPage() : await this.#single();
        if (!page) return;
        yield page;
      }
    } finally {
      this.#end();
    }
  }

  async #single(): Promise<readonly SeriesRead[] | undefined> {
    const { done, value } = await this.#step();
    return done ? undefined : [value];
  }

  async #later(): Promise<IteratorResult<SeriesRead>> {
    await this.#begin();
    if (!this.#pages) return await this.#step();
    this.#page = (await this.#nextPage()) ?? [];
    this.#inPage = 1;
    const [value] = this.#page;
    return value ? { done: false, value } : await this.return();
  }

  /** Undefined when there is none any more. */
  async #nextPage(): Promise<readonly SeriesRead[] | undefined> {
    try {
      for (;;) {
        this.#query.signal?.throwIfAborted();
        if (this.#samplesThisTurn > SAMPLES_A_TURN) await this.#turn();
        const page: ReadPage | undefined = await this.#pages?.next();
        if (!page) return undefined;
        this.#count(page.samples);
        if (page.series.length > 0) return page.series;
      }
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  async #begin(): Promise<void> {
    if (this.#state !== 'new') return;
    this.#state = 'open';
    try {
      if (this.#blocks.length === 0) this.#end();
      else await this.#open();
    } catch (error) {
      this.#end();
      const isDamage = error instanceof VarveError && error.code === 'INDEX_SEGMENT_DAMAGED';
      if (isDamage) this.#deps.onIndexDamage(this.#namespace);
      throw error;
    }
  }

  async #open(): Promise<void> {
    const { ordered = false, limits = {}, startNs, endNs } = this.#query;
    const blockStartsNs = this.#blocks.map((block) => block.startNs);
    const lease = this.#namespace.filesets.lease(blockStartsNs);
    this.#lease = lease;
    const found = await this.#find();
    const { maxSeries } = limits;
    if (maxSeries !== undefined && found.count() > maxSeries) {
      throw new VarveError(
        'READ_LIMIT_EXCEEDED',
        `the query selects ${found.count()} series, more than ${maxSeries}`,
        { hint: 'Narrow the selectors, or raise the limit.' },
      );
    }
    // It was ended meanwhile.
    if (this.#state !== 'open') return;
    const { cache, tombstones } = this.#namespace;
    const usesCache = found.atMost <= MAX_CACHED_SERIES || cache.policy === 'all';
    const blocks = blockStartsNs.length;
    const isPlain = blocks <= MAX_EAGER_BLOCKS && tombstones.all.length === 0;
    if (found instanceof ArrangedSeries && isPlain && !usesCache) {
      const options = { series: found, blockStartsNs, startNs, endNs };
      this.#pages = new PageReader(this.#deps, this.#namespace, lease, options);
      return;
    }
    const columns = new SeriesColumns(this.#deps, this.#namespace, lease, { blocks, ordered, usesCache });
    this.#parts = { due: found.series[Symbol.iterator](), columns };
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
          return Promise.resolve({ done: false, value: new FoundSeries(one, new Batches(batches), batches) });
        }
      }
      return this.return();
    } catch (error) {
      this.#end();
      return Promise.reject(error);
    }
  }

  async #yield(): Promise<IteratorResult<SeriesRead>> {
    await this.#turn();
    return await this.#step();
  }

  /** Others get theirs. */
  async #turn(): Promise<void> {
    this.#samplesThisTurn = 0;
    await nextTurn();
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
    return { done: false, value: new FoundSeries(one, new Batches(batches), batches) };
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
    const sliced = sliceColumns(columns, this.#query.startNs, this.#query.endNs);
    if (sliced.times.length === 0) return;
    this.#count(sliced.times.length);
    batches.push(batchOf(sliced));
  }

  /** The series that match, of the shards that are asked for. */
  async #find(): Promise<FoundSet> {
    const { shards } = this.#query;
    const { ownership } = this.#namespace;
    const all = await this.#findAll();
    if (!shards && ownership.ownsAll) return all;
    const asked = shards && new Set(shards);
    const isAsked = (shard: number): boolean => ownership.owns(shard) && (asked?.has(shard) ?? true);
    if (all instanceof ArrangedSeries) return all.ofShards(isAsked);
    const wanted = filtered(all.series, ({ shard }) => isAsked(shard));
    // Who wants to know how many there are has them all looked at.
    let counted: readonly Found[] | undefined;
    return {
      count: () => (counted ??= [...wanted]).length,
      atMost: all.atMost,
      series: { [Symbol.iterator]: () => (counted ?? wanted)[Symbol.iterator]() },
    };
  }

  /** @throws READ_LIMIT_EXCEEDED */
  #count(samples: number): void {
    this.#samplesLeft -= samples;
    this.#samplesThisTurn += samples;
    if (this.#samplesLeft >= 0) return;
    const limit = this.#query.limits?.maxSamples;
    throw new VarveError('READ_LIMIT_EXCEEDED', `the query reads more than ${limit} samples`, {
      hint: 'Narrow the selectors or the time range, or raise the limit.',
    });
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
    const [pages, lease] = [this.#pages, this.#lease];
    this.#parts = undefined;
    this.#pages = undefined;
    this.#page = [];
    this.#lease = undefined;
    // Files stay open until nothing is read from them.
    if (pages) void pages.close().then(() => lease?.[Symbol.dispose]());
    else lease?.[Symbol.dispose]();
  }
}

function* filtered<T>(all: Iterable<T>, isWanted: (one: T) => boolean): Iterable<T> {
  for (const one of all) if (isWanted(one)) yield one;
}

class FoundSeries implements SeriesRead {
  readonly labelBytes: Uint8Array;
  readonly batches: AsyncIterable<ColumnBatch>;
  readonly columns: readonly ColumnBatch[] | undefined;
  #labels: readonly LabelPair[] | undefined;

  constructor({ id }: Found, batches: AsyncIterable<ColumnBatch>, columns?: readonly ColumnBatch[]) {
    this.labelBytes = id;
    this.batches = batches;
    this.columns = columns;
  }

  /** Made when they are asked for: whoever sums up does not need them. */
  get labels(): readonly LabelPair[] {
    this.#labels ??= decodeLabels(this.labelBytes);
    return this.#labels;
  }
}

async function* continued<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T, void, void> {
  yield first;
  yield* rest;
}
