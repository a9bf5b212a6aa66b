import { crc32 } from 'node:zlib';
import { SectionReader } from './section-reader.ts';
import {
  checkHeader,
  DamageReporter,
  decodeFooter,
  FOOTER_BYTES,
  HEADER_BYTES,
  SECTIONS,
  type Footer,
  type SectionName,
} from './segment-layout.ts';
import type { SegmentSource } from './segment-source.ts';

/** The sections of a sealed segment: each is read and checked when it is first used. */
export class SealedSections {
  readonly footer: Footer;
  readonly #source: SegmentSource;
  readonly #reporter: DamageReporter;
  readonly #loaded = new Map<SectionName, SectionReader>();

  /** Reads header and footer. @throws INDEX_SEGMENT_DAMAGED, STORAGE_FORMAT_UNKNOWN */
  constructor(source: SegmentSource, label: string) {
    this.#source = source;
    this.#reporter = new DamageReporter(label);
    const { sizeBytes } = source;
    checkHeader(source.read(0, Math.min(HEADER_BYTES, sizeBytes)), this.#reporter);
    if (sizeBytes < HEADER_BYTES + FOOTER_BYTES) {
      throw this.#reporter.damaged(sizeBytes, 'the file ends before its footer');
    }
    const footer = this.#read(sizeBytes - FOOTER_BYTES, FOOTER_BYTES);
    this.footer = decodeFooter(footer, sizeBytes, this.#reporter);
  }

  get loadedBytes(): number {
    let sum = 0;
    for (const reader of this.#loaded.values()) sum += reader.length;
    return sum;
  }

  /** @throws INDEX_SEGMENT_DAMAGED when the checksum does not match */
  section(name: SectionName): SectionReader {
    const known = this.#loaded.get(name);
    if (known) return known;
    const { offset, sizeBytes, crc } = this.footer.sections[name];
    const bytes = this.#read(offset, sizeBytes);
    if (crc32(bytes) !== crc) {
      throw this.#reporter.damaged(
        offset,
        `the checksum of section ${name} (bytes ${offset} to ${offset + sizeBytes}) does not match`,
      );
    }
    const reader = new SectionReader(bytes, offset, this.#reporter);
    this.#loaded.set(name, reader);
    return reader;
  }

  /** Reads and checks all sections. @throws INDEX_SEGMENT_DAMAGED */
  verify(): void {
    for (const name of SECTIONS) this.section(name);
  }

  /** Forgets what was loaded. */
  release(): void {
    this.#loaded.clear();
  }

  #read(offset: number, sizeBytes: number): Uint8Array {
    const bytes = this.#source.read(offset, sizeBytes);
    if (bytes.length === sizeBytes) return bytes;
    throw this.#reporter.damaged(offset + bytes.length, 'the file ends before its time');
  }
}
