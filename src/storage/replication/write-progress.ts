import { hasEnough, type Routing, type WriteLevel } from './routing.ts';

/** Of one write: which replicas have it, and whether that is enough. */
export class WriteProgress {
  readonly #routing: Routing;
  readonly #groups: readonly number[];
  readonly #level: WriteLevel;
  readonly #done = new Set<number>();
  readonly #failed = new Set<number>();

  constructor(routing: Routing, groups: readonly number[], level: WriteLevel) {
    this.#routing = routing;
    this.#groups = groups;
    this.#level = level;
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
      const of = this.#routing.groups[group] as Routing['groups'][number];
      const whole = { units: 0, filling: 0 };
      const possible = { units: 0, filling: 0 };
      for (const unit of of.units) {
        if (unit.every((place) => this.#done.has(place))) whole.units++;
        if (!unit.some((place) => this.#failed.has(place))) possible.units++;
      }
      for (const place of of.filling) {
        if (this.#done.has(place)) whole.filling++;
        if (!this.#failed.has(place)) possible.filling++;
      }
      if (!hasEnough(of, this.#level, possible)) return 'lost';
      reached &&= hasEnough(of, this.#level, whole);
    }
    return reached ? 'reached' : 'open';
  }
}
