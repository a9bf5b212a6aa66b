import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';
import { ByteCursor, writeVarint } from '../fileset/byte-cursor.ts';
import { FormatFault } from '../fileset/fileset-damage.ts';
import { COPIED_KINDS, type CopiedKind, type CopiedSums } from '../fileset/receive-fileset.ts';
import type { Overwrite } from '../engine/columns.ts';
import type { SealedInput } from '../engine/block-writer.ts';
import type { PeerRequest } from './peer-transport.ts';

/**
 * - `whole`: it can give all of it
 * - `bootstrapping`: it is being filled
 * - `waiting`: it found nobody who has all of it, and tries again
 * - `notOwned`: the placement gives it to others, as this node knows it
 * - `behind`: the placement that it knows is older than that of who asks
 */
export type PeerShardState = 'whole' | 'bootstrapping' | 'waiting' | 'notOwned' | 'behind';

export interface PeerShard {
  readonly shard: number;
  readonly state: PeerShardState;
  /** That have anything, ascending. */
  readonly blocks: readonly PeerBlock[];
}

export interface PeerBlock {
  readonly startNs: bigint;
  readonly fileset: PeerStored | undefined;
  /** That have samples in memory. */
  readonly memorySeries: number;
  /** Of the fileset, which are not carried out in it yet. */
  readonly hasDeletions: boolean;
}

export interface PeerStored {
  readonly volume: number;
  /** Canonical: equal for equal data. */
  readonly digest: string;
  readonly sizeBytes: number;
}

export interface PeerShards {
  readonly shards: readonly PeerShard[];
  /** Deletions up to this version are carried out in all that it gives. */
  readonly version: bigint;
}

/** A series of a block, as it is on one node. */
export interface PeerSeries {
  readonly id: Buffer;
  /** Of its samples: equal for equal data. */
  readonly checksum: Buffer;
  /** Encoded as in filesets; undefined when only checksums were asked for, or it has none any more. */
  readonly columns: SealedInput | undefined;
}

export interface SeriesPage {
  readonly series: readonly PeerSeries[];
  /** Nothing comes behind it. */
  readonly isLast: boolean;
}

/** An answer, to be sent one after the other: files are not copied to get in front of them what says what they are. */
export type AnswerParts = readonly Buffer[];

const BIGINTS = new Set(['startNs', 'endNs', 'blockStartNs', 'version']);
const CHECKSUM_BYTES = 16;

export function encodeRequest(request: PeerRequest): string {
  return toJson(request);
}

/** @throws INVALID_ARGUMENT */
export function decodeRequest(text: string): PeerRequest {
  const wrong = (why: string): VarveError =>
    new VarveError('INVALID_ARGUMENT', `no request of a peer: ${why}`);
  let found: Record<string, unknown>;
  try {
    found = fromJson(text) as Record<string, unknown>;
  } catch {
    throw wrong('it is no JSON');
  }
  if (typeof found !== 'object' || found === null) throw wrong('it is no object');
  const need = (field: string, isRight: (value: unknown) => boolean): void => {
    if (!isRight(found[field])) throw wrong(`its ${field} is not what it should be`);
  };
  const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
  const isBigint = (value: unknown): boolean => typeof value === 'bigint';
  const isId = (value: unknown): boolean => value instanceof Uint8Array;
  need('namespace', (value) => typeof value === 'string');
  if (found['kind'] === 'shards') {
    need('shards', (value) => Array.isArray(value) && value.every(isCount));
    need('placement', (value) => value === undefined || isCount(value));
    need('startNs', isBigint);
    need('endNs', isBigint);
    return found as unknown as PeerRequest;
  }
  need('shard', isCount);
  need('blockStartNs', isBigint);
  switch (found['kind']) {
    case 'file':
      need('file', (value) => value === 'data' || value === 'index');
      need('offset', isCount);
      need('lengthBytes', isCount);
      need('volume', isCount);
      break;
    case 'fileset':
      need('volume', isCount);
      need('inlineBytes', isCount);
      break;
    case 'series':
      need('after', (value) => value === undefined || isId(value));
      need('hasColumns', (value) => typeof value === 'boolean');
      need('maxBytes', isCount);
      break;
    case 'columns':
      need('ids', (value) => Array.isArray(value) && value.every(isId));
      break;
    default:
      throw wrong('its kind is unknown');
  }
  return found as unknown as PeerRequest;
}

export function encodeShards(answer: PeerShards): AnswerParts {
  return sealed(Buffer.from(toJson(answer)));
}

