import type { Clock } from '../../core/clock.ts';
import { untilDeadline } from '../../core/deadline.ts';

export interface IdleLimit {
  /** Whose answer it is. */
  readonly who: string;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/**
 * The parts of an answer, as long as there is something every `timeoutMs`.
 * @throws DEADLINE_EXCEEDED naming `who` when nothing comes any more
 */
export async function* idleLimited<T>(
  parts: AsyncIterable<T>,
  { who, timeoutMs, clock }: IdleLimit,
): AsyncGenerator<T, void, void> {
  const iterator = parts[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await untilDeadline({ waitingFor: who, timeoutMs, clock }, () => iterator.next());
      if (next.done) return;
      yield next.value;
    }
  } finally {
    // It may wait for what never comes.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}
