import { expect, test } from 'vitest';
import { SnapshotSchedule } from './snapshot-schedule.ts';

const OPTIONS = { snapshotIntervalMs: 300_000, maxLogBytes: 1000 };
const NEED = { logBytes: 10, hasFlushed: false, isWanted: true };

function scheduleAt(nowMs: number): { schedule: SnapshotSchedule; pass: (ms: number) => void } {
  const clock = { now: nowMs, monotonicMs: () => clock.now };
  return { schedule: new SnapshotSchedule(clock, OPTIONS), pass: (ms) => (clock.now += ms) };
}

test.each([
  ['nothing in the log', { ...NEED, logBytes: 0, hasFlushed: true }, false],
  ['before the interval is over', NEED, false],
  ['blocks went to files', { ...NEED, hasFlushed: true }, true],
  ['blocks went to files, but nobody wants snapshots', { ...NEED, hasFlushed: true, isWanted: false }, false],
  ['the log is too long, whoever wants them', { ...NEED, logBytes: 1001, isWanted: false }, true],
])('%s', (_what, need, isDue) => {
  expect(scheduleAt(0).schedule.isDue(need)).toBe(isDue);
});

test('one is due when the interval since the last one is over', () => {
  const { schedule, pass } = scheduleAt(7);
  pass(299_999);
  expect(schedule.isDue(NEED)).toBe(false);
  pass(1);
  expect(schedule.isDue(NEED)).toBe(true);
  schedule.succeeded();
  expect(schedule.isDue(NEED)).toBe(false);
});

test('one that failed is tried again soon, then less and less often, and never less than at the interval', () => {
  const { schedule, pass } = scheduleAt(0);
  const waits: number[] = [];
  for (let i = 0; i < 10; i++) {
    schedule.failed();
    let waited = 0;
    for (; !schedule.isDue({ ...NEED, logBytes: 5000 }); waited += 500) pass(500);
    waits.push(waited);
  }
  expect(waits.slice(0, 3)).toEqual([2500, 5000, 10_000]);
  expect(Math.max(...waits)).toBe(150_000);
  schedule.succeeded();
  schedule.failed();
  pass(2500);
  expect(schedule.isDue(NEED)).toBe(true);
});
