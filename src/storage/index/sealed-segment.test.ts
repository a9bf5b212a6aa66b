import fc from 'fast-check';
import { crc32 } from 'node:zlib';
import { expect, test, vi } from 'vitest';
import { VarveError } from '../../core/errors.ts';
import { IndexBlock } from './index-block.ts';
import type { IndexSegment } from './index-segment.ts';
import { encodeLabels, MAX_LABELS } from './labels.ts';
import { MutableSegment } from './mutable-segment.ts';
import { SealedSegment } from './sealed-segment.ts';
import { FOOTER_BYTES, HEADER_BYTES, SECTIONS } from './segment-layout.ts';
import { inMemory, type SegmentSource } from './segment-source.ts';
import { segmentBytes, writeSegment } from './segment-writer.ts';
import { parseSelector } from './selector.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

/** Lists of all kinds: runs, regular and irregular gaps, single ones; two schemas; values in several groups. */
function sample(count: number): MutableSegment {
  const segment = new MutableSegment();
  for (let i = 0; i < count; i++) {
    const labels: [string, string][] = [
      ['__name__', `metric_${i % 3}`],
      ['host', `host-${Math.floor(i / 5)}`],
      ['id', `${(i * 7919) % 1000}`],
    ];
    if (i % 4 === 0) labels.push(['odd', i % 8 === 0 ? 'yes' : 'no']);
    segment.add(1_000 + i, encodeLabels(labels));
  }
  return segment;
}

const open = (bytes: Uint8Array): SealedSegment => SealedSegment.open(inMemory(bytes), 'a.idx');

/** Uses everything that a segment can tell. */
function readAll(segment: IndexSegment): string {
  const lines: string[] = [];
  const row = new Uint32Array(MAX_LABELS);
  for (let position = 0; position < segment.seriesCount; position++) {
    const end = segment.readRow(position, row, 0);
    const terms = [...row.subarray(0, end)].map(
      (term) => `${segment.termName(term)}=${segment.valueText(term)}`,
    );
    lines.push(`${segment.refOf(position)} ${terms.join()}`);
  }
  for (let name = 0; name < segment.nameCount; name++) {
    lines.push(Buffer.from(segment.nameBytes(name)).toString());
    segment.visitValues(name, '', (term, value) => {
      const out = new Uint32Array(segment.postingCount(term));
      segment.readPostings(term, out, 0);
      lines.push(`${value}: ${out.join()}`);
    });
  }
  const block = new IndexBlock([segment]);
  for (const selector of ['metric_1', '{host=~"host-1.*"}', '{id=~".*[05]",odd=""}', '{id="7"}']) {
    lines.push(
      block
        .series({ selectors: [parseSelector(selector)] })
        .refs()
        .join(),
    );
  }
  return lines.join('\n');
}

/** What happens when a damaged segment is opened and read: its text, or the error that it threw. */
function outcome(bytes: Uint8Array): string | VarveError {
  try {
    const segment = open(bytes);
    return readAll(segment);
  } catch (error) {
    if (error instanceof VarveError) return error;
    throw error;
  }
}

function offsetIn(error: VarveError): number {
  const found = /^index segment a\.idx is damaged at byte (\d+): /.exec(error.message);
  expect(found, error.message).not.toBeNull();
  return Number(found?.[1]);
}

/** Of each part of the file: name, first byte, byte behind it. */
function partsOf(bytes: Uint8Array): [string, number, number][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - FOOTER_BYTES, FOOTER_BYTES);
  const sections = SECTIONS.map((name, index): [string, number, number] => {
    const offset = view.getUint32(20 + 12 * index, true);
    return [name, offset, offset + view.getUint32(24 + 12 * index, true)];
  });
  return [['header', 0, HEADER_BYTES], ...sections, ['footer', bytes.length - FOOTER_BYTES, bytes.length]];
}

