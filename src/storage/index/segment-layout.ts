import { crc32 } from 'node:zlib';
import { VarveError } from '../../core/errors.ts';

// The numbers of the file format, which docs/formats/index-segment.md draws.

export const HEADER_MAGIC = 'VARVEIDX';
export const FOOTER_MAGIC = 'VARVEEND';
export const VERSION = 1;
export const HEADER_BYTES = 16;

/** In the order in which they stand in the file. */
export const SECTIONS = ['postings', 'values', 'groups', 'names', 'rows', 'refs'] as const;
export type SectionName = (typeof SECTIONS)[number];

const SECTION_ENTRY_BYTES = 12;
const COUNTS_BYTES = 20;
export const FOOTER_BYTES = COUNTS_BYTES + SECTIONS.length * SECTION_ENTRY_BYTES + 4 + FOOTER_MAGIC.length;

/** So many terms share a restart point. */
export const GROUP_TERMS = 16;
/** So many differences share a width. */
export const POSTING_BLOCK = 128;
/** So many rows share an entry of the block table. */
export const ROW_BLOCK = 64;

export interface SectionEntry {
  readonly offset: number;
  readonly sizeBytes: number;
  readonly crc: number;
}

export interface Footer {
  readonly seriesCount: number;
  readonly nameCount: number;
  readonly termCount: number;
  readonly groupCount: number;
  readonly schemaCount: number;
  readonly sections: Readonly<Record<SectionName, SectionEntry>>;
}

export function encodeHeader(): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  Buffer.from(bytes.buffer).write(HEADER_MAGIC, 'latin1');
  view.setUint32(8, VERSION, true);
  view.setUint32(12, crc32(bytes.subarray(0, 12)), true);
  return bytes;
}

export function encodeFooter(footer: Footer): Uint8Array {
  const bytes = new Uint8Array(FOOTER_BYTES);
  const view = new DataView(bytes.buffer);
  const { seriesCount, nameCount, termCount, groupCount, schemaCount } = footer;
  const numbers = [seriesCount, nameCount, termCount, groupCount, schemaCount];
  for (const name of SECTIONS) {
    const { offset, sizeBytes, crc } = footer.sections[name];
    numbers.push(offset, sizeBytes, crc);
  }
  numbers.forEach((value, index) => view.setUint32(4 * index, value, true));
  const crcAt = 4 * numbers.length;
  view.setUint32(crcAt, crc32(bytes.subarray(0, crcAt)), true);
  Buffer.from(bytes.buffer).write(FOOTER_MAGIC, crcAt + 4, 'latin1');
  return bytes;
}

/** Makes errors that say where in which segment. */
export class DamageReporter {
  readonly #label: string;

  /** `label` says which segment it is, mostly a path. */
  constructor(label: string) {
    this.#label = label;
  }

  damaged(offset: number, what: string): VarveError {
    return new VarveError(
      'INDEX_SEGMENT_DAMAGED',
      `index segment ${this.#label} is damaged at byte ${offset}: ${what}`,
      { hint: 'Nothing was read from the damaged part. Build the segment again or fetch it from a peer.' },
    );
  }

  version(found: number): VarveError {
    return new VarveError(
      'STORAGE_FORMAT_UNKNOWN',
      `index segment ${this.#label} has format version ${found}, this program reads ${VERSION}`,
      { hint: 'Use the version of Varve that wrote it, or delete it to have it built again.' },
    );
  }
}

/** @throws INDEX_SEGMENT_DAMAGED, STORAGE_FORMAT_UNKNOWN */
export function checkHeader(bytes: Uint8Array, reporter: DamageReporter): void {
  if (bytes.length < HEADER_BYTES) throw reporter.damaged(bytes.length, 'the file ends within its header');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (Buffer.from(bytes.subarray(0, 8)).toString('latin1') !== HEADER_MAGIC) {
    throw reporter.damaged(0, 'this is no index segment');
  }
  if (crc32(bytes.subarray(0, 12)) !== view.getUint32(12, true)) {
    throw reporter.damaged(8, 'the checksum of the header does not match');
  }
  const version = view.getUint32(8, true);
  if (version !== VERSION) throw reporter.version(version);
}

/**
 * `bytes` are the last `FOOTER_BYTES` of a file of `sizeBytes`.
 * @throws INDEX_SEGMENT_DAMAGED
 */
export function decodeFooter(bytes: Uint8Array, sizeBytes: number, reporter: DamageReporter): Footer {
  const start = sizeBytes - bytes.length;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const crcAt = FOOTER_BYTES - FOOTER_MAGIC.length - 4;
  if (Buffer.from(bytes.subarray(crcAt + 4)).toString('latin1') !== FOOTER_MAGIC) {
    throw reporter.damaged(
      sizeBytes,
      'the file does not end as a segment does; it is cut off or has something behind it',
    );
  }
  if (crc32(bytes.subarray(0, crcAt)) !== view.getUint32(crcAt, true)) {
    throw reporter.damaged(start, 'the checksum of the footer does not match');
  }
  const number = (index: number): number => view.getUint32(4 * index, true);
  let expected = HEADER_BYTES;
  const entries = SECTIONS.map((name, index) => {
    const at = COUNTS_BYTES / 4 + 3 * index;
    const entry = { offset: number(at), sizeBytes: number(at + 1), crc: number(at + 2) };
    if (entry.offset !== expected)
      throw reporter.damaged(start + 4 * at, `section ${name} is not where the one before ends`);
    expected += entry.sizeBytes;
    return [name, entry] as const;
  });
  if (expected !== start) throw reporter.damaged(start, 'the sections do not end where the footer starts');
  const footer: Footer = {
    seriesCount: number(0),
    nameCount: number(1),
    termCount: number(2),
    groupCount: number(3),
    schemaCount: number(4),
    sections: Object.fromEntries(entries) as Record<SectionName, SectionEntry>,
  };
  const { rows, groups } = footer.sections;
  // So that nobody takes memory for what the file has no room for: a block of rows takes five bytes at least.
  const isPossible =
    Math.ceil(footer.seriesCount / ROW_BLOCK) * 5 <= rows.sizeBytes &&
    footer.groupCount * 4 === groups.sizeBytes &&
    footer.termCount <= footer.groupCount * GROUP_TERMS;
  if (!isPossible) throw reporter.damaged(start, 'the counts of the footer do not fit its sections');
  return footer;
}
