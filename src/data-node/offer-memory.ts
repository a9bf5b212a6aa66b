import type { Clock } from '../core/clock.ts';
import { describeServer, type Target } from './target.ts';

export type Offers = Readonly<Record<string, readonly string[]>>;

const KEPT_MS = 60_000;

/**
 * Which extensions servers had on offer a moment ago: to answer that, a server reads every control file that it
 * has, and those who add many databases to one server ask again and again. Only a server that offers `varve` is
 * remembered, and none after a call that failed, so what was installed meanwhile is seen by the next one.
 */
export class OfferMemory {
  readonly #clock: Clock;
  readonly #seen = new Map<string, { readonly offers: Offers; readonly atMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  recall(server: Omit<Target, 'database'>): Offers | undefined {
    const seen = this.#seen.get(describeServer(server));
    return seen && this.#clock.monotonicMs() - seen.atMs < KEPT_MS ? seen.offers : undefined;
  }

  remember(server: Omit<Target, 'database'>, offers: Offers): void {
    if (offers['varve'] === undefined) return;
    this.#seen.set(describeServer(server), { offers, atMs: this.#clock.monotonicMs() });
  }

  forget(server: Omit<Target, 'database'>): void {
    this.#seen.delete(describeServer(server));
  }
}
