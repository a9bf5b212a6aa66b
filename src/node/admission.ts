import { messageOf } from '../core/errors.ts';
import {
  addInstance,
  initialPlacement,
  moveEndpoint,
  removeInstance,
  type NewInstance,
} from '../placement/change-placement.ts';
import { raiseReplicas, removeWithReplica } from '../placement/change-replicas.ts';
import type { Placement } from '../placement/placement.ts';
import { isLoopback } from '../core/loopback.ts';
import type { OwnedNames } from './placement-registry.ts';

/**
 * What the registry of data nodes means for the placement of their storage engines. Pure: what is there in, the next
 * step out. A data node comes in once its row is committed and its engine answers, and goes out once its row is gone;
 * never because it is down, and never because its registry could not be read.
 */
export interface AdmissionFacts {
  readonly placement: Placement | undefined;
  readonly owned: OwnedNames;
  /** Of this access node. */
  readonly databases: readonly RegistryOf[];
  /** Storage engines that answer, by the name of their node. */
  readonly engines: ReadonlyMap<string, AnsweringEngine>;
  /** For how long there have been data nodes and no placement. */
  readonly waitedMs: number;
  /** For how long each name of `AdmissionStep.gone` has been in it. */
  readonly goneMs: ReadonlyMap<string, number>;
}

export interface RegistryOf {
  readonly database: string;
  readonly isWriteMaster: boolean;
  readonly nodes: readonly { readonly name: string; readonly host: string }[];
  readonly error?: string;
}

export interface AnsweringEngine {
  readonly endpoint: string;
  readonly shardCount: number;
}

export interface AdmissionRules {
  /** So many the first placement waits for, */
  readonly expected: number;
  /** but no longer than this. */
  readonly waitMs: number;
  /** As many of each shard as there are to be when there are nodes enough. */
  readonly replicas: number;
  /** A row has to be gone for so long: who was write master until just now may know less than the new one. */
  readonly goneMs: number;
}

export interface AdmissionStep {
  /** To be written down before anything else; undefined when it is so already. */
  readonly owned: OwnedNames | undefined;
  /** The next change of the placement, and what it is in words; undefined when there is none to make now. */
  readonly change: { readonly next: Placement; readonly what: string } | undefined;
  /** Instances whose row is gone and that are not on their way out yet. */
  readonly gone: readonly string[];
  /** What it waits for, in words. */
  readonly waitingFor: readonly string[];
}

/** Undefined where this access node has no say: the registry is another's to carry out, or cannot be read. */
export function planAdmission(facts: AdmissionFacts, rules: AdmissionRules): AdmissionStep | undefined {
  const readable = facts.databases.filter(({ isWriteMaster, error }) => isWriteMaster && error === undefined);
  if (readable.length === 0) return undefined;
  const { placement, owned } = facts;
  const names = ownedNames(facts, readable);
  const waitingFor: string[] = [];
  const came = comers(facts, readable, waitingFor);
  if (!placement) {
    const change = firstPlacement(facts, { came, rules, waitingFor });
    return { owned: changed(owned, { names, replicas: rules.replicas }), change, gone: [], waitingFor };
  }
  const gone = goneNames(facts, readable, names).filter((name) => stays(placement, name));
  const ripe = gone.filter((name) => (facts.goneMs.get(name) ?? 0) >= rules.goneMs);
  // Until it is on its way out nobody else may take the name.
  const kept = Object.fromEntries(gone.map((name) => [name, owned.names[name] ?? []]));
  return {
    owned: changed(owned, { names: { ...names, ...kept }, replicas: owned.replicas }),
    change:
      moved(placement, facts) ??
      admitted(placement, came, { replicas: owned.replicas, waitingFor }) ??
      raised(placement, owned.replicas) ??
      takenOut(placement, ripe, { isOurs: owned.replicas !== null, waitingFor }),
    gone,
    waitingFor,
  };
}

/** Whose rows are in a registry, and of registries that cannot be read now: whose were. */
function ownedNames(facts: AdmissionFacts, readable: readonly RegistryOf[]): OwnedNames['names'] {
  const read = new Set(readable.map(({ database }) => database));
  const known = new Set(facts.databases.map(({ database }) => database));
  const names: Record<string, string[]> = {};
  for (const [name, databases] of Object.entries(facts.owned.names)) {
    // One that is not there at all any more was dropped.
    const still = databases.filter((database) => known.has(database) && !read.has(database));
    if (still.length > 0) names[name] = still;
  }
  for (const { database, nodes } of readable) {
    for (const { name } of nodes) names[name] = [...new Set([...(names[name] ?? []), database])].sort();
  }
  return names;
}

/** Names that a registry had which was read just now, and that no registry has any more: `delete_data_node`. */
function goneNames(
  { owned }: AdmissionFacts,
  readable: readonly RegistryOf[],
  names: OwnedNames['names'],
): string[] {
  const read = new Set(readable.map(({ database }) => database));
  return Object.entries(owned.names)
    .filter(([name, databases]) => !Object.hasOwn(names, name) && databases.some((one) => read.has(one)))
    .map(([name]) => name);
}

function stays(placement: Placement, name: string): boolean {
  return placement.instances.some(({ id, isLeaving }) => id === name && !isLeaving);
}

