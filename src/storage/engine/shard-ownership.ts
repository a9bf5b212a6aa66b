import { isNew } from '../bootstrap/uninitialized-source.ts';
import { stateAtOrigin, type TopologySnapshot } from '../bootstrap/topology-snapshot.ts';

/** What a change of the placement is for this node. */
export interface OwnershipChange {
  /** All that are its own afterwards, ascending. */
  readonly owned: readonly number[];
  /** Of those, what has to be bootstrapped. */
  readonly added: readonly number[];
  /** What it has of these is dropped. A shard that was taken away and given back meanwhile is here and in `added`. */
  readonly dropped: readonly number[];
}

/**
 * What becomes of this node's shards. A shard that was whole here stays so, unless the placement has it as
 * initialising: then it was somebody else's meanwhile, or (of a node that stood alone) others have data of it that this
 * one never saw.
 * @param before undefined: the node stood alone, with all shards
 */
export function ownershipChange(
  before: TopologySnapshot | undefined,
  after: TopologySnapshot,
  shardCount: number,
): OwnershipChange {
  const owned: number[] = [];
  const added: number[] = [];
  const dropped: number[] = [];
  for (let shard = 0; shard < shardCount; shard++) {
    const was = before === undefined || stateAtOrigin(before, shard) !== undefined;
    const is = stateAtOrigin(after, shard) !== undefined;
    if (is) owned.push(shard);
    const anew = was && is && beginsAnew(before, after, shard);
    if (was && (!is || anew)) dropped.push(shard);
    if (is && (!was || anew)) added.push(shard);
  }
  return { owned, added, dropped };
}

function beginsAnew(before: TopologySnapshot | undefined, after: TopologySnapshot, shard: number): boolean {
  if (stateAtOrigin(after, shard) !== 'initializing') return false;
  if (before === undefined) return !isNew(after, shard);
  return stateAtOrigin(before, shard) !== 'initializing';
}

/** Which shards are this node's. One for all namespaces of an engine. */
export class ShardOwnership {
  readonly shardCount: number;
  #placement: TopologySnapshot | undefined;
  #owned: readonly number[] = [];
  #mask: Uint8Array | undefined;

  /** @param placement undefined: the node stands alone */
  constructor(shardCount: number, placement: TopologySnapshot | undefined) {
    this.shardCount = shardCount;
    this.#set(placement);
  }

  /** Undefined while the node stands alone. */
  get placement(): TopologySnapshot | undefined {
    return this.#placement;
  }

  /** Ascending. */
  get owned(): readonly number[] {
    return this.#owned;
  }

  get ownsAll(): boolean {
    return this.#mask === undefined;
  }

  owns(shard: number): boolean {
    return this.#mask === undefined || this.#mask[shard] === 1;
  }

  /** One byte a shard, 1 for those that are this node's; undefined when all are. Not to be changed. */
  get mask(): Uint8Array | undefined {
    return this.#mask;
  }

  install(placement: TopologySnapshot): void {
    this.#set(placement);
  }

  #set(placement: TopologySnapshot | undefined): void {
    this.#placement = placement;
    const all = Array.from({ length: this.shardCount }, (_, shard) => shard);
    this.#owned = placement ? all.filter((shard) => stateAtOrigin(placement, shard) !== undefined) : all;
    const mask = Uint8Array.from(all, () => 0);
    for (const shard of this.#owned) mask[shard] = 1;
    this.#mask = this.#owned.length === this.shardCount ? undefined : mask;
  }
}
