import { assert } from '../core/errors.ts';
import type { PlacedInstance, PlacedShard, Placement } from './placement.ts';
import { quotas, type Quota } from './quotas.ts';

/**
 * A placement while it is being changed: who is to have which shard, without states. The states follow at the end
 * from what each instance had and what it is to have (`finish`), so that whatever is tried on the way costs nothing:
 * a shard that is put back where it was has not moved.
 *
 * Instances are numbered here, in the order of their ids.
 */
export class Draft {
  readonly shardCount: number;
  readonly replicaFactor: number;
  readonly instances: PlacedInstance[];
  /** Of those that stay. */
  readonly quotas: readonly Quota[];
  readonly #was: Placement;
  readonly #indices: ReadonlyMap<string, number>;
  readonly #groups: readonly number[];
  /** By shard: the instances that are to have it. */
  readonly #holders: number[][];
  readonly #loads: number[];
  /** By instance: the same from its side, of those that were asked for. */
  readonly #held = new Map<number, Set<number>>();
  /** Of each shard that was moved: who had it counted before. */
  readonly #moved = new Map<number, readonly number[]>();
  /** Of each shard that is about to be given away: by whom. */
  readonly #givers: ReadonlyMap<number, readonly number[]>;

  /** `instances`: those of `was` as they are to be, and new ones without shards. */
  constructor(was: Placement, instances: readonly PlacedInstance[]) {
    this.#was = was;
    this.shardCount = was.shardCount;
    this.replicaFactor = was.replicaFactor;
    this.instances = [...instances].sort((a, b) => (a.id < b.id ? -1 : 1));
    this.#indices = new Map(this.instances.map(({ id }, index) => [id, index]));
    const groups = new Map<string, number>();
    this.#groups = this.instances.map(({ isolationGroup }) => {
      const number = groups.get(isolationGroup) ?? groups.size;
      groups.set(isolationGroup, number);
      return number;
    });
    const byId = quotas(
      this.instances.filter((instance) => !instance.isLeaving),
      this,
    );
    this.quotas = this.instances.map(({ id }) => byId.get(id) ?? NOTHING);
    this.#holders = Array.from({ length: this.shardCount }, () => []);
    this.#loads = this.instances.map(() => 0);
    const givers = new Map<number, number[]>();
    for (const [index, { shards }] of this.instances.entries()) {
      for (const { id, state } of shards) {
        if (state === 'leaving') givers.set(id, [...(givers.get(id) ?? []), index]);
        else {
          this.#holders[id]?.push(index);
          this.#loads[index] = this.load(index) + 1;
        }
      }
    }
    this.#givers = givers;
  }

  /** Undefined for an instance that is not in it any more. */
  indexOf(id: string): number | undefined {
    return this.#indices.get(id);
  }

  load(instance: number): number {
    return this.#loads[instance] ?? 0;
  }

  quota(instance: number): Quota {
    return this.quotas[instance] ?? NOTHING;
  }

  /** Gets shards: it is not on its way out. */
  stays(instance: number): boolean {
    return this.instances[instance]?.isLeaving !== true;
  }

  /** The shards that it is to have. */
  held(instance: number): ReadonlySet<number> {
    return this.#heldBy(instance);
  }

  /** What it had of it, in whichever state. */
  had(instance: number, shard: number): PlacedShard | undefined {
    const shards = this.instances[instance]?.shards ?? [];
    let low = 0;
    let high = shards.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((shards[middle]?.id ?? 0) < shard) low = middle + 1;
      else high = middle;
    }
    const found = shards[low];
    return found?.id === shard ? found : undefined;
  }

  holders(shard: number): readonly number[] {
    return this.#holders[shard] ?? [];
  }

  /** Whether `to` may have it, when `from` does not any more: no other replica is in its group. */
  canTake(shard: number, to: number, from = -1): boolean {
    if (!this.stays(to)) return false;
    const group = this.#groups[to];
    for (const holder of this.holders(shard)) {
      if (holder === to || (holder !== from && this.#groups[holder] === group)) return false;
    }
    return true;
  }

  /** 1 when another replica has to be filled by it, 0 when not, -1 when one less. */
  cost(shard: number, from: number, to: number): number {
    return (this.had(to, shard) ? 0 : 1) - (this.had(from, shard) ? 0 : 1);
  }

  /** Whether an instance may be without it that had it: only then can a move of it be free. */
  isMoving(shard: number): boolean {
    return this.#moved.has(shard) || this.#givers.has(shard);
  }

  move(shard: number, from: number, to: number): void {
    const holders = this.#holders[shard] ?? [];
    if (!this.#moved.has(shard)) this.#moved.set(shard, [...holders]);
    this.#heldBy(from).delete(shard);
    this.#heldBy(to).add(shard);
    holders[holders.indexOf(from)] = to;
    this.#loads[from] = this.load(from) - 1;
    this.#loads[to] = this.load(to) + 1;
  }

  /** One replica more. */
  add(shard: number, to: number): void {
    const holders = this.#holders[shard] ?? [];
    if (!this.#moved.has(shard)) this.#moved.set(shard, [...holders]);
    this.#heldBy(to).add(shard);
    holders.push(to);
    this.#loads[to] = this.load(to) + 1;
  }

  /** The placement that this is, one version on. */
  finish(): Placement {
    const shards = new Map<number, PlacedShard[]>();
    for (const [shard, before] of this.#moved) {
      const had = [...before, ...(this.#givers.get(shard) ?? [])];
      const settled = this.#settle(shard, had);
      for (const index of new Set([...had, ...settled.keys()])) {
        const own = shards.get(index) ?? [];
        const placed = settled.get(index);
        if (placed) own.push(placed);
        shards.set(index, own);
      }
    }
    const instances = this.instances.map((instance, index) => {
      const own = shards.get(index);
      if (!own) return instance;
      const kept = instance.shards.filter(({ id }) => !this.#moved.has(id));
      return { ...instance, shards: [...kept, ...own].sort((a, b) => a.id - b.id) };
    });
    return {
      ...this.#was,
      version: this.#was.version + 1,
      instances: instances.filter(({ isLeaving, shards }) => !isLeaving || shards.length > 0),
    };
  }

  #heldBy(instance: number): Set<number> {
    const present = this.#held.get(instance);
    if (present) return present;
    const shards = this.instances[instance]?.shards ?? [];
    const made = new Set(shards.filter(({ state }) => state !== 'leaving').map(({ id }) => id));
    this.#held.set(instance, made);
    return made;
  }

  /**
   * The states of a shard's replicas. Who has its data and is to have it serves it; who has it and is not to have
   * it any more keeps it until it was taken over, and each of those gives it to one that is being filled.
   */
  #settle(shard: number, had: readonly number[]): Map<number, PlacedShard> {
    const settled = new Map<number, PlacedShard>();
    const filled: number[] = [];
    const holders = this.holders(shard);
    for (const holder of holders) {
      const { state } = this.had(holder, shard) ?? {};
      if (state === 'available' || state === 'leaving')
        settled.set(holder, { id: shard, state: 'available' });
      else filled.push(holder);
    }
    const givers = new Set(
      had.filter((index) => !settled.has(index) && this.had(index, shard)?.state !== 'initializing'),
    );
    const fill = (taker: number, giver: number | undefined): void => {
      if (giver === undefined) {
        settled.set(taker, { id: shard, state: 'initializing' });
        return;
      }
      givers.delete(giver);
      const sourceId = this.instances[giver]?.id;
      assert(sourceId !== undefined, 'who gives a shard is an instance');
      settled.set(giver, { id: shard, state: 'leaving' });
      settled.set(taker, { id: shard, state: 'initializing', sourceId });
    };
    const open: number[] = [];
    for (const taker of filled) {
      const sourceId = this.had(taker, shard)?.sourceId;
      const giver = sourceId === undefined ? undefined : this.indexOf(sourceId);
      if (giver !== undefined && givers.has(giver)) fill(taker, giver);
      else open.push(taker);
    }
    // New ones first: those that were filled without a giver go on so.
    const isNew = (taker: number): number =>
      this.had(taker, shard)?.sourceId === undefined && this.had(taker, shard) ? 1 : 0;
    for (const taker of open.sort((a, b) => isNew(a) - isNew(b))) {
      const mate = [...givers].find((giver) => this.#groups[giver] === this.#groups[taker]);
      fill(taker, mate ?? [...givers][0]);
    }
    return settled;
  }
}

const NOTHING: Quota = { share: 0, floor: 0, ceil: 0 };
