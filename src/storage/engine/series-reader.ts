import { VarveError } from '../../core/errors.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { IndexBlock } from '../index/index-block.ts';
import { decodeLabels, type LabelPair } from '../index/labels.ts';
import type { SeriesSet } from '../index/series-set.ts';
import { murmur3 } from '../kernel/murmur3.ts';
import { copyColumns, mergeColumns, NO_COLUMNS, sliceColumns, type Columns } from './columns.ts';
import type { FilesetLease } from './fileset-store.ts';
import type { Namespace } from './namespace.ts';
import type { ColumnBatch, ReadQuery, SeriesRead } from './storage-engine.ts';
import { bury } from './tombstones.ts';

export interface ReaderDeps {
  readonly nowNs: () => bigint;
  /** Told before the damage is thrown. */
  readonly onDamage: (namespace: Namespace, info: FilesetInfo, error: FileDamageError) => void;
}

interface Found {
  readonly index: number;
  readonly id: Uint8Array;
  readonly shard: number;
}

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

/** One read: what it needs stays until it ends. */
export class SeriesReader {
  readonly #deps: ReaderDeps;
  readonly #namespace: Namespace;
  readonly #query: ReadQuery;
  readonly #blocks: readonly { readonly startNs: bigint; readonly inMemory: boolean }[];
  #samplesLeft: number;
  #movedBlocks: number;

  constructor(deps: ReaderDeps, namespace: Namespace, query: ReadQuery) {
    this.#deps = deps;
    this.#namespace = namespace;
    this.#query = query;
    this.#movedBlocks = namespace.movedBlocks;
    const { memory, files } = blocksIn(namespace, query);
    const open = new Set(memory);
    this.#blocks = [...new Set([...memory, ...files])]
      .sort((a, b) => (a < b ? -1 : 1))
      .map((startNs) => ({ startNs, inMemory: open.has(startNs) }));
    this.#samplesLeft = query.limits?.maxSamples ?? Number.POSITIVE_INFINITY;
  }

  async *series(): AsyncIterable<SeriesRead> {
    const { matchers, ordered = false, limits = {}, signal } = this.#query;
    if (this.#blocks.length === 0) return;
    using lease = this.#namespace.filesets.lease(this.#blocks.map(({ startNs }) => startNs));
    const index = await indexOf(this.#namespace, this.#query);
    const found = index.series({ selectors: [matchers], ordered });
    if (found.count > (limits.maxSeries ?? Number.POSITIVE_INFINITY)) {
      throw new VarveError(
        'READ_LIMIT_EXCEEDED',
        `the query selects ${found.count} series, more than ${limits.maxSeries}`,
        { hint: 'Narrow the selectors, or raise the limit.' },
      );
    }
    for (const one of this.#arranged(found, ordered)) {
      signal?.throwIfAborted();
      const batches = this.#batches(one, lease);
      const first = await batches.next();
      // Its samples are all outside of the range.
      if (first.done) continue;
      yield new FoundSeries(found, one, continued(first.value, batches));
    }
  }

  /** Unless an order is asked for: as the files have them, so that these are read from front to back. */
  *#arranged(found: SeriesSet, ordered: boolean): Iterable<Found> {
    const { shardCount } = this.#namespace;
    const one = (index: number): Found => {
      const id = found.labelBytes(index);
      return { index, id, shard: murmur3(id, 0) % shardCount };
    };
    if (ordered || this.#blocks.every(({ inMemory }) => inMemory)) {
      for (let index = 0; index < found.count; index++) yield one(index);
      return;
    }
    const all = Array.from({ length: found.count }, (_, index) => one(index));
    yield* all.sort((a, b) => a.shard - b.shard || Buffer.compare(a.id, b.id));
  }

  async *#batches(one: Found, lease: FilesetLease): AsyncGenerator<ColumnBatch, void, void> {
    const { startNs, endNs } = this.#query;
    for (const block of this.#blocks) {
      this.#query.signal?.throwIfAborted();
      const { times, bits } = sliceColumns(await this.#block(one, block, lease), startNs, endNs);
      if (times.length === 0) continue;
      this.#samplesLeft -= times.length;
      if (this.#samplesLeft < 0) {
        const limit = this.#query.limits?.maxSamples;
        throw new VarveError('READ_LIMIT_EXCEEDED', `the query reads more than ${limit} samples`, {
          hint: 'Narrow the selectors or the time range, or raise the limit.',
        });
      }
      yield { times, bits, values: new Float64Array(bits.buffer, bits.byteOffset, bits.length) };
    }
  }

  /** A block may move from memory to files between two looks: then it is looked at again, in files that have it. */
  async #block(
    one: Found,
    { startNs, inMemory }: { readonly startNs: bigint; readonly inMemory: boolean },
    lease: FilesetLease,
  ): Promise<Columns> {
    for (;;) {
      if (this.#namespace.deleted) throw deletedNamespace(this.#namespace.name);
      if (this.#movedBlocks !== this.#namespace.movedBlocks) {
        this.#movedBlocks = this.#namespace.movedBlocks;
        lease.renew();
      }
      const newer = inMemory ? this.#fromMemory(one, startNs) : NO_COLUMNS;
      const older = await this.#fromFile(one, startNs, lease);
      if (this.#movedBlocks === this.#namespace.movedBlocks) return mergeColumns(older, newer);
    }
  }

  #fromMemory(one: Found, blockStartNs: bigint): Columns {
    const { buffer } = this.#namespace;
    const reference = buffer.find(one.id);
    const columns = reference < 0 ? undefined : buffer.readBlock(reference, blockStartNs);
    return columns ? copyColumns(columns) : NO_COLUMNS;
  }

  async #fromFile({ id, shard }: Found, blockStartNs: bigint, lease: FilesetLease): Promise<Columns> {
    const reader = lease.reader(blockStartNs, shard);
    if (!reader) return NO_COLUMNS;
    const { cache, tombstones } = this.#namespace;
    const { info } = reader;
    try {
      const nowNs = cache.enabled ? this.#deps.nowNs() : 0n;
      let payload = cache.get(info, id, nowNs);
      if (!payload) {
        payload = await reader.payload(id);
        if (!payload) return NO_COLUMNS;
        cache.put(info, id, payload, nowNs);
      }
      const columns = await reader.decode(payload);
      const { deletedUpTo } = reader.annotation;
      const due = tombstones.after(deletedUpTo, blockStartNs, blockStartNs + info.blockSizeNs);
      return due.length === 0 ? columns : bury(columns, decodeLabels(id), due);
    } catch (error) {
      if (error instanceof FileDamageError) this.#deps.onDamage(this.#namespace, info, error);
      throw error;
    }
  }
}

class FoundSeries implements SeriesRead {
  readonly #found: SeriesSet;
  readonly #index: number;
  readonly labelBytes: Uint8Array;
  readonly batches: AsyncIterable<ColumnBatch>;
  #labels: readonly LabelPair[] | undefined;

  constructor(found: SeriesSet, { index, id }: Found, batches: AsyncIterable<ColumnBatch>) {
    this.#found = found;
    this.#index = index;
    this.labelBytes = id;
    this.batches = batches;
  }

  /** Made when they are asked for: whoever sums up does not need them. */
  get labels(): readonly LabelPair[] {
    this.#labels ??= this.#found.labels(this.#index);
    return this.#labels;
  }
}

async function* continued<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T, void, void> {
  yield first;
  yield* rest;
}

function deletedNamespace(name: string): VarveError {
  return new VarveError('NAMESPACE_UNKNOWN', `namespace ${JSON.stringify(name)} was deleted meanwhile`);
}
