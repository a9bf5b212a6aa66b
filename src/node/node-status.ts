import type { Board, BoardRow } from '../run/board.ts';
import type { NodeKind } from './layout.ts';
import {
  systemNamespaces,
  systemPlacement,
  systemShards,
  type StorageStatus,
  type SystemNamespace,
  type SystemShard,
} from './storage-status.ts';

/** What a node says of itself under `/api/status`. */
export interface NodeStatus {
  readonly name: string;
  readonly kind: NodeKind;
  /** Within its group of access nodes; null while there are no groups. */
  readonly role: string | null;
  readonly term: number | null;
  readonly state: NodeState;
  /** The step it is at, null when nothing runs. */
  readonly step: string | null;
  /** For whom or what that step waits. */
  readonly waitingFor: string | null;
  /** Why it is not ready; empty when it is. */
  readonly reasons: readonly string[];
  readonly pid: number;
  readonly startedAt: string;
  readonly postgres: PostgresStatus | null;
  readonly runs: readonly RunStatus[];
  /** What the data node layer says, on access nodes. */
  readonly dataNode: Readonly<Record<string, unknown>> | null;
  /** Its storage engine, on nodes that have one. */
  readonly storage?: StorageStatus | null;
}

export type NodeState = 'starting' | 'ready' | 'recovering' | 'stopping';

export interface PostgresStatus {
  readonly version: string | null;
  readonly host: string;
  readonly port: number;
  readonly up: boolean;
  /** Null for a server that the node does not run itself. */
  readonly pid: number | null;
  readonly restartCount: number;
}

export interface RunStatus {
  readonly run: string;
  readonly node: string;
  readonly state: BoardRow['runState'];
  readonly step: string;
  readonly stepState: BoardRow['stepState'];
  readonly startedAt: string;
  readonly done: number | null;
  readonly total: number | null;
  readonly unit: string | null;
  readonly detail: string | null;
  readonly waitingFor: string | null;
  readonly etaMs: number | null;
  readonly error: BoardRow['error'] | null;
}

export function runStatuses(board: Board): RunStatus[] {
  return [...board.values()].map((row) => ({
    run: row.run,
    node: row.node,
    state: row.runState,
    step: row.step,
    stepState: row.stepState,
    startedAt: new Date(row.startedAtMs).toISOString(),
    done: row.done ?? null,
    total: row.total ?? null,
    unit: row.unit ?? null,
    detail: row.detail ?? null,
    waitingFor: row.waitingFor ?? null,
    etaMs: row.etaMs ?? null,
    error: row.error ?? null,
  }));
}

/** The step of the newest run that is still going. */
export function currentStep(runs: readonly RunStatus[]): Pick<NodeStatus, 'step' | 'waitingFor'> {
  const running = runs.findLast(({ state }) => state === 'running');
  return { step: running?.step || null, waitingFor: running?.waitingFor ?? null };
}

/** One node as `varve status` shows it: what it says, or why it says nothing. */
export interface NodeRow extends Omit<
  NodeStatus,
  'state' | 'runs' | 'dataNode' | 'storage' | 'pid' | 'startedAt'
> {
  /** Without its namespaces and the placement, which stand beside the nodes. */
  readonly storage: Omit<StorageStatus, 'namespaces' | 'placement'> | null;
  readonly state: NodeState | 'unreachable';
  readonly pid: number | null;
  readonly startedAt: string | null;
  readonly http: string;
}

/** The document of `varve status --json`. */
export interface SystemStatus {
  readonly nodes: readonly NodeRow[];
  /** Each once, although every access node has it; in the write master's words, where there is one. */
  readonly dataNodes: readonly unknown[];
  /** Of storage engines, by name. */
  readonly namespaces: readonly SystemNamespace[];
  /** Of storage engines: which node has which shard of which namespace, and where its data came from. */
  readonly shards: readonly SystemShard[];
  /** Of storage engines: the newest placement that any of them knows; null where each stands alone. */
  readonly placement: StorageStatus['placement'];
  readonly runs: readonly RunStatus[];
}

export interface AskedNode {
  readonly name: string;
  readonly kind: NodeKind;
  readonly http: string;
  readonly pid: number | null;
  /** Its answer, or why there is none. */
  readonly answer: { readonly status: NodeStatus } | { readonly unreachable: string };
}

/** Puts the answers of all nodes together. A node that does not answer is shown as such. */
export function systemStatus(asked: readonly AskedNode[]): SystemStatus {
  const statuses = asked.flatMap(({ answer }) => ('status' in answer ? [answer.status] : []));
  return {
    nodes: asked.map(nodeRow),
    dataNodes: dataNodesOf(statuses),
    namespaces: systemNamespaces(statuses),
    shards: systemShards(statuses),
    placement: systemPlacement(statuses),
    runs: statuses.flatMap(({ runs }) => runs),
  };
}

function dataNodesOf(statuses: readonly NodeStatus[]): unknown[] {
  const isMaster = ({ role }: NodeStatus): number => (role === 'write master' ? 1 : 0);
  const all = statuses
    .toSorted((a, b) => isMaster(b) - isMaster(a))
    .flatMap(({ dataNode }) => {
      const list = dataNode?.['dataNodes'];
      return Array.isArray(list) ? (list as unknown[]) : [];
    });
  const byPlace = new Map<string, unknown>();
  for (const one of all) {
    const { accessDatabase, name, host, port, database } = Object(one) as Record<string, unknown>;
    const place = JSON.stringify([accessDatabase, name, host, port, database]);
    if (!byPlace.has(place)) byPlace.set(place, one);
  }
  return [...byPlace.values()];
}

function nodeRow({ name, kind, http, pid, answer }: AskedNode): NodeRow {
  if ('status' in answer) {
    const { runs: _runs, dataNode: _dataNode, storage, ...shown } = answer.status;
    return { ...shown, storage: storage ? withoutShared(storage) : null, http };
  }
  return {
    name,
    kind,
    role: null,
    term: null,
    state: 'unreachable',
    step: null,
    waitingFor: null,
    reasons: [answer.unreachable],
    pid,
    startedAt: null,
    postgres: null,
    storage: null,
    http,
  };
}

function withoutShared({
  namespaces: _namespaces,
  placement: _placement,
  ...rest
}: StorageStatus): NodeRow['storage'] {
  return rest;
}
