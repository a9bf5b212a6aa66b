import { expect, test } from 'vitest';
import { decodeSealedSeries, encodeSealedSeries, plainHead } from './sealed-series.ts';

const VALUES = Uint8Array.of(3, 1, 4);

test('the head of the common kind says the same as the whole', () => {
  for (const timesNumber of [0, 1, 127, 128, 129, 1000, 16_383]) {
    const bytes = encodeSealedSeries({ timesNumber, times: undefined, values: VALUES, overwrites: [] });
    const head = { timesNumber: -1, valuesAt: -1 };
    expect(plainHead(bytes, head)).toBe(true);
    expect(head.timesNumber).toBe(decodeSealedSeries(bytes).timesNumber);
    expect(bytes.subarray(head.valuesAt)).toEqual(Buffer.from(VALUES));
  }
});

test('other heads are left to the whole', () => {
  const overwrites = [{ place: 1, version: 7n }];
  const times = Uint8Array.of(5);
  const other = [
    encodeSealedSeries({ timesNumber: 16_384, times: undefined, values: VALUES, overwrites: [] }),
    encodeSealedSeries({ timesNumber: 1, times: undefined, values: VALUES, overwrites }),
    encodeSealedSeries({ timesNumber: undefined, times, values: VALUES, overwrites: [] }),
    Buffer.of(),
    Buffer.of(1),
    Buffer.of(1, 0x80),
    Buffer.of(0xff, 0),
  ];
  for (const bytes of other) expect(plainHead(bytes, { timesNumber: 0, valuesAt: 0 })).toBe(false);
});
