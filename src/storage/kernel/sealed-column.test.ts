import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bitsOf, damage, damaged, timeColumn, valueColumn } from './columns.suite.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import * as times from './time-column.ts';
import * as values from './value-column.ts';

const kernel = new KernelHarness();

const bits = (...numbers: number[]): BigUint64Array => BigUint64Array.from(numbers, bitsOf);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('value columns', () => {
  test('kernel and plain counterpart write the same bytes and read back every bit', () => {
    fc.assert(
      fc.property(valueColumn, (column) => {
        const encoded = kernel.encodeValues(column);
        expect(hex(encoded)).toBe(hex(values.encodeValues(column)));
        expect(kernel.decodeValues(encoded, column.length)).toEqual(column);
        expect(values.decodeValues(encoded, column.length)).toEqual(column);
      }),
      { numRuns: 400 },
    );
  });

  test('damaged bytes are refused by both for the same reason, or read by both', () => {
    fc.assert(
      fc.property(valueColumn, damage, (column, how) => {
        const bytes = damaged(values.encodeValues(column), how);
        const expected = faultOf(() => values.decodeValues(bytes, column.length));
        expect(faultOf(() => kernel.decodeValues(bytes, column.length))).toBe(expected);
      }),
      { numRuns: 600 },
    );
  });

  test('whatever column a column is to be like, it is read back bit for bit', () => {
    fc.assert(
      fc.property(valueColumn, valueColumn, (column, other) => {
        const encoded = kernel.encodeValuesLike(column, values.encodeValues(other));
        expect(kernel.decodeValues(encoded, column.length)).toEqual(column);
        expect(values.decodeValues(encoded, column.length)).toEqual(column);
      }),
      { numRuns: 600 },
    );
  });

  test.each([
    ['decimals', (i: number) => (1000 + 7 * i) / 100],
    ['a constant', () => 3.25],
    ['doubles of full precision', (i: number) => Math.sin(i)],
  ])('%s that are like those before are written as if nothing were known', (_name, valueOf) => {
    const [before, after] = [0, 64].map((from) =>
      bits(...Array.from({ length: 64 }, (_, i) => valueOf(from + i))),
    ) as [BigUint64Array, BigUint64Array];
    const encoded = kernel.encodeValuesLike(after, kernel.encodeValues(before));
    expect(hex(encoded)).toBe(hex(kernel.encodeValues(after)));
  });

  test('values that have become decimals are not written as bits any more', () => {
    const before = bits(...Array.from({ length: 64 }, (_, i) => Math.sin(i)));
    const after = bits(...Array.from({ length: 64 }, (_, i) => i));
    expect(hex(kernel.encodeValuesLike(after, kernel.encodeValues(before)))).toBe(
      hex(kernel.encodeValues(after)),
    );
  });

  test.each([
    { name: 'a constant', column: bits(1, 1, 1, 1), size: 4 },
    { name: 'one NaN', column: BigUint64Array.of(0x7ff8_0000_0000_0001n), size: 10 },
    {
      name: 'a counter that grows by 3',
      column: bits(...Array.from({ length: 480 }, (_, i) => 3 * i)),
      size: 12,
    },
    {
      name: 'pages of 4096',
      column: bits(...Array.from({ length: 128 }, (_, i) => 4096 * (i % 2))),
      size: 21,
    },
  ])('$name of $column.length takes $size bytes', ({ column, size }) => {
    expect(kernel.encodeValues(column)).toHaveLength(size);
    expect(kernel.decodeValues(kernel.encodeValues(column), column.length)).toEqual(column);
  });

  test('the bytes of format version 1 stay what they are', () => {
    expect(hex(kernel.encodeValues(bits(22_147.17, 22_147.18, 22_147.18, 22_147.21)))).toBe(
      '01020003faac8e0200000000010000000100000004000000',
    );
  });

  test('no values are refused', () => {
    expect(faultOf(() => kernel.encodeValues(new BigUint64Array()))).toBe('BAD_COUNT');
    expect(faultOf(() => kernel.decodeValues(Uint8Array.of(0, 0), 0))).toBe('BAD_COUNT');
  });
});

describe('time columns', () => {
  test('kernel and plain counterpart write the same bytes and read back every nanosecond', () => {
    fc.assert(
      fc.property(timeColumn, (column) => {
        const encoded = kernel.encodeTimes(column);
        expect(hex(encoded)).toBe(hex(times.encodeTimes(column)));
        expect(kernel.decodeTimes(encoded, 300)).toEqual(column);
        expect(times.decodeTimes(encoded, 300)).toEqual(column);
      }),
      { numRuns: 300 },
    );
  });

  test('damaged bytes are refused by both for the same reason, or read alike by both', () => {
    fc.assert(
      fc.property(timeColumn, damage, (column, how) => {
        const bytes = damaged(times.encodeTimes(column), how);
        const expected = faultOf(() => times.decodeTimes(bytes, 400));
        expect(faultOf(() => kernel.decodeTimes(bytes, 400))).toBe(expected);
        if (expected === undefined)
          expect(kernel.decodeTimes(bytes, 400)).toEqual(times.decodeTimes(bytes, 400));
      }),
      { numRuns: 400 },
    );
  });

  test('a regular scrape of two hours takes 17 bytes', () => {
    const column = BigInt64Array.from(
      { length: 480 },
      (_, i) => 1_700_000_000_123n * 1_000_000n + BigInt(i) * 15_000_000_000n,
    );
    expect(kernel.encodeTimes(column)).toHaveLength(17);
  });

  test('timestamps that do not ascend, or span more than 146 years, are refused', () => {
    expect(faultOf(() => kernel.encodeTimes(BigInt64Array.of(1n, 1n)))).toBe('NOT_ASCENDING');
    expect(faultOf(() => kernel.encodeTimes(BigInt64Array.of(2n, 1n)))).toBe('NOT_ASCENDING');
    expect(faultOf(() => kernel.encodeTimes(BigInt64Array.of(-(1n << 62n), 1n << 62n)))).toBe('TOO_LARGE');
    expect(faultOf(() => times.encodeTimes(BigInt64Array.of(-(1n << 62n), 1n << 62n)))).toBe('TOO_LARGE');
  });

  test('a column of more timestamps than there is room for is refused', () => {
    const encoded = kernel.encodeTimes(BigInt64Array.of(1n, 2n, 3n));
    expect(faultOf(() => kernel.decodeTimes(encoded, 2))).toBe('TOO_LARGE');
  });
});
