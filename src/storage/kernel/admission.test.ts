import fc from 'fast-check';
import { expect, test } from 'vitest';
import { admitSamples, leaveOutRows } from './admission.ts';
import { ENTRY } from './kernel.ts';
import { KernelHarness } from './kernel-harness.suite.ts';

const UNRESOLVED = -(2 ** 31);
const NO_SAMPLES = -18;
const harness = new KernelHarness();
const { calls } = harness.kernel;

test('kernel and plain counterpart let the same samples pass, in their series', () => {
  const times = fc.array(fc.bigInt({ min: -50n, max: 50n }), { maxLength: 6 });
  const bound = fc.bigInt({ min: -60n, max: 60n });
  fc.assert(
    fc.property(fc.array(fc.record({ times, known: fc.boolean() })), bound, bound, (series, one, other) => {
      const [from, to] = one < other ? [one, other] : [other, one];
      const all = series.flatMap((entry) => entry.times);
      let first = 0;
      const numbers = series.flatMap((entry) => {
        const numbersOfEntry = [0, 0, first, entry.times.length];
        first += entry.times.length;
        return numbersOfEntry;
      });
      const entries = harness.put(0, Uint32Array.from(numbers));
      const references = harness.put(
        1,
        Int32Array.from(series, ({ known }, i) => (known ? i : UNRESOLVED)),
      );
      const timesAt = harness.put(2, BigInt64Array.from(all));
      const places = harness.put(
        3,
        BigUint64Array.from(all, (_, i) => BigInt(i)),
      );
      const count = calls.admitSamples(
        entries,
        series.length,
        references,
        timesAt,
        places,
        all.length,
        from,
        to,
      );
      const expected = admitSamples(series, from, to);

      const kept = Array.from(new BigUint64Array(harness.take(places, count * 8).buffer), Number);
      expect(kept).toEqual(expected.kept.flat());
      const keptTimes = kept.map((place) => all[place] ?? 0n);
      expect([...new BigInt64Array(harness.take(timesAt, count * 8).buffer)]).toEqual(keptTimes);
      const found = new Uint32Array(harness.take(entries, series.length * 4 * ENTRY.length).buffer);
      const found2 = new Int32Array(harness.take(references, series.length * 4).buffer);
      for (const [i, { known }] of series.entries()) {
        const own = expected.kept[i]?.length ?? 0;
        expect(found[i * ENTRY.length + ENTRY.samples]).toBe(own);
        expect(found2[i]).toBe(known ? i : own === 0 ? NO_SAMPLES : UNRESOLVED);
      }
      if (count < all.length) {
        expect([calls.refusedOld(), calls.refusedNew()]).toEqual([expected.tooOld, expected.tooNew]);
        if (expected.tooOld > 0) {
          expect(series[calls.refusedOldEntry()]?.times).toContain(calls.refusedOldTime());
        }
        if (expected.tooNew > 0) {
          expect(series[calls.refusedNewEntry()]?.times).toContain(calls.refusedNewTime());
        }
      }
      if (count > 0) {
        const sorted = keptTimes.sort((a, b) => (a < b ? -1 : 1));
        expect([calls.admittedLeast(), calls.admittedMost()]).toEqual([sorted[0], sorted.at(-1)]);
      }
    }),
    { numRuns: 300 },
  );
});

test('kernel and plain counterpart leave the same rows out', () => {
  const row = fc.record({
    reference: fc.integer({ min: -1, max: 3 }),
    time: fc.bigInt({ min: -20n, max: 20n }),
    value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  });
  const bound = fc.bigInt({ min: -25n, max: 25n });
  fc.assert(
    fc.property(fc.array(row, { maxLength: 40 }), bound, bound, (rows, from, to) => {
      const [references, times, values] = [
        harness.put(
          0,
          Int32Array.from(rows, ({ reference }) => reference),
        ),
        harness.put(
          1,
          BigInt64Array.from(rows, ({ time }) => time),
        ),
        harness.put(
          2,
          BigUint64Array.from(rows, ({ value }) => value),
        ),
      ];
      const count = calls.leaveOutRows(references, times, values, rows.length, from, to);
      const left = [
        [...new Int32Array(harness.take(references, count * 4).buffer)],
        [...new BigInt64Array(harness.take(times, count * 8).buffer)],
        [...new BigUint64Array(harness.take(values, count * 8).buffer)],
      ];
      const expected = leaveOutRows(rows, from, to);
      expect(left).toEqual([
        expected.map(({ reference }) => reference),
        expected.map(({ time }) => time),
        expected.map(({ value }) => value),
      ]);
    }),
    { numRuns: 200 },
  );
});
