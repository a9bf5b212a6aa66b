import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import type { File } from '../../core/file-system.ts';
import type { LogDamage } from './log-damage.ts';
import {
  decodeSegmentHeader,
  FIRST_BYTE,
  FORMAT_VERSION,
  padded,
  RECORD_ALIGNMENT,
  RECORD_HEADER_BYTES,
  RecordCodec,
  recordBytes,
  SEGMENT_HEADER_BYTES,
  type RecordHeader,
} from './segment-format.ts';
import { SegmentWindow } from './segment-window.ts';

/** One record of the log, as a reader sees it. */
export interface LogRecord {
  readonly segment: number;
  /** Of its header in the segment's file. */
  readonly offset: number;
  readonly sequence: number;
  /** Valid until the visitor returns or, when that is a promise, until it is settled. */
  readonly payload: Buffer;
}

export interface SegmentScan {
  /** `unused`: nothing but zeros; `sealed`: ended in order; `open`: the writer was stopped in it. */
  readonly state: 'unused' | 'sealed' | 'open';
  readonly sizeBytes: number;
  readonly lastSequence: number;
  readonly damages: readonly LogDamage[];
}

export interface ScanOptions {
  readonly segment: number;
  /** Where the first record begins that is looked at; of the file unless given. */
  readonly startOffset?: number;
  /** Records up to this one are already known: whatever has their numbers is what an unfinished write left. */
  readonly lastSequence: number;
  readonly windowBytes?: number;
  /** Every byte is looked at, also behind the seal: there are zeros, which nobody needs. */
  readonly untilEnd?: boolean;
}

const DEFAULT_WINDOW_BYTES = 4 * 1024 * 1024;

/**
 * Gives every intact record of a segment to `visit`, in order and once. What is not intact is skipped up to
 * the next intact header and returned as damage: `damaged` when a later record or the seal testifies that it
 * was durable before, `torn` when nothing does.
 * @throws STORAGE_FORMAT_UNKNOWN when a newer version wrote it
 */
export async function scanSegment(
  file: File,
  options: ScanOptions,
  visit: (record: LogRecord) => void | Promise<void>,
): Promise<SegmentScan> {
  const sizeBytes = await file.sizeBytes();
  const window = new SegmentWindow(file, sizeBytes, options.windowBytes ?? DEFAULT_WINDOW_BYTES);
  const scan = new Scan(file.path, window, options);
  const codec = await scan.open();
  if (codec) await scan.records(codec, visit);
  return scan.result();
}

interface Hole {
  readonly offset: number;
  readonly end: number;
}

class Scan {
  readonly #path: string;
  readonly #window: SegmentWindow;
  readonly #segment: number;
  readonly #holes: Hole[] = [];
  #lastSequence: number;
  #state: SegmentScan['state'] = 'open';
  /** The most that any record says of what was durable. */
  #syncedBytes = 0;
  readonly #untilEnd: boolean;
  readonly #startOffset: number;

  constructor(path: string, window: SegmentWindow, options: ScanOptions) {
    this.#path = path;
    this.#window = window;
    this.#segment = options.segment;
    this.#lastSequence = options.lastSequence;
    this.#untilEnd = options.untilEnd ?? false;
    this.#startOffset = options.startOffset ?? SEGMENT_HEADER_BYTES;
  }

