import { expect, test } from 'vitest';
import { formatDurationMs, parseDurationMs } from './duration.ts';

test.each([
  ['15s', 15_000],
  ['1m30s', 90_000],
  ['1.5h', 5_400_000],
  ['250ms', 250],
  ['1500us', 1.5],
  ['0s', 0],
  ['0', 0],
])('%s is %d ms', (text, ms) => expect(parseDurationMs(text)).toBe(ms));

test.each(['', '15', 's', '-1s', '1 s', '1d', '1s!', '١s'])('%j is no duration', (text) =>
  expect(parseDurationMs(text)).toBeUndefined(),
);

test('a written duration reads back no shorter than it was', () => {
  expect(parseDurationMs(formatDurationMs(1500))).toBe(1500);
  expect(parseDurationMs(formatDurationMs(0.2))).toBe(1);
});
