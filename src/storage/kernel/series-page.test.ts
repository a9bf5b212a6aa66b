import fc from 'fast-check';
import { expect, test } from 'vitest';
import { damage, damaged, valueColumn } from './columns.suite.ts';
import { KernelHarness } from './kernel-harness.suite.ts';
import { decodeSeriesPage } from './series-page.ts';
import { encodeValues } from './value-column.ts';

const kernel = new KernelHarness();

/** A series as a fileset has it: mostly of the common kind, with its times at some place of the dictionary. */
const series = fc.record({
  values: valueColumn,
  number: fc.oneof(fc.nat(5), fc.integer({ min: 120, max: 140 }), fc.constant(20_000)),
  flags: fc.constantFrom(1, 1, 1, 1, 0, 2, 3),
  how: fc.option(damage, { freq: 6 }),
});

interface Made {
  readonly payloads: Uint8Array[];
  readonly counts: Uint32Array;
  readonly samples: number;
}

const page = fc.array(series, { minLength: 1, maxLength: 12 }).map((all): Made => {
  const counts = new Uint32Array(256);
  let samples = 0;
  const payloads = all.map(({ values, number, flags, how }) => {
    if (number < counts.length) counts[number] = values.length;
    samples += values.length;
    const head = number < 128 ? [flags, number] : [flags, (number & 127) | 128, number >> 7];
    const payload = Uint8Array.from([...head, ...encodeValues(values)]);
    return how === null ? payload : damaged(payload, how);
  });
  return { payloads, counts, samples };
});

test('a page of series is decoded as its plain counterpart does it, and as much of it', () => {
  fc.assert(
    fc.property(page, fc.nat(110), ({ payloads, counts, samples }, percent) => {
      const capacity = Math.floor((samples * percent) / 100);
      const expected = decodeSeriesPage(payloads, counts, capacity);
      expect(kernel.decodeSeriesPage(payloads, counts, capacity)).toEqual(expected);
    }),
    { numRuns: 300 },
  );
});

test('what is intact and of the common kind is decoded, and nothing else', () => {
  const values = BigUint64Array.of(1n, 2n, 3n);
  const payload = (...head: number[]): Uint8Array => Uint8Array.from([...head, ...encodeValues(values)]);
  const counts = Uint32Array.of(3, 300);
  const payloads = [payload(1, 0), payload(1, 1), payload(0, 0), payload(1, 2), payload(1, 0)];
  for (const decode of [decodeSeriesPage, kernel.decodeSeriesPage.bind(kernel)]) {
    const found = decode(payloads, counts, 1000);
    expect(found).toEqual([{ number: 0, values }, undefined, undefined, undefined, { number: 0, values }]);
  }
});
