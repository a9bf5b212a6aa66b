import { Backoff } from '../core/backoff.ts';
import { VarveError } from '../core/errors.ts';
import type { CoordinatorDeps } from './coordinator.ts';

export interface Followed<T> {
  /** For the log. */
  readonly what: string;
  readonly signal: AbortSignal;
  /** The newest state at once when `index` is 0, else the state once it has changed, or after some time. */
  readonly read: (index: number) => Promise<{ readonly index: number; readonly state: T }>;
  /** Equal for states that are the same to the reader. */
  readonly fingerprint: (state: T) => string;
}

/** How long a blocking query waits; shorter than what proxies in between cut off. */
export const WATCH_WAIT_MS = 30_000;

/**
 * Blocking queries as a level-triggered sequence. After a failure, and when Consul's index goes backwards (a
 * restored snapshot, or another server that is behind), it begins anew with a reading that a majority of the
 * servers confirms, so it never shows a state that is older than what it showed before.
 */
export async function* follow<T>(
  deps: CoordinatorDeps,
  followed: Followed<T>,
): AsyncGenerator<T, void, void> {
  const { signal, read, fingerprint, what } = followed;
  const backoff = new Backoff({ firstMs: 100, maxMs: 5000, ...(deps.random ? { random: deps.random } : {}) });
  let index = 0;
  let shown: string | undefined;
  while (!signal.aborted) {
    try {
      const answer = await read(index);
      backoff.reset();
      const wentBack = answer.index < index;
      index = wentBack ? 0 : Math.max(1, answer.index);
      const now = fingerprint(answer.state);
      if (wentBack || now === shown) continue;
      shown = now;
      yield answer.state;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof VarveError) || error.code !== 'COORDINATOR_UNAVAILABLE') throw error;
      index = 0;
      const waitMs = backoff.nextMs();
      deps.log.warn({ error, waitMs }, `${what} is interrupted and will be tried again`);
      await deps.clock.sleep(waitMs, signal).catch(() => {});
    }
  }
}
