import type { EntryTable, PayloadRun } from '../fileset/entry-table.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import { entryOf, type BlockReader, type Placement } from './block-reader.ts';
import { NO_OVERWRITES, sliceColumns, type Columns } from './columns.ts';
import type { FilesetLease } from './fileset-store.ts';
import type { Namespace } from './namespace.ts';
import { LEFT, MAX_PAGE_ROWS, PAGE_SAMPLES, PageColumns, type PageRows } from './page-columns.ts';
import { batchOf, ReadSeries } from './read-series.ts';
import { ReusedColumn } from './reused-column.ts';
import type { ArrangedSeries } from './segment-order.ts';
import { checkThere, told, type ReaderDeps } from './series-columns.ts';
import type { ColumnBatch, SeriesRead } from './storage-engine.ts';

/** All that is read ahead for one query. */
const AHEAD_BUDGET_BYTES = 32 * 1024 * 1024;
const MAX_AHEAD_BYTES = 512 * 1024;

export interface PageReaderOptions {
  readonly series: ArrangedSeries;
  readonly blockStartsNs: readonly bigint[];
  readonly startNs: bigint;
  readonly endNs: bigint;
}

/** Series that follow each other in a shard. */
interface Group {
  readonly shard: number;
  /** Places in the series that are read. */
  readonly from: number;
  readonly to: number;
}

/** What one block has of a group. */
interface BlockPart {
  readonly reader: BlockReader;
  readonly placement: Placement;
  readonly run: PayloadRun;
}

interface Loaded {
  readonly group: Group;
  /** By the place of the block; undefined when it has none of the group's series. */
  readonly parts: readonly (BlockPart | undefined)[];
}

/** Series that are read at once, and how many samples they have. */
export interface ReadPage {
  readonly series: readonly SeriesRead[];
  readonly samples: number;
}

/**
 * Goes through many series of filesets alone, a page of them at a time: each block's payloads of a page are decoded by
 * one call, and what the next page needs is read meanwhile. For reads that need most of what is in the files, and
 * nothing of the memory: with one promise a page, and none a series, most of the time goes into decoding.
 */
export class PageReader {
  readonly #deps: ReaderDeps;
  readonly #namespace: Namespace;
  readonly #lease: FilesetLease;
  readonly #options: PageReaderOptions;
  readonly #groups: Iterator<Group>;
  readonly #slots: readonly Slot[];
  #movedBlocks: number;
  #next: Promise<Loaded | undefined>;

