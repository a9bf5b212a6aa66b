import { once } from 'node:events';
import { hostname } from 'node:os';
import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Connection, ConnectOptions, Endpoint } from '../postgres/connection.ts';
import type { Renderer } from '../run/renderer.ts';
import { HostMetrics } from './host-metrics.ts';
import { attachToMetricsTable, prepareMetricsTable } from './host-metrics-table.ts';
import { hostSampler } from './host-metrics-sampler.ts';
import type { NodeLayout, SystemLayout } from './layout.ts';
import { openWritable } from './open-writable.ts';
import { RemoteHostMetrics } from './remote-host-metrics.ts';
import type { Sample } from './sample-buffer.ts';
import type { StorageClient } from './storage-client.ts';
import { readStorageSummary } from './storage-summary.ts';
import { readSummary } from './summary-data.ts';
import { summaryLines } from './summary.ts';
import { DATABASE, SUPERUSER, type SystemFolder } from './system-folder.ts';

export interface MainJobDeps {
  readonly clock: Clock;
  readonly renderer: Renderer;
  readonly interactive: boolean;
  /** The data nodes are added, or could not be at the first attempt. */
  readonly onPrepared: () => Promise<void>;
}

export interface MainJobOptions {
  readonly folder: SystemFolder;
  readonly layout: SystemLayout;
  readonly coordinatorUrl: string;
  readonly metrics: boolean;
  /** The storage engine that gets them, too. */
  readonly storage: { readonly node: string; readonly client: StorageClient } | undefined;
}

const SUMMARY_EVERY_MS = 3000;
const RETRY = { firstMs: 500, maxMs: 15_000 } as const;
const STATEMENT_TIMEOUT_MS = 60_000;

/**
 * What `varve up` is for, done as any client would: adds the data nodes over SQL, writes this machine's
 * metrics to a table that is spread over them, and shows where everything is. Until the signal fires; what
 * fails is tried again.
 */
export async function runMainJob(
  deps: MainJobDeps,
  options: MainJobOptions,
  signal: AbortSignal,
): Promise<void> {
  const access = options.layout.nodes.filter(({ kind }) => kind === 'access');
  const endpoints = await Promise.all(access.map((node) => clientEndpoint(options.folder, node)));
  const connect = (): Promise<Connection> => openWritable(endpoints, connectOptions(signal));
  await prepare(deps, options, { connect, signal });
  const jobs = [showSummary(deps, options, { connect, signal })];
  if (options.metrics) jobs.push(writeMetrics(deps, options, { connect, signal }));
  await Promise.all(jobs);
  // A summary that is not refreshed is soon done.
  if (!signal.aborted) await once(signal, 'abort');
}

/** How a client of this system logs in, as connections.json says. */
export async function clientEndpoint(folder: SystemFolder, node: NodeLayout): Promise<Endpoint> {
  const password = await folder.password();
  return { host: '127.0.0.1', port: node.pgPort, database: DATABASE, user: SUPERUSER, password };
}

function connectOptions(signal: AbortSignal): ConnectOptions {
  return {
    connectTimeoutMs: 5000,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
    applicationName: 'varve up',
    signal,
  };
}

interface Client {
  readonly connect: () => Promise<Connection>;
  readonly signal: AbortSignal;
}

/** Repeated until it succeeds; the caller is told after the first attempt. */
async function prepare(
  deps: MainJobDeps,
  options: MainJobOptions,
  { connect, signal }: Client,
): Promise<void> {
  const { clock, renderer, onPrepared } = deps;
  const backoff = new Backoff(RETRY);
  let said: string | undefined;
  for (let attempt = 1; !signal.aborted; attempt += 1) {
    const failure = await addDataNodes(deps, options, connect).then(
      () => undefined,
      (error: unknown) => messageOf(error),
    );
    signal.throwIfAborted();
    if (failure === undefined) {
      await onPrepared();
      return;
    }
    const delayMs = backoff.nextMs();
    // Once, not with every attempt.
    if (failure !== said) renderer.note('warn', 'up', `the data nodes are not set up yet: ${failure}`);
    said = failure;
    if (attempt === 1) await onPrepared();
    await clock.sleep(delayMs, signal);
  }
}

/** Each node once: one that was deleted later stays deleted. */
async function addDataNodes(
  { renderer }: MainJobDeps,
  { folder, layout, metrics }: MainJobOptions,
  connect: () => Promise<Connection>,
): Promise<void> {
  await using connection = await connect();
  const fresh = layout.nodes.filter(({ kind, added }) => kind === 'data' && !added);
  for (const { name, pgPort } of fresh) {
    await connection.query(
      "select * from add_data_node($1, '127.0.0.1', port => $2, database => $3, if_not_exists => true)",
      [name, pgPort, DATABASE],
    );
  }
  if (metrics && layout.nodes.some(({ kind }) => kind === 'data')) {
    await prepareMetricsTable(connection);
  }
  await folder.writeLayout({
    ...layout,
    nodes: layout.nodes.map((node) => (node.kind === 'data' ? { ...node, added: true } : node)),
  });
  if (!metrics) return;
  for (const { name } of fresh) {
    // The table does without: the shards that it has hold everything.
    await attachToMetricsTable(connection, name).catch((error: unknown) =>
      renderer.note('warn', name, `gets no shard of public.host_metrics: ${messageOf(error)}`),
    );
  }
}

async function writeMetrics(
  { clock, renderer }: MainJobDeps,
  { storage }: MainJobOptions,
  { connect, signal }: Client,
): Promise<void> {
  const sampler = await hostSampler();
  if (sampler.limitation !== undefined) renderer.note('warn', 'up', sampler.limitation);
  const host = hostname();
  const note = (level: 'info' | 'warn', text: string): void => renderer.note(level, 'up', text);
  const remote = storage && new RemoteHostMetrics({ clock, client: storage.client, host, note });
  const onSample = remote && ((sample: Sample) => remote.add(sample));
  const metrics = new HostMetrics({ clock, sampler, connect, host, note, onSample });
  await Promise.all([metrics.run(signal), remote?.run(signal)]);
}

async function showSummary(
  { clock, renderer, interactive }: MainJobDeps,
  { folder, layout, coordinatorUrl, metrics, storage }: MainJobOptions,
  { connect, signal }: Client,
): Promise<void> {
  const places = {
    storage: storage?.client.url,
    folder: folder.path,
    passfile: folder.passfile,
    nodes: layout.nodes.map((node) => ({ ...node, http: `http://127.0.0.1:${node.httpPort}` })),
    coordinatorUrl,
  };
  // The first figures come with the first rows.
  if (metrics) await clock.sleep(SUMMARY_EVERY_MS, signal).catch(() => {});
  for (let refresh = false; !signal.aborted; refresh = true) {
    const nowMs = clock.nowMs();
    const data = {
      ...(await readSummary(connect, { metrics, nowMs })),
      storage:
        storage && metrics ? await readStorageSummary(storage.client, { node: storage.node, nowMs }) : null,
    };
    if (signal.aborted) return;
    renderer.page({ name: 'summary', lines: summaryLines(places, data), data: { ...data }, refresh });
    if (!interactive) return;
    await clock.sleep(SUMMARY_EVERY_MS, signal).catch(() => {});
  }
}
