import { withDeadline } from '../../core/deadline.ts';

/**
 * The parts of an answer, as long as there is something every `timeoutMs`.
 * @throws DEADLINE_EXCEEDED naming `who` when nothing comes any more
 */
export async function* idleLimited<T>(
  parts: AsyncIterable<T>,
  who: string,
  timeoutMs: number,
): AsyncGenerator<T, void, void> {
  const iterator = parts[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await withDeadline(who, timeoutMs, undefined, () => iterator.next());
      if (next.done) return;
      yield next.value;
    }
  } finally {
    // It may wait for what never comes.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}
