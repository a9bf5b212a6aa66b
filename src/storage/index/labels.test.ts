import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { canonicalLabels } from '../kernel/remote-write.ts';
import { checkLabels, decodeLabels, encodeLabels, MAX_LABEL_BYTES, MAX_LABELS, sortTexts } from './labels.ts';

// Properties take their time on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const bytes = (...parts: (number | string | Uint8Array)[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'number') return Buffer.of(part);
      return typeof part === 'string' ? Buffer.from(part, 'latin1') : part;
    }),
  );

const label = (name: string, value: string): Uint8Array =>
  bytes(0x0a, 4 + name.length + value.length, 0x0a, name.length, name, 0x12, value.length, value);

test('labels are put into the order of the bytes of their names, without the empty ones', () => {
  const encoded = encodeLabels([
    ['b', '2'],
    ['a', '1'],
    ['c', ''],
  ]);
  expect(Buffer.from(encoded)).toEqual(Buffer.concat([label('a', '1'), label('b', '2')]));
  expect(decodeLabels(encoded)).toEqual([
    ['a', '1'],
    ['b', '2'],
  ]);
});

test.each([
  ['nothing', bytes(), 'there is no label'],
  ['an empty name', label('', 'b'), 'a label name is empty'],
  ['an empty value', label('a', ''), 'a label value is empty'],
  ['a name twice', bytes(label('a', 'x'), label('a', 'y')), '"a" stands twice or out of order'],
  ['descending names', bytes(label('b', 'x'), label('a', 'y')), '"a" stands twice or out of order'],
  ['a name after one that it begins', bytes(label('ab', 'x'), label('a', 'y')), '"a" stands twice'],
  ['a name without a value', bytes(0x0a, 3, 0x0a, 1, 'a'), 'not those of labels'],
  ['half a label', label('abc', 'def').subarray(0, 8), 'not those of labels'],
  ['another field', bytes(0x12, 6, 0x0a, 1, 'a', 0x12, 1, 'x'), 'not those of labels'],
  ['value before name', bytes(0x0a, 6, 0x12, 1, 'a', 0x0a, 1, 'x'), 'not those of labels'],
  ['something behind the value', bytes(0x0a, 8, 0x0a, 1, 'a', 0x12, 1, 'x', 0x18, 1), 'not those of labels'],
  ['a name beyond its label', bytes(0x0a, 4, 0x0a, 9, 'ab', label('b', 'c')), 'not those of labels'],
  ['a length without an end', bytes(0x0a, 0x80), 'not those of labels'],
  [
    'a length in more bytes than it needs',
    bytes(0x0a, 0x86, 0, 0x0a, 1, 'a', 0x12, 1, 'x'),
    'not those of labels',
  ],
  ['a length of four gigabytes', bytes(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f), 'not those of labels'],
  ['a name that is not UTF-8', label('\xff', 'x'), 'name is not UTF-8'],
  ['a value that is not UTF-8', label('a', '\xc3x'), 'value is not UTF-8'],
])('%s is refused', (_, some, reason) => {
  expect(() => checkLabels(some, 0, some.length)).toThrow(
    expect.objectContaining({ code: 'SERIES_INVALID' }),
  );
  expect(() => checkLabels(some, 0, some.length)).toThrow(reason);
});

test('labels of too many bytes are refused', () => {
  const long = 'x'.repeat(MAX_LABEL_BYTES - 20);
  expect(decodeLabels(encodeLabels([['a', long]]))).toEqual([['a', long]]);
  expect(() => encodeLabels([['a', `${long}${'x'.repeat(20)}`]])).toThrow(/bytes, more than 65000/);
});

test('a series with too many labels is refused', () => {
  const many = Array.from({ length: MAX_LABELS + 1 }, (_, index) => [`l${index}`, 'x'] as const);
  expect(() => encodeLabels(many)).toThrow(/there are 257 labels, more than 256/);
  expect(decodeLabels(encodeLabels(many.slice(1)))).toHaveLength(MAX_LABELS);
});

test('canonical bytes are read back, and are the same for the same labels in any order', () => {
  const text = fc.oneof(
    fc
      .array(fc.constantFrom('a', 'b', '\u0000', 'é', '\uffee', '😀'), { minLength: 1, maxLength: 4 })
      .map((some) => some.join('')),
    fc.constant('x'.repeat(300)),
  );
  fc.assert(
    fc.property(fc.dictionary(text, text, { minKeys: 1, maxKeys: 5, noNullPrototype: true }), (labels) => {
      const pairs = Object.entries(labels);
      const encoded = encodeLabels(pairs);
      expect(new Map(decodeLabels(encoded))).toEqual(new Map(pairs));
      expect(encodeLabels(pairs.reverse())).toEqual(encoded);
      expect(checkLabels(encoded, 0, encoded.length)).toBe(pairs.length);
    }),
  );
});

test('no bytes are taken but canonical ones', () => {
  const valid = bytes(label('a', 'x'), label('ab', 'yz'), label('b', 'é'));
  fc.assert(
    fc.property(
      fc.nat(valid.length - 1),
      fc.oneof(fc.nat(255), fc.constantFrom(0x0a, 0x12, 0, 1, 0x80)),
      fc.boolean(),
      (at, byte, cuts) => {
        const some = cuts ? valid.subarray(0, at) : valid.slice();
        some[at] = byte;
        let labels: ReturnType<typeof decodeLabels>;
        try {
          labels = decodeLabels(some);
        } catch (error) {
          expect(error).toMatchObject({ code: 'SERIES_INVALID' });
          return;
        }
        expect(Buffer.from(encodeLabels(labels))).toEqual(Buffer.from(some));
      },
    ),
    { numRuns: 1_000 },
  );
});

test('the kernel takes canonical bytes for canonical', () => {
  const encoded = encodeLabels([
    ['__name__', 'up'],
    ['Ünï', '😀'],
    ['a', 'x'.repeat(300)],
  ]);
  expect(canonicalLabels(encoded)).toEqual(encoded);
});

test('texts are sorted by their bytes, not by UTF-16', () => {
  expect(sortTexts(['😀', '\uffee', 'b', 'ab', 'a'])).toEqual(['a', 'ab', 'b', '\uffee', '😀']);
});
