import type { Clock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';

/** So many failures in a row, and a replica is taken for down. */
const FAILURES = 3;
/** One that is taken for down is tried again so often. */
const RETRY_MS = 500;

interface State {
  failures: number;
  sinceMs: number;
  triedMs: number;
  reason: string;
}

/** What is known of whether replicas answer, from what was asked of them: so that not every write waits for the same. */
export class ReplicaHealth {
  readonly #clock: Pick<Clock, 'monotonicMs' | 'nowMs'>;
  readonly #states = new Map<string, State>();

  constructor(clock: Pick<Clock, 'monotonicMs' | 'nowMs'>) {
    this.#clock = clock;
  }

  answered(id: string): void {
    this.#states.delete(id);
  }

  failed(id: string, error: unknown): void {
    const state = this.#states.get(id);
    const triedMs = this.#clock.monotonicMs();
    if (!state) {
      const sinceMs = this.#clock.nowMs();
      this.#states.set(id, { failures: 1, sinceMs, triedMs, reason: messageOf(error) });
      return;
    }
    state.failures++;
    state.triedMs = triedMs;
    state.reason = messageOf(error);
  }

  /** Why it is taken for down; undefined when it is not. */
  down(id: string): { readonly reason: string; readonly sinceMs: number } | undefined {
    const state = this.#states.get(id);
    return state && state.failures >= FAILURES ? state : undefined;
  }

  /** Whether to ask it: always, but of one that is down only once in a while. */
  mayTry(id: string): boolean {
    const state = this.#states.get(id);
    if (!state || state.failures < FAILURES) return true;
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - state.triedMs < RETRY_MS) return false;
    state.triedMs = nowMs;
    return true;
  }
}
