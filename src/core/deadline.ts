import { systemClock, type Clock } from './clock.ts';
import { VarveError } from './errors.ts';

export interface Deadline {
  readonly waitingFor: string;
  readonly timeoutMs: number;
  /** By which the time runs out. */
  readonly clock: Clock;
  readonly parent?: AbortSignal | undefined;
}

/**
 * Runs `work` with a signal that fires when `parent` does or the time has run out.
 * @throws DEADLINE_EXCEEDED naming `waitingFor` when the time ran out first
 */
export async function untilDeadline<T>(
  { waitingFor, timeoutMs, clock, parent }: Deadline,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const own = new AbortController();
  const stopTimer = startTimer(clock, timeoutMs, () =>
    own.abort(new VarveError('DEADLINE_EXCEEDED', `${waitingFor} took longer than ${timeoutMs} ms`)),
  );
  // Signals that are made of others stay with them: a parent may have very many works.
  const end = (): void => own.abort(parent?.reason);
  if (parent?.aborted) end();
  else parent?.addEventListener('abort', end, { once: true });
  const { signal } = own;
  let stop = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work(signal), aborted]);
  } finally {
    stopTimer();
    parent?.removeEventListener('abort', end);
    signal.removeEventListener('abort', stop);
  }
}

/** The same by the system's clock. @throws DEADLINE_EXCEEDED */
export async function withDeadline<T>(
  waitingFor: string,
  timeoutMs: number,
  parent: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return await untilDeadline({ waitingFor, timeoutMs, parent, clock: systemClock }, work);
}

/** Calls `fire` after `ms`, unless what it returns is called before. */
function startTimer(clock: Clock, ms: number, fire: () => void): () => void {
  if (clock === systemClock) {
    // Cheaper than a sleep that is called off.
    const timer = setTimeout(fire, ms);
    return () => clearTimeout(timer);
  }
  const off = new AbortController();
  clock.sleep(ms, off.signal).then(fire, () => {});
  return () => off.abort();
}