  constructor(deps: ReaderDeps, namespace: Namespace, lease: FilesetLease, options: PageReaderOptions) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#lease = lease;
    this.#options = options;
    this.#movedBlocks = namespace.movedBlocks;
    const { series, blockStartsNs } = options;
    const aheadBytes = Math.min(MAX_AHEAD_BYTES, Math.floor(AHEAD_BUDGET_BYTES / blockStartsNs.length));
    this.#slots = blockStartsNs.map(() => new Slot(aheadBytes));
    this.#groups = groupsOf(series, this.#seriesAPage());
    this.#next = this.#ahead();
  }

  /**
   * The next series, valid until the ones after are asked for; undefined when there are no more.
   * @throws FILESET_DAMAGED, NAMESPACE_UNKNOWN
   */
  async next(): Promise<ReadPage | undefined> {
    const due = await this.#next;
    if (!due) return undefined;
    const page = this.#decode(due);
    // What is decoded is not needed any more: its memory takes what is read next.
    this.#next = this.#ahead();
    return page;
  }

  /** Nothing is read any more when it resolves. */
  async close(): Promise<void> {
    await this.#next.catch(() => {});
  }

  /** As many as there is room for when their blocks have as many samples as most. */
  #seriesAPage(): number {
    let most = 1;
    for (const start of this.#options.blockStartsNs) {
      for (let shard = 0; shard < this.#namespace.shardCount; shard++) {
        const annotation = this.#lease.reader(start, shard)?.annotation;
        if (!annotation) continue;
        most = Math.max(most, annotation.samples / Math.max(1, annotation.series));
        break;
      }
    }
    return Math.max(1, Math.min(MAX_PAGE_ROWS, Math.floor((PAGE_SAMPLES * 0.9) / most)));
  }

  #ahead(): Promise<Loaded | undefined> {
    const { done, value: group } = this.#groups.next();
    const pending = done ? Promise.resolve(undefined) : this.#load(group);
    // Told by the next call; until then it must not count as unhandled.
    pending.catch(() => {});
    return pending;
  }

  /** A block may be moved to the next volume meanwhile: then it is read there. */
  async #load(group: Group): Promise<Loaded> {
    for (;;) {
      checkThere(this.#namespace);
      if (this.#movedBlocks !== this.#namespace.movedBlocks) {
        this.#movedBlocks = this.#namespace.movedBlocks;
        this.#lease.renew();
        for (const slot of this.#slots) slot.clear();
      }
      const { blockStartsNs } = this.#options;
      const parts = await Promise.all(blockStartsNs.map((start, place) => this.#part(group, start, place)));
      if (this.#movedBlocks === this.#namespace.movedBlocks) return { group, parts };
    }
  }

  async #part(group: Group, blockStartNs: bigint, place: number): Promise<BlockPart | undefined> {
    const reader = this.#lease.reader(blockStartNs, group.shard);
    if (!reader) return undefined;
    const { order, ranks } = this.#options.series;
    try {
      const placement = await reader.placement(order, group.shard);
      let [first, last] = [LEFT, LEFT];
      for (let at = group.from; at < group.to; at++) {
        const entry = entryOf(placement, ranks[at] as number);
        if (entry < 0) continue;
        if (first < 0) first = entry;
        last = entry;
      }
      if (first < 0) return undefined;
      const run = await (this.#slots[place] as Slot).payloads(reader, placement, { first, last });
      return { reader, placement, run };
    } catch (error) {
      throw told(this.#deps, this.#namespace, reader, error);
    }
  }

  #decode({ group, parts }: Loaded): ReadPage {
    const { ranks, order } = this.#options.series;
    for (const [place, part] of parts.entries()) {
      if (part) this.#slots[place]?.decode(part, ranks, group);
    }
    const series: SeriesRead[] = [];
    let samples = 0;
    for (let at = group.from; at < group.to; at++) {
      const batches: ColumnBatch[] = [];
      for (let place = 0; place < parts.length; place++) {
        const part = parts[place];
        if (!part) continue;
        const batch = this.#batch(part, place, at - group.from);
        if (!batch) continue;
        batches.push(batch);
        samples += batch.times.length;
      }
      if (batches.length > 0) series.push(new ReadSeries(order, ranks[at] as number, batches));
    }
    return { series, samples };
  }

  /** What a block has of a series in the range; undefined when that is nothing. */
  #batch({ reader }: BlockPart, place: number, index: number): ColumnBatch | undefined {
    const { startNs, endNs } = this.#options;
    const { blockStartNs, blockSizeNs } = reader.info;
    try {
      const columns = (this.#slots[place] as Slot).columns(reader, index);
      if (!columns) return undefined;
      const isWhole = blockStartNs >= startNs && blockStartNs + blockSizeNs <= endNs;
      const sliced = isWhole ? columns : sliceColumns(columns, startNs, endNs);
      return sliced.times.length === 0 ? undefined : batchOf(sliced);
    } catch (error) {
      throw told(this.#deps, this.#namespace, reader, error);
    }
  }
}

function* groupsOf({ order, ranks }: ArrangedSeries, most: number): Generator<Group, void> {
  let shard = 0;
  for (let from = 0; from < ranks.length;) {
    while ((ranks[from] as number) >= order.startOf(shard + 1)) shard++;
    const end = Math.min(from + most, ranks.length);
    let to = from + 1;
    while (to < end && (ranks[to] as number) < order.startOf(shard + 1)) to++;
    yield { shard, from, to };
    from = to;
  }
}

/** What is read and decoded of one block. */
class Slot {
  readonly #aheadBytes: number;
  #memory: Buffer = Buffer.alloc(0);
  #read: { readonly table: EntryTable; readonly run: PayloadRun } | undefined;
  /** By the index of the series in the group; -1 when the block has none of it. */
  readonly #rows = new Int32Array(MAX_PAGE_ROWS);
  readonly #payloads: PageRows & { count: number } = {
    count: 0,
    offsets: new Float64Array(MAX_PAGE_ROWS),
    sizes: new Float64Array(MAX_PAGE_ROWS),
  };
  readonly #columns = new PageColumns();
  #bytes: Buffer = this.#memory;

  constructor(aheadBytes: number) {
    this.#aheadBytes = aheadBytes;
  }

  /** Those of these entries, and as many behind them as are read at once. */
  async payloads(
    reader: BlockReader,
    placement: Placement,
    { first, last }: { readonly first: number; readonly last: number },
  ): Promise<PayloadRun> {
    const { table } = placement;
    const known = this.#read;
    if (known?.table === table && first >= known.run.firstEntry && last < known.run.endEntry)
      return known.run;
    const from = table.pageOf(first);
    let to = table.pageOf(last) + 1;
    const sizeOf = (end: number): number =>
      (table.offsets[table.firstOf(end)] as number) - (table.offsets[table.firstOf(from)] as number);
    while (to < table.pageCount && sizeOf(to + 1) <= this.#aheadBytes) to++;
    this.#read = undefined;
    const sizeBytes = sizeOf(to);
    if (this.#memory.length < sizeBytes)
      this.#memory = Buffer.allocUnsafeSlow(Math.max(sizeBytes, this.#aheadBytes));
    const run = await reader.payloads(placement, { from, to }, this.#memory);
    this.#read = { table, run };
    return run;
  }

  clear(): void {
    this.#read = undefined;
  }

  decode({ reader, placement, run }: BlockPart, ranks: Uint32Array, { from, to }: Group): void {
    const { offsets, sizes } = this.#payloads;
    const places = placement.table.offsets;
    let count = 0;
    for (let at = from; at < to; at++) {
      const entry = entryOf(placement, ranks[at] as number);
      this.#rows[at - from] = entry < 0 ? LEFT : count;
      if (entry < 0) continue;
      const offset = places[entry] as number;
      offsets[count] = offset - run.startOffset;
      sizes[count++] = (places[entry + 1] as number) - offset;
    }
    this.#payloads.count = count;
    this.#bytes = run.bytes;
    reader.decodePage(run.bytes, this.#payloads, this.#columns);
  }

  /** @throws FormatFault, FILESET_DAMAGED */
  columns(reader: BlockReader, index: number): Columns | undefined {
    const row = this.#rows[index] as number;
    if (row < 0) return undefined;
    const number = this.#columns.numbers[row] as number;
    if (number !== LEFT) {
      const times = reader.times(number);
      const { bits, values } = this.#columns.views(row, times.length);
      return { times, bits, values, overwrites: NO_OVERWRITES };
    }
    const { offsets, sizes } = this.#payloads;
    const start = offsets[row] as number;
    const columns = reader.decodeNow(
      this.#bytes.subarray(start, start + (sizes[row] as number)),
      new ReusedColumn(),
    );
    if (!columns) throw new FormatFault(0, 'its times are not in the dictionary');
    return columns;
  }
}
