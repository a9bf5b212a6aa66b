/** The first of these asks a process to stop, a second one not to wait for it. */
const NAMES = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** One Ctrl-C under `npm start` arrives twice: from the terminal, and passed on by npm. */
const SAME_REQUEST_MS = 100;

export interface StopSignals extends Disposable {
  readonly stop: AbortSignal;
  readonly force: AbortSignal;
  /** As if a signal had come. */
  request(): void;
}

export function stopSignals(): StopSignals {
  const stop = new AbortController();
  const force = new AbortController();
  let firstMs = 0;
  const request = (): void => {
    if (!stop.signal.aborted) {
      firstMs = performance.now();
      stop.abort();
    } else if (performance.now() - firstMs > SAME_REQUEST_MS) force.abort();
  };
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
