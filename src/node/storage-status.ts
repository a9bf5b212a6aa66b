import type { ShardProgress } from '../storage/bootstrap/bootstrap-source.ts';
import type { Intervention } from '../storage/bootstrap/interventions.ts';
import type {
  BootstrapRunStatus,
  EngineStatus,
  NamespaceStatus,
  ShardState,
} from '../storage/engine/storage-engine.ts';
import { namespaceSettings, type NamespaceSettings } from '../storage/protocol/namespace-json.ts';
import { formatTime } from '../storage/protocol/time-text.ts';
import { bytesText, durationText } from '../run/figures.ts';
import type { ReplicationStatus } from '../storage/replication/replication.ts';
import { toldIntervention, type ToldIntervention } from './storage-explain.ts';
import type { PlacementStatus } from './storage-placement.ts';

/** What a node says of its storage engine under `/api/status`. */
export interface StorageStatus {
  readonly state: 'closed' | EngineStatus['state'];
  /** Null while it is closed. */
  readonly shardCount: number | null;
  /** Why it is not ready; null when it is. */
  readonly reason: string | null;
  readonly namespaces: readonly StoredNamespace[];
  readonly bootstrap: BootstrapSummary | null;
  readonly memory: EngineStatus['memory'] | null;
  readonly log: EngineStatus['log'] | null;
  readonly disk: EngineStatus['disk'] | null;
  readonly lastSnapshot: string | null;
  /** Which node has which shards, as this one knows; null where each stands alone. */
  readonly placement: PlacementStatus | null;
  /** What became of writes and reads of all replicas, of hints and repair; null where each stands alone. */
  readonly replication: ReplicationStatus | null;
}

export interface StoredNamespace {
  readonly name: string;
  readonly settings: NamespaceSettings;
  readonly series: number;
  readonly samplesWritten: number;
  readonly rejected: NamespaceStatus['rejected'];
  readonly openSamples: number;
  readonly openBlocks: readonly {
    readonly start: string;
    readonly samples: number;
    readonly cold: boolean;
  }[];
  readonly filesets: number;
  readonly filesetBytes: number;
  readonly quarantined: number;
  /** Why it is not what was asked for. */
  readonly problem: string | null;
  readonly shards: readonly {
    readonly id: number;
    readonly state: ShardState;
    readonly source: string | null;
    /** How far others have filled it; left out while nobody does. */
    readonly progress?: ShardProgress;
  }[];
}

export interface BootstrapSummary {
  readonly attempts: number;
  readonly state: BootstrapRunStatus['state'];
  readonly reason: BootstrapRunStatus['reason'];
  /** This node's. */
  readonly shardCount: number;
  /** Of those, how many were not whole when the run began. */
  readonly openShards: number;
  /** Of what is under way: how far, at what rate, how long yet; null of a run that has ended. */
  readonly progress: string | null;
  /** What nobody could fill yet, and why; the first of it. */
  readonly unfulfilled: readonly {
    readonly namespace: string;
    readonly shard: number;
    readonly start: string;
    readonly end: string;
    readonly reason: string;
    readonly detail: string;
  }[];
  /** The newest last. */
  readonly history: readonly {
    readonly attempt: number;
    readonly reason: BootstrapRunStatus['reason'];
    readonly shardCount: number;
    readonly openShards: number;
    readonly state: BootstrapRunStatus['state'];
    readonly startedAt: string;
    readonly tookMs: number | null;
  }[];
  /** What operators have told it, the newest last. */
  readonly interventions: readonly ToldIntervention[];
  readonly tookMs: number | null;
  readonly sources: readonly {
    readonly source: string;
    readonly namespace: string;
    readonly fulfilledBlocks: number;
    readonly detail: string;
    readonly tookMs: number;
  }[];
  readonly error: string | null;
}

export interface StorageFacts {
  readonly engine: EngineStatus | undefined;
  readonly reason: string | undefined;
  /** What operators have told the bootstrap. */
  readonly interventions?: readonly Intervention[];
  readonly problems: ReadonlyMap<string, string>;
  readonly placement: PlacementStatus | null;
  readonly replication?: ReplicationStatus | null;
}

