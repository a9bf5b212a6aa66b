import { messageOf } from '../../core/errors.ts';
import type { GroupKeys } from '../group-keys.ts';
import type { GroupLog } from './context.ts';

/**
 * Tells those who wait that something of the group has changed at the coordinator: a key, or which nodes give signs of
 * life. What it is they look up themselves. Where it cannot be watched they are told nothing: they look now and then
 * anyway.
 */
export class Changes implements AsyncDisposable {
  readonly #keys: GroupKeys;
  readonly #log: GroupLog;
  readonly #waiting = new Set<() => void>();
  #watching: { readonly end: AbortController; readonly ended: Promise<unknown> } | undefined;
  #count = 0;

  constructor(keys: GroupKeys, log: GroupLog) {
    this.#keys = keys;
    this.#log = log;
  }

  /** So many there were; from now on they are counted. Read before one looks, it keeps one from being missed. */
  get count(): number {
    this.#watching ??= this.#watch();
    return this.#count;
  }

  /** Resolves when there are more than `count`, or when `signal` fires. */
  async beyond(count: number, signal: AbortSignal): Promise<void> {
    if (this.#count > count || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        this.#waiting.delete(end);
        signal.removeEventListener('abort', end);
        resolve();
      };
      this.#waiting.add(end);
      signal.addEventListener('abort', end, { once: true });
    });
  }

  /** Watches no more, until it is asked again. */
  async rest(): Promise<void> {
    const watching = this.#watching;
    this.#watching = undefined;
    watching?.end.abort();
    await watching?.ended;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.rest();
  }

  #watch(): { readonly end: AbortController; readonly ended: Promise<unknown> } {
    const { coordinator, prefix, serviceName } = this.#keys;
    const end = new AbortController();
    const { signal } = end;
    const ended = Promise.all([
      this.#follow(coordinator.watch(prefix, signal)),
      this.#follow(coordinator.watchServices(serviceName, { passing: true, signal })),
    ]);
    return { end, ended };
  }

  async #follow(states: AsyncIterable<readonly unknown[]>): Promise<void> {
    try {
      for await (const { length } of states) if (length >= 0) this.#tell();
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'the group is not watched; it is looked at now and then');
    }
  }

  #tell(): void {
    this.#count += 1;
    for (const wake of this.#waiting) wake();
  }
}
