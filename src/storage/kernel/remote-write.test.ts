import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bitsOf, damage, damaged } from './columns.suite.ts';
import { KernelHarness, faultOf } from './kernel-harness.suite.ts';
import * as plain from './remote-write.ts';
import * as plain2 from './remote-write-2.ts';
import {
  bytesField,
  encodeSample,
  encodeWriteRequest,
  encodeWriteRequest2,
  labelBytes,
} from './remote-write.suite.ts';

const kernel = new KernelHarness();
const limits = { maxSeries: 1000, maxSamples: 1000 };
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const label = fc.tuple(
  fc.oneof(fc.constantFrom('__name__', 'job', 'instance', 'a', 'ab', 'ä'), fc.string({ maxLength: 5 })),
  fc.oneof(fc.string({ maxLength: 8 }), fc.string({ minLength: 130, maxLength: 140, unit: 'grapheme' })),
);
const sample = fc.record({
  ms: fc.oneof(
    fc.bigInt({ min: 0n, max: 2_000_000_000_000n }),
    fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
  ),
  bits: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
});
const series = fc.array(
  fc.record({ labels: fc.array(label, { maxLength: 6 }), samples: fc.array(sample, { maxLength: 4 }) }),
  { maxLength: 8 },
);
const request = series.map(encodeWriteRequest);

/** Series messages with their fields in any order, and fields that this version does not know. */
const disorderly = fc
  .array(
    fc.array(
      fc.oneof(
        label.map((one) => labelBytes([one])),
        sample.map(encodeSample),
        fc.constant(bytesField(3, Uint8Array.of(1, 2))),
        fc.constant(bytesField(4, Uint8Array.of(1))),
        fc.constant(bytesField(99, Uint8Array.of(1, 2, 3))),
        fc.constant(Uint8Array.of(0x78, 0x80, 0x01)),
        fc.constant(Uint8Array.of(0x7d, 1, 2, 3, 4)),
      ),
      { maxLength: 8 },
    ),
    { maxLength: 5 },
  )
  .map((all) => Buffer.concat(all.map((fields) => bytesField(1, Buffer.concat(fields)))));

describe('the walk over a request', () => {
  test('kernel and plain counterpart find the same series, labels, samples', () => {
    fc.assert(
      fc.property(fc.oneof(request, disorderly), (body) => {
        expect(kernel.walkWriteRequest(body, limits)).toEqual(plain.walkWriteRequest(body, limits));
      }),
      { numRuns: 300 },
    );
  });

  test('damaged requests are refused by both for the same reason, or read alike by both', () => {
    fc.assert(
      fc.property(fc.oneof(request, disorderly), damage, (body, how) => {
        const bytes = damaged(body, how);
        const expected = faultOf(() => plain.walkWriteRequest(bytes, limits));
        expect(faultOf(() => kernel.walkWriteRequest(bytes, limits))).toBe(expected);
        if (expected === undefined) {
          expect(kernel.walkWriteRequest(bytes, limits)).toEqual(plain.walkWriteRequest(bytes, limits));
        }
      }),
      { numRuns: 300 },
    );
  });

  test('milliseconds become nanoseconds, and those beyond them the nearest', () => {
    const samples = [1n, -1n, 9_223_372_036_854n, 9_223_372_036_855n, -9_223_372_036_855n].map((ms) => ({
      ms,
      bits: bitsOf(1.5),
    }));
    const [series] = kernel.walkWriteRequest(encodeWriteRequest([{ labels: [], samples }]), limits).series;
    expect(series?.times).toEqual([
      1_000_000n,
      -1_000_000n,
      9_223_372_036_854_000_000n,
      (1n << 63n) - 1n,
      -(1n << 63n),
    ]);
    expect(series?.values.every((bits) => bits === bitsOf(1.5))).toBe(true);
  });

  test.each([
    { name: 'series', body: '0a000a000a00' },
    { name: 'samples', body: '0a081200120012001200' },
  ])('more $name than there is room for are refused', ({ body }) => {
    const few = { maxSeries: 2, maxSamples: 3 };
    expect(faultOf(() => kernel.walkWriteRequest(Buffer.from(body, 'hex'), few))).toBe('TOO_LARGE');
    expect(faultOf(() => plain.walkWriteRequest(Buffer.from(body, 'hex'), few))).toBe('TOO_LARGE');
  });

  test.each([
    { name: 'a field with number 0', body: '0200', fault: 'BAD_TAG' },
    { name: 'a group', body: '0b0c', fault: 'BAD_TAG' },
    { name: 'a series that is a number', body: '0801', fault: 'BAD_WIRE_TYPE' },
    { name: 'a sample beyond its series', body: '0a021209', fault: 'TRUNCATED' },
    { name: 'a timestamp of eleven bytes', body: '0a0e120c10ffffffffffffffffffff01', fault: 'BAD_VARINT' },
  ])('$name is refused as $fault', ({ body, fault }) => {
    expect(faultOf(() => kernel.walkWriteRequest(Buffer.from(body, 'hex'), limits))).toBe(fault);
    expect(faultOf(() => plain.walkWriteRequest(Buffer.from(body, 'hex'), limits))).toBe(fault);
  });
});

