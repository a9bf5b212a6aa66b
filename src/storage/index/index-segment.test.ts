import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import type { IndexSegment } from './index-segment.ts';
import { decodeLabels, encodeLabels, sortTexts, type LabelPair } from './labels.ts';
import { labelMatcher, type LabelMatcher, type MatchOperator } from './matcher.ts';
import { MutableSegment } from './mutable-segment.ts';
import { SealedSegment } from './sealed-segment.ts';
import { search } from './search.ts';
import { segmentBytes } from './segment-writer.ts';
import { inMemory } from './segment-source.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

type Labels = Readonly<Record<string, string>>;

function mutable(series: readonly Labels[], refs = series.map((_, index) => index * 3 + 7)): MutableSegment {
  const segment = new MutableSegment();
  series.forEach((labels, index) => segment.add(refs[index] ?? 0, encodeLabels(Object.entries(labels))));
  return segment;
}

const sealed = (sources: readonly IndexSegment[]): SealedSegment =>
  SealedSegment.open(inMemory(segmentBytes(sources)), 'test');

/** The same series in every kind of segment. */
const KINDS: readonly (readonly [string, (series: readonly Labels[]) => IndexSegment])[] = [
  ['in memory', (series) => mutable(series)],
  ['sealed', (series) => sealed([mutable(series)])],
  ['sealed from a sealed one', (series) => sealed([sealed([mutable(series)])])],
  [
    'merged from three, with the first series in all',
    (series) => {
      const refs = series.map((_, index) => index * 3 + 7);
      const part = (which: number): MutableSegment => {
        const own = refs.map((_, index) => index).filter((index) => index === 0 || index % 3 === which);
        return mutable(
          own.map((index) => series[index] ?? {}),
          own.map((index) => refs[index] ?? 0),
        );
      };
      return sealed([sealed([part(0)]), part(1), sealed([part(2)])]);
    },
  ],
];

/** Names and values that meet: prefixes of each other, order by bytes unlike order by UTF-16, rare and common ones. */
const name = fc.constantFrom('__name__', 'a', 'ab', 'job', 'Ünï', '\uffee', '😀', 'z z"');
const value = fc.oneof(
  fc.constantFrom('a', 'b', 'ab', 'abc', 'web-1', 'web-2', '\uffee', '😀', '😀x', '\n', '0', 'a\u0000'),
  fc.integer({ min: 0, max: 60 }).map((number) => `v${number}`),
);
const labels: fc.Arbitrary<Labels> = fc.dictionary(name, value, {
  minKeys: 1,
  maxKeys: 6,
  noNullPrototype: true,
});
const seriesList = fc.uniqueArray(labels, {
  maxLength: 150,
  selector: (one) => Buffer.from(encodeLabels(Object.entries(one))).toString('latin1'),
});
const matcher = fc
  .record({
    name: fc.oneof(name, fc.constantFrom('absent')),
    operator: fc.constantFrom<MatchOperator>('=', '!=', '=~', '!~'),
    value: fc.oneof(
      value.filter((text) => text !== 'a\u0000'),
      fc.constantFrom(
        '',
        '.*',
        '.+',
        'v.*',
        'v1.+',
        'v[0-3]+',
        'a|b',
        'a|',
        'v(1|2)',
        '(?i)A',
        'web-.*',
        '.*1',
        '[^a]',
        '😀.*',
      ),
    ),
  })
  .map(({ name, operator, value }) => labelMatcher(name, operator, value));
const matchers = fc
  .array(matcher, { minLength: 1, maxLength: 4 })
  .filter((some) => some.some(({ matchesEmpty }) => !matchesEmpty));

function accepts(some: readonly LabelMatcher[], of: Labels): boolean {
  return some.every((one) => one.matches(of[one.name] ?? ''));
}

