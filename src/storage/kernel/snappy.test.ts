import fc from 'fast-check';
import { expect, test } from 'vitest';
import { damage, damaged } from './columns.suite.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import * as plain from './snappy.ts';

const kernel = new KernelHarness();
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Bytes with repetitions of all distances and lengths, as text has. */
const text = fc
  .array(
    fc.oneof(
      fc.uint8Array({ maxLength: 80 }).map((literal) => ({ literal, distance: 0, count: 0 })),
      fc.record({
        literal: fc.constant(new Uint8Array()),
        distance: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 5000 })),
        count: fc.oneof(fc.nat(80), fc.nat(400)),
      }),
    ),
    { maxLength: 60 },
  )
  .map((pieces) => {
    const bytes: number[] = [];
    for (const { literal, distance, count } of pieces) {
      bytes.push(...literal);
      const back = Math.min(distance, bytes.length);
      for (let i = 0; i < (back > 0 ? count : 0); i++) bytes.push(bytes[bytes.length - back] ?? 0);
    }
    return Uint8Array.from(bytes);
  });

test('kernel and plain counterpart write the same bytes and read back what was written', () => {
  fc.assert(
    fc.property(text, (bytes) => {
      const encoded = kernel.encodeSnappy(bytes);
      expect(hex(encoded)).toBe(hex(plain.encodeSnappy(bytes)));
      expect(hex(kernel.decodeSnappy(encoded, bytes.length))).toBe(hex(bytes));
      expect(hex(plain.decodeSnappy(encoded, bytes.length))).toBe(hex(bytes));
    }),
    { numRuns: 200 },
  );
});

test('blocks above 64 KiB are read back', () => {
  const bytes = Uint8Array.from({ length: 150_000 }, (_, i) => (i * i) >> 11);
  expect(kernel.decodeSnappy(kernel.encodeSnappy(bytes), 150_000)).toEqual(bytes);
  expect(hex(kernel.encodeSnappy(bytes))).toBe(hex(plain.encodeSnappy(bytes)));
});

test('damaged blocks are refused by both for the same reason, or read alike by both', () => {
  fc.assert(
    fc.property(text, damage, (bytes, how) => {
      const block = damaged(plain.encodeSnappy(bytes), how);
      const expected = faultOf(() => plain.decodeSnappy(block, 20_000));
      expect(faultOf(() => kernel.decodeSnappy(block, 20_000))).toBe(expected);
      if (expected === undefined) {
        expect(hex(kernel.decodeSnappy(block, 20_000))).toBe(hex(plain.decodeSnappy(block, 20_000)));
      }
    }),
    { numRuns: 800 },
  );
});

test('arbitrary bytes are refused by both for the same reason, or read alike by both', () => {
  fc.assert(
    fc.property(fc.nat(60), fc.uint8Array({ maxLength: 60 }), (size, rest) => {
      const block = Uint8Array.of(size, ...rest);
      const expected = faultOf(() => plain.decodeSnappy(block, 50));
      expect(faultOf(() => kernel.decodeSnappy(block, 50))).toBe(expected);
      if (expected === undefined) {
        expect(hex(kernel.decodeSnappy(block, 50))).toBe(hex(plain.decodeSnappy(block, 50)));
      }
    }),
    { numRuns: 2000 },
  );
});

test.each([
  { name: 'a copy that overlaps itself', block: '0a00611501', decoded: 'aaaaaaaaaa' },
  { name: 'a literal with its length in two bytes', block: '03f40200616263', decoded: 'abc' },
  { name: 'a literal with its length in four bytes', block: '03fc02000000616263', decoded: 'abc' },
  { name: 'a copy with a distance of two bytes', block: '060461620e0200', decoded: 'ababab' },
  { name: 'a copy with a distance of four bytes', block: '060461620f02000000', decoded: 'ababab' },
])('$name is read', ({ block, decoded }) => {
  expect(Buffer.from(kernel.decodeSnappy(Buffer.from(block, 'hex'), 100)).toString()).toBe(decoded);
});

test.each([
  { name: 'a size above the limit', block: 'ffffff7f00', fault: 'TOO_LARGE' },
  { name: 'a size of 4 GiB', block: 'ffffffff1f00', fault: 'TOO_LARGE' },
  { name: 'a literal of 4 GiB', block: '03fcffffffff616263', fault: 'TRUNCATED' },
  { name: 'a copy of what is not there yet', block: '0a00611502', fault: 'BAD_OFFSET' },
  { name: 'a copy with distance 0', block: '0a00611500', fault: 'BAD_OFFSET' },
  { name: 'more than the size says', block: '0108616263', fault: 'TRAILING_BYTES' },
  { name: 'less than the size says', block: '0508616263', fault: 'TRUNCATED' },
  { name: 'nothing', block: '', fault: 'TRUNCATED' },
])('$name is refused as $fault', ({ block, fault }) => {
  expect(faultOf(() => kernel.decodeSnappy(Buffer.from(block, 'hex'), 100))).toBe(fault);
  expect(faultOf(() => plain.decodeSnappy(Buffer.from(block, 'hex'), 100))).toBe(fault);
});
