import type { RunEvents } from '../run/events.ts';
import type { RunEvent } from '../run/step.ts';

export interface FeedItem {
  /** `<start of the process>-<number>`: a reader that returns after a restart gets everything anew. */
  readonly id: string;
  readonly event: RunEvent;
}

/** A reader that falls so far behind is cut off; it may return and continue from its last id. */
const MAX_BEHIND = 10_000;

/** Numbers the events, so that a reader who was cut off can continue where it stopped. */
export class EventFeed implements Disposable {
  readonly #epoch: string;
  readonly #keepCount: number;
  readonly #items: FeedItem[] = [];
  readonly #readers = new Set<(item: FeedItem) => void>();
  readonly #unsubscribe: () => void;
  #count = 0;

  constructor(events: RunEvents, options: { readonly epoch: string; readonly keepCount?: number }) {
    this.#epoch = options.epoch;
    this.#keepCount = options.keepCount ?? 1000;
    for (const event of events.history()) this.#add(event);
    this.#unsubscribe = events.subscribe((event) => this.#add(event));
  }

  /** What is kept after `lastId`; everything when that is of another process or too old. */
  since(lastId: string | undefined): FeedItem[] {
    const at = this.#items.findIndex(({ id }) => id === lastId);
    return this.#items.slice(at + 1);
  }

  /**
   * What is kept after `lastId`, then every later event, until `signal` fires. Yields undefined after
   * `heartbeatMs` without one. Ends by itself when the reader is too far behind.
   */
  async *read(
    lastId: string | undefined,
    options: { readonly heartbeatMs: number; readonly signal: AbortSignal },
  ): AsyncGenerator<FeedItem | undefined> {
    const queue = this.since(lastId);
    let wake = (): void => {};
    const reader = (item: FeedItem): void => {
      queue.push(item);
      wake();
    };
    this.#readers.add(reader);
    const stop = (): void => wake();
    options.signal.addEventListener('abort', stop);
    try {
      while (!options.signal.aborted && queue.length <= MAX_BEHIND) {
        const item = queue.shift();
        if (item) {
          yield item;
          continue;
        }
        const timely = await new Promise<boolean>((resolve) => {
          const timer = setTimeout(() => resolve(false), options.heartbeatMs);
          wake = () => {
            clearTimeout(timer);
            resolve(true);
          };
        });
        if (!timely) yield undefined;
      }
    } finally {
      this.#readers.delete(reader);
      options.signal.removeEventListener('abort', stop);
    }
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
  }

  #add(event: RunEvent): void {
    this.#count += 1;
    const item = { id: `${this.#epoch}-${this.#count}`, event };
    this.#items.push(item);
    if (this.#items.length > this.#keepCount) this.#items.shift();
    for (const reader of this.#readers) reader(item);
  }
}
