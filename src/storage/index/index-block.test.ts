import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { IndexBlock } from './index-block.ts';
import type { IndexSegment } from './index-segment.ts';
import { decodeLabels, encodeLabels, sortTexts } from './labels.ts';
import { labelMatcher, type LabelMatcher } from './matcher.ts';
import { MutableSegment } from './mutable-segment.ts';
import { SealedSegment } from './sealed-segment.ts';
import { segmentBytes } from './segment-writer.ts';
import { inMemory } from './segment-source.ts';
import { parseSelector } from './selector.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

type Labels = Readonly<Record<string, string>>;

const bytesOf = (labels: Labels): Uint8Array => encodeLabels(Object.entries(labels));

function mutable(series: ReadonlyMap<number, Labels>): MutableSegment {
  const segment = new MutableSegment();
  for (const [ref, labels] of series) segment.add(ref, bytesOf(labels));
  return segment;
}

function sealed(segment: IndexSegment): SealedSegment {
  return SealedSegment.open(inMemory(segmentBytes([segment])), 'test');
}

/** Labels as one text whose order is theirs. */
const orderKey = (labels: Labels): Buffer =>
  Buffer.concat(
    decodeLabels(bytesOf(labels)).flatMap((pair) =>
      pair.map((text) =>
        Buffer.concat([Buffer.from(Buffer.from(text).map((byte) => byte + 1)), Buffer.of(0)]),
      ),
    ),
  );

const value = fc.constantFrom('a', 'b', 'ab', 'é', '😀', '\uffee', 'x1', 'x2');
const labels: fc.Arbitrary<Labels> = fc.dictionary(fc.constantFrom('a', 'b', 'job', '__name__'), value, {
  minKeys: 1,
  noNullPrototype: true,
});
/** Series with refs, and for each in which of three segments it is. */
const content = fc.uniqueArray(fc.tuple(labels, fc.integer({ min: 1, max: 7 })), {
  maxLength: 40,
  selector: ([one]) => Buffer.from(bytesOf(one)).toString('latin1'),
});

test('several segments answer as one that has each series once', () => {
  const selector = fc
    .array(
      fc
        .tuple(
          fc.constantFrom('a', 'b', 'job', 'none'),
          fc.constantFrom('=', '!=', '=~', '!~'),
          fc.constantFrom('a', 'ab', '', 'x.', '.+'),
        )
        .map(([name, operator, text]) => labelMatcher(name, operator as '=', text)),
      { minLength: 1, maxLength: 3 },
    )
    .filter((some) => some.some(({ matchesEmpty }) => !matchesEmpty));
  const selectors = fc.option(fc.array(selector, { minLength: 1, maxLength: 2 }), { nil: undefined });
  const kinds = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean());
  fc.assert(
    fc.property(
      content,
      selectors,
      fc.uniqueArray(fc.nat(39)),
      kinds,
      (series, some, deletedRefs, isSealed) => {
        const segments = isSealed.map((seals, which) => {
          const own = series.flatMap(([one, where], ref) =>
            (where >> which) & 1 ? [[ref, one] as const] : [],
          );
          const segment = mutable(new Map(own));
          return seals ? sealed(segment) : segment;
        });
        const block = new IndexBlock(segments);
        const deleted = new Set(deletedRefs);
        const accepted = (one: Labels): boolean =>
          some === undefined ||
          some.some((all) => all.every((each: LabelMatcher) => each.matches(one[each.name] ?? '')));
        const wanted = series.flatMap(([one], ref) =>
          accepted(one) && !deleted.has(ref) ? [[ref, one] as const] : [],
        );
        const filter = { selectors: some, deleted };

        if (some !== undefined) {
          const found = block.series({ selectors: some, deleted });
          expect([...found.refs()].sort((a, b) => a - b)).toEqual(wanted.map(([ref]) => ref));
          const ordered = block.series({ selectors: some, deleted, ordered: true });
          const byLabels = [...wanted].sort(([, x], [, y]) => Buffer.compare(orderKey(x), orderKey(y)));
          expect([...ordered.refs()]).toEqual(byLabels.map(([ref]) => ref));
          byLabels.forEach(([, one], index) => {
            expect(Buffer.from(ordered.labelBytes(index))).toEqual(Buffer.from(bytesOf(one)));
            expect(ordered.labels(index)).toEqual(decodeLabels(bytesOf(one)));
          });
        }
        const valuesOf = (name: string): string[] =>
          sortTexts([...new Set(wanted.flatMap(([, one]) => one[name] ?? []))]);
        const names = sortTexts([...new Set(wanted.flatMap(([, one]) => Object.keys(one)))]);
        expect(block.seriesCount(filter)).toBe(wanted.length);
        expect(block.labelNames(filter)).toEqual(names);
        for (const name of ['a', 'b', 'job', 'none'])
          expect(block.labelValues(name, filter)).toEqual(valuesOf(name));
        const cardinality = block.cardinality(filter);
        expect(cardinality.map(({ name }) => name).sort()).toEqual([...names].sort());
        for (const { name, valueCount, seriesCount } of cardinality) {
          expect(valueCount).toBe(valuesOf(name).length);
          expect(seriesCount).toBe(wanted.filter(([, one]) => name in one).length);
        }
      },
    ),
    { numRuns: 150 },
  );
});

test('of a series in several segments the first has the say', () => {
  const one = { a: 'x' };
  const block = new IndexBlock([mutable(new Map([[1, one]])), sealed(mutable(new Map([[2, one]])))]);
  expect([...block.series({ selectors: [parseSelector('{a="x"}')] }).refs()]).toEqual([1]);
  expect(block.seriesCount()).toBe(1);
});

test('a series that was deleted and comes again under a new ref is found', () => {
  const one = { a: 'x' };
  const block = new IndexBlock([mutable(new Map([[9, one]])), sealed(mutable(new Map([[2, one]])))]);
  const found = block.series({ selectors: [parseSelector('{a="x"}')], deleted: new Set([2]) });
  expect([...found.refs()]).toEqual([9]);
});

test('a block without segments has nothing', () => {
  const block = new IndexBlock([]);
  expect(block.series({ selectors: [parseSelector('up')], ordered: true }).count).toBe(0);
  expect(block.labelNames()).toEqual([]);
  expect(block.labelValues('a')).toEqual([]);
  expect(block.seriesCount()).toBe(0);
  expect(block.cardinality()).toEqual([]);
  expect(block.memoryBytes).toBe(0);
});

test('a selector that requires no label is refused', () => {
  const block = new IndexBlock([mutable(new Map([[1, { a: 'x' }]]))]);
  expect(() => block.series({ selectors: [[labelMatcher('a', '=~', '.*')]] })).toThrow(
    expect.objectContaining({ code: 'SELECTOR_INVALID' }),
  );
});
