import { bytesText, durationText, progressText } from '../run/figures.ts';
import type { NodeRow, RunStatus, SystemStatus } from './node-status.ts';
import type { PlacementStatus } from './storage-placement.ts';
import { textTable } from './text-table.ts';

const TOLD_INTERVENTIONS = 5;
/** Of each node. */
const TOLD_RUNS = 4;

/** `varve status` for people. */
export function statusLines({ nodes, dataNodes, namespaces, placement, runs }: SystemStatus): string[] {
  const rows = nodes.map((node) => [
    node.name,
    node.role === null ? node.kind : `${node.kind}, ${node.role}`,
    node.state,
    node.pid === null ? '' : String(node.pid),
    postgresText(node),
    node.http,
    nowText(node),
  ]);
  const active = runs.filter(({ state }) => state === 'running' || state === 'failed');
  return [
    ...textTable(['node', 'kind', 'state', 'pid', 'PostgreSQL', 'HTTP', 'now'], rows),
    '',
    `${dataNodes.length} data node${dataNodes.length === 1 ? '' : 's'} added`,
    ...namespaceLines(namespaces),
    ...(placement ? ['', ...placementLines(placement)] : []),
    ...bootstrapLines(nodes),
    ...interventionLines(nodes),
    ...(active.length > 0 ? ['', ...active.map(runText)] : []),
  ];
}

/** Metrics: what each node has of each namespace. */
function namespaceLines(namespaces: SystemStatus['namespaces']): string[] {
  const rows = namespaces.flatMap(({ name, nodes }) =>
    nodes.map(({ node, series, openSamples, filesets, filesetBytes, problem }) => [
      name,
      node,
      String(series),
      String(openSamples),
      String(filesets),
      bytesText(filesetBytes),
      problem ?? '',
    ]),
  );
  if (rows.length === 0) return [];
  const head = ['namespace', 'node', 'series', 'samples in memory', 'filesets', 'their bytes', ''];
  return ['', ...textTable(head, rows)];
}

/** The last runs in which nodes filled their shards. */
function bootstrapLines(nodes: SystemStatus['nodes']): string[] {
  const rows = nodes.flatMap(({ name, storage }) =>
    (storage?.bootstrap?.history ?? [])
      .slice(-TOLD_RUNS)
      .map(({ reason, shardCount, openShards, state, startedAt, tookMs }) => [
        name,
        startedAt,
        reason,
        String(shardCount),
        String(openShards),
        state,
        tookMs === null ? '' : durationText(tookMs),
      ]),
  );
  if (rows.length === 0) return [];
  return [
    '',
    ...textTable(['bootstrap of', 'began', 'why', 'shards', 'to be filled', 'state', 'took'], rows),
  ];
}

/** What operators have told bootstraps. */
function interventionLines(nodes: SystemStatus['nodes']): string[] {
  const lines = nodes.flatMap(({ name, storage }) =>
    (storage?.bootstrap?.interventions ?? []).map(
      ({ at, by, what }) => `bootstrap of ${name}, ${at}: ${by} ${what}`,
    ),
  );
  return lines.length > 0 ? ['', ...lines.slice(-TOLD_INTERVENTIONS)] : [];
}

/** Which instance has how many shards in which state. */
export function placementLines(placement: PlacementStatus): string[] {
  const { version, shardCount, replicaFactor, instances, problem } = placement;
  const rows = instances.map(({ node, shards, isLeaving }) => [
    node,
    String(shards.available),
    String(shards.initializing),
    String(shards.leaving),
    isLeaving ? 'is being taken out' : '',
  ]);
  const replicas = replicaFactor === 1 ? '1 replica' : `${replicaFactor} replicas`;
  return [
    ...textTable(['instance', 'available', 'initialising', 'leaving', ''], rows),
    `placement ${version}: ${shardCount} shards, ${replicas} of each`,
    ...(problem === null ? [] : [`the placement is not followed: ${problem}`]),
  ];
}

function postgresText({ postgres }: NodeRow): string {
  if (postgres === null) return '';
  const restarts = postgres.restartCount > 0 ? `, restarted ${postgres.restartCount}×` : '';
  return `${postgres.up ? '' : 'down, '}${postgres.version ?? ''} on ${postgres.host}:${postgres.port}${restarts}`;
}

function nowText({ step, waitingFor, reasons, storage, kind }: NodeRow): string {
  if (step !== null) return waitingFor === null ? step : `${step}: waiting for ${waitingFor}`;
  // A storage node has no other reasons than those of its engine.
  const engine = storage?.reason && kind !== 'storage' ? [`metrics: ${storage.reason}`] : [];
  return [...reasons, ...engine].join('; ');
}

function runText(run: RunStatus): string {
  const progress = progressText({
    done: run.done ?? undefined,
    total: run.total ?? undefined,
    unit: run.unit ?? undefined,
    etaMs: run.etaMs ?? undefined,
  });
  const what = run.error?.message ?? run.waitingFor ?? run.detail ?? '';
  return [`${run.node}: ${run.run} ${run.state} at ${run.step}`, progress, what]
    .filter((part) => part !== '')
    .join('; ');
}