test('every flipped bit is detected, and the error says in which part of the file it is', () => {
  const bytes = segmentBytes([sample(70)]);
  const intact = readAll(open(bytes));
  const parts = partsOf(bytes);
  expect(parts.reduce((sum, [, start, stop]) => sum + stop - start, 0)).toBe(bytes.length);
  for (let at = 0; at < bytes.length; at++) {
    const damaged = bytes.slice();
    damaged[at] = (damaged[at] ?? 0) ^ (1 << (at % 8));
    const error = outcome(damaged);
    if (typeof error === 'string') throw new Error(`byte ${at} was flipped and not noticed`);
    expect(error.code).toBe('INDEX_SEGMENT_DAMAGED');
    const [, start = 0, stop = 0] = parts.find(([, , end]) => at < end) ?? [];
    const offset = offsetIn(error);
    expect(offset).toBeGreaterThanOrEqual(start);
    expect(offset).toBeLessThanOrEqual(stop);
    if (at >= HEADER_BYTES && at < bytes.length - FOOTER_BYTES)
      expect(() => open(damaged).verify()).toThrow(error.message);
  }
  expect(outcome(bytes)).toBe(intact);
});

test('every truncation and everything behind the end is detected when it is opened', () => {
  const bytes = segmentBytes([sample(40)]);
  for (let sizeBytes = 0; sizeBytes < bytes.length; sizeBytes++) {
    expect(() => open(bytes.subarray(0, sizeBytes))).toThrow(
      expect.objectContaining({ code: 'INDEX_SEGMENT_DAMAGED' }),
    );
  }
  expect(() => open(Buffer.concat([bytes, Buffer.of(0)]))).toThrow(/has something behind it/);
  expect(() => open(Buffer.concat([bytes, bytes]))).toThrow(/do not end where the footer starts/);
});

test('a part that was exchanged for one of another segment is detected', () => {
  const [bytes, other] = [segmentBytes([sample(64)]), segmentBytes([sample(70)])];
  const [, start = 0, stop = 0] = partsOf(bytes).find(([name]) => name === 'refs') ?? [];
  const mixed = bytes.slice();
  mixed.set(other.subarray(other.length - FOOTER_BYTES - (stop - start), other.length - FOOTER_BYTES), start);
  mixed.set(other.subarray(other.length - 8 - 12), bytes.length - 20);
  expect(outcome(mixed)).toMatchObject({ code: 'INDEX_SEGMENT_DAMAGED' });
});

/** As a writer would have to write it who does not know better: all checksums match. */
function withChecksums(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(12, crc32(bytes.subarray(0, 12)), true);
  const footer = bytes.length - FOOTER_BYTES;
  partsOf(bytes)
    .slice(1, -1)
    .forEach(([, start, stop], index) =>
      view.setUint32(footer + 28 + 12 * index, crc32(bytes.subarray(start, stop)), true),
    );
  const crcAt = bytes.length - 12;
  view.setUint32(crcAt, crc32(bytes.subarray(footer, crcAt)), true);
  return bytes;
}

test('what nobody should have written under a right checksum is refused or read, without a crash or a hang', () => {
  const bytes = segmentBytes([sample(70)]);
  const damage = fc.record({
    at: fc.nat(bytes.length - 1),
    byte: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff)),
  });
  fc.assert(
    fc.property(fc.array(damage, { minLength: 1, maxLength: 3 }), (places) => {
      const damaged = bytes.slice();
      for (const { at, byte } of places) damaged[at] = byte;
      // Where the sections lie is taken from the footer, which may be damaged itself.
      try {
        withChecksums(damaged);
      } catch {
        return;
      }
      const result = outcome(damaged);
      if (typeof result === 'string') return;
      expect(['INDEX_SEGMENT_DAMAGED', 'STORAGE_FORMAT_UNKNOWN']).toContain(result.code);
    }),
    { numRuns: 800 },
  );
});

test('another version is named, not taken for damage', () => {
  const bytes = segmentBytes([sample(3)]);
  bytes[8] = 9;
  expect(() => open(withChecksums(bytes))).toThrow(
    expect.objectContaining({
      code: 'STORAGE_FORMAT_UNKNOWN',
      message: 'index segment a.idx has format version 9, this program reads 1',
    }),
  );
});

