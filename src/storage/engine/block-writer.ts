import { varintBytes, writeVarint } from '../fileset/byte-cursor.ts';
import type { FilesetWriter } from '../fileset/fileset-writer.ts';
import type { FilesetInfo } from '../fileset/info-file.ts';
import { DICTIONARY_COPY_ID, DICTIONARY_ID, encodeAnnotation } from './block-annotation.ts';
import type { Overwrite } from './columns.ts';
import { encodeSealedSeries } from './sealed-series.ts';

/** Encoded columns of one series; may be views, which are used before the call returns. */
export interface SealedInput {
  readonly count: number;
  readonly times: Uint8Array;
  readonly values: Uint8Array;
  readonly overwrites: readonly Overwrite[];
  /** Those with the same one have the same times: they need not be compared. */
  readonly sharedTimes?: object;
}

/** Reading one series reads the whole dictionary: beyond this, columns of times stay with their series. */
const MAX_DICTIONARY_BYTES = 256 * 1024;

/**
 * Fills a fileset with series. Series that were sampled at the same instants share their times: those of a scrape,
 * mostly all of a shard. The content depends on the series alone, so that replicas with the same data write the same.
 */
export class BlockWriter {
  readonly #writer: FilesetWriter;
  readonly #numbers = new Map<string, number>();
  /** Of the series before, mostly those of the next. */
  #last: { readonly sharedTimes: object; readonly number: number | undefined } | undefined;
  #dictionaryBytes = 0;
  #series = 0;
  #samples = 0;

  constructor(writer: FilesetWriter) {
    this.#writer = writer;
  }

  get series(): number {
    return this.#series;
  }

  /** Ids ascend. Columns without samples are left out. */
  async add(id: Uint8Array, columns: SealedInput): Promise<void> {
    if (columns.count === 0) return;
    this.#series++;
    this.#samples += columns.count;
    const number = this.#numberOf(columns);
    const payload = encodeSealedSeries({
      timesNumber: number,
      times: number === undefined ? columns.times : undefined,
      values: columns.values,
      overwrites: columns.overwrites,
    });
    await this.#writer.add(id, payload);
  }

  /** @param deletedUpTo see `BlockAnnotation` */
  async finish(deletedUpTo: bigint): Promise<FilesetInfo> {
    return await this.#writer.finish(await this.complete(deletedUpTo));
  }

  /** The annotation, for whoever finishes the fileset. */
  async complete(deletedUpTo: bigint): Promise<Buffer> {
    const hasDictionary = this.#numbers.size > 0;
    if (hasDictionary) {
      const dictionary = this.#dictionary();
      await this.#writer.add(DICTIONARY_ID, dictionary);
      await this.#writer.add(DICTIONARY_COPY_ID, dictionary);
    }
    return encodeAnnotation({ series: this.#series, samples: this.#samples, hasDictionary, deletedUpTo });
  }

  #numberOf({ times, sharedTimes }: SealedInput): number | undefined {
    if (sharedTimes && sharedTimes === this.#last?.sharedTimes) return this.#last.number;
    const number = this.#find(times);
    this.#last = sharedTimes && { sharedTimes, number };
    return number;
  }

  #find(times: Uint8Array): number | undefined {
    const key = Buffer.from(times.buffer, times.byteOffset, times.length).toString('latin1');
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    if (this.#dictionaryBytes + key.length > MAX_DICTIONARY_BYTES) return undefined;
    this.#dictionaryBytes += key.length;
    this.#numbers.set(key, this.#numbers.size);
    return this.#numbers.size - 1;
  }

  #dictionary(): Buffer {
    const columns = [...this.#numbers.keys()];
    const sizeBytes = columns.reduce((sum, { length }) => sum + varintBytes(length) + length, 0);
    const bytes = Buffer.alloc(varintBytes(columns.length) + sizeBytes);
    let at = writeVarint(bytes, columns.length, 0);
    for (const column of columns) {
      at = writeVarint(bytes, column.length, at);
      at += bytes.write(column, at, 'latin1');
    }
    return bytes;
  }
}
