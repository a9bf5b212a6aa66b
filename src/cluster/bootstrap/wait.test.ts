import { expect, test } from 'vitest';
import type { Clock } from '../../core/clock.ts';
import type { Progress } from '../../run/step.ts';
import { met, waitsFor, waitUntil } from './wait.ts';

/** Time passes only while somebody sleeps. */
function sleepyClock(): Clock & { readonly slept: number[] } {
  const slept: number[] = [];
  let now = 0;
  return {
    slept,
    nowMs: () => now,
    monotonicMs: () => now,
    sleep: (ms) => {
      slept.push(ms);
      now += ms;
      return Promise.resolve();
    },
  };
}

const workWith = (reports: Progress[]) => ({
  signal: new AbortController().signal,
  report: (progress: Progress) => void reports.push(progress),
});

test('a wait that is over in time reports for whom it waited, when that changes', async () => {
  const reports: Progress[] = [];
  const answers = [waitsFor('n2, n3'), waitsFor('n2, n3'), waitsFor('n3'), met];
  const wait = { what: 'the group', timeoutMs: 60_000 };
  await waitUntil(sleepyClock(), workWith(reports), wait, () => Promise.resolve(answers.shift() ?? met));
  expect(reports.map(({ waitingFor }) => waitingFor)).toEqual(['n2, n3 (0 s of 60)', 'n3 (0 s of 60)']);
});

test('a wait that is in vain ends at its deadline, and says for whom it was', async () => {
  const clock = sleepyClock();
  const reports: Progress[] = [];
  const wait = { what: 'the group', timeoutMs: 20_000 };
  const waiting = waitUntil(clock, workWith(reports), wait, () => Promise.resolve(waitsFor('n3')));
  await expect(waiting).rejects.toMatchObject({
    code: 'DEADLINE_EXCEEDED',
    message: 'the group was waited for longer than 20000 ms',
    detail: 'Missing: n3.',
  });
  expect(clock.monotonicMs()).toBe(20_000);
  // Once a second, for people.
  expect(reports.length).toBeGreaterThan(15);
  expect(reports.length).toBeLessThan(25);
  expect(Math.max(...clock.slept)).toBeLessThanOrEqual(500);
});

test('an abort ends a wait at once', async () => {
  const stop = new AbortController();
  stop.abort(new Error('enough'));
  const work = { signal: stop.signal, report: () => {} };
  const wait = { what: 'the group', timeoutMs: 1000 };
  await expect(waitUntil(sleepyClock(), work, wait, () => Promise.resolve(met))).rejects.toThrow('enough');
});

test('a wait that is told of changes looks at each at once, also at one that came while it looked', async () => {
  const clock = { ...sleepyClock(), sleep: (_ms: number, signal?: AbortSignal) => untilAborted(signal) };
  let count = 0;
  let wake = (): void => {};
  const changes = {
    get count() {
      return count;
    },
    beyond: (seen: number) =>
      count > seen ? Promise.resolve() : new Promise<void>((resolve) => (wake = resolve)),
  };
  const change = (): void => {
    count += 1;
    wake();
  };
  let looks = 0;
  const waiting = waitUntil(clock, workWith([]), { what: 'the group', timeoutMs: 60_000, changes }, () => {
    looks += 1;
    if (looks === 2) change();
    return Promise.resolve(looks === 4 ? met : waitsFor('n3'));
  });
  await ticks();
  expect(looks).toBe(1);
  change();
  await ticks();
  expect(looks).toBe(3);
  change();
  await waiting;
  expect(looks).toBe(4);
});

/** Nobody's time passes. */
function untilAborted(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((_resolve, reject) => {
    signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}

function ticks(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 5));
}
