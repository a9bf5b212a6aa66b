import { VarveError } from '../core/errors.ts';
import { Draft } from './draft.ts';
import type { PlacedInstance, PlacedShard, Placement } from './placement.ts';
import { MAX_WEIGHT, wholeQuotas } from './quotas.ts';
import { empty, even, fill, reclaim } from './rebalance.ts';

/**
 * The changes of a placement (the sharded algorithm of M3's placement service). Each is a pure function: a placement
 * in, the next one out, or PLACEMENT_REFUSED with the reason, and nothing has happened then.
 *
 * | state at a replica | from, to                 | when                                                     |
 * | ------------------ | ------------------------ | -------------------------------------------------------- |
 * | initializing       | none → initializing      | it gets a shard, from whom the shard is leaving, or anew |
 * | available          | initializing → available | all of it is durable there (`markAvailable`)             |
 * | leaving            | available → leaving      | another instance is to take it over                      |
 * | none               | leaving → none           | that instance has it available                           |
 * | available          | leaving → available      | it takes it back before that                             |
 * | none               | initializing → none      | it goes elsewhere before it was available                |
 */
export type NewInstance = Omit<PlacedInstance, 'shards' | 'isLeaving'>;

export const MAX_SHARDS = 65_536;
const MAX_REPLICAS = 5;
/** Names that can stand in a key, a file and a metric. */
const NAME = /^[A-Za-z0-9][\w.-]{0,62}$/;

/** The first placement: every shard is new. */
export function initialPlacement(options: {
  readonly instances: readonly NewInstance[];
  readonly shardCount: number;
  readonly replicaFactor: number;
}): Placement {
  const { shardCount, replicaFactor } = options;
  checkWhole('the number of shards', shardCount, MAX_SHARDS);
  checkWhole('the replica factor', replicaFactor, MAX_REPLICAS);
  const instances = options.instances.map(newInstance).sort((a, b) => (a.id < b.id ? -1 : 1));
  const twice = instances.find(({ id }, index) => instances[index + 1]?.id === id);
  if (twice) throw new VarveError('INVALID_ARGUMENT', `instance ${twice.id} is named twice`);
  checkGroups(instances, replicaFactor);
  const shards = deal(instances, { shardCount, replicaFactor });
  return {
    version: 1,
    replicaFactor,
    shardCount,
    instances: instances.map((instance, index) => ({ ...instance, shards: shards[index] ?? [] })),
    everAvailable: [],
  };
}

/** An instance more, or one back that is on its way out: it takes back what it has first. */
export function addInstance(placement: Placement, added: NewInstance): Placement {
  const present = placement.instances.find(({ id }) => id === added.id);
  if (present && !present.isLeaving) throw refused(`instance ${added.id} is in the placement already`);
  const instance = { ...newInstance(added), shards: present?.shards ?? [] };
  const draft = new Draft(placement, [...placement.instances.filter((one) => one !== present), instance]);
  fill(draft, indexIn(draft, added.id));
  even(draft);
  return draft.finish();
}

/** An instance less: it keeps what it has until the others have it. */
export function removeInstance(placement: Placement, id: string): Placement {
  const draft = new Draft(placement, leaving(placement, id));
  empty(draft, indexIn(draft, id));
  even(draft);
  return draft.finish();
}

/**
 * An instance for another: what the one has goes to the other, as far as its weight and isolation group allow; the
 * rest goes to the others.
 */
export function replaceInstance(placement: Placement, id: string, by: NewInstance): Placement {
  const was = placement.instances.find((one) => one.id === by.id);
  if (was && (!was.isLeaving || by.id === id)) throw refused(`instance ${by.id} is in the placement already`);
  const leaver = placement.instances.find((one) => one.id === id);
  const instance = { ...newInstance(by), shards: was?.shards ?? [] };
  const others = leaving(placement, id, instance).filter((one) => one.id !== by.id);
  const draft = new Draft(placement, [...others, instance]);
  const from = indexIn(draft, id);
  const to = indexIn(draft, by.id);
  const { ceil } = draft.quota(to);
  const limit = by.weight >= (leaver?.weight ?? 0) ? Math.max(ceil, draft.load(from)) : ceil;
  reclaim(draft, to, limit);
  empty(draft, from, [{ instance: to, limit }]);
  even(draft);
  return draft.finish();
}

