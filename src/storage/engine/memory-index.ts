import { dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import {
  hasCode,
  makeFolders,
  readWholeFile,
  TEMPORARY_SUFFIX,
  type FileSystem,
} from '../../core/file-system.ts';
import type { NamespaceBuffer } from '../buffer/namespace-buffer.ts';
import type { SavedIndex } from '../buffer/series-index.ts';
import { ByteCursor } from '../fileset/byte-cursor.ts';
import {
  CHECKSUM_BYTES,
  checkedFileHead,
  decodeCheckedFile,
  FILE_HEADER_BYTES,
} from '../fileset/checked-file.ts';
import { decodeAt, FileDamageError, FormatFault, type FileDamage } from '../fileset/fileset-damage.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import { IMAGE_FOLDER } from './image-folder.ts';

/** To index fewer series takes no longer than to read them. */
const LEAST_SERIES = 16_384;
/** A file is written anew when a restart would have to index so large a share of its series. */
const GROWTH_SHARE = 0.2;
const NAME = /^index-\d{1,10}\.db$/;

export const memoryIndexName = (namespaceId: number): string => `index-${namespaceId}.db`;

/**
 * The index of what a namespace has in memory, as a file: the first query after a restart need not wait until half a
 * million series are indexed. Like an image it saves time and nothing else: it names the series that it is of by a
 * digest, and with others, or damaged, it is as if it were not there. `docs/formats/engine.md` draws it.
 */
export class MemoryIndex {
  readonly #fs: FileSystem;
  readonly #folder: string;
  readonly #path: string;
  /** How many series the file has. */
  #savedSeries = 0;
  #loading: Promise<void> | undefined;

  /** @param folder of the engine */
  constructor(fs: FileSystem, folder: string, namespaceId: number) {
    this.#fs = fs;
    this.#folder = folder;
    this.#path = join(folder, IMAGE_FOLDER, memoryIndexName(namespaceId));
  }

  /** Takes over what the file has; once, and nothing when that is of no use. */
  load(buffer: NamespaceBuffer): Promise<void> {
    this.#loading ??= this.#load(buffer);
    return this.#loading;
  }

  /**
   * Writes what is indexed, if that is worth it; not while somebody else works on the folder. Gives up when more is
   * indexed meanwhile: what it writes is not copied before.
   */
  async saveIfGrown(buffer: NamespaceBuffer): Promise<void> {
    const { indexedSeries } = buffer;
    // Series were forgotten, and the others have new numbers.
    if (indexedSeries < this.#savedSeries) this.#savedSeries = 0;
    const due = Math.max(LEAST_SERIES, this.#savedSeries * GROWTH_SHARE);
    if (indexedSeries - this.#savedSeries < due) return;
    await makeFolders(this.#fs, this.#folder, [IMAGE_FOLDER]);
    const saved = buffer.saveIndex();
    const temporary = `${this.#path}${TEMPORARY_SUFFIX}`;
    try {
      const isWhole = await this.#write(temporary, saved, () => buffer.indexedSeries === saved.seriesCount);
      if (!isWhole) {
        await this.#fs.remove(temporary);
        return;
      }
    } catch (error) {
      await this.#fs.remove(temporary).catch(() => {});
      throw error;
    }
    await this.#fs.rename(temporary, this.#path);
    await this.#fs.syncFolder(dirname(this.#path));
    this.#savedSeries = saved.seriesCount;
  }

  /** Gives its room back. */
  async remove(): Promise<void> {
    this.#savedSeries = 0;
    await removeIfThere(this.#fs, this.#path);
  }

  async #load(buffer: NamespaceBuffer): Promise<void> {
    try {
      const saved = decode(this.#path, await readWholeFile(this.#fs, this.#path));
      if (buffer.adoptIndex(saved, saved.fields)) this.#savedSeries = saved.seriesCount;
    } catch (error) {
      const isOfNoUse = error instanceof FileDamageError || error instanceof VarveError;
      if (!isOfNoUse && !hasCode(error, 'ENOENT', 'EIO')) throw error;
    }
  }

  /** In the form of `encodeCheckedFile`, without putting it together in memory; false when it was given up. */
  async #write(path: string, saved: SavedIndex, isSame: () => boolean): Promise<boolean> {
    await using file = await this.#fs.open(path, 'replace');
    const pieces = piecesOf(saved);
    const bodyBytes = pieces.reduce((sum, { length }) => sum + length, 0);
    let checksum = 0;
    let at = 0;
    for (const piece of [checkedFileHead('VRVMEMIX', 0, bodyBytes), ...pieces]) {
      checksum = crc32(piece, checksum);
      await file.write(at, piece);
      at += piece.length;
      if (!isSame()) return false;
    }
    const end = Buffer.alloc(CHECKSUM_BYTES);
    end.writeUInt32LE(checksum);
    await file.write(at, end);
    await file.datasync();
    return isSame();
  }
}

/** Those of the files in an engine's folder that are not as they were written. */
export async function memoryIndexDamages(fs: FileSystem, folder: string): Promise<FileDamage[]> {
  const images = join(folder, IMAGE_FOLDER);
  if (!(await fs.stat(images))) return [];
  const damages: FileDamage[] = [];
  for (const { name } of await fs.list(images)) {
    if (!NAME.test(name)) continue;
    const path = join(images, name);
    try {
      decode(path, await readWholeFile(fs, path));
    } catch (error) {
      if (error instanceof FileDamageError) damages.push(error.damage);
      else if (error instanceof VarveError || hasCode(error, 'EIO')) {
        damages.push({ file: path, offset: 0, reason: String(error) });
      } else if (!hasCode(error, 'ENOENT')) throw error;
    }
  }
  return damages;
}

const ALIGNMENT = 8;
const FIXED_BYTES = 16;

/** The body: how many series, their digest, how many fields, 0; the fields' sizes; the fields, each begins aligned. */
function piecesOf({ seriesCount, seriesDigest, fields }: SavedIndex): Uint8Array[] {
  const sizes = fields.map((pieces) => pieces.reduce((sum, { length }) => sum + length, 0));
  const head = Buffer.alloc(FIXED_BYTES + aligned(4 * sizes.length));
  for (const [i, number] of [seriesCount, seriesDigest, sizes.length, 0, ...sizes].entries()) {
    head.writeUInt32LE(number, 4 * i);
  }
  const bodies = fields.flatMap((pieces, i) => {
    const sizeBytes = sizes[i] ?? 0;
    return [...pieces, Buffer.alloc(aligned(sizeBytes) - sizeBytes)];
  });
  return [head, ...bodies];
}

/** @throws FILESET_DAMAGED, STORAGE_FORMAT_UNKNOWN */
function decode(
  path: string,
  bytes: Buffer,
): Omit<SavedIndex, 'fields'> & { readonly fields: readonly Uint8Array[] } {
  return decodeAt(path, 0, () => {
    const { bodyEnd } = decodeCheckedFile(path, 'VRVMEMIX', bytes);
    const cursor = new ByteCursor(bytes, FILE_HEADER_BYTES, bodyEnd);
    const [seriesCount, seriesDigest, count] = [cursor.uint32(), cursor.uint32(), cursor.uint32()];
    cursor.uint32();
    const sizes = Array.from({ length: count }, () => cursor.uint32());
    let at = FILE_HEADER_BYTES + FIXED_BYTES + aligned(4 * count);
    const fields = sizes.map((sizeBytes) => {
      const field = bytes.subarray(at, at + sizeBytes);
      at += aligned(sizeBytes);
      return field;
    });
    if (at !== bodyEnd) throw new FormatFault(FILE_HEADER_BYTES, 'its fields do not fill it');
    return { seriesCount, seriesDigest, fields };
  });
}

function aligned(sizeBytes: number): number {
  return Math.ceil(sizeBytes / ALIGNMENT) * ALIGNMENT;
}
