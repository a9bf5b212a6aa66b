import { machineBusyMs } from './processor-time.ts';
import { pause } from './contender.ts';
import type { PacedLoad } from './paced-load.ts';

/** What became of a load in a span of time. */
export interface LoadRate {
  readonly rowsPerSecond: number;
  /** The slowest commit. */
  readonly slowestMs: number;
  /** How many processors of the machine were busy, on average. */
  readonly busyProcessors: number;
}

/** Of the same load without a join, and while one was going on. */
export interface JoinRates {
  readonly without: LoadRate;
  readonly during: LoadRate;
}

const WARM_UP_MS = 1000;
const WITHOUT_MS = 4000;

/**
 * How much a load gets done before `join` begins, and until it resolves.
 * @returns also when each of the two began, by performance.now
 */
export async function ratesOf<T>(
  load: PacedLoad,
  join: () => Promise<T>,
): Promise<JoinRates & { readonly beganMs: number; readonly startedMs: number; readonly joined: T }> {
  await pause(WARM_UP_MS);
  const span = spanOf(load);
  await pause(WITHOUT_MS);
  const without = span.end();
  const joining = spanOf(load);
  const joined = await join();
  const during = joining.end();
  return { without, during, joined, beganMs: span.beganMs, startedMs: joining.beganMs };
}

function spanOf(load: PacedLoad): { readonly beganMs: number; readonly end: () => LoadRate } {
  const [beganMs, busyBefore] = [performance.now(), machineBusyMs()];
  return {
    beganMs,
    end: () => {
      const [endedMs, busyMs] = [performance.now(), machineBusyMs() - busyBefore];
      const took = load.answers
        .filter(({ atMs }) => atMs >= beganMs && atMs <= endedMs)
        .map(({ tookMs }) => tookMs);
      return {
        rowsPerSecond: load.rowsPerSecond(beganMs, endedMs),
        slowestMs: Math.max(0, ...took),
        busyProcessors: busyMs / (endedMs - beganMs),
      };
    },
  };
}
