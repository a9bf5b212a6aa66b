import type { PlacedInstance, Placement } from '../../placement/placement.ts';

/** How many replicas have to have a write before it is acknowledged: see `hasEnough`. */
export const WRITE_LEVELS = ['one', 'majority', 'all'] as const;
export type WriteLevel = (typeof WRITE_LEVELS)[number];

/**
 * How many replicas a read asks: see `readsWanted`. `unstrictMajority` asks a majority and is content with what answers,
 * if that is anything.
 */
export const READ_LEVELS = ['one', 'unstrictMajority', 'majority', 'all'] as const;
export type ReadLevel = (typeof READ_LEVELS)[number];

/** Shards that the same instances have in the same states. Instances are places in `Routing.instances`. */
export interface ReplicaGroup {
  readonly shards: readonly number[];
  /** All that have the shards, in whatever state: each gets every write. */
  readonly writers: readonly number[];
  /**
   * What counts as one replica each: an available one, or a leaving one together with the initialising one that takes
   * over from it. Of such a pair either may be the one that stays, so both must have a write.
   */
  readonly units: readonly (readonly number[])[];
  /** Those that are filled anew and take over from nobody: replicas of their own once they are available. */
  readonly filling: readonly number[];
  /** Available and leaving ones. */
  readonly readers: readonly number[];
}

/** Which instances a write goes to and a read may ask, worked out once for a placement. */
export class Routing {
  readonly version: number;
  readonly replicaFactor: number;
  readonly shardCount: number;
  /** Those that have shards. */
  readonly instances: readonly PlacedInstance[];
  readonly groups: readonly ReplicaGroup[];
  /** Every instance has all shards: what is written need not be taken apart. */
  readonly isWhole: boolean;
  readonly #groupOf: Int32Array;

  constructor(placement: Placement) {
    const { version, replicaFactor, shardCount } = placement;
    this.version = version;
    this.replicaFactor = replicaFactor;
    this.shardCount = shardCount;
    this.instances = placement.instances.filter(({ shards }) => shards.length > 0);
    this.#groupOf = new Int32Array(shardCount).fill(-1);
    this.groups = this.#group();
    this.isWhole = this.groups.every(({ writers }) => writers.length === this.instances.length);
  }

  /** Place of a shard's group in `groups`. */
  groupOf(shard: number): number {
    return this.#groupOf[shard] as number;
  }

  /** The same of all shards, by shard. */
  get groupsOfShards(): Int32Array {
    return this.#groupOf;
  }

  #group(): ReplicaGroup[] {
    const places = new Map(this.instances.map(({ id }, place) => [id, place]));
    const replicas = Array.from({ length: this.shardCount }, (): Replica[] => []);
    for (const [place, { shards }] of this.instances.entries()) {
      for (const { id, state, sourceId } of shards) {
        const source = sourceId === undefined ? undefined : places.get(sourceId);
        replicas[id]?.push({ place, state, source });
      }
    }
    const groups = new Map<string, { readonly index: number; readonly group: ReplicaGroup }>();
    for (const [shard, of] of replicas.entries()) {
      const key = of.map(({ place, state, source }) => `${place}${state}${source ?? ''}`).join(' ');
      const known = groups.get(key);
      if (known) (known.group.shards as number[]).push(shard);
      else groups.set(key, { index: groups.size, group: groupOf(shard, of) });
      this.#groupOf[shard] = groups.get(key)?.index ?? -1;
    }
    return [...groups.values()].map(({ group }) => group);
  }
}

/** More than half. */
export function majorityOf(count: number): number {
  return Math.floor(count / 2) + 1;
}

/**
 * Whether so many of a group's replicas that every read finds one of them: a read now, of more than half of the units,
 * and a read later, when those that are being filled count as well. A majority of the units therefore need not wait for
 * what is being filled where one replica is added to others; of several that are added at once some must have it, as
 * those that have not may become available first.
 * @param has `units`: how many have it whole; `filling`: how many of the others
 */
export function hasEnough(
  { units, filling }: Pick<ReplicaGroup, 'units' | 'filling'>,
  level: WriteLevel,
  has: { readonly units: number; readonly filling: number },
): boolean {
  switch (level) {
    case 'one':
      return has.units >= 1;
    case 'majority':
      return (
        has.units >= majorityOf(units.length) && 2 * has.units + has.filling >= units.length + filling.length
      );
    case 'all':
      return has.units >= Math.max(1, units.length) && has.filling >= filling.length;
  }
}

/**
 * How many replicas of a group a read asks, if there are so many. A majority is one of those that can be read; half of
 * all is the least, so that who has not heard yet that more are available does not pass a write of those by.
 */
export function readsWanted(group: Pick<ReplicaGroup, 'units' | 'filling'>, level: ReadLevel): number {
  const { units, filling } = group;
  if (level === 'one') return 1;
  const least = Math.max(majorityOf(units.length), Math.ceil((units.length + filling.length) / 2));
  return level === 'all' ? Math.max(least, units.length) : least;
}

/** With fewer answers a read fails. */
export function readsNeeded(group: Pick<ReplicaGroup, 'units' | 'filling'>, level: ReadLevel): number {
  return level === 'unstrictMajority' ? 1 : readsWanted(group, level);
}

interface Replica {
  readonly place: number;
  readonly state: PlacedInstance['shards'][number]['state'];
  readonly source: number | undefined;
}

function groupOf(shard: number, replicas: readonly Replica[]): ReplicaGroup {
  const units = replicas.flatMap(({ place, state, source }) => {
    if (state === 'available') return [[place]];
    const isPair =
      state === 'initializing' &&
      replicas.some((other) => other.place === source && other.state === 'leaving');
    return isPair ? [[place, source as number]] : [];
  });
  return {
    shards: [shard],
    writers: replicas.map(({ place }) => place),
    units,
    filling: replicas.flatMap(({ place, state }) =>
      state === 'initializing' && !units.some((unit) => unit.includes(place)) ? [place] : [],
    ),
    readers: replicas.filter(({ state }) => state !== 'initializing').map(({ place }) => place),
  };
}
