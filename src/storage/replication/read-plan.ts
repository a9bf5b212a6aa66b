import { VarveError, messageOf } from '../../core/errors.ts';
import { readsNeeded, readsWanted, type ReadLevel, type ReplicaGroup, type Routing } from './routing.ts';

/** One replica, and the groups of shards that it is asked for. */
export interface Assignment {
  readonly place: number;
  readonly groups: readonly number[];
}

/**
 * Which replicas a read asks: as few as its level needs, and others in place of those that fail. What the answer is
 * short of is a warning; a shard that too few can answer for is an error.
 */
export class ReadPlan {
  readonly #routing: Routing;
  readonly #level: ReadLevel;
  /** Places, the best first. */
  readonly #order: readonly number[];
  readonly #asked: Set<number>[];
  readonly #alive: number[];
  readonly #reasons = new Map<number, string>();
  readonly #warnings = new Set<string>();

  constructor(
    routing: Routing,
    level: ReadLevel,
    { order, groups }: { readonly order: readonly number[]; readonly groups?: readonly number[] },
  ) {
    this.#routing = routing;
    this.#level = level;
    this.#order = order;
    this.#asked = routing.groups.map(() => new Set());
    this.#alive = routing.groups.map(() => 0);
    this.#groups = groups ?? [...routing.groups.keys()];
  }

  readonly #groups: readonly number[];

  get warnings(): readonly string[] {
    return [...this.#warnings];
  }

  warn(text: string): void {
    this.#warnings.add(text);
  }

  /** @throws READ_LEVEL_NOT_REACHED when there are too few to ask */
  begin(): Assignment[] {
    return this.#assign(this.#groups, (group) => readsWanted(group, this.#level));
  }

  /** What is to be asked instead. @throws READ_LEVEL_NOT_REACHED */
  replace({ place, groups }: Assignment, error: unknown): Assignment[] {
    const { id } = this.#routing.instances[place] as Routing['instances'][number];
    this.#reasons.set(place, `${id}: ${messageOf(error)}`);
    this.warn(`replica ${id} did not answer: ${messageOf(error)}`);
    for (const group of groups) this.#alive[group] = (this.#alive[group] as number) - 1;
    return this.#assign(groups, () => 1);
  }

  #assign(groups: readonly number[], count: (group: ReplicaGroup) => number): Assignment[] {
    const byPlace = new Map<number, number[]>();
    for (const group of groups) {
      const of = this.#routing.groups[group] as ReplicaGroup;
      const { readers, shards } = of;
      const asked = this.#asked[group] as Set<number>;
      const free = this.#order.filter((place) => readers.includes(place) && !asked.has(place));
      for (const place of free.slice(0, count(of))) {
        asked.add(place);
        this.#alive[group] = (this.#alive[group] as number) + 1;
        const list = byPlace.get(place) ?? [];
        list.push(group);
        byPlace.set(place, list);
      }
      if ((this.#alive[group] as number) < readsNeeded(of, this.#level)) throw this.#tooFew(shards);
    }
    return [...byPlace].map(([place, of]) => ({ place, groups: of }));
  }

  #tooFew(shards: readonly number[]): VarveError {
    const few = shards.slice(0, 5).join(', ');
    const names = `${shards.length === 1 ? 'shard' : 'shards'} ${few}${shards.length > 5 ? ', …' : ''}`;
    return new VarveError(
      'READ_LEVEL_NOT_REACHED',
      `too few replicas of ${names} can be read for level ${this.#level}`,
      {
        detail: [...this.#reasons.values()].join('\n') || undefined,
        hint: `${[...this.#reasons.values()].join('; ') || 'No replica of them is available yet'}. Repeat it in a moment.`,
      },
    );
  }
}
