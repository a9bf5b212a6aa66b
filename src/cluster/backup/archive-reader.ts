import { createHash, type Hash } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import { promisify } from 'node:util';
import { inflateRaw as inflateRawCallback } from 'node:zlib';
import type * as z from 'zod';
import { messageOf, VarveError } from '../../core/errors.ts';
import {
  decodeHeader,
  endFrame,
  FOLLOWERS,
  FORMAT_VERSION,
  FRAME_HEADER_BYTES,
  frameChecksum,
  HEADER_BYTES,
  MAGIC,
  manifest as manifestSchema,
  MAX_PAYLOAD_BYTES,
  tableEndFrame,
  TRAILER_BYTES,
  TRAILER_MAGIC,
  type EndFrame,
  type FrameKind,
  type Manifest,
} from './archive-format.ts';

const inflateRaw = promisify(inflateRawCallback);

export interface Frame {
  readonly kind: FrameKind;
  /** Inflated. Of `rows`: bytes of a COPY; of all else: JSON. */
  readonly content: Buffer;
  readonly offset: number;
}

export interface ArchiveSummary {
  readonly manifest: Manifest;
  readonly end: EndFrame;
  readonly sizeBytes: number;
}

/**
 * The frames of a backup from front to back, each checked before it is handed out: checksum, order, counts, and
 * with the last one the SHA-256 of everything. Whoever needs to know that all is well before acting reads it
 * through first (`verifyArchive`). Memory is that of one frame.
 *
 * @throws BACKUP_NOT_FOUND; BACKUP_DAMAGED with file and offset; BACKUP_FORMAT_UNKNOWN
 */
export async function* readArchive(path: string): AsyncGenerator<Frame, void> {
  const file = await openArchive(path);
  try {
    yield* new ArchiveReading(path, file).frames();
  } finally {
    await file.close();
  }
}

/** @throws BACKUP_NOT_FOUND */
async function openArchive(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new VarveError('BACKUP_NOT_FOUND', `there is no backup ${path}`, {
      hint: '`varve cluster backup list` shows which there are, and on which member each lies.',
    });
  }
}

/** Reads all of it. @throws BACKUP_NOT_FOUND, BACKUP_DAMAGED, BACKUP_FORMAT_UNKNOWN */
export async function verifyArchive(path: string, signal?: AbortSignal): Promise<ArchiveSummary> {
  let first: Manifest | undefined;
  let last: EndFrame | undefined;
  for await (const frame of readArchive(path)) {
    signal?.throwIfAborted();
    if (frame.kind === 'manifest') first = parseFrame(path, frame, manifestSchema);
    if (frame.kind === 'end') last = parseFrame(path, frame, endFrame);
  }
  if (!first || !last) throw damaged(path, 0, 'it has no beginning or no end');
  return { manifest: first, end: last, sizeBytes: await sizeOf(path) };
}

/** First and last frame only. @throws BACKUP_DAMAGED when they are not whole; BACKUP_FORMAT_UNKNOWN */
export async function describeArchive(path: string): Promise<ArchiveSummary> {
  const file = await openArchive(path);
  try {
    const { size } = await file.stat();
    const reading = new ArchiveReading(path, file);
    const first = await reading.first();
    const trailer = await readExactly(file, TRAILER_BYTES, size - TRAILER_BYTES);
    if (!trailer?.subarray(8).equals(TRAILER_MAGIC)) throw damaged(path, size, 'its end is missing');
    const endOffset = Number(trailer.readBigUInt64LE(0));
    const last = await reading.frameAt(endOffset);
    if (last.kind !== 'end') throw damaged(path, endOffset, 'its end is not where it should be');
    return {
      manifest: parseFrame(path, first, manifestSchema),
      end: parseFrame(path, last, endFrame),
      sizeBytes: size,
    };
  } finally {
    await file.close();
  }
}

/** @throws BACKUP_DAMAGED when it is not of that form */
export function parseFrame<T>(path: string, frame: Frame, schema: z.ZodType<T>): T {
  try {
    return schema.parse(JSON.parse(frame.content.toString('utf8')));
  } catch (error) {
    throw damaged(path, frame.offset, `a frame “${frame.kind}” is not of its form: ${messageOf(error)}`);
  }
}

/** With its bytes as they are in the file. */
interface RawFrame extends Frame {
  readonly header: Buffer;
  readonly payload: Buffer;
}

class ArchiveReading {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #hash: Hash = createHash('sha256');
  readonly #counts = { tableCount: 0, rowCount: 0, ddlCount: 0, sequenceCount: 0 };
  #tableBytes = 0;

  constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  async *frames(): AsyncGenerator<Frame, void> {
    let previous: RawFrame = await this.first();
    let offset = this.#afterFrame(previous);
    yield previous;
    for (;;) {
      const before = this.#hash.copy();
      const frame = await this.frameAt(offset);
      if (!FOLLOWERS[previous.kind].includes(frame.kind)) {
        throw this.#damaged(offset, `a frame “${frame.kind}” after one “${previous.kind}”`);
      }
      this.#count(frame, before);
      offset = this.#afterFrame(frame);
      if (frame.kind === 'end') await this.#checkTrailer(frame.offset, offset);
      yield frame;
      if (frame.kind === 'end') return;
      previous = frame;
    }
  }

