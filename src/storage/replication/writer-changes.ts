import type { Placement } from '../../placement/placement.ts';

/**
 * Since which version of the placement the replicas of this node's shards have no new one among them. What an older
 * version says of where writes go may leave out a replica that has been filled meanwhile: a write that is routed by it
 * would be acknowledged, and be missing there. Replicas that went are no matter: nobody counts what they say.
 */
export class WriterChanges {
  readonly #node: string;
  #seen: Placement | undefined;
  #sinceVersion = 0;

  constructor(node: string) {
    this.#node = node;
  }

  /** Writes that are routed by an older version are not to be taken; 0 while there is no placement. */
  leastVersion(placement: Placement | undefined): number {
    if (!placement || placement === this.#seen) return this.#sinceVersion;
    // Of one that begins anew nothing is known, and what comes after one that was missed may have changed it all.
    const isNext = this.#seen !== undefined && this.#seen.version <= placement.version;
    if (!isNext || hasNewWriter(this.#seen, placement, this.#node)) this.#sinceVersion = placement.version;
    this.#seen = placement;
    return this.#sinceVersion;
  }
}

/** Of a shard that `node` has: one that had it not before, or has it anew. */
function hasNewWriter(before: Placement | undefined, after: Placement, node: string): boolean {
  const own = new Set(after.instances.find(({ id }) => id === node)?.shards.map(({ id }) => id));
  if (own.size === 0) return false;
  return after.instances.some(({ id, shards }) => {
    const was = new Map(
      before?.instances.find((one) => one.id === id)?.shards.map((shard) => [shard.id, shard.state]),
    );
    return shards.some((shard) => {
      if (!own.has(shard.id)) return false;
      const state = was.get(shard.id);
      return state === undefined || (shard.state === 'initializing' && state !== 'initializing');
    });
  });
}