export function storageStatus(facts: StorageFacts): StorageStatus {
  const { engine, reason, problems, placement, replication = null, interventions = [] } = facts;
  const run = engine?.bootstrapRuns.at(-1);
  return {
    state: engine?.state ?? 'closed',
    shardCount: engine?.shardCount ?? null,
    reason: reason ?? null,
    namespaces: engine?.namespaces.map((namespace) => storedNamespace(namespace, { run, problems })) ?? [],
    bootstrap: engine && run ? bootstrapSummary(run, engine.bootstrapRuns, interventions) : null,
    memory: engine?.memory ?? null,
    log: engine?.log ?? null,
    disk: engine?.disk ?? null,
    lastSnapshot: engine?.snapshots.lastAtNs === undefined ? null : formatTime(engine.snapshots.lastAtNs),
    placement,
    replication,
  };
}

function storedNamespace(
  namespace: NamespaceStatus,
  { run, problems }: { run: BootstrapRunStatus | undefined; problems: ReadonlyMap<string, string> },
): StoredNamespace {
  const { options, openBlocks, shards } = namespace;
  // Where nothing is told of a shard, it is told of its namespace as a whole.
  const sources =
    run?.sources.filter((one) => one.namespace === options.name && one.fulfilledBlocks > 0) ?? [];
  const names = [...new Set(sources.map(({ source }) => source))];
  const source = names.length > 0 ? names.join('+') : null;
  return {
    name: options.name,
    settings: namespaceSettings(options),
    series: namespace.series,
    samplesWritten: Number(namespace.samplesWritten),
    rejected: namespace.rejected,
    openSamples: openBlocks.reduce((sum, { samples }) => sum + samples, 0),
    openBlocks: openBlocks.map(({ blockStartNs, samples, cold }) => ({
      start: formatTime(blockStartNs),
      samples,
      cold,
    })),
    filesets: namespace.filesets,
    filesetBytes: namespace.filesetBytes,
    quarantined: namespace.quarantined,
    problem: problems.get(options.name) ?? null,
    shards: shards.map(({ shard, state, sources: own = [], progress }) => ({
      id: shard,
      state,
      source: state !== 'bootstrapped' ? null : own.length > 0 ? own.join('+') : source,
      ...(progress ? { progress } : {}),
    })),
  };
}

const TOLD_UNFULFILLED = 20;
const TOLD_INTERVENTIONS = 20;

function bootstrapSummary(
  run: BootstrapRunStatus,
  runs: readonly BootstrapRunStatus[],
  interventions: readonly Intervention[],
): BootstrapSummary {
  return {
    attempts: runs.length,
    state: run.state,
    reason: run.reason,
    shardCount: run.shardCount,
    openShards: run.openShards,
    progress: run.state === 'running' ? progressText(run) : null,
    unfulfilled: run.unfulfilled.slice(0, TOLD_UNFULFILLED).map(({ startNs, endNs, ...one }) => ({
      namespace: one.namespace,
      shard: one.shard,
      start: formatTime(startNs),
      end: formatTime(endNs),
      reason: one.reason,
      detail: one.detail,
    })),
    history: runs.map(({ attempt, reason, shardCount, openShards, state, startedAtNs, tookMs }) => ({
      attempt,
      reason,
      shardCount,
      openShards,
      state,
      startedAt: formatTime(startedAtNs),
      tookMs: tookMs ?? null,
    })),
    interventions: interventions.slice(-TOLD_INTERVENTIONS).map(toldIntervention),
    tookMs: run.tookMs ?? null,
    sources: run.sources.map(({ source, namespace, fulfilledBlocks, detail, tookMs }) => ({
      source,
      namespace,
      fulfilledBlocks,
      detail,
      tookMs,
    })),
    error: run.error ?? null,
  };
}

