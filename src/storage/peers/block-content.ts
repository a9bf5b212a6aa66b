import { copyColumns, mergeForFile, type Columns } from '../engine/columns.ts';
import type { BlockReader } from '../engine/block-reader.ts';
import type { SealedInput } from '../engine/block-writer.ts';
import type { FilesetLease } from '../engine/fileset-store.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { ColumnCodec } from '../engine/sealed-series.ts';
import { bury, type Tombstone } from '../engine/tombstones.ts';
import { decodeLabels } from '../index/labels.ts';

export interface ContentSeries {
  readonly id: Uint8Array;
  readonly columns: SealedInput;
}

/**
 * All that a node has of a shard and a block: file and memory as one, without what is deleted. Encoded as a flush would
 * write it, so that it does not show whether one has been.
 */
export class BlockContent implements Disposable {
  readonly #codec: ColumnCodec;
  readonly #namespace: Namespace;
  readonly #startNs: bigint;
  readonly #shard: number;
  readonly #lease: FilesetLease;
  readonly #reader: BlockReader | undefined;
  readonly #due: readonly Tombstone[];

  constructor(
    codec: ColumnCodec,
    namespace: Namespace,
    block: { readonly shard: number; readonly blockStartNs: bigint },
  ) {
    this.#codec = codec;
    this.#namespace = namespace;
    this.#startNs = block.blockStartNs;
    this.#shard = block.shard;
    this.#lease = namespace.filesets.lease([block.blockStartNs]);
    this.#reader = this.#lease.reader(block.blockStartNs, block.shard);
    this.#due = this.#reader ? dueIn(namespace, this.#reader) : [];
  }

  [Symbol.dispose](): void {
    this.#lease[Symbol.dispose]();
  }

  /** In the order of their ids, those behind `after`. */
  async *series(after: Uint8Array | undefined): AsyncGenerator<ContentSeries, void, void> {
    const { buffer } = this.#namespace;
    const references = buffer.seriesOfBlock(this.#startNs, this.#shard);
    let next = after ? this.#behind(references, after) : 0;
    const idAt = (place: number): Uint8Array | undefined => {
      const reference = references[place];
      return reference === undefined ? undefined : buffer.labelsOf(reference);
    };
    let nextId = idAt(next);
    for await (const { id, payload } of this.#reader?.series({ after }) ?? []) {
      while (nextId && Buffer.compare(nextId, id) < 0) {
        yield* this.#fromMemory(nextId, references[next] as number);
        nextId = idAt(++next);
      }
      const isBoth = nextId !== undefined && Buffer.compare(nextId, id) === 0;
      const columns = await this.#fromFile(id, payload, isBoth ? references[next] : undefined);
      if (isBoth) nextId = idAt(++next);
      if (columns && columns.count > 0) yield { id, columns };
    }
    for (; nextId; nextId = idAt(++next)) yield* this.#fromMemory(nextId, references[next] as number);
  }

  /** Of one series; undefined when there is nothing of it. */
  async find(id: Uint8Array): Promise<SealedInput | undefined> {
    const { buffer } = this.#namespace;
    const payload = await this.#reader?.payload(id);
    // Looked for now: a flush may have moved it.
    const reference = buffer.find(id);
    if (payload) return await this.#fromFile(id, payload, reference < 0 ? undefined : reference);
    return reference < 0 ? undefined : this.#sealed(reference);
  }

  /** A copy: others use the memory that it is made in before it is looked at. */
  #sealed(reference: number): SealedInput | undefined {
    const columns = this.#namespace.buffer.sealBlock(reference, this.#startNs);
    return columns && { ...columns, times: columns.times.slice(), values: columns.values.slice() };
  }

  *#fromMemory(id: Uint8Array, reference: number): Iterable<ContentSeries> {
    const columns = this.#sealed(reference);
    if (columns) yield { id, columns };
  }

  async #fromFile(
    id: Uint8Array,
    payload: Buffer,
    reference: number | undefined,
  ): Promise<SealedInput | undefined> {
    const reader = this.#reader;
    if (!reader) return undefined;
    const newer =
      reference === undefined ? undefined : this.#namespace.buffer.readBlock(reference, this.#startNs);
    if (!newer && this.#due.length === 0) return await reader.sealed(payload);
    const kept = newer && copyColumns(newer);
    const decoded = await reader.decode(payload);
    const older = this.#due.length === 0 ? decoded : bury(decoded, decodeLabels(id), this.#due);
    const merged = kept ? mergeForFile(older, kept) : older;
    // All that it had may be deleted.
    return merged.times.length === 0 ? undefined : sealColumns(this.#codec, merged);
  }

  /** How many of the references have an id up to `after`. */
  #behind(references: Uint32Array, after: Uint8Array): number {
    const { buffer } = this.#namespace;
    let low = 0;
    let high = references.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (Buffer.compare(buffer.labelsOf(references[middle] as number), after) <= 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Encoded as in files. Its bytes are the caller's own. */
export function sealColumns(codec: ColumnCodec, { times, bits, overwrites }: Columns): SealedInput {
  const encoded = codec.encodeTimes(times).slice();
  return { count: times.length, times: encoded, values: codec.encodeValues(bits).slice(), overwrites };
}

/** The caller's own. @throws FormatFault */
export function openColumns(codec: ColumnCodec, { times, values, overwrites }: SealedInput): Columns {
  const decoded = codec.decodeTimes(times).slice();
  return { times: decoded, bits: codec.decodeValues(values, decoded.length).slice(), overwrites };
}

function dueIn({ tombstones }: Namespace, { info, annotation }: BlockReader): readonly Tombstone[] {
  if (tombstones.all.length === 0) return [];
  return tombstones.after(annotation.deletedUpTo, info.blockStartNs, info.blockStartNs + info.blockSizeNs);
}
