import { expect, test } from 'vitest';
import { SampleBuffer, type Sample } from './sample-buffer.ts';

const sample = (atMs: number): Sample => ({ atMs, readings: [] });
const times = (samples: readonly Sample[]): number[] => samples.map(({ atMs }) => atMs);

test('samples come out oldest first and stay until they are removed', () => {
  const buffer = new SampleBuffer(10);
  for (const atMs of [1, 2, 3]) buffer.add(sample(atMs));
  const batch = buffer.oldest(2);
  expect([times(batch), times(buffer.oldest(2))]).toEqual([
    [1, 2],
    [1, 2],
  ]);
  buffer.remove(batch);
  expect(times(buffer.oldest(5))).toEqual([3]);
});

test('a full buffer gives up its oldest and counts them', () => {
  const buffer = new SampleBuffer(3);
  for (let atMs = 1; atMs <= 5; atMs += 1) buffer.add(sample(atMs));
  expect([times(buffer.oldest(9)), buffer.droppedCount]).toEqual([[3, 4, 5], 2]);
});

test('removing what was given up meanwhile removes nothing else', () => {
  const buffer = new SampleBuffer(2);
  buffer.add(sample(1));
  const batch = buffer.oldest(1);
  for (const atMs of [2, 3]) buffer.add(sample(atMs));
  buffer.remove(batch);
  expect([times(buffer.oldest(9)), buffer.waitingCount]).toEqual([[2, 3], 2]);
});