function progressText({ progress }: BootstrapRunStatus): string | null {
  if (!progress) return null;
  const { done, total, unit = '', detail = '' } = progress;
  const count = done === undefined ? '' : `${done}${total === undefined ? '' : ` of ${total}`} ${unit}: `;
  return `${count}${detail}`;
}

/**
 * What a start found, in a line: what is there now, and what each source had to say. Empty for an engine in which
 * nothing was ever written.
 */
export function recoveryText(status: EngineStatus): string {
  const run = status.bootstrapRuns.at(-1);
  const sum = (read: (namespace: NamespaceStatus) => number): number =>
    status.namespaces.reduce((total, namespace) => total + read(namespace), 0);
  const filesets = sum((namespace) => namespace.filesets);
  const open = sum(({ openBlocks }) => openBlocks.reduce((total, { samples }) => total + samples, 0));
  if (!run || (filesets === 0 && open === 0)) return '';
  const bytes = bytesText(sum(({ filesetBytes }) => filesetBytes));
  const took = run.tookMs === undefined ? '' : ` in ${durationText(run.tookMs)}`;
  const sources = run.sources
    .filter(({ detail, fulfilledBlocks }) => detail !== '' && fulfilledBlocks > 0)
    .map(({ source, namespace, detail }) => `${source} (${namespace}): ${detail}`);
  return [
    `metrics are there again${took}: ${filesets} filesets (${bytes}), ${open} samples of open blocks`,
    ...new Set(sources),
  ].join('; ');
}

/** A namespace as all nodes together have it. */
export interface SystemNamespace {
  readonly name: string;
  /** As the first of them has it; they differ only while a change is on its way. */
  readonly settings: NamespaceSettings;
  readonly nodes: readonly (Omit<StoredNamespace, 'name' | 'settings' | 'shards' | 'openBlocks'> & {
    readonly node: string;
  })[];
}

export interface SystemShard {
  readonly id: number;
  readonly instances: readonly {
    readonly node: string;
    readonly namespace: string;
    readonly state: ShardState;
    readonly source: string | null;
    readonly progress?: ShardProgress;
  }[];
}

/** The newest that any node knows. */
export function systemPlacement(nodes: readonly NodeStorage[]): PlacementStatus | null {
  const known = nodes.flatMap(({ storage }) => storage?.placement ?? []);
  return known.reduce<PlacementStatus | null>(
    (newest, one) => (newest && newest.version >= one.version ? newest : one),
    null,
  );
}

interface NodeStorage {
  readonly name: string;
  readonly storage?: StorageStatus | null;
}

function stored(nodes: readonly NodeStorage[]): { node: string; namespace: StoredNamespace }[] {
  return nodes.flatMap(({ name, storage }) =>
    (storage?.namespaces ?? []).map((namespace) => ({ node: name, namespace })),
  );
}

/** By name. */
export function systemNamespaces(nodes: readonly NodeStorage[]): SystemNamespace[] {
  const byName = new Map<
    string,
    { settings: NamespaceSettings; nodes: SystemNamespace['nodes'][number][] }
  >();
  for (const { node, namespace } of stored(nodes)) {
    const { name, settings, shards: _shards, openBlocks: _openBlocks, ...figures } = namespace;
    const one = byName.get(name) ?? { settings, nodes: [] };
    one.nodes.push({ node, ...figures });
    byName.set(name, one);
  }
  return [...byName].map(([name, one]) => ({ name, ...one })).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** By number. */
export function systemShards(nodes: readonly NodeStorage[]): SystemShard[] {
  const byId = new Map<number, SystemShard['instances'][number][]>();
  for (const { node, namespace } of stored(nodes)) {
    for (const { id, ...shard } of namespace.shards) {
      const instances = byId.get(id) ?? [];
      instances.push({ node, namespace: namespace.name, ...shard });
      byId.set(id, instances);
    }
  }
  return [...byId].map(([id, instances]) => ({ id, instances })).sort((a, b) => a.id - b.id);
}
