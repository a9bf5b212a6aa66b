import type { Clock } from '../core/clock.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import type { Coordinator, ServiceInstance } from '../coordination/coordinator.ts';
import { PlacementStore, type PlacementChange } from '../placement/placement-store.ts';
import type { PlacedShardState, Placement } from '../placement/placement.ts';
import type { Log } from './log.ts';
import type { NodeStatus } from './node-status.ts';
import { PlacementRegistry } from './placement-registry.ts';
import {
  changedPlacement,
  changeText,
  leavingNodes,
  newNodes,
  plannedMoves,
  type KnownNode,
  type NewNode,
  type PlacementRequest,
  type PlannedMove,
} from './placement-request.ts';
import { NODE_SERVICE } from './registration.ts';
import { placementStatus, type PlacementStatus } from './storage-placement.ts';

export interface PlacementControlDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly coordinator: Coordinator;
}

/** What `varve placement show` shows. */
export interface PlacementView {
  readonly placement: (PlacementStatus & { readonly shards: readonly PlacedReplicas[] }) | null;
  /** Names that the registry of data nodes looks after. */
  readonly owned: readonly string[];
  /** The newest first. */
  readonly changes: readonly PlacementChange[];
}

interface PlacedReplicas {
  readonly id: number;
  readonly everAvailable: boolean;
  readonly instances: readonly {
    readonly node: string;
    readonly state: PlacedShardState;
    readonly source: string | null;
  }[];
}

/** A dry run: what a change would do. */
export interface PlacementPlan {
  /** That it was made for; null where there is no placement yet. */
  readonly version: number | null;
  readonly moves: readonly PlannedMove[];
  /** Of all moves; null when not all of them are known. */
  readonly bytes: number | null;
  readonly instances: readonly { readonly node: string; readonly before: number; readonly after: number }[];
  /** Nodes that could not be asked for their bytes, and why. */
  readonly silent: readonly { readonly node: string; readonly why: string }[];
}

const ANSWER_TIMEOUT_MS = 5000;

/** Looks at the placement and changes it for people. Any storage node with a coordinator can. */
export class PlacementControl {
  readonly #deps: PlacementControlDeps;
  readonly #store: PlacementStore;
  readonly #registry: PlacementRegistry;
  readonly #headers: Readonly<Record<string, string>>;

  /** @param token what storage nodes ask of each other */
  constructor(deps: PlacementControlDeps, token: string | undefined) {
    this.#deps = deps;
    this.#store = new PlacementStore(deps.coordinator);
    this.#registry = new PlacementRegistry(deps.coordinator);
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  async show(): Promise<PlacementView> {
    const [placement, { owned }, changes] = await Promise.all([
      this.#store.read(),
      this.#registry.read(),
      this.#store.changes(),
    ]);
    return {
      placement: placement
        ? { ...placementStatus(placement, null), shards: placedReplicas(placement) }
        : null,
      owned: Object.keys(owned.names).sort(),
      changes,
    };
  }

  /** @throws what keeps the change from being made */
  async plan(change: PlacementRequest): Promise<PlacementPlan> {
    const before = await this.#store.read();
    const after = changedPlacement(before, change, await this.#known(change));
    const { bytes, silent } = await this.#bytes(before);
    const moves = plannedMoves(before, after, (shard) => (before ? (bytes.get(shard) ?? null) : 0));
    const counts = (placement: Placement | undefined, node: string): number =>
      placement?.instances.find(({ id }) => id === node)?.shards.filter(({ state }) => state !== 'leaving')
        .length ?? 0;
    const names = new Set([...(before?.instances ?? []), ...after.instances].map(({ id }) => id));
    return {
      version: before?.version ?? null,
      moves,
      bytes: moves.reduce<number | null>(
        (sum, one) => (sum === null || one.bytes === null ? null : sum + one.bytes),
        0,
      ),
      instances: [...names].sort().map((node) => ({
        node,
        before: counts(before, node),
        after: counts(after, node),
      })),
      silent,
    };
  }

  /** @throws PLACEMENT_REFUSED and what else keeps the change from being made; then nothing was changed */
  async act(change: PlacementRequest, by: string): Promise<PlacementStatus> {
    await this.#refuseOwned(change);
    const known = await this.#known(change);
    const what = changeText(change);
    const at = new Date(this.#deps.clock.nowMs()).toISOString();
    const placement = await this.#store.update((was) => changedPlacement(was, change, known), {
      at,
      by,
      what,
    });
    if (!placement) throw new VarveError('PLACEMENT_MISSING', 'there is no placement');
    this.#deps.log.info({ by, what, version: placement.version }, 'the placement was changed');
    return placementStatus(placement, null);
  }

  async #refuseOwned(change: PlacementRequest): Promise<void> {
    const { owned } = await this.#registry.read();
    const isOwned = (name: string): boolean => Object.hasOwn(owned.names, name);
    const comes = newNodes(change).find(({ id }) => isOwned(id));
    if (comes) {
      throw new VarveError(
        'PLACEMENT_REFUSED',
        `the name ${comes.id} belongs to the registry of data nodes`,
        {
          hint: 'That data node comes into the placement by itself, once its storage engine answers.',
        },
      );
    }
    const leaves = leavingNodes(change).find(isOwned);
    if (leaves === undefined) return;
    throw new VarveError('PLACEMENT_REFUSED', `the name ${leaves} belongs to the registry of data nodes`, {
      hint: `SELECT delete_data_node('${leaves}') takes it out of both.`,
    });
  }

