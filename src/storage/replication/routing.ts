import type { PlacedInstance, Placement } from '../../placement/placement.ts';

/** How many replicas have to have a write before it is acknowledged. */
export const WRITE_LEVELS = ['one', 'majority', 'all'] as const;
export type WriteLevel = (typeof WRITE_LEVELS)[number];

/**
 * How many replicas a read asks. `unstrictMajority` asks a majority and is content with what answers, if that is
 * anything.
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

  /** How many units a write needs. */
  writesNeeded(level: WriteLevel): number {
    return level === 'one' ? 1 : level === 'all' ? this.replicaFactor : this.majority;
  }

  /** How many replicas a read asks, if there are so many. */
  readsWanted(level: ReadLevel): number {
    return level === 'one' ? 1 : level === 'all' ? this.replicaFactor : this.majority;
  }

  /** With fewer answers a read fails. */
  readsNeeded(level: ReadLevel): number {
    return level === 'unstrictMajority' ? 1 : this.readsWanted(level);
  }

  get majority(): number {
    return Math.floor(this.replicaFactor / 2) + 1;
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
    readers: replicas.filter(({ state }) => state !== 'initializing').map(({ place }) => place),
  };
}
