import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { assert } from '../../core/errors.ts';
import { makeFolderIfMissing, type FileSystem } from '../../core/file-system.ts';
import type { FileSum } from './digest-file.ts';
import { FileStream } from './file-stream.ts';
import { filesetPath, shardFolderNames, type FilesetId } from './fileset-id.ts';
import type { FilesetInfo } from './info-file.ts';
import { removeFileset } from './remove-fileset.ts';
import { sealFilesets, smallFiles, writeSmallFiles } from './seal-filesets.ts';

/** The files that are copied; the others are made from what is known of them. */
export const COPIED_KINDS = ['data', 'index'] as const;
export type CopiedKind = (typeof COPIED_KINDS)[number];
export type CopiedSums = Readonly<Record<CopiedKind, FileSum>>;
export type CopiedFiles = Readonly<Record<CopiedKind, Uint8Array>>;

export interface ReceivedFileset {
  /** The folder of all namespaces; exists. */
  readonly root: string;
  /** Where it comes to be. */
  readonly id: FilesetId;
  /** Of the one that is copied, which may have another volume. */
  readonly info: FilesetInfo;
  readonly sums: CopiedSums;
  /** The shard's folder exists. */
  readonly hasFolder?: boolean;
}

/**
 * Writes a fileset that is copied from another node, byte by byte. It may be copied in parts, at different times and
 * from different nodes that have the same. It exists, whole and durable, from the moment that it is sealed, and before
 * only as what an interrupted writer leaves.
 */
export class FilesetReceiver {
  readonly what: ReceivedFileset;
  readonly #fs: FileSystem;
  readonly #streams = new Map<CopiedKind, FileStream>();
  #hasFolder: boolean;
  /** Files may be there. */
  #isBegun = false;
  #state: 'open' | 'written' | 'done' = 'open';

  constructor(fs: FileSystem, what: ReceivedFileset) {
    this.#fs = fs;
    this.what = what;
    this.#hasFolder = what.hasFolder ?? false;
  }

  /** How much of a file is there. */
  receivedBytes(kind: CopiedKind): number {
    return this.#streams.get(kind)?.offset ?? 0;
  }

  /** What is to come of a file. */
  missingBytes(kind: CopiedKind): number {
    return this.what.sums[kind].sizeBytes - this.receivedBytes(kind);
  }

  /** The next bytes of a file; they may be used again when it resolves. */
  async append(kind: CopiedKind, bytes: Uint8Array): Promise<void> {
    assert(this.#state === 'open', 'a fileset that is finished takes no more');
    assert(bytes.length <= this.missingBytes(kind), 'a file is not longer than was said');
    const stream = this.#streams.get(kind) ?? (await this.#open(kind));
    await stream.append(bytes);
  }

  /**
   * It is there, whole and durable. Undefined when what came is not what was said: then nothing of it is left.
   * @throws what the disk throws
   */
  async finish(): Promise<FilesetInfo | undefined> {
    const info = await this.write();
    if (!info) return undefined;
    await sealFilesets(this.#fs, this.what.root, [info]);
    this.sealed();
    return info;
  }

  /** The same, but for that it is durable: it waits to be sealed by the caller, who then says so with `sealed`. */
  async write(): Promise<FilesetInfo | undefined> {
    for (const kind of COPIED_KINDS) {
      if (this.#isRight(kind, await this.#finish(kind))) continue;
      await this.abort();
      return undefined;
    }
    const own = this.#ownInfo();
    await writeSmallFiles(this.#fs, this.what.root, own, this.what.sums);
    this.#state = 'written';
    return own;
  }

  /**
   * The same of a fileset that has come in one piece; of one that is not what was said, nothing is written at all. The
   * bytes may be used again when it resolves.
   */
  async writeWhole(files: CopiedFiles): Promise<FilesetInfo | undefined> {
    assert(this.#state === 'open' && !this.#isBegun, 'a fileset comes once');
    const { root, id, sums } = this.what;
    const isWhole = COPIED_KINDS.every((kind) => {
      const { [kind]: bytes } = files;
      // No use in a look at what has another length.
      const isLong = bytes.length === sums[kind].sizeBytes;
      return isLong && this.#isRight(kind, { sizeBytes: bytes.length, checksum: crc32(bytes) });
    });
    if (!isWhole) {
      this.#state = 'done';
      return undefined;
    }
    await this.#makeFolder();
    const own = this.#ownInfo();
    const copied = COPIED_KINDS.map((kind) => ({ path: filesetPath(root, id, kind), bytes: files[kind] }));
    this.#isBegun = true;
    await this.#fs.writeFiles([...copied, ...smallFiles(root, own, sums)]);
    this.#state = 'written';
    return own;
  }

  /** It is there for good: nothing takes it back. */
  sealed(): void {
    assert(this.#state === 'written', 'a fileset is sealed when it is written');
    this.#state = 'done';
  }

  /** Takes back what there is, unless it is sealed. Idempotent. */
  async abort(): Promise<void> {
    if (this.#state === 'done') return;
    this.#state = 'done';
    for (const stream of this.#streams.values()) await stream.abandon();
    if (!this.#isBegun) return;
    await removeFileset(this.#fs, this.what.root, this.what.id);
  }

  #isRight(kind: CopiedKind, { sizeBytes, checksum }: FileSum): boolean {
    const said = this.what.sums[kind];
    return sizeBytes === said.sizeBytes && checksum === said.checksum;
  }

  /** Of what is written here. */
  #ownInfo(): FilesetInfo {
    return { ...this.what.info, ...this.what.id, kind: 'flush' };
  }

  async #finish(kind: CopiedKind): Promise<FileSum> {
    return await (this.#streams.get(kind) ?? (await this.#open(kind))).finish();
  }

  async #open(kind: CopiedKind): Promise<FileStream> {
    const { root, id } = this.what;
    await this.#makeFolder();
    this.#isBegun = true;
    const stream = new FileStream(await this.#fs.open(filesetPath(root, id, kind), 'replace'));
    this.#streams.set(kind, stream);
    return stream;
  }

  /** Its name becomes durable with the fileset. */
  async #makeFolder(): Promise<void> {
    if (this.#hasFolder) return;
    this.#hasFolder = true;
    let folder = this.what.root;
    for (const name of shardFolderNames(this.what.id)) {
      folder = join(folder, name);
      await makeFolderIfMissing(this.#fs, folder);
    }
  }
}
