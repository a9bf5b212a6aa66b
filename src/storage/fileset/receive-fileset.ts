import { assert } from '../../core/errors.ts';
import { makeFolders, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { contentChecksum } from './checked-file.ts';
import { encodeCheckpoint, encodeDigestFile, type FileSum } from './digest-file.ts';
import { FileStream } from './file-stream.ts';
import { filesetPath, shardFolder, shardFolderNames, type FileKind, type FilesetId } from './fileset-id.ts';
import { encodeInfo, type FilesetInfo } from './info-file.ts';
import { removeFileset } from './remove-fileset.ts';

/** The files that are copied; the others are made from what is known of them. */
export const COPIED_KINDS = ['data', 'index'] as const;
export type CopiedKind = (typeof COPIED_KINDS)[number];
export type CopiedSums = Readonly<Record<CopiedKind, FileSum>>;

export interface ReceivedFileset {
  /** The folder of all namespaces; exists. */
  readonly root: string;
  /** Where it comes to be. */
  readonly id: FilesetId;
  /** Of the one that is copied, which may have another volume. */
  readonly info: FilesetInfo;
  readonly sums: CopiedSums;
}

/**
 * Writes a fileset that is copied from another node, byte by byte. It may be copied in parts, at different times and
 * from different nodes that have the same. It exists, whole and durable, from the moment that `finish` resolves, and
 * before only as what an interrupted writer leaves.
 */
export class FilesetReceiver {
  readonly what: ReceivedFileset;
  readonly #fs: FileSystem;
  readonly #streams = new Map<CopiedKind, FileStream>();
  #state: 'open' | 'done' = 'open';

  constructor(fs: FileSystem, what: ReceivedFileset) {
    this.#fs = fs;
    this.what = what;
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
   * Undefined when what came is not what was said: then nothing of it is left.
   * @throws what the disk throws
   */
  async finish(): Promise<FilesetInfo | undefined> {
    const { root, id, info, sums } = this.what;
    const own: FilesetInfo = { ...info, ...id, kind: 'flush' };
    const infoBytes = encodeInfo(own);
    const infoSum: FileSum = { sizeBytes: infoBytes.length, checksum: contentChecksum(infoBytes) };
    const digestBytes = encodeDigestFile({ ...sums, info: infoSum });
    const streams = await Promise.all(
      COPIED_KINDS.map(async (kind) => this.#streams.get(kind) ?? (await this.#open(kind))),
    );
    // A disk makes several files durable at once in little more time than one.
    const work = [
      ...streams.map((stream) => stream.finish()),
      this.#writeSmall('info', infoBytes),
      this.#writeSmall('digest', digestBytes),
    ];
    await Promise.allSettled(work);
    const written = await Promise.all(work);
    const isWhole = COPIED_KINDS.every((kind, place) => {
      const { sizeBytes, checksum } = sums[kind];
      return written[place]?.sizeBytes === sizeBytes && written[place].checksum === checksum;
    });
    if (!isWhole) {
      await this.abort();
      return undefined;
    }
    await this.#fs.syncFolder(shardFolder(root, id));
    const checkpoint = encodeCheckpoint(contentChecksum(digestBytes));
    await writeFileAtomically(this.#fs, filesetPath(root, id, 'checkpoint'), checkpoint);
    this.#state = 'done';
    for (const stream of this.#streams.values()) await stream.close();
    return own;
  }

  /** Takes back what there is, unless it is finished. Idempotent. */
  async abort(): Promise<void> {
    if (this.#state === 'done') return;
    this.#state = 'done';
    for (const stream of this.#streams.values()) await stream.abandon();
    await removeFileset(this.#fs, this.what.root, this.what.id);
  }

  async #open(kind: CopiedKind): Promise<FileStream> {
    const { root, id } = this.what;
    await makeFolders(this.#fs, root, shardFolderNames(id));
    const stream = new FileStream(await this.#fs.open(filesetPath(root, id, kind), 'replace'));
    this.#streams.set(kind, stream);
    return stream;
  }

  async #writeSmall(kind: FileKind, bytes: Buffer): Promise<FileSum> {
    await using file = await this.#fs.open(filesetPath(this.what.root, this.what.id, kind), 'replace');
    await file.write(0, bytes);
    await file.sync();
    return { sizeBytes: bytes.length, checksum: contentChecksum(bytes) };
  }
}
