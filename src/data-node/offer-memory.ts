import { describeServer, type Target } from './target.ts';

export type Offers = Readonly<Record<string, readonly string[]>>;

/**
 * Which extensions servers have on offer, while calls on them are under way: to answer that, a server reads every
 * control file that it has, and many databases added to one server at once would make it do so for each. Nothing
 * outlives the last of those calls, so what is installed or removed meanwhile is seen by the next one.
 */
export class OfferMemory {
  readonly #held = new Map<string, { count: number; offers: Offers | undefined }>();

  /** Until it is disposed of, what was seen of `server` is kept. */
  hold(server: Omit<Target, 'database'>): Disposable {
    const key = describeServer(server);
    const entry = this.#held.get(key) ?? { count: 0, offers: undefined };
    entry.count += 1;
    this.#held.set(key, entry);
    return {
      [Symbol.dispose]: () => {
        entry.count -= 1;
        if (entry.count === 0) this.#held.delete(key);
      },
    };
  }

  recall(server: Omit<Target, 'database'>): Offers | undefined {
    return this.#held.get(describeServer(server))?.offers;
  }

  remember(server: Omit<Target, 'database'>, offers: Offers): void {
    const entry = this.#held.get(describeServer(server));
    if (entry) entry.offers = offers;
  }
}