describe('the walk over a request of version 2.0', () => {
  const limits2 = { ...limits, maxSymbols: 100, maxLabelBytes: 20_000 };

  test('finds what the same series are in version 1.0', () => {
    fc.assert(
      fc.property(series, (all) => {
        expect(kernel.walkWriteRequest2(encodeWriteRequest2(all), limits2)).toEqual(
          kernel.walkWriteRequest(encodeWriteRequest(all), limits),
        );
      }),
      { numRuns: 100 },
    );
  });

  test('damaged requests are refused by both for the same reason, or read alike by both', () => {
    fc.assert(
      fc.property(series, damage, fc.constantFrom(100, 300, 20_000), (all, how, maxLabelBytes) => {
        const bytes = damaged(encodeWriteRequest2(all), how);
        const few = { ...limits2, maxLabelBytes };
        const expected = faultOf(() => plain2.walkWriteRequest2(bytes, few));
        expect(faultOf(() => kernel.walkWriteRequest2(bytes, few))).toBe(expected);
        if (expected === undefined) {
          expect(kernel.walkWriteRequest2(bytes, few)).toEqual(plain2.walkWriteRequest2(bytes, few));
        }
      }),
      { numRuns: 250 },
    );
  });

  test.each([
    { name: 'a label without value', body: '22002a030a0100', fault: 'BAD_COUNT' },
    { name: 'a symbol that is not there', body: '22002a040a020001', fault: 'BAD_REFERENCE' },
    { name: 'references of eight bytes', body: '2a09090000000000000000', fault: 'BAD_WIRE_TYPE' },
    { name: 'a symbol that is a number', body: '2001', fault: 'BAD_WIRE_TYPE' },
    { name: 'a symbol too many', body: '220022002200', fault: 'TOO_LARGE' },
  ])('$name is refused as $fault', ({ body, fault }) => {
    const few = { ...limits2, maxSymbols: 2 };
    expect(faultOf(() => kernel.walkWriteRequest2(Buffer.from(body, 'hex'), few))).toBe(fault);
    expect(faultOf(() => plain2.walkWriteRequest2(Buffer.from(body, 'hex'), few))).toBe(fault);
  });

  test('references that are not packed, exemplars and histograms are understood', () => {
    const body = Buffer.from('2a0a080108021a01012201012200220161220162', 'hex');
    const walked = kernel.walkWriteRequest2(body, limits2);
    expect(walked).toEqual(plain2.walkWriteRequest2(body, limits2));
    expect(walked).toMatchObject({ exemplars: 1, histograms: 1 });
    expect(hex(walked.series[0]?.labels ?? new Uint8Array())).toBe(hex(labelBytes([['a', 'b']])));
  });
});

describe('canonical labels', () => {
  test('kernel and plain counterpart make the same of any labels', () => {
    fc.assert(
      fc.property(fc.array(label, { maxLength: 10 }), damage, fc.boolean(), (labels, how, isDamaged) => {
        const bytes = isDamaged ? damaged(labelBytes(labels), how) : labelBytes(labels);
        const expected = faultOf(() => plain.canonicalLabels(bytes));
        expect(faultOf(() => kernel.canonicalLabels(bytes))).toBe(expected);
        if (expected !== undefined) {
          expect(kernel.isPlainlyCanonical(bytes)).toBe(false);
          return;
        }
        const canonical = kernel.canonicalLabels(bytes);
        const isCommon = canonical.every((byte) => byte < 128);
        expect(kernel.isPlainlyCanonical(bytes)).toBe(isCommon && hex(bytes) === hex(canonical));
        expect(hex(canonical)).toBe(hex(plain.canonicalLabels(bytes)));
        expect(hex(kernel.canonicalLabels(canonical))).toBe(hex(canonical));
      }),
      { numRuns: 400 },
    );
  });

  test('the order of labels and labels without value make no difference', () => {
    const canonical = labelBytes([
      ['a', '1'],
      ['ab', '2'],
      ['b', '3'],
    ]);
    const given = labelBytes([
      ['b', '3'],
      ['c', ''],
      ['ab', '2'],
      ['a', '1'],
    ]);
    expect(hex(kernel.canonicalLabels(given))).toBe(hex(canonical));
  });

  test.each([
    {
      name: 'a name that occurs twice',
      labels: [
        ['a', '1'],
        ['b', '2'],
        ['a', '3'],
      ],
      fault: 'DUPLICATE_LABEL',
    },
    { name: 'an empty name', labels: [['', '1']], fault: 'EMPTY_LABEL_NAME' },
    { name: 'no value at all', labels: [['a', '']], fault: 'NO_LABELS' },
    {
      name: 'more than 256 labels',
      labels: Array.from({ length: 257 }, (_, i) => [`l${i}`, 'x']),
      fault: 'TOO_LARGE',
    },
  ])('$name is refused as $fault', ({ labels, fault }) => {
    const bytes = labelBytes(labels as [string, string][]);
    expect(faultOf(() => kernel.canonicalLabels(bytes))).toBe(fault);
    expect(faultOf(() => plain.canonicalLabels(bytes))).toBe(fault);
  });

  test.each([
    '80',
    'c080',
    'c2',
    'e08080',
    'e09f80',
    'eda080',
    'f0808080',
    'f4908080',
    'f5808080',
    'e282',
    'ff',
  ])('the bytes %s are no UTF-8', (value) => {
    const text = Buffer.from(value, 'hex');
    const bytes = bytesField(1, Buffer.concat([bytesField(1, Buffer.from('a')), bytesField(2, text)]));
    expect(faultOf(() => kernel.canonicalLabels(bytes))).toBe('BAD_UTF8');
    expect(faultOf(() => plain.canonicalLabels(bytes))).toBe('BAD_UTF8');
  });
});
