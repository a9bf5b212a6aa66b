import { VarveError } from './errors.ts';

/**
 * Runs `work` with a signal that fires when `parent` does or after `timeoutMs`.
 * @throws DEADLINE_EXCEEDED naming `waitingFor` when the time ran out first
 */
export async function withDeadline<T>(
  waitingFor: string,
  timeoutMs: number,
  parent: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const own = new AbortController();
  const late = new VarveError('DEADLINE_EXCEEDED', `${waitingFor} took longer than ${timeoutMs} ms`);
  const timer = setTimeout(() => own.abort(late), timeoutMs);
  const signal = parent ? AbortSignal.any([parent, own.signal]) : own.signal;
  let stop = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work(signal), aborted]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}
