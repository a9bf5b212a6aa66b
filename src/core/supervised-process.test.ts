import { describe, expect, test } from 'vitest';
import type { Clock } from './clock.ts';
import { SupervisedProcess, type Crash, type Exit, type ProcessHandle } from './supervised-process.ts';

/** Time that goes on only when told; sleepers wake in order. */
class ManualClock implements Clock {
  #nowMs = 0;
  #sleepers: { dueMs: number; wake: () => void }[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { dueMs: this.#nowMs + ms, wake: resolve };
      this.#sleepers.push(sleeper);
      signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    });
  }

  async advance(ms: number): Promise<void> {
    this.#nowMs += ms;
    const due = this.#sleepers.filter(({ dueMs }) => dueMs <= this.#nowMs);
    this.#sleepers = this.#sleepers.filter(({ dueMs }) => dueMs > this.#nowMs);
    for (const { wake } of due) wake();
    await settle();
  }
}

/** Lets everything that waits for resolved promises go on. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class FakeProcess implements ProcessHandle {
  readonly signals: string[] = [];
  readonly exited: Promise<Exit>;
  readonly pid: number;
  end: (exit: Exit) => void = () => {};

  constructor(pid: number) {
    this.pid = pid;
    this.exited = new Promise((resolve) => (this.end = resolve));
  }

  send(): void {}

  kill(signal: string): void {
    this.signals.push(signal);
  }
}

function supervise() {
  const clock = new ManualClock();
  const started: FakeProcess[] = [];
  const crashes: Crash[] = [];
  const stop = new AbortController();
  const supervised = new SupervisedProcess(
    {
      clock,
      start: () => {
        started.push(new FakeProcess(started.length + 1));
        return started.at(-1) as FakeProcess;
      },
      onStart: () => {},
      onCrash: (crash) => crashes.push(crash),
      random: () => 1,
    },
    { firstDelayMs: 100, maxDelayMs: 1000, stableMs: 10_000, stopTimeoutMs: 5000 },
  );
  let ended = false;
  const run = supervised.run(stop.signal).then(() => (ended = true));
  const crash = async (): Promise<void> => {
    started.at(-1)?.end({ code: 1, signal: null });
    await settle();
  };
  return { clock, started, crashes, stop, supervised, run, crash, ended: () => ended };
}

describe('a supervised process', () => {
  test('is started again after delays that double up to the longest', async () => {
    const { clock, started, crashes, stop, run, crash } = supervise();
    for (let i = 0; i < 6; i += 1) {
      await crash();
      const count = started.length;
      const delayMs = crashes.at(-1)?.delayMs ?? 0;
      await clock.advance(delayMs - 1);
      expect(started).toHaveLength(count);
      await clock.advance(1);
      expect(started).toHaveLength(count + 1);
    }
    expect(crashes.map(({ delayMs }) => delayMs)).toEqual([100, 200, 400, 800, 1000, 1000]);
    expect(crashes.map(({ inARow }) => inARow)).toEqual([1, 2, 3, 4, 5, 6]);
    stop.abort();
    await crash();
    await run;
  });

  test('begins with the first delay again when it has been up for long', async () => {
    const { clock, crashes, stop, run, crash } = supervise();
    await crash();
    await clock.advance(100);
    await crash();
    await clock.advance(200);
    await clock.advance(10_000);
    await crash();
    expect(crashes.map(({ delayMs, inARow }) => [delayMs, inARow])).toEqual([
      [100, 1],
      [200, 2],
      [100, 1],
    ]);
    stop.abort();
    await run;
  });

  test('says how it ended', async () => {
    const { clock, started, crashes, stop, run, crash } = supervise();
    await crash();
    await clock.advance(100);
    started.at(-1)?.end({ code: null, signal: 'SIGKILL' });
    await settle();
    expect(crashes.map(({ why }) => why)).toEqual(['ended with exit code 1', 'was ended by SIGKILL']);
    stop.abort();
    await run;
  });

  test('is told to end, and is not started again', async () => {
    const { started, stop, run, crash, crashes } = supervise();
    stop.abort();
    expect(started[0]?.signals).toEqual(['SIGTERM']);
    await crash();
    await run;
    expect([started.length, crashes.length]).toEqual([1, 0]);
  });

  test('is ended by force when it does not obey in time, and only then', async () => {
    const { clock, started, stop, run, crash, ended } = supervise();
    stop.abort();
    await clock.advance(4999);
    expect(started[0]?.signals).toEqual(['SIGTERM']);
    await clock.advance(1);
    expect(started[0]?.signals).toEqual(['SIGTERM', 'SIGKILL']);
    expect(ended()).toBe(false);
    await crash();
    await run;
  });

  test('that waits for its next start ends at once', async () => {
    const { started, stop, run, crash } = supervise();
    await crash();
    stop.abort();
    await run;
    expect(started).toHaveLength(1);
  });

  test('whose start fails is tried again', async () => {
    const clock = new ManualClock();
    const stop = new AbortController();
    const crashes: Crash[] = [];
    const supervised = new SupervisedProcess(
      {
        clock,
        start: () => {
          throw new Error('no memory');
        },
        onStart: () => {},
        onCrash: (crash) => crashes.push(crash),
      },
      { firstDelayMs: 100, maxDelayMs: 1000, stableMs: 10_000, stopTimeoutMs: 5000 },
    );
    const run = supervised.run(stop.signal);
    await settle();
    await clock.advance(100);
    expect(crashes.map(({ why }) => why)).toEqual(Array(2).fill('could not be started: no memory'));
    stop.abort();
    await run;
  });
});
