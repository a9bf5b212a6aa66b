import { bitWidth, BitWriter, type ByteWriter } from './byte-writer.ts';
import { POSTING_BLOCK } from './segment-layout.ts';
import type { SectionReader } from './section-reader.ts';

/**
 * Writes ascending positions as blocks of up to 128 gaps, each block with its smallest gap and the width of what
 * the others have beyond it. In a sealed segment series stand in the order of their labels: the gaps of a list are
 * mostly zero or much alike.
 */
export function encodePostings(positions: Uint32Array, out: ByteWriter): void {
  const bits = new BitWriter(out);
  const gaps = new Uint32Array(Math.min(POSTING_BLOCK, positions.length));
  let next = 0;
  for (let start = 0; start < positions.length; start += POSTING_BLOCK) {
    const count = Math.min(POSTING_BLOCK, positions.length - start);
    let least = 0xffff_ffff;
    let most = 0;
    for (let i = 0; i < count; i++) {
      const position = positions[start + i] as number;
      const gap = position - next;
      next = position + 1;
      gaps[i] = gap;
      if (gap < least) least = gap;
      if (gap > most) most = gap;
    }
    const width = bitWidth(most - least);
    out.uint8(width);
    out.uvarint(least);
    for (let i = 0; i < count; i++) bits.put((gaps[i] as number) - least, width);
    bits.flush();
  }
}

export interface PostingList {
  /** Where it starts in its section. */
  readonly offset: number;
  readonly count: number;
}

/**
 * Writes the list to `out` from `at` on, and returns where it ended.
 * @throws INDEX_SEGMENT_DAMAGED when it leaves the section, or names a series from `seriesCount` on
 */
export function decodePostings(
  reader: SectionReader,
  list: PostingList,
  seriesCount: number,
  target: { readonly out: Uint32Array; readonly at: number },
): number {
  const { out } = target;
  const stop = target.at + list.count;
  let at = target.at;
  let next = 0;
  reader.seek(list.offset);
  while (at < stop) {
    const blockStop = Math.min(at + POSTING_BLOCK, stop);
    const width = reader.uint8();
    const least = reader.uvarint() + 1;
    const bits = reader.takeBits(blockStop - at, width);
    let position = next - 1;
    if (width === 0) {
      for (; at < blockStop; at++) out[at] = position += least;
    } else {
      const { view } = reader;
      const mask = width === 32 ? -1 : (1 << width) - 1;
      for (let bit = bits; at < blockStop; at++, bit += width) {
        const byte = bit >>> 3;
        const shift = bit & 7;
        let value = view.getUint32(byte, true) >>> shift;
        if (shift + width > 32) value |= view.getUint8(byte + 4) << (32 - shift);
        out[at] = position += ((value & mask) >>> 0) + least;
      }
    }
    next = position + 1;
    if (next > seriesCount)
      throw reader.damaged(list.offset, `postings name series ${position} of ${seriesCount}`);
  }
  return stop;
}
