import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { checkLabels, encodeLabels, MAX_LABELS } from './labels.ts';
import { MutableSegment } from './mutable-segment.ts';
import { segmentBytes } from './segment-writer.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const sizesOf = (segment: MutableSegment): number[] => [
  segment.seriesCount,
  segment.nameCount,
  segment.termCount,
  ...Array.from({ length: segment.nameCount }, (_, name) => segment.seriesWith(name)),
  ...Array.from({ length: segment.nameCount }, (_, name) => segment.valueCount(name)),
  ...Array.from({ length: segment.termCount }, (_, term) => segment.postingCount(term)),
];

test('a series is added once, by its ref', () => {
  const segment = new MutableSegment();
  const [one, other] = [encodeLabels([['a', 'x']]), encodeLabels([['a', 'y']])];
  expect(segment.has(7)).toBe(false);
  expect(segment.add(7, one)).toBe(true);
  expect(segment.add(7, one)).toBe(false);
  expect(segment.add(0xffff_ffff, other)).toBe(true);
  expect(segment.add(0, Buffer.concat([Buffer.from('..'), one, other]), 2 + one.length)).toBe(true);
  expect([7, 0xffff_ffff, 0, 8].map((ref) => segment.positionOf(ref))).toEqual([0, 1, 2, -1]);
  expect(segment.seriesCount).toBe(3);
  expect(segment.termCount).toBe(2);
});

test.each([-1, 0.5, 2 ** 32, Number.NaN])('%d is no ref', (ref) => {
  expect(() => new MutableSegment().add(ref, encodeLabels([['a', 'x']]))).toThrow(/unsigned 32-bit/);
});

test('labels that are not canonical are refused, and nothing of them is kept', () => {
  const text = fc.constantFrom('a', 'b', 'ab', 'é', 'x'.repeat(130));
  const labels = fc.dictionary(text, text, { minKeys: 1, maxKeys: 4, noNullPrototype: true });
  const damage = fc.option(
    fc.tuple(fc.nat(), fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x0a, 0x12)), fc.boolean()),
    {
      nil: undefined,
      freq: 1,
    },
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(labels, damage), { maxLength: 30 }), (series) => {
      const segment = new MutableSegment();
      const wanted = new MutableSegment();
      series.forEach(([one, some], ref) => {
        let bytes = encodeLabels(Object.entries(one));
        if (some) {
          const at = some[0] % bytes.length;
          if (some[2]) bytes = bytes.slice(0, at);
          else bytes[at] = some[1];
        }
        let isCanonical = true;
        try {
          checkLabels(bytes, 0, bytes.length);
        } catch {
          isCanonical = false;
        }
        const before = sizesOf(segment);
        if (isCanonical) {
          expect(segment.add(ref, bytes)).toBe(true);
          wanted.add(ref, bytes);
        } else {
          expect(() => segment.add(ref, bytes)).toThrow(expect.objectContaining({ code: 'SERIES_INVALID' }));
          expect(sizesOf(segment)).toEqual(before);
          expect(segment.has(ref)).toBe(false);
        }
      });
      expect(sizesOf(segment)).toEqual(sizesOf(wanted));
      expect(segmentBytes([segment])).toEqual(segmentBytes([wanted]));
    }),
    { numRuns: 200 },
  );
});

test('one label too many is refused also when all names are those of the series before', () => {
  const segment = new MutableSegment();
  const names = Array.from({ length: MAX_LABELS }, (_, index) => `l${String(index).padStart(3, '0')}`);
  const full = encodeLabels(names.map((name) => [name, 'x']));
  segment.add(1, full);
  expect(() => segment.add(2, Buffer.concat([full, encodeLabels([['m', 'x']])]))).toThrow(
    /there are 257 labels/,
  );
  expect(segment.add(3, full)).toBe(true);
});

test('long values and long lists are kept across pages', () => {
  const segment = new MutableSegment();
  const value = (index: number): string => `${index}-${'v'.repeat((index * 977) % 30_000)}`;
  for (let index = 0; index < 60; index++) segment.add(index, encodeLabels([['long', value(index)]]));
  for (let index = 60; index < 40_000; index++)
    segment.add(
      index,
      encodeLabels([
        ['all', 'x'],
        ['some', `${index % 300}`],
      ]),
    );
  for (let index = 0; index < 60; index++) {
    expect(segment.valueText(segment.findTerm(segment.findName('long'), value(index)))).toBe(value(index));
  }
  const all = segment.findTerm(segment.findName('all'), 'x');
  const out = new Uint32Array(segment.postingCount(all));
  expect(segment.readPostings(all, out, 0)).toBe(39_940);
  expect(out.every((position, index) => position === index + 60)).toBe(true);
});

test('an empty segment is small, and memory is told as it grows', () => {
  const segment = new MutableSegment();
  expect(segment.memoryBytes).toBeLessThan(4_096);
  for (let index = 0; index < 10_000; index++) {
    segment.add(
      index,
      encodeLabels([
        ['a', `${index % 10}`],
        ['b', `${index}`],
      ]),
    );
  }
  expect(segment.memoryBytes).toBeGreaterThan(10_000 * 30);
  expect(segment.memoryBytes).toBeLessThan(10_000 * 130);
});

test('a segment that is made again of its fields is the same, and goes on in the same way', () => {
  const value = fc.oneof(
    fc.string({ minLength: 1, maxLength: 3 }),
    fc.constantFrom('x'.repeat(2000), 'y'.repeat(900)),
  );
  const labels = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd'), value, {
    minKeys: 1,
    noNullPrototype: true,
  });
  fc.assert(
    fc.property(fc.array(labels, { maxLength: 40 }), fc.nat(40), (series, first) => {
      const whole = new MutableSegment();
      let other = new MutableSegment();
      for (const [ref, one] of series.entries()) {
        const bytes = encodeLabels(Object.entries(one));
        whole.add(ref, bytes);
        if (ref === first) other = copyOf(other);
        other.add(ref, bytes);
      }
      other = copyOf(other);
      expect(sizesOf(other)).toEqual(sizesOf(whole));
      expect(segmentBytes([other])).toEqual(segmentBytes([whole]));
      expect(series.map((_, ref) => other.positionOf(ref))).toEqual(series.map((_, ref) => ref));
    }),
    { numRuns: 100 },
  );
});

test('many series, whose lists have several pages, are the same again', () => {
  const whole = new MutableSegment();
  const add = (segment: MutableSegment, from: number, to: number): void => {
    for (let ref = from; ref < to; ref++) {
      segment.add(
        ref,
        encodeLabels([
          ['a', `value ${ref % 1000}`],
          ['b', `other ${ref % 7}`],
          ['c', String(ref)],
        ]),
      );
    }
  };
  add(whole, 0, 40_000);
  let other = new MutableSegment();
  add(other, 0, 33_333);
  other = copyOf(other);
  add(other, 33_333, 40_000);
  expect(segmentBytes([other])).toEqual(segmentBytes([whole]));
});

function copyOf(segment: MutableSegment): MutableSegment {
  return MutableSegment.from(segment.fields().map((pieces) => Buffer.concat(pieces)));
}