  async first(): Promise<RawFrame> {
    const header = await readExactly(this.#file, HEADER_BYTES, 0);
    if (!header?.subarray(0, MAGIC.length).equals(MAGIC)) throw this.#damaged(0, 'it is no backup of Varve');
    const version = header.readUInt32LE(MAGIC.length);
    if (version !== FORMAT_VERSION) {
      throw new VarveError(
        'BACKUP_FORMAT_UNKNOWN',
        `the backup ${this.#path} has format ${version}, and this program knows format ${FORMAT_VERSION}`,
        { hint: 'Restore it with the version of Varve that wrote it, or a newer one.' },
      );
    }
    this.#hash.update(header);
    const frame = await this.frameAt(HEADER_BYTES);
    if (frame.kind !== 'manifest') throw this.#damaged(HEADER_BYTES, 'it does not begin with a manifest');
    return frame;
  }

  /** Checked by its own checksum. */
  async frameAt(offset: number): Promise<RawFrame> {
    const head = await readExactly(this.#file, FRAME_HEADER_BYTES, offset);
    const header = head && decodeHeader(head);
    if (!head || !header) throw this.#damaged(offset, head ? 'no frame begins here' : 'it ends too early');
    const payload = await readExactly(this.#file, header.payloadBytes, offset + FRAME_HEADER_BYTES);
    if (!payload) throw this.#damaged(offset, 'it ends within a frame');
    if (frameChecksum(head, payload) !== header.checksum) {
      throw this.#damaged(offset, 'a frame does not match its checksum');
    }
    const raw = { kind: header.kind, offset, header: head, payload };
    if (!header.isDeflated) return { ...raw, content: payload };
    try {
      const content = await inflateRaw(payload, { maxOutputLength: MAX_PAYLOAD_BYTES });
      return { ...raw, content };
    } catch (error) {
      throw this.#damaged(offset, `a frame cannot be inflated: ${messageOf(error)}`);
    }
  }

  /** Takes the frame's bytes into the digest; where the next one begins. */
  #afterFrame(frame: RawFrame): number {
    this.#hash.update(frame.header).update(frame.payload);
    return frame.offset + frame.header.length + frame.payload.length;
  }

  #count(frame: Frame, before: Hash): void {
    if (frame.kind === 'ddl') this.#counts.ddlCount += 1;
    if (frame.kind === 'sequence') this.#counts.sequenceCount += 1;
    if (frame.kind === 'table') this.#tableBytes = 0;
    if (frame.kind === 'rows') this.#tableBytes += frame.content.length;
    if (frame.kind === 'table-end') {
      const { rowCount, sizeBytes } = parseFrame(this.#path, frame, tableEndFrame);
      if (sizeBytes !== this.#tableBytes) throw this.#damaged(frame.offset, 'rows of a table are missing');
      this.#counts.tableCount += 1;
      this.#counts.rowCount += rowCount;
    }
    if (frame.kind !== 'end') return;
    const wanted = parseFrame(this.#path, frame, endFrame);
    const found: EndFrame = { ...this.#counts, sha256: before.digest('hex') };
    for (const [name, value] of Object.entries(found)) {
      if (wanted[name as keyof EndFrame] === value) continue;
      throw this.#damaged(frame.offset, `its ${name} is not what was written`);
    }
  }

  async #checkTrailer(endOffset: number, offset: number): Promise<void> {
    const trailer = await readExactly(this.#file, TRAILER_BYTES, offset);
    const { size } = await this.#file.stat();
    const isRight =
      trailer?.subarray(8).equals(TRAILER_MAGIC) === true &&
      trailer.readBigUInt64LE(0) === BigInt(endOffset) &&
      size === offset + TRAILER_BYTES;
    if (!isRight) throw this.#damaged(offset, 'its last bytes are not what was written');
  }

  #damaged(offset: number, why: string): VarveError {
    return damaged(this.#path, offset, why);
  }
}

function damaged(path: string, offset: number, why: string): VarveError {
  return new VarveError('BACKUP_DAMAGED', `the backup ${path} is damaged at byte ${offset}: ${why}`, {
    hint: 'Use another backup of that database: `varve cluster backup list` names them. Look at the disk.',
  });
}

/** Undefined when the file ends before. */
async function readExactly(
  file: FileHandle,
  sizeBytes: number,
  position: number,
): Promise<Buffer | undefined> {
  if (position < 0) return undefined;
  // A damaged length must not take memory that the file cannot fill.
  if (sizeBytes > 1 << 20 && (await file.stat()).size < position + sizeBytes) return undefined;
  const bytes = Buffer.alloc(sizeBytes);
  for (let done = 0; done < sizeBytes;) {
    const { bytesRead } = await file.read(bytes, done, sizeBytes - done, position + done);
    if (bytesRead === 0) return undefined;
    done += bytesRead;
  }
  return bytes;
}

async function sizeOf(path: string): Promise<number> {
  const file = await openArchive(path);
  try {
    return (await file.stat()).size;
  } finally {
    await file.close();
  }
}