describe.each(KINDS)('a segment %s', (_, build) => {
  test('finds exactly the series that all matchers accept', () => {
    fc.assert(
      fc.property(seriesList, fc.array(matchers, { minLength: 8, maxLength: 8 }), (series, queries) => {
        const segment = build(series);
        for (const query of queries) {
          const found = search(segment, query);
          expect(
            [...found].every((position, index) => index === 0 || position > (found[index - 1] ?? 0)),
          ).toBe(true);
          const refs = [...found].map((position) => segment.refOf(position)).sort((a, b) => a - b);
          const wanted = series.flatMap((one, index) => (accepts(query, one) ? [index * 3 + 7] : []));
          expect(refs).toEqual(wanted);
        }
      }),
      { numRuns: 30 },
    );
  });

  test('knows names, values, postings and labels', () => {
    fc.assert(
      fc.property(seriesList, (series) => {
        const segment = build(series);
        const distinct = (texts: readonly string[]): string[] => sortTexts([...new Set(texts)]);
        expect(segment.seriesCount).toBe(series.length);
        const names = Array.from({ length: segment.nameCount }, (_, i) =>
          Buffer.from(segment.nameBytes(i)).toString(),
        );
        expect(sortTexts([...names])).toEqual(distinct(series.flatMap((one) => Object.keys(one))));
        let terms = 0;
        for (const one of names) {
          const number = segment.findName(one);
          const seen: string[] = [];
          segment.visitValues(number, '', (term, text) => {
            seen.push(text);
            expect(segment.findTerm(number, text)).toBe(term);
            expect(segment.valueText(term)).toBe(text);
            expect(Buffer.from(segment.valueBytes(term)).toString()).toBe(text);
            expect(segment.termName(term)).toBe(number);
            const out = new Uint32Array(segment.postingCount(term) + 2);
            expect(segment.readPostings(term, out, 1)).toBe(out.length - 1);
            for (const position of out.subarray(1, -1)) expect(segment.termIn(position, number)).toBe(term);
            expect(segment.postingCount(term)).toBe(series.filter((other) => other[one] === text).length);
          });
          expect(sortTexts(seen)).toEqual(distinct(series.flatMap((other) => other[one] ?? [])));
          expect(segment.valueCount(number)).toBe(seen.length);
          expect(segment.seriesWith(number)).toBe(series.filter((other) => one in other).length);
          terms += seen.length;
          for (const prefix of ['v', 'v1', 'ab', '😀', 'zzz', '\u0001']) {
            const some: string[] = [];
            segment.visitValues(number, prefix, (_, text) => some.push(text));
            expect(sortTexts(some)).toEqual(seen.filter((text) => text.startsWith(prefix)));
          }
          expect(segment.findTerm(number, 'not there')).toBe(-1);
        }
        expect(segment.termCount).toBe(terms);
        expect(segment.findName('not there')).toBe(-1);
        const rows = new Map(series.map((one, index) => [index * 3 + 7, one]));
        const buffer = new Uint32Array(20);
        for (let position = 0; position < segment.seriesCount; position++) {
          const end = segment.readRow(position, buffer, 2);
          const pairs = [...buffer.subarray(2, end)].map((term): LabelPair => [
            Buffer.from(segment.nameBytes(segment.termName(term))).toString(),
            segment.valueText(term),
          ]);
          expect(pairs).toEqual(
            decodeLabels(encodeLabels(Object.entries(rows.get(segment.refOf(position)) ?? {}))),
          );
        }
        expect(segment.memoryBytes).toBeGreaterThan(0);
      }),
      { numRuns: 20 },
    );
  });

  test('finds its series when there are thousands', () => {
    const series = Array.from({ length: 3_000 }, (_, i) => ({
      __name__: `metric_${i % 7}`,
      instance: `host-${Math.floor(i / 7)}`,
      one: 'x',
      ...(i % 5 === 0 ? { rare: `r${i}` } : {}),
    }));
    const segment = build(series);
    const queries: [LabelMatcher[], (one: (typeof series)[number], index: number) => boolean][] = [
      [[labelMatcher('one', '=', 'x')], () => true],
      [[labelMatcher('one', '=', 'x'), labelMatcher('__name__', '=', 'metric_3')], (_, i) => i % 7 === 3],
      [[labelMatcher('instance', '=~', 'host-1.*')], (one) => one.instance.startsWith('host-1')],
      [
        [labelMatcher('instance', '=~', 'host-.*7'), labelMatcher('rare', '=', '')],
        (one, i) => one.instance.endsWith('7') && i % 5 > 0,
      ],
      [[labelMatcher('one', '=', 'x'), labelMatcher('rare', '=~', 'r.+')], (_, i) => i % 5 === 0],
      [[labelMatcher('rare', '=', 'r2995'), labelMatcher('one', '!~', 'y.*')], (_, i) => i === 2995],
      [[labelMatcher('one', '=', 'x'), labelMatcher('instance', '!=', 'host-0')], (_, i) => i >= 7],
      [
        [labelMatcher('__name__', '=~', 'metric_(1|2)'), labelMatcher('one', '=~', 'x|y')],
        (_, i) => i % 7 === 1 || i % 7 === 2,
      ],
    ];
    for (const [query, wanted] of queries) {
      const refs = [...search(segment, query)]
        .map((position) => segment.refOf(position))
        .sort((a, b) => a - b);
      expect(refs).toEqual(series.flatMap((one, index) => (wanted(one, index) ? [index * 3 + 7] : [])));
    }
  });

  test('without series finds nothing', () => {
    const segment = build([]);
    expect(segment.seriesCount).toBe(0);
    expect(search(segment, [labelMatcher('a', '=', 'b')])).toHaveLength(0);
    expect(search(segment, [labelMatcher('a', '=~', '.+'), labelMatcher('b', '!=', 'c')])).toHaveLength(0);
  });

  test('refuses a selector that requires no label', () => {
    expect(() => search(build([{ a: 'b' }]), [labelMatcher('a', '!=', 'x')])).toThrow(
      /has no matcher that requires/,
    );
  });
});
