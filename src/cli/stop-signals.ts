/** The first of these asks a process to stop, a second one not to wait for it. */
const NAMES = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export interface StopSignals extends Disposable {
  readonly stop: AbortSignal;
  readonly force: AbortSignal;
  /** As if a signal had come. */
  request(): void;
}

export function stopSignals(): StopSignals {
  const stop = new AbortController();
  const force = new AbortController();
  const request = (): void => (stop.signal.aborted ? force : stop).abort();
  for (const name of NAMES) process.on(name, request);
  return {
    stop: stop.signal,
    force: force.signal,
    request,
    [Symbol.dispose]() {
      for (const name of NAMES) process.off(name, request);
    },
  };
}