/** @throws PEER_UNAVAILABLE, as all of these */
export function decodeShards(bytes: Uint8Array): PeerShards {
  return read(bytes, (body) => fromJson(body.toString()) as PeerShards);
}

/** An info file and the sums of the others, which follow when they are given. */
export interface DescribedFiles {
  readonly info: Buffer;
  readonly sums: CopiedSums;
  readonly files: Readonly<Record<CopiedKind, Buffer>> | undefined;
}

/** The checksum is of what describes the files: that has the sums of them. */
export function encodeFileset({ info, sums, files }: DescribedFiles): AnswerParts {
  const head = Buffer.from(toJson({ info, sums, hasFiles: files !== undefined }));
  const headBytes = Buffer.alloc(4);
  headBytes.writeUInt32LE(head.length);
  return [headBytes, ...sealed(head), ...(files ? COPIED_KINDS.map((kind) => files[kind]) : [])];
}

/** Files are views, and not checked but for their lengths. */
export function decodeFileset(bytes: Uint8Array): DescribedFiles {
  const all = asBuffer(bytes);
  const headEnd = all.length < 4 ? 0 : 4 + HEAD_BYTES + all.readUInt32LE(0);
  return read(all.subarray(4, Math.max(4, headEnd)), (head) => {
    const { hasFiles, ...described } = fromJson(head.toString()) as {
      readonly info: Buffer;
      readonly sums: CopiedSums;
      readonly hasFiles: boolean;
    };
    const cursor = new ByteCursor(all, headEnd);
    if (!hasFiles) return { ...described, files: undefined };
    const { data, index } = described.sums;
    const files = { data: cursor.bytes(data.sizeBytes), index: cursor.bytes(index.sizeBytes) };
    if (!cursor.atEnd) throw new FormatFault(cursor.at, 'its files are not as long as it said');
    return { ...described, files };
  });
}

export function encodeFile(bytes: Buffer): AnswerParts {
  return sealed(bytes);
}

/** A view. */
export function decodeFile(bytes: Uint8Array): Buffer {
  return read(bytes, (body) => body);
}

/** Puts a page of series together. */
export class SeriesPageWriter {
  #bytes = Buffer.allocUnsafe(64 * 1024);
  #at = HEAD_BYTES + 1;
  readonly #sums = new SeriesSums();
  #count = 0;
  #times = new Map<string, number>();
  /** Of the series before, mostly those of the next. */
  #last: { readonly sharedTimes: object; readonly number: number } | undefined;

  get sizeBytes(): number {
    return this.#at;
  }

  get count(): number {
    return this.#count;
  }

  /** Copies what it is given. */
  add(id: Uint8Array, columns: SealedInput | undefined, hasColumns: boolean): void {
    this.#count++;
    const extra = columns ? columns.times.length + columns.values.length + columns.overwrites.length * 16 : 0;
    this.#room(id.length + CHECKSUM_BYTES + extra + 64);
    this.#varint(id.length);
    this.#put(id);
    this.#at = this.#sums.write(columns, this.#bytes, this.#at);
    if (!columns || !hasColumns) {
      this.#varint(0);
      return;
    }
    this.#varint(1 + columns.count);
    this.#addTimes(columns);
    this.#varint(columns.values.length);
    this.#put(columns.values);
    this.#varint(columns.overwrites.length);
    let before = 0;
    for (const { place, version } of columns.overwrites) {
      this.#varint(place - before);
      this.#at = this.#bytes.writeBigUInt64LE(version, this.#at);
      before = place;
    }
  }

  #addTimes({ times, sharedTimes }: SealedInput): void {
    if (sharedTimes && sharedTimes === this.#last?.sharedTimes) {
      this.#varint(this.#last.number + 1);
      return;
    }
    const { buffer, byteOffset, length } = times;
    const key = Buffer.from(buffer, byteOffset, length).toString('latin1');
    const known = this.#times.get(key);
    const number = known ?? this.#times.size;
    this.#last = sharedTimes && { sharedTimes, number };
    if (known !== undefined) {
      this.#varint(known + 1);
      return;
    }
    this.#times.set(key, number);
    this.#varint(0);
    this.#varint(length);
    this.#put(times);
  }

  finish(isLast: boolean): Buffer {
    this.#bytes[HEAD_BYTES] = isLast ? 1 : 0;
    const bytes = this.#bytes.subarray(0, this.#at);
    bytes.writeUInt32LE(crc32(bytes.subarray(HEAD_BYTES)), 0);
    return bytes;
  }

  #varint(value: number): void {
    this.#at = writeVarint(this.#bytes, value, this.#at);
  }

  #put(bytes: Uint8Array): void {
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  #room(sizeBytes: number): void {
    if (this.#at + sizeBytes <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#at + sizeBytes));
    this.#bytes.copy(grown, 0, 0, this.#at);
    this.#bytes = grown;
  }
}

