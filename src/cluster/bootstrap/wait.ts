import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { StepWork } from '../../run/step.ts';
import type { Changes } from './changes.ts';

export interface Wait {
  /** In the sentence "… was waited for". */
  readonly what: string;
  readonly timeoutMs: number;
  readonly hint?: string;
  /** What wakes it; then it looks by itself only now and then. */
  readonly changes?: Pick<Changes, 'count' | 'beyond'>;
}

/** What a look at the thing says: it is as it should be, or for whom it waits. */
export type Look = { readonly met: true } | { readonly met: false; readonly waitingFor: string };

export const met: Look = { met: true };
export const waitsFor = (waitingFor: string): Look => ({ met: false, waitingFor });

const FIRST_MS = 10;
/** A bootstrap takes a few seconds when nobody is missing. */
const SOON_MS = 5_000;
const SOON_PAUSE_MS = 60;
/** Where changes are told: for what nobody tells, as that a node is silent. */
const TOLD_PAUSE_MS = 250;
const LAST_PAUSE_MS = 500;

/**
 * Looks again and again, first often, until it is as it should be; reports for whom it waits and until when.
 * @throws DEADLINE_EXCEEDED naming for whom it waited to the end
 */
export async function waitUntil(
  clock: Clock,
  work: StepWork,
  wait: Wait,
  look: () => Promise<Look>,
): Promise<void> {
  const beganMs = clock.monotonicMs();
  const { changes } = wait;
  let pauseMs = changes ? TOLD_PAUSE_MS : FIRST_MS;
  let told = '';
  let toldMs = 0;
  for (;;) {
    work.signal.throwIfAborted();
    const changeCount = changes?.count ?? 0;
    const seen = await look();
    if (seen.met) return;
    const nowMs = clock.monotonicMs();
    const passedMs = nowMs - beganMs;
    if (passedMs >= wait.timeoutMs) throw tooLate(wait, seen.waitingFor);
    // At once when it changes, else once a second: it is shown to people.
    if (told !== seen.waitingFor || nowMs - toldMs >= 1000) {
      told = seen.waitingFor;
      toldMs = nowMs;
      const seconds = `${Math.floor(passedMs / 1000)} s of ${Math.round(wait.timeoutMs / 1000)}`;
      work.report({ waitingFor: `${seen.waitingFor} (${seconds})` });
    }
    const sleep = (signal: AbortSignal): Promise<void> =>
      clock.sleep(Math.min(pauseMs, wait.timeoutMs - passedMs), signal);
    await (changes
      ? sleepUntil(work.signal, sleep, (end) => changes.beyond(changeCount, end))
      : sleep(work.signal));
    const longestMs = changes ? TOLD_PAUSE_MS : SOON_PAUSE_MS;
    pauseMs = Math.min(passedMs < SOON_MS ? longestMs : LAST_PAUSE_MS, pauseMs * 1.5);
  }
}

/** Sleeps, at most until it is woken. */
async function sleepUntil(
  signal: AbortSignal,
  sleep: (signal: AbortSignal) => Promise<void>,
  woken: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const over = new AbortController();
  const either = AbortSignal.any([signal, over.signal]);
  const waking = woken(either).then(() => over.abort());
  await sleep(either).catch(() => signal.throwIfAborted());
  over.abort();
  await waking;
}

function tooLate(wait: Wait, waitingFor: string): VarveError {
  return new VarveError('DEADLINE_EXCEEDED', `${wait.what} was waited for longer than ${wait.timeoutMs} ms`, {
    detail: `Missing: ${waitingFor}.`,
    hint: wait.hint ?? 'Start what is missing, then start this node again: it carries on where it was.',
  });
}
