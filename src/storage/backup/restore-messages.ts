import { VarveError } from '../../core/errors.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import { decodeInfo, encodeInfo, type FilesetInfo } from '../fileset/info-file.ts';
import type { CopiedSums } from '../fileset/receive-fileset.ts';

export const RESTORE_PATH = '/restore/v1/';

/** A namespace as a node sees it, when somebody wants to fill it from a backup. */
export interface RestoreLook {
  /** Another one for each creation on this node. */
  readonly namespaceId: number;
  readonly isEmpty: boolean;
  /** The backup that it is being filled from: a restore has begun, and has not ended. */
  readonly backup: string | null;
  /** Shards of this node that are not whole. */
  readonly unready: readonly number[];
  /** `shard/blockStartNs` → digest */
  readonly filesets: Readonly<Record<string, string>>;
}

export interface RestoreBegin {
  readonly namespace: string;
  readonly backup: string;
  /** No sample in it has a newer version. */
  readonly version: bigint;
}

/** A fileset that is sent: its head, then the bytes of its data file, then those of its index file. */
export interface RestoredFileset {
  readonly backup: string;
  readonly info: FilesetInfo;
  readonly sums: CopiedSums;
}

export function blockKey({ shard, blockStartNs }: Pick<FilesetId, 'shard' | 'blockStartNs'>): string {
  return `${shard}/${blockStartNs}`;
}

/** `u32 length, JSON`: `info` is the info file as it would be written at its place. */
export function encodeRestoredHead({ backup, info, sums }: RestoredFileset): Buffer {
  const { namespace, shard, blockStartNs, volume } = info;
  const place = { namespace, shard, blockStartNs: String(blockStartNs), volume };
  const text = JSON.stringify({ backup, place, info: encodeInfo(info).toString('base64'), sums });
  const bytes = Buffer.from(text);
  const head = Buffer.alloc(4);
  head.writeUInt32LE(bytes.length);
  return Buffer.concat([head, bytes]);
}

/** @throws INVALID_ARGUMENT for what is no head of a fileset */
export function decodeRestoredHead(bytes: Buffer): RestoredFileset {
  try {
    const { backup, place, info, sums } = JSON.parse(bytes.toString()) as {
      backup: string;
      place: { namespace: string; shard: number; blockStartNs: string; volume: number };
      info: string;
      sums: CopiedSums;
    };
    const id = { ...place, blockStartNs: BigInt(place.blockStartNs) };
    for (const { sizeBytes } of [sums.data, sums.index]) {
      if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) throw new Error('a size is none');
    }
    return { backup, info: decodeInfo('head', Buffer.from(info, 'base64'), id), sums };
  } catch (error) {
    if (error instanceof VarveError) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new VarveError('INVALID_ARGUMENT', `this is no fileset to be restored: ${why}`);
  }
}

export function encodeBegin(begin: RestoreBegin): string {
  return JSON.stringify({ ...begin, version: String(begin.version) });
}

/** @throws INVALID_ARGUMENT */
export function decodeBegin(text: string): RestoreBegin {
  try {
    const { namespace, backup, version } = JSON.parse(text) as Record<string, unknown>;
    if (typeof namespace === 'string' && typeof backup === 'string' && /^\d{1,19}$/.test(String(version))) {
      return { namespace, backup, version: BigInt(String(version)) };
    }
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new VarveError('INVALID_ARGUMENT', 'namespace, backup and version have to be given');
}

/** What a body is made of: parts of any size, taken as they are asked for. */
export class BodyParts {
  readonly #parts: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#parts = body[Symbol.asyncIterator]();
  }

  /** The next so many bytes in pieces as they come. @throws INVALID_ARGUMENT when it ends before */
  async *take(sizeBytes: number): AsyncGenerator<Uint8Array, void, void> {
    for (let left = sizeBytes; left > 0;) {
      if (this.#rest.length === 0) {
        const next = await this.#parts.next();
        if (next.done) throw new VarveError('INVALID_ARGUMENT', `the body ends ${left} bytes too early`);
        this.#rest = next.value;
        continue;
      }
      const piece = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(piece.length);
      left -= piece.length;
      yield piece;
    }
  }

  async takeAll(sizeBytes: number): Promise<Buffer> {
    const parts: Uint8Array[] = [];
    for await (const part of this.take(sizeBytes)) parts.push(part);
    return Buffer.concat(parts);
  }
}

const MAX_HEAD_BYTES = 1024 * 1024;

/** @throws INVALID_ARGUMENT */
export async function readRestoredHead(body: BodyParts): Promise<RestoredFileset> {
  const sizeBytes = (await body.takeAll(4)).readUInt32LE(0);
  if (sizeBytes > MAX_HEAD_BYTES) {
    throw new VarveError('INVALID_ARGUMENT', 'this is no fileset to be restored: its head is too long');
  }
  return decodeRestoredHead(await body.takeAll(sizeBytes));
}