  /** How to read this segment's records; undefined when there are none. */
  async open(): Promise<RecordCodec | undefined> {
    const header = decodeSegmentHeader(await this.#window.bytes(0, SEGMENT_HEADER_BYTES));
    if (header?.segment === this.#segment) {
      if (header.version !== FORMAT_VERSION) throw unknownVersion(this.#path, header.version);
      return new RecordCodec(header.salt, this.#segment);
    }
    // A damaged header does not cost the segment: the first record begins with the salt, and proves it.
    const first = Buffer.from(await this.#window.bytes(SEGMENT_HEADER_BYTES, RECORD_HEADER_BYTES));
    const codec = new RecordCodec(first.length >= 4 ? first.readUInt32LE(0) : 0, this.#segment);
    if (codec.decode(first)) {
      this.#hole(0, SEGMENT_HEADER_BYTES);
      // The header is durable before any record is written.
      this.#testify(SEGMENT_HEADER_BYTES);
      return codec;
    }
    const usedEnd = await this.#usedEnd(0);
    if (usedEnd === 0) this.#state = 'unused';
    else this.#hole(0, usedEnd);
    // Whoever checks every byte takes a header without its beginning for damaged: disks write so little at once.
    const isCut = !this.#untilEnd || (await this.#window.bytes(0, 1))[0] === FIRST_BYTE;
    if (usedEnd > SEGMENT_HEADER_BYTES || !isCut) this.#testify(usedEnd);
    return undefined;
  }

  async #tail(offset: number): Promise<void> {
    const usedEnd = await this.#usedEnd(offset);
    if (usedEnd === offset) return;
    this.#hole(offset, usedEnd);
    this.#testify(usedEnd);
  }

  async records(codec: RecordCodec, visit: (record: LogRecord) => void | Promise<void>): Promise<void> {
    const window = this.#window;
    let offset = this.#startOffset;
    while (offset < window.sizeBytes) {
      // A promise for each of a hundred thousand records would cost as much as what they hold.
      const at = offset;
      const bytes = window.held(at, RECORD_HEADER_BYTES) ?? (await window.bytes(at, RECORD_HEADER_BYTES));
      const header = codec.decode(bytes);
      const end = offset + recordBytes(header?.payloadBytes ?? 0);
      if (!header || end > window.sizeBytes) {
        if (bytes.every(isZeroByte) && (await this.#usedEnd(offset)) === offset) return;
        const next = await this.#nextHeader(codec, offset + RECORD_ALIGNMENT);
        const holeEnd = next ?? (await this.#usedEnd(offset));
        if (holeEnd > offset) this.#hole(offset, holeEnd);
        if (next === undefined) return;
        offset = next;
        continue;
      }
      this.#testify(header.syncedBytes);
      if (header.kind === 'seal') {
        this.#state = 'sealed';
        if (this.#untilEnd) await this.#tail(end);
        return;
      }
      const visited = this.#record(offset, header, visit);
      if (visited) await visited;
      offset = end;
    }
  }

  result(): SegmentScan {
    return {
      state: this.#state,
      sizeBytes: this.#window.sizeBytes,
      lastSequence: this.#lastSequence,
      damages: this.#holes.map(({ offset, end }) => ({
        kind: offset < this.#syncedBytes ? 'damaged' : 'torn',
        file: this.#path,
        offset,
        sizeBytes: end - offset,
      })),
    };
  }

  /** A promise only when there is something to wait for. */
  #record(
    offset: number,
    header: RecordHeader,
    visit: (record: LogRecord) => void | Promise<void>,
  ): void | Promise<void> {
    const [start, sizeBytes] = [offset + RECORD_HEADER_BYTES, padded(header.payloadBytes)];
    const held = this.#window.held(start, sizeBytes);
    if (held) return this.#stored(held, { offset, header, visit });
    return this.#window.bytes(start, sizeBytes).then((read) => this.#stored(read, { offset, header, visit }));
  }

  #stored(
    stored: Buffer,
    {
      offset,
      header,
      visit,
    }: {
      readonly offset: number;
      readonly header: RecordHeader;
      readonly visit: (record: LogRecord) => void | Promise<void>;
    },
  ): void | Promise<void> {
    const { payloadBytes, payloadChecksum, sequence } = header;
    // What has an old number was refused once, and partly overwritten by what came after it.
    if (crc32(stored) !== payloadChecksum || sequence <= this.#lastSequence) {
      this.#hole(offset, offset + recordBytes(payloadBytes));
      return undefined;
    }
    this.#lastSequence = sequence;
    return visit({ segment: this.#segment, offset, sequence, payload: stored.subarray(0, payloadBytes) });
  }

  #testify(syncedBytes: number): void {
    this.#syncedBytes = Math.max(this.#syncedBytes, syncedBytes);
  }

  #hole(offset: number, end: number): void {
    const last = this.#holes.at(-1);
    if (last?.end === offset) this.#holes[this.#holes.length - 1] = { offset: last.offset, end };
    else this.#holes.push({ offset, end });
  }

  /** Where the next intact header is, from `from` on. */
  async #nextHeader(codec: RecordCodec, from: number): Promise<number | undefined> {
    let offset = from;
    while (offset + RECORD_HEADER_BYTES <= this.#window.sizeBytes) {
      const bytes = await this.#window.atLeast(offset, RECORD_HEADER_BYTES);
      const usable = bytes.length - RECORD_HEADER_BYTES;
      if (!isZero(bytes)) {
        let at = bytes.indexOf(codec.saltBytes);
        while (at !== -1 && at <= usable) {
          const header = at % RECORD_ALIGNMENT === 0 ? codec.decode(bytes, at) : undefined;
          if (header && offset + at + recordBytes(header.payloadBytes) <= this.#window.sizeBytes) {
            return offset + at;
          }
          at = bytes.indexOf(codec.saltBytes, at + 1);
        }
      }
      offset += Math.floor(usable / RECORD_ALIGNMENT) * RECORD_ALIGNMENT + RECORD_ALIGNMENT;
    }
    return undefined;
  }

  /** Behind the last byte from `from` on that is not zero; `from` when all are. */
  async #usedEnd(from: number): Promise<number> {
    let end = from;
    for (let offset = from; offset < this.#window.sizeBytes;) {
      const bytes = await this.#window.atLeast(offset, 1);
      if (bytes.length === 0) break;
      if (!isZero(bytes)) {
        let last = bytes.length - 1;
        while (bytes[last] === 0) last--;
        end = offset + last + 1;
      }
      offset += bytes.length;
    }
    return end;
  }
}

const isZeroByte = (byte: number): boolean => byte === 0;
const ZEROS = Buffer.alloc(1024 * 1024);

function isZero(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const part = bytes.subarray(at, at + ZEROS.length);
    if (!part.equals(ZEROS.subarray(0, part.length))) return false;
  }
  return true;
}

function unknownVersion(path: string, version: number): VarveError {
  return new VarveError(
    'STORAGE_FORMAT_UNKNOWN',
    `${path} has format version ${version}, this program reads ${FORMAT_VERSION}`,
    { hint: 'Start the newer version that wrote it.' },
  );
}
