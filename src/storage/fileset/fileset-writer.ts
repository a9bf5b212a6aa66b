import { crc32 } from 'node:zlib';
import { assert, VarveError } from '../../core/errors.ts';
import { makeFolders, type FileSystem } from '../../core/file-system.ts';
import { CanonicalDigest } from './canonical-digest.ts';
import { encodeFileHeader, FILE_HEADER_BYTES } from './checked-file.ts';
import { FileStream } from './file-stream.ts';
import { describeFileset, filesetPath, MAX_UINT32, shardFolderNames, type FilesetId } from './fileset-id.ts';
import { encodeDirectory, MAX_ID_BYTES, PageBuilder, type PagePlace } from './index-pages.ts';
import { removeFileset } from './remove-fileset.ts';
import type { FilesetInfo, FilesetKind } from './info-file.ts';
import { sealFilesets, writeSmallFiles } from './seal-filesets.ts';

export interface FilesetOptions {
  /** The folder of all namespaces; exists. */
  readonly root: string;
  readonly id: FilesetId;
  readonly kind: FilesetKind;
  readonly blockSizeNs: bigint;
  readonly createdAtNs: bigint;
  /** The shard's folder exists. */
  readonly hasFolder?: boolean;
}

interface Streams {
  readonly data: FileStream;
  readonly index: FileStream;
}

/**
 * Writes one fileset. It exists, whole and durable, from the moment that `finish` resolves, and for everybody
 * else never in part: files, then their names, then the checkpoint that says so.
 *
 * One writer at a time for one fileset; calls one after the other.
 */
export class FilesetWriter {
  readonly #fs: FileSystem;
  readonly #options: FilesetOptions;
  readonly #streams: Streams;
  readonly #digest = new CanonicalDigest();
  readonly #builder = new PageBuilder();
  readonly #pages: PagePlace[] = [];
  #entryCount = 0;
  #lastId: Buffer | undefined;
  #state: 'open' | 'written' | 'done' = 'open';

  private constructor(fs: FileSystem, options: FilesetOptions, streams: Streams) {
    this.#fs = fs;
    this.#options = options;
    this.#streams = streams;
  }

  /**
   * What an interrupted writer left of the same fileset is replaced.
   * @throws FILESET_EXISTS when it is complete already, INVALID_ARGUMENT when the namespace is no folder name
   */
  static async create(deps: { readonly fs: FileSystem }, options: FilesetOptions): Promise<FilesetWriter> {
    const { fs } = deps;
    const { root, id } = options;
    assert(
      Number.isInteger(id.shard) && id.shard >= 0 && id.shard <= 999_999_999,
      'a shard is a small number',
    );
    assert(Number.isInteger(id.volume) && id.volume >= 0 && id.volume <= 999_999_999, 'volumes count from 0');
    if (!options.hasFolder) await makeFolders(fs, root, shardFolderNames(id));
    if (await fs.stat(filesetPath(root, id, 'checkpoint'))) {
      throw new VarveError('FILESET_EXISTS', `the fileset of ${describeFileset(id)} is complete already`, {
        hint: 'Write the block under the next volume.',
      });
    }
    const data = await fs.open(filesetPath(root, id, 'data'), 'replace');
    const index = await fs.open(filesetPath(root, id, 'index'), 'replace').catch(async (error: unknown) => {
      await data.close();
      throw error;
    });
    const writer = new FilesetWriter(fs, options, {
      data: new FileStream(data),
      index: new FileStream(index),
    });
    try {
      await writer.#streams.data.append(encodeFileHeader('VRVDATA_'));
      await writer.#streams.index.append(encodeFileHeader('VRVINDEX'));
    } catch (error) {
      await writer.abort();
      throw error;
    }
    return writer;
  }

  /**
   * Adds a series: its id and its payload, both any bytes, copied. Ids ascend, byte by byte.
   * @throws INVALID_ARGUMENT when the id does not come after the one before, or is too long
   */
  async add(id: Uint8Array, payload: Uint8Array): Promise<void> {
    assert(this.#state === 'open', 'a fileset that is finished takes no more');
    this.#check(id, payload);
    const { data } = this.#streams;
    const checksum = crc32(payload);
    this.#digest.add(id, payload);
    this.#builder.add({ id, offset: data.offset, payload, checksum });
    this.#entryCount++;
    this.#lastId = Buffer.from(id);
    await data.append(payload);
    if (this.#builder.isFull) await this.#endPage();
  }

  /** Makes it durable and complete. After a failure it is not there, and the writer is to be aborted. */
  async finish(annotation: Uint8Array = new Uint8Array()): Promise<FilesetInfo> {
    const info = await this.write(annotation);
    await sealFilesets(this.#fs, this.#options.root, [info]);
    this.sealed();
    return info;
  }

  /** Everything is written, and waits to be sealed by the caller, who then says so with `sealed`. */
  async write(annotation: Uint8Array = new Uint8Array()): Promise<FilesetInfo> {
    assert(this.#state === 'open', 'a fileset is finished once');
    if (!this.#builder.isEmpty) await this.#endPage();
    const { data, index } = this.#streams;
    const directory = encodeDirectory(this.#pages);
    const directoryOffset = index.offset;
    await index.append(directory);
    const { root, id, kind, blockSizeNs, createdAtNs } = this.#options;
    const info: FilesetInfo = {
      ...id,
      kind,
      blockSizeNs,
      createdAtNs,
      entryCount: this.#entryCount,
      payloadBytes: data.offset - FILE_HEADER_BYTES,
      indexBytes: index.offset,
      directory: { offset: directoryOffset, sizeBytes: directory.length },
      digest: this.#digest.digest(),
      annotation: Buffer.from(annotation),
    };
    const sums = { data: await data.finish(), index: await index.finish() };
    await writeSmallFiles(this.#fs, root, info, sums);
    this.#state = 'written';
    return info;
  }

  /** It is there for good: nothing takes it back. */
  sealed(): void {
    assert(this.#state === 'written', 'a fileset is sealed when it is written');
    this.#state = 'done';
  }

  /** Takes back what was written, unless it is finished. Idempotent. */
  async abort(): Promise<void> {
    if (this.#state === 'done') return;
    this.#state = 'done';
    await this.#streams.data.abandon();
    await this.#streams.index.abandon();
    await removeFileset(this.#fs, this.#options.root, this.#options.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  #check(id: Uint8Array, payload: Uint8Array): void {
    const wrong = (rule: string): VarveError =>
      new VarveError('INVALID_ARGUMENT', `${rule} (${describeFileset(this.#options.id)})`, {
        hint: 'Sort the series by id, and write each once.',
      });
    if (id.length > MAX_ID_BYTES) throw wrong(`an id has ${id.length} bytes, more than ${MAX_ID_BYTES}`);
    if (payload.length > MAX_UINT32) throw wrong(`a payload has ${payload.length} bytes`);
    if (this.#lastId && this.#lastId.compare(id) >= 0)
      throw wrong('an id does not come after the one before');
  }

  async #endPage(): Promise<void> {
    const { index } = this.#streams;
    const offset = index.offset;
    const { bytes, firstId } = this.#builder.finish();
    this.#pages.push({ offset, sizeBytes: bytes.length, firstId });
    await index.append(bytes);
  }
}