/** Views. */
export function decodeSeriesPage(bytes: Uint8Array): SeriesPage {
  return read(bytes, (body) => {
    const cursor = new ByteCursor(body);
    const isLast = cursor.uint8() === 1;
    const series: PeerSeries[] = [];
    const times: Uint8Array[] = [];
    while (!cursor.atEnd) {
      const id = Buffer.from(cursor.bytes(cursor.varint()));
      const checksum = Buffer.from(cursor.bytes(CHECKSUM_BYTES));
      const count = cursor.varint() - 1;
      series.push({ id, checksum, columns: count < 0 ? undefined : readColumns(cursor, count, times) });
    }
    return { series, isLast };
  });
}

function readColumns(cursor: ByteCursor, count: number, known: Uint8Array[]): SealedInput {
  const number = cursor.varint();
  if (number === 0) known.push(cursor.bytes(cursor.varint()));
  const times = number === 0 ? known.at(-1) : known[number - 1];
  if (!times) throw new FormatFault(cursor.at, 'there are no such times');
  const values = cursor.bytes(cursor.varint());
  const overwrites: Overwrite[] = [];
  let place = 0;
  for (let left = cursor.varint(); left > 0; left--) {
    place += cursor.varint();
    overwrites.push({ place, version: BigInt.asUintN(64, cursor.int64()) });
  }
  return { count, times, values, overwrites, sharedTimes: times };
}

/** Checksums of encoded columns: encoders give the same bytes for the same samples. */
class SeriesSums {
  /** Of the times of the series before, mostly those of the next. */
  #last: { readonly sharedTimes: object; readonly sum: number } | undefined;

  /** Writes that of one series, 16 bytes; returns where they end. */
  write(columns: SealedInput | undefined, into: Buffer, at: number): number {
    const end = at + CHECKSUM_BYTES;
    if (!columns) {
      into.fill(0, at, end);
      return end;
    }
    const { count, values, overwrites } = columns;
    into.writeUInt32LE(this.#ofTimes(columns), at);
    into.writeUInt32LE(crc32(values), at + 4);
    into.writeUInt32LE(values.length, at + 8);
    const parts = overwrites.flatMap(({ place, version }) => [String(place), String(version)]);
    into.writeUInt32LE(parts.length === 0 ? count : crc32(parts.join()), at + 12);
    return end;
  }

  #ofTimes({ times, sharedTimes }: SealedInput): number {
    if (sharedTimes && sharedTimes === this.#last?.sharedTimes) return this.#last.sum;
    const sum = crc32(times);
    this.#last = sharedTimes && { sharedTimes, sum };
    return sum;
  }
}

const HEAD_BYTES = 4;

function sealed(bytes: Buffer): AnswerParts {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(crc32(bytes), 0);
  return [head, bytes];
}

function asBuffer({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length);
}

function read<T>(bytes: Uint8Array, decode: (body: Buffer) => T): T {
  const all = asBuffer(bytes);
  const body = all.subarray(HEAD_BYTES);
  if (all.length < HEAD_BYTES || crc32(body) !== all.readUInt32LE(0)) {
    throw new VarveError('PEER_UNAVAILABLE', 'the answer of a peer does not match its checksum');
  }
  try {
    return decode(body);
  } catch (error) {
    if (!(error instanceof FormatFault || error instanceof SyntaxError)) throw error;
    throw new VarveError('PEER_UNAVAILABLE', `the answer of a peer cannot be read: ${error.message}`);
  }
}

function toJson(value: unknown): string {
  return JSON.stringify(value, (_, one: unknown) => {
    if (typeof one === 'bigint') return String(one);
    if (one instanceof Uint8Array) return { base64: Buffer.from(one).toString('base64') };
    // What a Buffer makes of itself before it is asked.
    if (isBufferJson(one)) return { base64: Buffer.from(one.data).toString('base64') };
    return one;
  });
}

function isBufferJson(
  value: unknown,
): value is { readonly type: 'Buffer'; readonly data: readonly number[] } {
  return typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer';
}

function fromJson(text: string): unknown {
  return JSON.parse(text, (key, value: unknown) => {
    if (BIGINTS.has(key) && typeof value === 'string') return BigInt(value);
    if (
      typeof value === 'object' &&
      value !== null &&
      'base64' in value &&
      typeof value.base64 === 'string'
    ) {
      return Buffer.from(value.base64, 'base64');
    }
    return value;
  });
}