/** Data nodes that could come in now. */
function comers(facts: AdmissionFacts, readable: readonly RegistryOf[], waitingFor: string[]): NewInstance[] {
  const hosts = new Map(
    readable.flatMap(({ nodes }) => nodes.map(({ name, host }) => [name, host] as const)),
  );
  const { placement, engines } = facts;
  const shardCount = placement?.shardCount ?? [...engines].find(([name]) => hosts.has(name))?.[1].shardCount;
  const came: NewInstance[] = [];
  for (const [name, host] of [...hosts].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (placement && stays(placement, name)) continue;
    const engine = engines.get(name);
    if (!engine) waitingFor.push(`the storage engine of ${name} does not answer`);
    else if (engine.shardCount !== shardCount) {
      waitingFor.push(
        `${name} has ${engine.shardCount} shards and not ${shardCount}: it needs an empty folder`,
      );
    } else {
      const isolationGroup = isLoopback(host) ? name : host.replaceAll(/[^\w.-]/g, '-');
      came.push({ id: name, isolationGroup, weight: 1, endpoint: engine.endpoint });
    }
  }
  return came;
}

function firstPlacement(
  { engines, waitedMs }: AdmissionFacts,
  {
    came,
    rules,
    waitingFor,
  }: { readonly came: readonly NewInstance[]; readonly rules: AdmissionRules; readonly waitingFor: string[] },
): AdmissionStep['change'] {
  const [first] = came;
  const shardCount = first && engines.get(first.id)?.shardCount;
  if (shardCount === undefined) return undefined;
  if (came.length < rules.expected && waitedMs < rules.waitMs) {
    const seconds = Math.ceil((rules.waitMs - waitedMs) / 1000);
    waitingFor.push(
      `${came.length} of ${rules.expected} storage engines are there; ${seconds} s more for the others`,
    );
    return undefined;
  }
  const replicaFactor = Math.min(rules.replicas, groupsOf(came));
  return attempt(waitingFor, `made with ${came.map(({ id }) => id).join(', ')}`, () =>
    initialPlacement({ instances: came, shardCount, replicaFactor }),
  );
}

/** A node that came up elsewhere. */
function moved(placement: Placement, { engines, owned }: AdmissionFacts): AdmissionStep['change'] {
  for (const { id, endpoint } of placement.instances) {
    const at = engines.get(id)?.endpoint;
    if (at === undefined || at === endpoint || !Object.hasOwn(owned.names, id)) continue;
    return { next: moveEndpoint(placement, id, at), what: `${id} is at ${at}` };
  }
  return undefined;
}

function admitted(
  placement: Placement,
  [came]: readonly NewInstance[],
  { replicas, waitingFor }: { readonly replicas: number | null; readonly waitingFor: string[] },
): AdmissionStep['change'] {
  if (!came) return undefined;
  const staying = placement.instances.filter(({ isLeaving, id }) => !isLeaving && id !== came.id);
  const raises = mayRaise(placement, [...staying, came], replicas);
  return attempt(waitingFor, `${came.id} was added`, () =>
    raises ? raiseReplicas(placement, came) : addInstance(placement, came),
  );
}

function raised(placement: Placement, replicas: number | null): AdmissionStep['change'] {
  const staying = placement.instances.filter(({ isLeaving }) => !isLeaving);
  if (!mayRaise(placement, staying, replicas)) return undefined;
  const next = raiseReplicas(placement);
  return { next, what: `${next.replicaFactor} replicas of each shard` };
}

function mayRaise(
  { replicaFactor }: Placement,
  staying: readonly Pick<NewInstance, 'isolationGroup'>[],
  replicas: number | null,
): boolean {
  return replicas !== null && replicaFactor < replicas && groupsOf(staying) > replicaFactor;
}

function takenOut(
  placement: Placement,
  names: readonly string[],
  { isOurs, waitingFor }: { readonly isOurs: boolean; readonly waitingFor: string[] },
): AdmissionStep['change'] {
  const name = names.find((one) => stays(placement, one));
  if (name === undefined) return undefined;
  const staying = placement.instances.filter(({ isLeaving, id }) => !isLeaving && id !== name);
  const isTooFew = groupsOf(staying) < placement.replicaFactor;
  return attempt(waitingFor, `${name} was taken out`, () =>
    isTooFew && isOurs ? removeWithReplica(placement, name) : removeInstance(placement, name),
  );
}

function groupsOf(instances: readonly Pick<NewInstance, 'isolationGroup'>[]): number {
  return new Set(instances.map(({ isolationGroup }) => isolationGroup)).size;
}

/** What cannot be done now is waited for. */
function attempt(waitingFor: string[], what: string, make: () => Placement): AdmissionStep['change'] {
  try {
    return { next: make(), what };
  } catch (error) {
    waitingFor.push(`not yet "${what}": ${messageOf(error)}`);
    return undefined;
  }
}

function changed(before: OwnedNames, after: OwnedNames): OwnedNames | undefined {
  const text = ({ names, replicas }: OwnedNames): string =>
    JSON.stringify([Object.entries(names).sort(([a], [b]) => (a < b ? -1 : 1)), replicas]);
  return text(before) === text(after) ? undefined : after;
}
