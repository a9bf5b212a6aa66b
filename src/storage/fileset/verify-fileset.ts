import { crc32 } from 'node:zlib';
import { hasCode, readWholeFile, type FileSystem } from '../../core/file-system.ts';
import { CanonicalDigest } from './canonical-digest.ts';
import { contentChecksum } from './checked-file.ts';
import { decodeCheckpoint, decodeDigestFile, type FileSum, type FileSums } from './digest-file.ts';
import { decodeAt, FileDamageError, type FileDamage } from './fileset-damage.ts';
import { filesetPath, type FileKind, type FilesetId } from './fileset-id.ts';
import { FilesetReader } from './fileset-reader.ts';
import { decodeInfo } from './info-file.ts';

const PIECE_BYTES = 1024 * 1024;

/**
 * Everything that is not as it was written, found by reading every byte of every file; nothing when all is
 * well. Reads only.
 * @throws STORAGE_FORMAT_UNKNOWN when a newer version wrote it, the signal's reason when it is aborted
 */
export async function verifyFileset(
  deps: { readonly fs: FileSystem },
  root: string,
  id: FilesetId,
  signal?: AbortSignal,
): Promise<FileDamage[]> {
  const verifier = new Verifier(deps.fs, root, id, signal);
  await verifier.run();
  return verifier.damages;
}

class Verifier {
  readonly damages: FileDamage[] = [];
  readonly #fs: FileSystem;
  readonly #root: string;
  readonly #id: FilesetId;
  readonly #signal: AbortSignal | undefined;

  constructor(fs: FileSystem, root: string, id: FilesetId, signal: AbortSignal | undefined) {
    this.#fs = fs;
    this.#root = root;
    this.#id = id;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    const checkpoint = await this.#file('checkpoint', decodeCheckpoint);
    const sums = await this.#file('digest', (file, bytes) => {
      if (checkpoint !== undefined && contentChecksum(bytes) !== checkpoint) {
        throw new FileDamageError({ file, offset: 0, reason: 'it is not the one that the checkpoint means' });
      }
      return decodeDigestFile(file, bytes);
    });
    if (sums) for (const kind of ['data', 'index', 'info'] as const) await this.#sum(kind, sums);
    await this.#content();
  }

  /** What the info says of the content, and what the content is. */
  async #content(): Promise<void> {
    const info = await this.#file('info', (file, bytes) => decodeInfo(file, bytes, this.#id));
    if (!info) return;
    const before = this.damages.length;
    const digest = new CanonicalDigest();
    let entryCount = 0;
    await using reader = new FilesetReader({ fs: this.#fs }, this.#root, info);
    for await (const series of reader.series({ onDamage: (damage) => this.damages.push(damage) })) {
      this.#signal?.throwIfAborted();
      entryCount += series.length;
      for (const { id, payload } of series) digest.add(id, payload);
    }
    if (this.damages.length > before) return;
    if (entryCount !== info.entryCount || !digest.digest().equals(info.digest)) {
      const file = filesetPath(this.#root, this.#id, 'index');
      this.damages.push({ file, offset: 0, reason: 'its content has another digest than the info says' });
    }
  }

  async #file<T>(kind: FileKind, decode: (file: string, bytes: Buffer) => T): Promise<T | undefined> {
    const file = filesetPath(this.#root, this.#id, kind);
    return await this.#reading(file, async () => {
      const bytes = await readWholeFile(this.#fs, file);
      return decodeAt(file, 0, () => decode(file, bytes));
    });
  }

  async #sum(kind: 'data' | 'index' | 'info', sums: FileSums): Promise<void> {
    const file = filesetPath(this.#root, this.#id, kind);
    const found = await this.#reading(file, () =>
      kind === 'info' ? this.#sumOfInfo(file) : this.#sumOf(file),
    );
    if (!found) return;
    const { sizeBytes, checksum } = sums[kind];
    if (found.sizeBytes !== sizeBytes) {
      const reason = `it has ${found.sizeBytes} bytes, not ${sizeBytes}`;
      this.damages.push({ file, offset: Math.min(found.sizeBytes, sizeBytes), reason });
    } else if (found.checksum !== checksum) {
      this.damages.push({ file, offset: 0, reason: 'it does not match the checksum in the digest file' });
    }
  }

  async #sumOfInfo(path: string): Promise<FileSum> {
    const bytes = await readWholeFile(this.#fs, path);
    return { sizeBytes: bytes.length, checksum: contentChecksum(bytes) };
  }

  async #sumOf(path: string): Promise<FileSum> {
    await using file = await this.#fs.open(path, 'read');
    let checksum = 0;
    for (let offset = 0; ;) {
      this.#signal?.throwIfAborted();
      const piece = await file.read(offset, PIECE_BYTES);
      if (piece.length === 0) return { sizeBytes: offset, checksum };
      checksum = crc32(piece, checksum);
      offset += piece.length;
    }
  }

  async #reading<T>(file: string, read: () => Promise<T>): Promise<T | undefined> {
    try {
      return await read();
    } catch (error) {
      if (error instanceof FileDamageError) this.damages.push(error.damage);
      else if (hasCode(error, 'ENOENT')) this.damages.push({ file, offset: 0, reason: 'it is missing' });
      else if (hasCode(error, 'EIO')) {
        this.damages.push({ file, offset: 0, reason: 'the disk cannot read it' });
      } else throw error;
      return undefined;
    }
  }
}
