import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sortBySequence } from './sequence-sort.ts';

function sorted(sequences: readonly (readonly number[])[]): (readonly number[])[] {
  const items = Uint32Array.from(sequences.keys());
  sortBySequence(items, (item, depth) => sequences[item]?.[depth] ?? -1);
  expect(items.toSorted()).toEqual(Uint32Array.from(sequences.keys()));
  return [...items].map((item) => sequences[item] ?? []);
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return (a[i] ?? 0) - (b[i] ?? 0);
  return a.length - b.length;
}

test('sequences are sorted element by element, a beginning before what it begins', () => {
  const sequence = fc.array(fc.oneof(fc.nat(3), fc.nat(0xffff_ffff)), { maxLength: 5 });
  fc.assert(
    fc.property(fc.array(sequence, { maxLength: 120 }), (sequences) => {
      expect(sorted(sequences)).toEqual(sequences.toSorted(compare));
    }),
    { numRuns: 200 },
  );
});

test.each([
  ['ascending', (i: number) => i],
  ['descending', (i: number) => 20_000 - i],
  ['two ascending runs', (i: number) => i % 10_000],
  ['all the same', () => 7],
  ['up and down', (i: number) => Math.abs(10_000 - i)],
])('%s sequences take about as many looks as scattered ones', (_, at) => {
  const items = Uint32Array.from({ length: 20_000 }, (__, i) => i);
  let looks = 0;
  sortBySequence(items, (item, depth) => {
    looks++;
    return depth === 0 ? 1 : depth === 1 ? at(item) : -1;
  });
  expect(looks).toBeLessThan(20_000 * 60);
  expect([...items].every((item, i) => i === 0 || at(items[i - 1] ?? 0) <= at(item))).toBe(true);
});

test('long common beginnings do not exhaust the stack', () => {
  const common = Array.from({ length: 20_000 }, () => 1);
  const sequences = Array.from({ length: 14 }, (_, i) => [...common, 13 - i]);
  expect(sorted(sequences).map((sequence) => sequence.at(-1))).toEqual([...Array(14).keys()]);
});
