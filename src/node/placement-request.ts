import * as z from 'zod';
import { VarveError } from '../core/errors.ts';
import {
  addInstance,
  initialPlacement,
  removeInstance,
  replaceInstance,
  type NewInstance,
} from '../placement/change-placement.ts';
import type { Placement } from '../placement/placement.ts';

const newNode = z.strictObject({
  id: z.string(),
  /** That under which the coordinator knows the node, unless given. */
  endpoint: z.string().optional(),
  /** The node itself, unless given. */
  isolationGroup: z.string().optional(),
  weight: z.number().optional(),
});

const request = z.discriminatedUnion('action', [
  z.strictObject({
    action: z.literal('init'),
    nodes: z.array(newNode).min(1),
    replicas: z.number().optional(),
  }),
  z.strictObject({ action: z.literal('add'), node: newNode }),
  z.strictObject({ action: z.literal('remove'), id: z.string() }),
  z.strictObject({ action: z.literal('replace'), id: z.string(), by: newNode }),
]);

export type PlacementRequest = z.output<typeof request>;
export type NewNode = z.output<typeof newNode>;

/** @throws INVALID_ARGUMENT that names the field */
export function placementRequest(body: unknown): PlacementRequest {
  const parsed = request.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new VarveError(
    'INVALID_ARGUMENT',
    `the change of the placement is not one: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`,
    { hint: 'docs/placement.md has what it takes.' },
  );
}

/** The nodes that come in with it. */
export function newNodes(change: PlacementRequest): readonly NewNode[] {
  switch (change.action) {
    case 'init':
      return change.nodes;
    case 'add':
      return [change.node];
    case 'replace':
      return [change.by];
    case 'remove':
      return [];
  }
}

/** Those that have to be in it already. */
export function leavingNodes(change: PlacementRequest): readonly string[] {
  return change.action === 'remove' || change.action === 'replace' ? [change.id] : [];
}

/** What is known of a node that comes in. */
export interface KnownNode {
  readonly endpoint: string;
  readonly shardCount: number;
}

const USUAL_REPLICAS = 3;

/**
 * The placement that it makes of the one that there is.
 * @throws PLACEMENT_MISSING, PLACEMENT_REFUSED, INVALID_ARGUMENT, NODE_UNKNOWN
 */
export function changedPlacement(
  was: Placement | undefined,
  change: PlacementRequest,
  known: ReadonlyMap<string, KnownNode>,
): Placement {
  const instance = (node: NewNode): NewInstance => ({
    id: node.id,
    isolationGroup: node.isolationGroup ?? node.id,
    weight: node.weight ?? 1,
    endpoint: known.get(node.id)?.endpoint ?? '',
  });
  const shardCount = was?.shardCount ?? known.get(newNodes(change)[0]?.id ?? '')?.shardCount ?? 0;
  for (const { id } of newNodes(change)) {
    const has = known.get(id)?.shardCount;
    if (has !== undefined && has !== shardCount) throw otherShards(id, has, shardCount);
  }
  if (change.action === 'init') {
    if (was) {
      throw new VarveError('PLACEMENT_REFUSED', `there is a placement already, version ${was.version}`, {
        hint: 'varve placement show shows it; add, remove and replace change it.',
      });
    }
    const instances = change.nodes.map(instance);
    const groups = new Set(instances.map(({ isolationGroup }) => isolationGroup));
    const replicaFactor = change.replicas ?? Math.min(USUAL_REPLICAS, groups.size);
    return initialPlacement({ instances, shardCount, replicaFactor });
  }
  if (!was) {
    throw new VarveError('PLACEMENT_MISSING', 'there is no placement yet', {
      hint: 'varve placement init NODE,NODE,… makes one.',
    });
  }
  switch (change.action) {
    case 'add':
      return addInstance(was, instance(change.node));
    case 'remove':
      return removeInstance(was, change.id);
    case 'replace':
      return replaceInstance(was, change.id, instance(change.by));
  }
}

/** In words, for the history. */
export function changeText(change: PlacementRequest): string {
  switch (change.action) {
    case 'init':
      return `made with ${change.nodes.map(({ id }) => id).join(', ')}`;
    case 'add':
      return `${change.node.id} was added`;
    case 'remove':
      return `${change.id} was taken out`;
    case 'replace':
      return `${change.by.id} takes the place of ${change.id}`;
  }
}

export interface PlannedMove {
  readonly shard: number;
  /** Who gives it away; null for a replica that is filled from whoever has one, or is new. */
  readonly from: string | null;
  readonly to: string;
  /** Null when nobody who has the shard could tell. */
  readonly bytes: number | null;
}

/** The replicas that have to be filled in `after` and had not to in `before`. */
export function plannedMoves(
  before: Placement | undefined,
  after: Placement,
  bytesOf: (shard: number) => number | null,
): PlannedMove[] {
  const had = new Map(before?.instances.map(({ id, shards }) => [id, new Set(shards.map((one) => one.id))]));
  return after.instances
    .flatMap(({ id, shards }) =>
      shards
        .filter((shard) => shard.state === 'initializing' && !had.get(id)?.has(shard.id))
        .map((shard) => ({
          shard: shard.id,
          from: shard.sourceId ?? null,
          to: id,
          bytes: bytesOf(shard.id),
        })),
    )
    .sort((a, b) => a.shard - b.shard || (a.to < b.to ? -1 : 1));
}

function otherShards(id: string, has: number, wanted: number): VarveError {
  return new VarveError('PLACEMENT_REFUSED', `node ${id} has ${has} shards, and the placement ${wanted}`, {
    hint: `Start it in an empty folder with --shard-count ${wanted}.`,
  });
}
