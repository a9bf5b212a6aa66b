import { createHash, randomBytes, type Hash } from 'node:crypto';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { constants, deflateRaw as deflateRawCallback } from 'node:zlib';
import { syncFolder } from '../../postgres/atomic-file.ts';
import {
  encodeFrame,
  FORMAT_VERSION,
  MAGIC,
  ROWS_BYTES,
  TRAILER_MAGIC,
  type EndFrame,
  type FrameKind,
} from './archive-format.ts';

const deflateRaw = promisify(deflateRawCallback);
/** What is shorter is not compressed. */
const DEFLATE_FROM_BYTES = 256;

/** How files that are being written are named: a crash leaves them, `removeLeftovers` takes them away. */
export const UNFINISHED = /\.[0-9a-f]{8}\.new$/;

/**
 * Writes a backup beside its name and gives it its name when it is complete and on the disk. Memory is that of one
 * frame. One call at a time.
 */
export class ArchiveWriter implements AsyncDisposable {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: FileHandle;
  readonly #hash: Hash = createHash('sha256');
  #rows: Buffer[] = [];
  #rowsBytes = 0;
  #tableBytes = 0;
  #offset = 0;
  #finished = false;
  readonly #counts = { tableCount: 0, rowCount: 0, ddlCount: 0, sequenceCount: 0 };

  private constructor(path: string, temporary: string, file: FileHandle) {
    this.#path = path;
    this.#temporary = temporary;
    this.#file = file;
  }

  static async create(path: string): Promise<ArchiveWriter> {
    const temporary = `${path}.${randomBytes(4).toString('hex')}.new`;
    const writer = new ArchiveWriter(path, temporary, await open(temporary, 'wx', 0o600));
    const version = Buffer.alloc(4);
    version.writeUInt32LE(FORMAT_VERSION);
    await writer.#write(Buffer.concat([MAGIC, version]));
    return writer;
  }

  get sizeBytes(): number {
    return this.#offset;
  }

  async json(kind: Exclude<FrameKind, 'rows' | 'table-end' | 'end'>, value: object): Promise<void> {
    if (kind === 'ddl') this.#counts.ddlCount += 1;
    if (kind === 'sequence') this.#counts.sequenceCount += 1;
    if (kind === 'table') this.#tableBytes = 0;
    await this.#frame(kind, Buffer.from(JSON.stringify(value)));
  }

  /** Bytes of a COPY, cut anywhere. */
  async rows(chunk: Buffer): Promise<void> {
    // Chunks of a socket are cut out of larger buffers, which they would keep.
    this.#rows.push(Buffer.from(chunk));
    this.#rowsBytes += chunk.length;
    this.#tableBytes += chunk.length;
    if (this.#rowsBytes >= ROWS_BYTES) await this.#flushRows();
  }

  async endTable(rowCount: number): Promise<void> {
    await this.#flushRows();
    this.#counts.tableCount += 1;
    this.#counts.rowCount += rowCount;
    const end = { rowCount, sizeBytes: this.#tableBytes };
    await this.#frame('table-end', Buffer.from(JSON.stringify(end)));
  }

  /** From here on the file is there under its name, and survives a crash. Replaces one of the same name. */
  async finish(): Promise<EndFrame> {
    const endOffset = this.#offset;
    const end: EndFrame = { ...this.#counts, sha256: this.#hash.copy().digest('hex') };
    await this.#frame('end', Buffer.from(JSON.stringify(end)));
    const trailer = Buffer.alloc(8);
    trailer.writeBigUInt64LE(BigInt(endOffset));
    await this.#write(Buffer.concat([trailer, TRAILER_MAGIC]));
    await this.#file.sync();
    await this.#file.close();
    this.#finished = true;
    await rename(this.#temporary, this.#path);
    await syncFolder(dirname(this.#path));
    return end;
  }

  /** Takes away what was not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#finished) return;
    await this.#file.close();
    await rm(this.#temporary, { force: true });
  }

  async #flushRows(): Promise<void> {
    if (this.#rowsBytes === 0) return;
    const rows = Buffer.concat(this.#rows);
    this.#rows = [];
    this.#rowsBytes = 0;
    await this.#frame('rows', rows);
  }

  async #frame(kind: FrameKind, content: Buffer): Promise<void> {
    const isDeflated = content.length >= DEFLATE_FROM_BYTES;
    const payload = isDeflated ? await deflateRaw(content, { level: constants.Z_BEST_SPEED }) : content;
    await this.#write(encodeFrame(kind, payload, isDeflated));
  }

  async #write(bytes: Buffer): Promise<void> {
    this.#hash.update(bytes);
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.#file.write(bytes, done);
      done += bytesWritten;
    }
    this.#offset += bytes.length;
  }
}
