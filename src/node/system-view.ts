import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Coordinator, ServiceInstance } from '../coordination/coordinator.ts';
import type { GroupStatus } from './group-control.ts';
import type { NodeKind } from './layout.ts';
import { systemStatus, type AskedNode, type NodeStatus, type SystemStatus } from './node-status.ts';
import { NODE_SERVICE } from './registration.ts';
import { MAP_PATH, type StorageMap } from './storage-map.ts';

export interface SystemViewDeps {
  readonly clock: Clock;
  /** Undefined for a node that stands alone. */
  readonly coordinator: Coordinator | undefined;
  readonly own: () => NodeStatus;
}

const ANSWER_TIMEOUT_MS = 1500;
/** Several pages that look at the same node ask the others once. */
const FRESH_MS = 500;

/** What the dashboard shows. */
export interface DashboardView extends SystemStatus {
  /** The group of access nodes, as one of them sees it; null where there is none. */
  readonly group: GroupStatus | null;
}

/** All nodes that the coordinator knows, as each says of itself: what the dashboard shows. */
export class SystemView {
  readonly #deps: SystemViewDeps;
  readonly #ownUrl: string;
  #asked: { readonly atMs: number; readonly answer: Promise<DashboardView> } | undefined;

  constructor(deps: SystemViewDeps, ownUrl: string) {
    this.#deps = deps;
    this.#ownUrl = ownUrl;
  }

  /** At most half a second old. Never throws: who does not answer is shown as such. */
  async read(): Promise<DashboardView> {
    const nowMs = this.#deps.clock.monotonicMs();
    if (!this.#asked || nowMs - this.#asked.atMs > FRESH_MS) {
      this.#asked = { atMs: nowMs, answer: this.#ask() };
    }
    return await this.#asked.answer;
  }

  /** Of every storage engine that answers: where each shard has each range of time from. */
  async maps(): Promise<readonly StorageMap[]> {
    const { nodes } = await this.read();
    const engines = nodes.filter(({ storage }) => storage !== null);
    const maps = await Promise.all(
      engines.map(async ({ http }) => {
        const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
        const response = await fetch(`${http}${MAP_PATH}`, { signal }).catch(() => undefined);
        if (response?.ok !== true) return [];
        return [((await response.json()) as { readonly data: StorageMap }).data];
      }),
    );
    return maps.flat();
  }

  async #ask(): Promise<DashboardView> {
    const own = this.#deps.own();
    const known = (await this.#deps.coordinator?.services(NODE_SERVICE).catch(() => [])) ?? [];
    const others = known.filter(({ meta }) => meta['name'] !== own.name);
    const asked = await Promise.all(others.map(ask));
    const self = {
      name: own.name,
      kind: own.kind,
      http: this.#ownUrl,
      pid: own.pid,
      answer: { status: own },
    };
    const status = systemStatus([self, ...asked].toSorted((a, b) => (a.name < b.name ? -1 : 1)));
    return { ...status, group: await groupOf(status) };
  }
}

async function groupOf({ nodes }: SystemStatus): Promise<GroupStatus | null> {
  for (const { http, role } of nodes) {
    if (role === null) continue;
    const response = await fetch(`${http}/api/cluster`, {
      signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    }).catch(() => undefined);
    if (response?.ok) return (await response.json()) as GroupStatus;
  }
  return null;
}

async function ask({ meta, tags, address, port }: ServiceInstance): Promise<AskedNode> {
  const http = `http://${address.includes(':') ? `[${address}]` : address}:${port}`;
  const name = meta['name'] ?? '';
  const kind = (tags[0] ?? 'access') as NodeKind;
  try {
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
    const response = await fetch(`${http}/api/status`, { signal });
    const status = (await response.json()) as NodeStatus;
    return { name, kind, http, pid: status.pid, answer: { status } };
  } catch (error) {
    return { name, kind, http, pid: null, answer: { unreachable: messageOf(error) } };
  }
}
