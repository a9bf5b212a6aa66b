import type { Draft } from './draft.ts';

/**
 * Moves shards of a draft between instances so that each has its share. Two aims that pull against each other: as
 * few replicas as possible are filled anew, and nobody is far from its share. What is free (a shard goes back where
 * it was, or one that moves anyway goes elsewhere) is done until everybody has its share, rounded up or down; what
 * costs is done only for who gets shards because of the change, and for who would otherwise be more than one shard
 * away from that.
 *
 * Where no shard can go directly, because a replica of each is in the same isolation group, they go by way of
 * others: a path in which each gives one shard and gets another.
 */

/** Gives an instance that came its share, from those that have most above theirs. */
export function fill(draft: Draft, newcomer: number): void {
  const { floor, ceil } = draft.quota(newcomer);
  reclaim(draft, newcomer, ceil);
  const givers = new Givers(draft, newcomer);
  while (draft.load(newcomer) < ceil) {
    const giver = givers.fullest();
    if (giver === undefined) break;
    if (draft.load(newcomer) >= floor && draft.load(giver) <= draft.quota(giver).ceil) break;
    const shard = givers.next(giver);
    if (shard !== undefined) draft.move(shard, giver, newcomer);
  }
  for (const maxCost of [0, 1]) {
    while (draft.load(newcomer) < floor) {
      const ways = { maxCost, isEnd: (instance: number) => instance === newcomer };
      if (
        !shift(
          draft,
          fullestFirst(draft, (giver) => draft.load(giver) > draft.quota(giver).floor),
          ways,
        )
      )
        break;
    }
  }
}

/** Takes back what it was about to give away, up to `limit`. */
export function reclaim(draft: Draft, newcomer: number, limit: number): void {
  for (const { id, state } of draft.instances[newcomer]?.shards ?? []) {
    if (draft.load(newcomer) >= limit) return;
    if (state !== 'leaving') continue;
    const name = draft.instances[newcomer]?.id;
    const taker = draft.holders(id).find((holder) => draft.had(holder, id)?.sourceId === name);
    if (taker !== undefined && draft.canTake(id, newcomer, taker)) draft.move(id, taker, newcomer);
  }
}

/**
 * Empties an instance that leaves. What it was still being filled with goes back to who gives it; the rest goes to
 * whoever has the most room, to one of `preferred` if it can have it.
 */
export function empty(draft: Draft, leaver: number, preferred: readonly Room[] = []): void {
  const shards = [...draft.held(leaver)];
  for (const shard of shards) {
    const sourceId = draft.had(leaver, shard)?.sourceId;
    const source = sourceId === undefined ? undefined : draft.indexOf(sourceId);
    if (source !== undefined && draft.canTake(shard, source, leaver)) draft.move(shard, leaver, source);
  }
  for (const shard of draft.held(leaver)) {
    const chosen =
      roomiest(draft, preferred, { shard, leaver }) ?? roomiest(draft, everybody(draft), { shard, leaver });
    if (chosen !== undefined) draft.move(shard, leaver, chosen);
  }
}

/** An instance with the number of shards that it may be given. */
export interface Room {
  readonly instance: number;
  readonly limit: number;
}

function everybody(draft: Draft): Room[] {
  return draft.instances.map((_, instance) => ({ instance, limit: Infinity }));
}

function roomiest(
  draft: Draft,
  rooms: readonly Room[],
  { shard, leaver }: { readonly shard: number; readonly leaver: number },
): number | undefined {
  let best: number | undefined;
  let most = -Infinity;
  for (const { instance, limit } of rooms) {
    const load = draft.load(instance);
    const room = draft.quota(instance).share - load;
    if (room <= most || load >= limit || !draft.canTake(shard, instance, leaver)) continue;
    best = instance;
    most = room;
  }
  return best;
}

/** Evens out: for free as far as that goes, and at a cost what is more than one shard off. */
export function even(draft: Draft): void {
  for (const [maxCost, tolerance] of [
    [0, 0],
    [1, 1],
  ] as const) {
    const ways = { maxCost, tolerance };
    relieve(draft, ways);
    supply(draft, ways);
  }
}

interface Ways {
  readonly maxCost: number;
  readonly tolerance: number;
}