/** Counts what is read of a segment. */
function counting(bytes: Uint8Array): { source: SegmentSource; read: () => number } {
  let sum = 0;
  const source = inMemory(bytes);
  return {
    source: {
      sizeBytes: bytes.length,
      read: (offset, sizeBytes) => {
        sum += sizeBytes;
        return source.read(offset, sizeBytes);
      },
    },
    read: () => sum,
  };
}

test('opening reads header and footer only, and a section is read once when it is first used', () => {
  const bytes = segmentBytes([sample(500)]);
  const { source, read } = counting(bytes);
  const segment = SealedSegment.open(source, 'a.idx');
  expect(segment.seriesCount).toBe(500);
  expect(read()).toBe(HEADER_BYTES + FOOTER_BYTES);
  segment.findName('host');
  const sizeOf = new Map(partsOf(bytes).map(([name, start, stop]) => [name, stop - start]));
  expect(read()).toBe(HEADER_BYTES + FOOTER_BYTES + (sizeOf.get('names') ?? 0));
  const text = readAll(segment);
  expect(read()).toBe(bytes.length);
  expect(segment.memoryBytes).toBeGreaterThan(bytes.length - HEADER_BYTES - FOOTER_BYTES);
  segment.release();
  expect(segment.memoryBytes).toBeLessThan(2_000);
  expect(readAll(segment)).toBe(text);
  expect(read()).toBe(2 * bytes.length - HEADER_BYTES - FOOTER_BYTES);
});

test('a source that gives less than it has is damage', () => {
  const bytes = segmentBytes([sample(10)]);
  const source = {
    ...inMemory(bytes),
    read: (offset: number, size: number) => bytes.subarray(offset, offset + Math.min(size, 90)),
  };
  expect(() => SealedSegment.open(source, 'a.idx')).toThrow(/ends before its time/);
});

test('the same series give the same bytes, in whatever order and number of segments they came', () => {
  const whole = sample(300);
  const parts = [new MutableSegment(), new MutableSegment(), new MutableSegment()];
  const block = new IndexBlock([whole]);
  const all = block.series({ selectors: [parseSelector('{__name__=~".+"}')] });
  for (let index = all.count - 1; index >= 0; index--)
    parts[index % 3]?.add(all.ref(index), all.labelBytes(index));
  const bytes = segmentBytes([whole]);
  expect(segmentBytes(parts)).toEqual(bytes);
  expect(segmentBytes([open(bytes)])).toEqual(bytes);
  expect(segmentBytes([parts[1] as IndexSegment, open(segmentBytes(parts)), whole])).toEqual(bytes);
});

test('deleted series are left out, with the values that only they had', () => {
  const segment = sample(100);
  const deleted = new Set(Array.from({ length: 90 }, (_, index) => 1_000 + index));
  const rest = open(segmentBytes([segment], { deleted }));
  const wanted = new MutableSegment();
  const all = new IndexBlock([segment]).series({ selectors: [parseSelector('{id=~".+"}')], deleted });
  for (let index = 0; index < all.count; index++) wanted.add(all.ref(index), all.labelBytes(index));
  expect(rest.seriesCount).toBe(10);
  expect(readAll(rest)).toBe(readAll(open(segmentBytes([wanted]))));
  expect(segmentBytes([open(segmentBytes([segment]))], { deleted })).toEqual(segmentBytes([wanted]));
});

test('the file comes in chunks, so that a large one is never in memory as a whole', () => {
  const segment = new MutableSegment();
  for (let i = 0; i < 30_000; i++) {
    const scattered = (i * 40_503) % 65_536;
    segment.add(
      i,
      encodeLabels([
        ['a', `${scattered % 97}`],
        ['b', `${scattered % 101}`],
        ['c', `${i % 7}`],
      ]),
    );
  }
  const sizes = [...writeSegment([segment])].map((chunk) => chunk.length);
  expect(sizes.length).toBeGreaterThan(7);
});
