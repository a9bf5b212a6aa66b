import { setImmediate as nextTurn } from 'node:timers/promises';
import type { SeededRandom } from '../../../test/seeded-random.ts';
import { VarveError, type ErrorCode } from '../../core/errors.ts';
import type { SimulatedClock } from './clock.suite.ts';

/** Where the placement is: a place like the nodes. */
export const COORDINATOR = 'coordinator';

export interface Message {
  readonly from: string;
  readonly to: string;
  /** What the sender is told when nothing comes back. */
  readonly lost: ErrorCode;
  readonly signal?: AbortSignal | undefined;
}

/** Who gives up waits no longer; nobody waits for ever. */
const PATIENCE_MS = 120_000;

/** Carries messages between nodes: late, in another order, twice lost, or not at all. */
export class SimulatedNetwork {
  /** Pairs `from>to` that get nothing through. */
  readonly cut = new Set<string>();
  /** The share of messages, and of answers, that are lost on the way to or from one place. */
  readonly lossy = new Map<string, number>();
  readonly #clock: SimulatedClock;
  readonly #random: SeededRandom;

  constructor(clock: SimulatedClock, random: SeededRandom) {
    this.#clock = clock;
    this.#random = random;
  }

  heal(): void {
    this.cut.clear();
    this.lossy.clear();
  }

  /** What `work` does at the other place; nobody hears of it when the answer is lost. */
  async carry<T>(message: Message, work: () => Promise<T>): Promise<T> {
    const { from, to } = message;
    await this.#travel(from, to, message);
    const result = await work().catch(async (error: unknown) => {
      await this.#travel(to, from, message);
      throw error;
    });
    await this.#travel(to, from, message);
    return result;
  }

  async #travel(from: string, to: string, { lost, signal }: Message): Promise<void> {
    const share = Math.max(this.lossy.get(from) ?? 0, this.lossy.get(to) ?? 0);
    if (this.cut.has(`${from}>${to}`) || this.#random.chance(share)) {
      // Some networks say so, others leave it to the sender to lose patience.
      if (this.#random.chance(0.5)) await this.#clock.sleep(PATIENCE_MS, signal);
      throw new VarveError(lost, `${to}: no answer`);
    }
    if (this.#random.chance(0.2)) {
      await this.#clock.sleep(1 + this.#random.below(this.#random.chance(0.05) ? 1500 : 20), signal);
      return;
    }
    for (let turns = this.#random.below(3); turns > 0; turns--) await nextTurn();
    signal?.throwIfAborted();
  }
}
