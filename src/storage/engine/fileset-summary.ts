import { join } from 'node:path';
import { hasCode, makeFolders, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { decodeCheckedFile, encodeCheckedFile, FILE_HEADER_BYTES } from '../fileset/checked-file.ts';
import { decodeAt, FileDamageError, FormatFault, type FileDamage } from '../fileset/fileset-damage.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import { decodeInfo, encodeInfo, type FilesetInfo } from '../fileset/info-file.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import { VarveError } from '../../core/errors.ts';
import { newestVersionOf } from './block-annotation.ts';

/** A fileset as a start needs to know it; its info is decoded when somebody asks. */
export interface StoredPlace {
  readonly blockStartNs: bigint;
  readonly blockSizeNs: bigint;
  readonly shard: number;
  readonly volume: number;
  readonly sizeBytes: number;
  /** Nothing in it was written later. */
  readonly newestVersion: bigint;
  /** @throws FILESET_DAMAGED */
  info(): FilesetInfo;
}

export const SUMMARY_NAME = 'summary.db';

/**
 * The infos of a namespace's filesets in one file, so that a start reads one file instead of thousands. It is there
 * only while nothing is written or removed: it is removed, durably, before the first change, and written anew when
 * all are done. So, if it is there, it is true; if not, the folders are looked through.
 */
export class FilesetSummary {
  readonly #fs: FileSystem;
  readonly #root: string;
  readonly #namespace: string;
  #present = false;

  constructor(fs: FileSystem, root: string, namespace: string) {
    this.#fs = fs;
    this.#root = root;
    this.#namespace = namespace;
  }

  /** Undefined when there is none that can be used. */
  async load(): Promise<StoredPlace[] | undefined> {
    const [content] = await this.#fs.readFiles([this.#path]);
    if (!(content instanceof Buffer)) {
      if (hasCode(content, 'ENOENT', 'EIO', 'ENOTDIR')) return undefined;
      throw content ?? new Error('no content');
    }
    this.#present = true;
    try {
      return decodeSummary(this.#path, content, this.#namespace);
    } catch (error) {
      if (error instanceof FormatFault || error instanceof FileDamageError || error instanceof VarveError)
        return undefined;
      throw error;
    }
  }

  /** What is wrong with it, if it is there. */
  async verify(): Promise<FileDamage | undefined> {
    const file = this.#path;
    const [content] = await this.#fs.readFiles([file]);
    if (!(content instanceof Buffer)) {
      if (hasCode(content, 'ENOENT')) return undefined;
      return { file, offset: 0, reason: `it cannot be read: ${String(content)}` };
    }
    try {
      decodeAt(file, 0, () => {
        for (const place of decodeSummary(file, content, this.#namespace)) place.info();
      });
      return undefined;
    } catch (error) {
      if (error instanceof FileDamageError) return error.damage;
      throw error;
    }
  }

  get present(): boolean {
    return this.#present;
  }

  /** Before the first file is written or removed. */
  async invalidate(): Promise<void> {
    if (!this.#present) return;
    await removeIfThere(this.#fs, this.#path);
    await this.#fs.syncFolder(join(this.#root, this.#namespace));
    this.#present = false;
  }

  /** All that is on the disk, and nothing else is. */
  async save(infos: readonly FilesetInfo[]): Promise<void> {
    if (this.#present) return;
    await makeFolders(this.#fs, this.#root, [this.#namespace]);
    await writeFileAtomically(this.#fs, this.#path, encodeSummary(infos));
    this.#present = true;
  }

  get #path(): string {
    return join(this.#root, this.#namespace, SUMMARY_NAME);
  }
}

const LENGTH_BYTES = 4;

function encodeSummary(infos: readonly FilesetInfo[]): Buffer {
  const count = Buffer.alloc(LENGTH_BYTES);
  count.writeUInt32LE(infos.length);
  const parts = infos.flatMap((info) => {
    const bytes = encodeInfo(info);
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeUInt32LE(bytes.length);
    return [length, bytes];
  });
  return encodeCheckedFile('VRVSUMRY', 0, Buffer.concat([count, ...parts]));
}

/** Where an info has what is looked at here. */
const AT = {
  blockStart: 16,
  blockSize: 24,
  shard: 32,
  volume: 36,
  payload: 48,
  index: 56,
  annotation: 124,
  least: 132,
} as const;

function decodeSummary(file: string, bytes: Buffer, namespace: string): StoredPlace[] {
  const { bodyEnd } = decodeCheckedFile(file, 'VRVSUMRY', bytes);
  let at = FILE_HEADER_BYTES;
  const count = bytes.readUInt32LE(at);
  at += LENGTH_BYTES;
  const places: StoredPlace[] = [];
  while (places.length < count) {
    const length = at + LENGTH_BYTES <= bodyEnd ? bytes.readUInt32LE(at) : 0;
    const start = at + LENGTH_BYTES;
    at = start + length;
    if (length < AT.least || at > bodyEnd) throw new FormatFault(start, 'it ends too early');
    places.push(new Place(file, bytes.subarray(start, at), namespace));
  }
  return places;
}

class Place implements StoredPlace {
  readonly blockStartNs: bigint;
  readonly shard: number;
  readonly volume: number;
  readonly #file: string;
  readonly #bytes: Buffer;
  readonly #namespace: string;
  #info: FilesetInfo | undefined;

  constructor(file: string, bytes: Buffer, namespace: string) {
    this.#file = file;
    this.#bytes = bytes;
    this.#namespace = namespace;
    this.blockStartNs = bytes.readBigInt64LE(AT.blockStart);
    this.shard = bytes.readUInt32LE(AT.shard);
    this.volume = bytes.readUInt32LE(AT.volume);
  }

  get blockSizeNs(): bigint {
    return this.#bytes.readBigInt64LE(AT.blockSize);
  }

  get sizeBytes(): number {
    const low = this.#bytes.readUInt32LE(AT.payload) + this.#bytes.readUInt32LE(AT.index);
    const high = this.#bytes.readUInt32LE(AT.payload + 4) + this.#bytes.readUInt32LE(AT.index + 4);
    return low + high * 0x1_0000_0000;
  }

  get newestVersion(): bigint {
    const start = AT.least + this.#namespace.length;
    return newestVersionOf(this.#bytes.subarray(start, start + this.#bytes.readUInt32LE(AT.annotation)));
  }

  info(): FilesetInfo {
    if (!this.#info) {
      const id: FilesetId = {
        namespace: this.#namespace,
        shard: this.shard,
        blockStartNs: this.blockStartNs,
        volume: this.volume,
      };
      this.#info = decodeInfo(this.#file, this.#bytes, id);
    }
    return this.#info;
  }
}

/** The same of an info that was read. */
export function placeOf(info: FilesetInfo): StoredPlace {
  const { blockStartNs, blockSizeNs, shard, volume, payloadBytes, indexBytes, annotation } = info;
  return {
    blockStartNs,
    blockSizeNs,
    shard,
    volume,
    sizeBytes: payloadBytes + indexBytes,
    newestVersion: newestVersionOf(annotation),
    info: () => info,
  };
}