/**
 * Shards that an instance was filled with are whole and durable there: it serves them, and who gave them drops them.
 * Those that are not initializing there are passed over, so that it can be said again. The same placement when
 * nothing changes.
 */
export function markAvailable(placement: Placement, id: string, shards: readonly number[]): Placement {
  const instance = placement.instances.find((one) => one.id === id);
  const wanted = new Set(shards);
  const done =
    instance?.shards.filter((shard) => shard.state === 'initializing' && wanted.has(shard.id)) ?? [];
  if (done.length === 0) return placement;
  const ids = new Set(done.map((shard) => shard.id));
  const given = new Map<string, Set<number>>();
  for (const { id: shard, sourceId } of done) {
    if (sourceId === undefined) continue;
    const set = given.get(sourceId) ?? new Set<number>();
    given.set(sourceId, set.add(shard));
  }
  const next = (one: PlacedInstance): readonly PlacedShard[] => {
    if (one === instance) {
      return one.shards.map((shard) =>
        ids.has(shard.id) ? { id: shard.id, state: 'available' as const } : shard,
      );
    }
    const gone = given.get(one.id);
    if (!gone) return one.shards;
    return one.shards.filter((shard) => shard.state !== 'leaving' || !gone.has(shard.id));
  };
  const instances = placement.instances.map((one) => ({ ...one, shards: next(one) }));
  const ever = new Set([...placement.everAvailable, ...ids]);
  return {
    ...placement,
    version: placement.version + 1,
    instances: instances.filter(({ isLeaving, shards: kept }) => !isLeaving || kept.length > 0),
    everAvailable: [...ever].sort((a, b) => a - b),
  };
}

/** An instance can be reached elsewhere now. The same placement when it says so already. */
export function moveEndpoint(placement: Placement, id: string, endpoint: string): Placement {
  const instance = placement.instances.find((one) => one.id === id);
  if (!instance || instance.endpoint === endpoint) return placement;
  newInstance({ ...instance, endpoint });
  return {
    ...placement,
    version: placement.version + 1,
    instances: placement.instances.map((one) => (one === instance ? { ...one, endpoint } : one)),
  };
}

/** The instances with one of them on its way out, if enough remain. */
function leaving(placement: Placement, id: string, instead?: PlacedInstance): PlacedInstance[] {
  const { instances, replicaFactor } = placement;
  const leaver = instances.find((one) => one.id === id);
  if (!leaver) {
    throw new VarveError('NODE_UNKNOWN', `there is no instance ${id} in the placement`, {
      hint: `There are ${instances.map((one) => one.id).join(', ')}.`,
    });
  }
  if (leaver.isLeaving) throw refused(`instance ${id} is on its way out already`);
  const staying = instances.filter((one) => !one.isLeaving && one !== leaver);
  checkGroups(instead ? [...staying, instead] : staying, replicaFactor);
  return instances.map((one) => (one === leaver ? { ...one, isLeaving: true } : one));
}

function checkGroups(instances: readonly PlacedInstance[], replicaFactor: number): void {
  const groups = new Set(instances.map(({ isolationGroup }) => isolationGroup));
  if (groups.size >= replicaFactor) return;
  throw refused(
    `replica factor ${replicaFactor} needs instances in ${replicaFactor} isolation groups, and there would be ${groups.size}`,
    'Add instances in other isolation groups first.',
  );
}

/**
 * Shard after shard to those groups that have most left to get, so that it comes out even, and by a hash among
 * equals, so that every instance shares shards with all others: when it fails, all of them can help.
 */
