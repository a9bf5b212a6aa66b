import { expect, test } from 'vitest';
import { IdDigest } from './id-digest.ts';
import { MAX_ID_BYTES, openPage, PageBuilder } from './index-pages.ts';

/** Of ids in pages of so many, with payloads of a size. */
function digestOf(ids: readonly string[], perPage: number, payloadBytes: number): string {
  const digest = new IdDigest();
  for (let from = 0; from < ids.length; from += perPage) {
    const page = new PageBuilder();
    for (const id of ids.slice(from, from + perPage)) {
      page.add({
        id: Buffer.from(id),
        offset: 0,
        payload: Buffer.alloc(payloadBytes),
        checksum: payloadBytes,
      });
    }
    digest.addPage(openPage(page.finish().bytes));
  }
  return digest.digest();
}

const ids = Array.from(
  { length: 1000 },
  (_, i) => `series-${String(i).padStart(5, '0')}-${'x'.repeat(i % 300)}`,
);

test('ids have one digest, however they are put into pages and whatever their payloads are', () => {
  const whole = digestOf(ids, 300, 0);
  for (const [perPage, bytes] of [
    [1, 7],
    [10, 0],
    [299, 300],
  ] as const) {
    expect(digestOf(ids, perPage, bytes)).toBe(whole);
  }
});

test('other ids have another digest', () => {
  const digests = [
    ids,
    ids.slice(1),
    ids.slice(0, -1),
    ids.with(5, `${ids[5]}y`),
    [...ids.slice(0, -1), 'z'],
    [],
    [''],
    ['ab'],
    ['a', 'b'],
  ].map((some) => digestOf(some, 100, 1));
  expect(new Set(digests).size).toBe(digests.length);
});

test('long ids fill more than a batch', () => {
  const long = Array.from({ length: 9 }, (_, i) => `${'l'.repeat(MAX_ID_BYTES - 1)}${i}`);
  expect(digestOf(long, 9, 0)).toBe(digestOf(long, 2, 0));
  expect(digestOf(long, 9, 0)).not.toBe(digestOf(long.with(0, `${'l'.repeat(MAX_ID_BYTES - 2)}m0`), 9, 0));
});
