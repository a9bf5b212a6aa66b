import type { Routing, WriteLevel } from './routing.ts';

/** Of one write: which replicas have it, and whether that is enough. */
export class WriteProgress {
  readonly #routing: Routing;
  readonly #groups: readonly number[];
  readonly #needed: number;
  readonly #done = new Set<number>();
  readonly #failed = new Set<number>();

  constructor(routing: Routing, groups: readonly number[], level: WriteLevel) {
    this.#routing = routing;
    this.#groups = groups;
    this.#needed = routing.writesNeeded(level);
  }

  done(place: number): void {
    this.#done.add(place);
  }

  failed(place: number): void {
    this.#failed.add(place);
  }

  /** `reached`: every shard has enough replicas; `lost`: some shard cannot have enough any more. */
  get state(): 'open' | 'reached' | 'lost' {
    let reached = true;
    for (const group of this.#groups) {
      const { units } = this.#routing.groups[group] as Routing['groups'][number];
      let [whole, possible] = [0, 0];
      for (const unit of units) {
        if (unit.every((place) => this.#done.has(place))) whole++;
        if (!unit.some((place) => this.#failed.has(place))) possible++;
      }
      if (possible < this.#needed) return 'lost';
      reached &&= whole >= this.#needed;
    }
    return reached ? 'reached' : 'open';
  }
}