  /** Where nodes that come in are, and how many shards they have. */
  async #known(change: PlacementRequest): Promise<ReadonlyMap<string, KnownNode>> {
    const nodes = newNodes(change);
    if (nodes.length === 0) return new Map();
    const services = await this.#deps.coordinator.services(NODE_SERVICE);
    return new Map(
      await Promise.all(nodes.map(async (node) => [node.id, await this.#knownNode(node, services)] as const)),
    );
  }

  async #knownNode({ id, endpoint }: NewNode, services: readonly ServiceInstance[]): Promise<KnownNode> {
    const at = endpoint ?? endpointOf(services, id);
    if (at === undefined) {
      throw new VarveError('NODE_UNKNOWN', `the coordinator knows no node ${id} with a storage engine`, {
        hint: 'Start it with this coordinator, or say where it is with --endpoint http://host:port.',
      });
    }
    const status = await this.#ask<NodeStatus>(at, '/api/status').catch((error: unknown) => {
      throw new VarveError('STORAGE_NOT_READY', `node ${id} does not answer at ${at}: ${messageOf(error)}`, {
        hint: 'Only a node that runs can be added. Start it first.',
      });
    });
    if (status.name !== id) {
      throw new VarveError('PLACEMENT_REFUSED', `${at} is answered by node ${status.name}, not by ${id}`);
    }
    const { shardCount } = status.storage ?? {};
    if (shardCount === undefined || shardCount === null) {
      throw new VarveError('STORAGE_NOT_READY', `node ${id} has no storage engine that is open`, {
        hint: 'Its status says why.',
      });
    }
    return { endpoint: at, shardCount };
  }

  /** By shard, as who has most of it says. */
  async #bytes(
    placement: Placement | undefined,
  ): Promise<Pick<PlacementPlan, 'silent'> & { readonly bytes: ReadonlyMap<number, number> }> {
    const bytes = new Map<number, number>();
    const silent: { node: string; why: string }[] = [];
    await Promise.all(
      (placement?.instances ?? []).map(async ({ id, endpoint, shards }) => {
        try {
          const has = await this.#ask<{ data: Readonly<Record<string, number>> }>(
            endpoint,
            '/api/placement/bytes',
          );
          for (const { id: shard, state } of shards) {
            if (state === 'initializing') continue;
            bytes.set(shard, Math.max(bytes.get(shard) ?? 0, has.data[shard] ?? 0));
          }
        } catch (error) {
          silent.push({ node: id, why: messageOf(error) });
        }
      }),
    );
    return { bytes, silent: silent.sort((a, b) => (a.node < b.node ? -1 : 1)) };
  }

  async #ask<T>(endpoint: string, path: string): Promise<T> {
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
    const response = await fetch(`${endpoint}${path}`, { headers: this.#headers, signal }).catch(
      (error: unknown) => {
        throw error instanceof Error && error.cause instanceof Error ? error.cause : error;
      },
    );
    if (!response.ok) throw new Error(`it answered ${response.status}`);
    return (await response.json()) as T;
  }
}

/** Where the coordinator says that a node with a storage engine is. */
export function endpointOf(services: readonly ServiceInstance[], name: string): string | undefined {
  const found = services.find(({ meta, tags }) => meta['name'] === name && !tags.includes('access'));
  if (!found) return undefined;
  const { address, port } = found;
  return `http://${address.includes(':') ? `[${address}]` : address}:${port}`;
}

function placedReplicas({ shardCount, instances, everAvailable }: Placement): PlacedReplicas[] {
  const ever = new Set(everAvailable);
  const shards = Array.from({ length: shardCount }, (_, id) => ({
    id,
    everAvailable: ever.has(id),
    instances: [] as PlacedReplicas['instances'][number][],
  }));
  for (const { id: node, shards: own } of instances) {
    for (const { id, state, sourceId } of own) {
      shards[id]?.instances.push({ node, state, source: sourceId ?? null });
    }
  }
  return shards;
}