function deal(
  instances: readonly PlacedInstance[],
  { shardCount, replicaFactor }: { readonly shardCount: number; readonly replicaFactor: number },
): PlacedShard[][] {
  const counts = wholeQuotas(instances, { shardCount, replicaFactor });
  const left = instances.map(({ id }) => counts.get(id) ?? 0);
  const groups = new Map<string, { members: number[]; left: number }>();
  for (const [index, { isolationGroup }] of instances.entries()) {
    const group = groups.get(isolationGroup) ?? { members: [], left: 0 };
    group.members.push(index);
    group.left += left[index] ?? 0;
    groups.set(isolationGroup, group);
  }
  const shards: PlacedShard[][] = instances.map(() => []);
  const all = [...groups.values()];
  for (let id = 0; id < shardCount; id += 1) {
    for (const group of most(all, { count: replicaFactor, seed: id, left: (one) => one.left })) {
      const [member = 0] = most(group.members, { count: 1, seed: id, left: (one) => left[one] ?? 0 });
      shards[member]?.push({ id, state: 'initializing' });
      left[member] = (left[member] ?? 0) - 1;
      group.left -= 1;
    }
  }
  return shards;
}

/** The `count` of them with most left. */
function most<T>(
  items: readonly T[],
  {
    count,
    seed,
    left,
  }: { readonly count: number; readonly seed: number; readonly left: (item: T) => number },
): T[] {
  const best: { item: T; left: number; hash: number }[] = [];
  for (const [index, item] of items.entries()) {
    const own = left(item);
    const last = best.length < count ? undefined : best[count - 1];
    if (last && own < last.left) continue;
    const ownHash = hash(seed, index);
    if (last && !isAhead(own, ownHash, last)) continue;
    let place = last ? count - 1 : best.length;
    while (place > 0 && isAhead(own, ownHash, best[place - 1])) place -= 1;
    best.splice(place, 0, { item, left: own, hash: ownHash });
    if (best.length > count) best.pop();
  }
  return best.map(({ item }) => item);
}

function isAhead(
  left: number,
  ownHash: number,
  than: { readonly left: number; readonly hash: number } | undefined,
): boolean {
  return than === undefined || left > than.left || (left === than.left && ownHash < than.hash);
}

/** Of two small numbers, evenly spread. */
function hash(a: number, b: number): number {
  let h = Math.imul(a + 1, 0x9e_37_79_b1) ^ Math.imul(b + 1, 0x85_eb_ca_6b);
  h = Math.imul(h ^ (h >>> 15), 0xc2_b2_ae_35);
  h = Math.imul(h ^ (h >>> 13), 0x27_d4_eb_2f);
  return (h ^ (h >>> 16)) >>> 0;
}

function indexIn(draft: Draft, id: string): number {
  const index = draft.indexOf(id);
  if (index === undefined) throw new VarveError('NODE_UNKNOWN', `there is no instance ${id}`);
  return index;
}

/** One without shards. @throws INVALID_ARGUMENT that names the field */
export function newInstance({ id, isolationGroup, weight, endpoint }: NewInstance): PlacedInstance {
  if (!NAME.test(id)) {
    throw new VarveError('INVALID_ARGUMENT', `${JSON.stringify(id)} is no name of an instance`, {
      hint: 'It has at most 63 letters, digits and . _ - and begins with a letter or digit.',
    });
  }
  if (!NAME.test(isolationGroup)) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(isolationGroup)} is no name of an isolation group`,
      {
        hint: 'It has at most 63 letters, digits and . _ - and begins with a letter or digit.',
      },
    );
  }
  checkWhole('the weight', weight, MAX_WEIGHT);
  if (!/^https?:\/\/[^\s/]+$/.test(endpoint) || !URL.canParse(endpoint)) {
    throw new VarveError('INVALID_ARGUMENT', `${JSON.stringify(endpoint)} is no address of an instance`, {
      hint: 'It is like http://host:port.',
    });
  }
  return { id, isolationGroup, weight, endpoint, shards: [] };
}

function checkWhole(what: string, value: number, max: number): void {
  if (Number.isInteger(value) && value >= 1 && value <= max) return;
  throw new VarveError('INVALID_ARGUMENT', `${what} is ${value}, not a whole number from 1 to ${max}`);
}

function refused(message: string, hint?: string): VarveError {
  return new VarveError('PLACEMENT_REFUSED', message, { hint });
}
