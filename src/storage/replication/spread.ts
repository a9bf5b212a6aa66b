import { messageOf, VarveError } from '../../core/errors.ts';
import type { WriteOutcome } from '../engine/storage-engine.ts';
import type { Hint } from './hint-frames.ts';
import type { ReplicaAddress } from './replica-transport.ts';
import type { Routing, WriteLevel } from './routing.ts';
import { WriteProgress } from './write-progress.ts';

/** What one replica is to do. */
export interface Errand {
  readonly bytes: number;
  /** For later, if it cannot be done now. */
  readonly hint: Hint;
  readonly run: (to: ReplicaAddress, signal: AbortSignal) => Promise<WriteOutcome>;
}

/** One thing that replicas are to have, in the form in which each is to have it. */
export interface SpreadPlan {
  readonly routing: Routing;
  readonly level: WriteLevel;
  readonly groups: readonly number[];
  /** By place. */
  readonly errands: ReadonlyMap<number, Errand>;
}

export interface SpreadDeps {
  readonly send: (to: ReplicaAddress, errand: Errand) => Promise<WriteOutcome>;
  readonly hint: (to: ReplicaAddress, hint: Hint) => void;
  /** Down, and not worth a try as long as others are enough. */
  readonly isIdle: (to: ReplicaAddress) => boolean;
}

/** By place, in the order in which they came. */
export type Outcomes = ReadonlyMap<number, WriteOutcome>;

/**
 * Sends one thing to all replicas at once. Settles when every shard has enough of them, or cannot have; those that fail
 * after that are hinted, too. What was not acknowledged is not hinted: whoever sent it repeats it.
 */
export class Spread {
  readonly #deps: SpreadDeps;
  readonly #plan: SpreadPlan;
  readonly #progress: WriteProgress;
  /** The same without those that are held back. */
  readonly #withoutHeld: WriteProgress;
  readonly #held = new Set<number>();
  readonly #missed = new Set<number>();
  readonly #outcomes = new Map<number, WriteOutcome>();
  readonly #reasons: string[] = [];
  #isReached = false;
  /** What one said that knows a newer placement. */
  #stale: VarveError | undefined;
  #resolve: (outcomes: Outcomes) => void = () => {};
  #reject: (error: unknown) => void = () => {};

  constructor(deps: SpreadDeps, plan: SpreadPlan) {
    this.#deps = deps;
    this.#plan = plan;
    this.#progress = new WriteProgress(plan.routing, plan.groups, plan.level);
    this.#withoutHeld = new WriteProgress(plan.routing, plan.groups, plan.level);
  }

  /** Once. @throws WRITE_LEVEL_NOT_REACHED, WRITE_INVALID */
  run(): Promise<Outcomes> {
    const { errands } = this.#plan;
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      const due: number[] = [];
      for (const place of errands.keys()) {
        if (this.#deps.isIdle(this.#address(place))) {
          this.#held.add(place);
          this.#withoutHeld.failed(place);
        } else due.push(place);
      }
      for (const place of due) this.#send(place);
      this.#look();
    });
  }

  #send(place: number): void {
    this.#deps.send(this.#address(place), this.#errand(place)).then(
      (outcome) => this.#took(place, outcome),
      (error: unknown) => this.#failed(place, error),
    );
  }

  #took(place: number, outcome: WriteOutcome): void {
    if ((outcome.notOwned ?? 0) > 0) {
      // The placement is newer here or there: a hint would be passed over, too.
      this.#lose(place, 'has not all of these shards');
    } else {
      this.#outcomes.set(place, outcome);
      this.#progress.done(place);
      this.#withoutHeld.done(place);
    }
    this.#look();
  }

  #failed(place: number, error: unknown): void {
    if (error instanceof VarveError && error.code === 'WRITE_INVALID') {
      this.#reject(error);
      return;
    }
    if (error instanceof VarveError && error.code === 'PLACEMENT_STALE') this.#stale = error;
    this.#lose(place, messageOf(error));
    if (this.#isReached) this.#hint(place);
    else this.#missed.add(place);
    this.#look();
  }

  #lose(place: number, why: string): void {
    this.#reasons.push(`${this.#address(place).id}: ${why}`);
    this.#progress.failed(place);
    this.#withoutHeld.failed(place);
  }

  #look(): void {
    if (this.#isReached) return;
    if (this.#progress.state === 'reached') {
      this.#isReached = true;
      for (const place of [...this.#missed, ...this.#held]) this.#hint(place);
      this.#resolve(this.#outcomes);
      return;
    }
    if (this.#held.size > 0 && this.#withoutHeld.state === 'lost') {
      // Perhaps they are up again: the others are not enough.
      const held = [...this.#held];
      this.#held.clear();
      for (const place of held) this.#send(place);
      return;
    }
    if (this.#progress.state === 'lost') this.#reject(this.#notReached());
  }

  #hint(place: number): void {
    this.#deps.hint(this.#address(place), this.#errand(place).hint);
  }

  #address(place: number): ReplicaAddress {
    return this.#plan.routing.instances[place] as ReplicaAddress;
  }

  #errand(place: number): Errand {
    return this.#plan.errands.get(place) as Errand;
  }

  #notReached(): VarveError {
    const why = this.#reasons.join('; ') || 'the placement has too few replicas that are available';
    return new VarveError(
      'WRITE_LEVEL_NOT_REACHED',
      `too few replicas took the write for level ${this.#plan.level}: ${why}`,
      { hint: 'Repeat it in a moment: what some of them took does no harm.', cause: this.#stale },
    );
  }
}