/** Those above their share give to those that have room. */
function relieve(draft: Draft, { maxCost, tolerance }: Ways): void {
  const isEnd = (instance: number): boolean => draft.load(instance) < draft.quota(instance).ceil;
  for (const giver of fullestFirst(draft, (one) => draft.load(one) > draft.quota(one).ceil + tolerance)) {
    while (draft.load(giver) > draft.quota(giver).ceil + tolerance) {
      if (!shift(draft, [giver], { maxCost, isEnd })) break;
    }
  }
}

/** Those below their share get from those that can spare it. */
function supply(draft: Draft, { maxCost, tolerance }: Ways): void {
  for (const taker of draft.instances.keys()) {
    while (draft.stays(taker) && draft.load(taker) < draft.quota(taker).floor - tolerance) {
      const givers = fullestFirst(draft, (one) => draft.load(one) > draft.quota(one).floor);
      if (!shift(draft, givers, { maxCost, isEnd: (instance) => instance === taker })) break;
    }
  }
}

function fullestFirst(draft: Draft, isGiver: (instance: number) => boolean): number[] {
  const excess = (instance: number): number => draft.load(instance) - draft.quota(instance).share;
  return [...draft.instances.keys()]
    .filter((instance) => draft.stays(instance) && isGiver(instance))
    .sort((a, b) => excess(b) - excess(a));
}

interface Hop {
  readonly from: number;
  readonly shard: number;
}

/**
 * Moves one shard's worth of load from one of `givers` to where `isEnd` holds, by the shortest way on which no hop
 * costs more than `maxCost`. False when there is none.
 */
function shift(
  draft: Draft,
  givers: readonly number[],
  { maxCost, isEnd }: { readonly maxCost: number; readonly isEnd: (instance: number) => boolean },
): boolean {
  const hops = new Map<number, Hop | undefined>(givers.map((giver) => [giver, undefined]));
  const queue = [...givers];
  for (const from of queue) {
    for (const shard of draft.held(from)) {
      if (maxCost === 0 && !draft.isMoving(shard)) continue;
      for (const to of draft.instances.keys()) {
        if (hops.has(to)) continue;
        if (draft.cost(shard, from, to) > maxCost || !draft.canTake(shard, to, from)) continue;
        hops.set(to, { from, shard });
        if (isEnd(to)) {
          follow(draft, hops, to);
          return true;
        }
        queue.push(to);
      }
    }
  }
  return false;
}

/** The hops of a path move different shards, so they may be done one after the other. */
function follow(draft: Draft, hops: ReadonlyMap<number, Hop | undefined>, end: number): void {
  let to = end;
  for (let hop = hops.get(to); hop; hop = hops.get(to)) {
    draft.move(hop.shard, hop.from, to);
    to = hop.from;
  }
}

/** Who can give shards to a newcomer, each asked for its shards once and in order. */
class Givers {
  readonly #draft: Draft;
  readonly #newcomer: number;
  readonly #shards = new Map<number, Iterator<number>>();
  readonly #candidates: Set<number>;

  constructor(draft: Draft, newcomer: number) {
    this.#draft = draft;
    this.#newcomer = newcomer;
    const others = [...draft.instances.keys()].filter((one) => one !== newcomer && draft.stays(one));
    this.#candidates = new Set(others);
  }

  /** The one that is most above its share, of those that stay at theirs when they give one. */
  fullest(): number | undefined {
    let best: number | undefined;
    let most = -Infinity;
    for (const one of this.#candidates) {
      const load = this.#draft.load(one);
      const { share, floor } = this.#draft.quota(one);
      if (load <= floor || load - share <= most) continue;
      best = one;
      most = load - share;
    }
    return best;
  }

  /** A shard of it that the newcomer can have; without one it is not asked again. */
  next(giver: number): number | undefined {
    let shards = this.#shards.get(giver);
    if (!shards) {
      shards = [...this.#draft.held(giver)].sort((a, b) => a - b)[Symbol.iterator]();
      this.#shards.set(giver, shards);
    }
    for (let { done, value } = shards.next(); !done; { done, value } = shards.next()) {
      if (this.#draft.canTake(value, this.#newcomer, giver)) return value;
    }
    this.#candidates.delete(giver);
    return undefined;
  }
}
