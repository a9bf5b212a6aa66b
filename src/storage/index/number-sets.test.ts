import fc from 'fast-check';
import { expect, test } from 'vitest';
import { intersect, numbersUpTo, sortDistinct } from './number-sets.ts';

const LIMIT = 5_000;
const list = fc
  .oneof(
    fc.uniqueArray(fc.nat(LIMIT - 1), { maxLength: 200 }),
    fc.uniqueArray(fc.nat(30), { maxLength: 10 }),
    fc
      .tuple(fc.nat(2_000), fc.nat(2_000))
      .map(([start, count]) => Array.from({ length: count }, (_, i) => start + i)),
  )
  .map((numbers) => Uint32Array.from(numbers).sort());

test('what is in both is found, however long each is', () => {
  fc.assert(
    fc.property(list, list, (a, b) => {
      const other = new Set(b);
      const before = [a.slice(), b.slice()];
      expect([...intersect(a, b)]).toEqual([...a].filter((number) => other.has(number)));
      expect([a, b]).toEqual(before);
    }),
  );
});

test('numbers of several lists are sorted, each once', () => {
  fc.assert(
    fc.property(fc.array(list, { maxLength: 4 }), fc.constantFrom(LIMIT, 10_000_000), (lists, limit) => {
      const all = Uint32Array.from(lists.flatMap((numbers) => [...numbers]));
      const before = all.slice();
      expect([...sortDistinct(all, limit)]).toEqual([...new Set(all)].sort((a, b) => a - b));
      expect(all).toEqual(before);
    }),
  );
});

test('numbers up to a limit do not have the limit', () => {
  expect([...numbersUpTo(3)]).toEqual([0, 1, 2]);
  expect([...numbersUpTo(0)]).toEqual([]);
});
