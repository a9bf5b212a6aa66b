import fc from 'fast-check';
import { expect, test } from 'vitest';
import { bitsOf, damage, damaged, timeColumn, valueColumn } from './columns.suite.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import * as plain from './xor-chunk.ts';

const kernel = new KernelHarness();

const samples = fc.tuple(timeColumn, valueColumn).map(([times, values]) => {
  const count = Math.min(times.length, values.length);
  return { times: times.slice(0, count), values: values.slice(0, count) };
});

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

test('kernel and plain counterpart write the same bytes and read back every bit', () => {
  fc.assert(
    fc.property(samples, (all) => {
      const encoded = kernel.encodeXorChunk(all);
      expect(hex(encoded)).toBe(hex(plain.encodeXorChunk(all)));
      expect(kernel.decodeXorChunk(encoded, 300)).toEqual(all);
      expect(plain.decodeXorChunk(encoded, 300)).toEqual(all);
    }),
    { numRuns: 200 },
  );
});

test('damaged chunks are refused by both, or read alike by both', () => {
  fc.assert(
    fc.property(samples, damage, (all, how) => {
      const bytes = damaged(plain.encodeXorChunk(all), how);
      const refused = faultOf(() => plain.decodeXorChunk(bytes, 400)) !== undefined;
      expect(faultOf(() => kernel.decodeXorChunk(bytes, 400)) !== undefined).toBe(refused);
      if (!refused) expect(kernel.decodeXorChunk(bytes, 400)).toEqual(plain.decodeXorChunk(bytes, 400));
    }),
    { numRuns: 400 },
  );
});

test('every size of a difference of differences is read back', () => {
  const dods = [
    0n,
    1n,
    -1n,
    8191n,
    8192n,
    -8191n,
    -8192n,
    8193n,
    65_536n,
    -65_535n,
    65_537n,
    524_288n,
    -524_287n,
    524_289n,
    1n << 62n,
  ];
  for (const dod of dods) {
    const times = BigInt64Array.of(
      0n,
      1000n,
      BigInt.asIntN(64, 2000n + dod),
      BigInt.asIntN(64, 3000n + 2n * dod),
    );
    const all = { times, values: BigUint64Array.of(0n, 1n, (1n << 64n) - 1n, 5n) };
    expect(kernel.decodeXorChunk(kernel.encodeXorChunk(all), 4)).toEqual(all);
  }
});

test('a chunk is what Prometheus writes', () => {
  // By hand: count, zigzag varint, 64 bits, varint; then 1.0 xor 1.5, which has 12 leading zeros and one
  // significant bit: '11', 12 in five bits, 1 in six bits, and that bit.
  const chunk = kernel.encodeXorChunk({
    times: BigInt64Array.of(1000n, 16_000n),
    values: BigUint64Array.of(bitsOf(1), bitsOf(1.5)),
  });
  const bits = ['11', '01100', '000001', '1'].join('');
  const tail = Number.parseInt(bits.padEnd(16, '0'), 2).toString(16).padStart(4, '0');
  expect(hex(chunk)).toBe(['0002', 'd00f', '3ff0000000000000', '9875', tail].join(''));
});

test('more samples than a chunk can count are refused', () => {
  expect(
    faultOf(() =>
      kernel.encodeXorChunk({ times: new BigInt64Array(65_536), values: new BigUint64Array(65_536) }),
    ),
  ).toBe('BAD_COUNT');
  expect(
    faultOf(() => kernel.encodeXorChunk({ times: new BigInt64Array(), values: new BigUint64Array() })),
  ).toBe('BAD_COUNT');
});
