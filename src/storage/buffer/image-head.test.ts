import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeImageHead, encodeImageHead, imageHeadBytes, type ImageHead } from './image-head.ts';

const page = fc.record({
  address: fc.nat({ max: 2 ** 26 - 1 }).map((number) => number * 64),
  isSpilled: fc.boolean(),
  page: fc.nat(),
  checksum: fc.nat(),
});
const heads: fc.Arbitrary<ImageHead> = fc.record({
  kernelHash: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes)),
  meta: fc.string().map((text) => Buffer.from(text)),
  pages: fc.array(page, { maxLength: 20 }),
});

test('a head is read as it was written', () => {
  fc.assert(
    fc.property(heads, (head) => {
      const bytes = encodeImageHead(head);
      expect(imageHeadBytes(bytes.subarray(0, 64))).toBe(bytes.length);
      expect(decodeImageHead(bytes)).toEqual(head);
    }),
  );
});

test('any damage but to its padding is found, whatever follows', () => {
  fc.assert(
    fc.property(heads, fc.nat(), fc.integer({ min: 1, max: 255 }), (head, place, flip) => {
      const bytes = encodeImageHead(head);
      const used = 64 + head.meta.length + 16 * head.pages.length;
      const at = place % used;
      bytes[at] = (bytes[at] ?? 0) ^ flip;
      expect(decodeImageHead(bytes)).toBeUndefined();
      expect(decodeImageHead(bytes.subarray(0, place % bytes.length))).toBeUndefined();
    }),
  );
});

test('bytes of anything are no head', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), (noise, named) => {
      const bytes = Buffer.from(noise);
      if (named) bytes.write('VRVIMAGE', 'latin1');
      expect(decodeImageHead(bytes)).toBeUndefined();
    }),
  );
});
