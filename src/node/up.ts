import { resolve } from 'node:path';
import type { Options } from '../config/options.ts';
import type { Clock } from '../core/clock.ts';
import { isAbort, messageOf } from '../core/errors.ts';
import { EmbeddedCoordinator } from '../coordination/embedded-server.ts';
import type { CoordinatorDeps } from '../coordination/coordinator.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { CertificateAuthority } from '../postgres/certificates.ts';
import type { Renderer } from '../run/renderer.ts';
import { lockFolder } from '../core/folder-lock.ts';
import { nextLayout, type NodeLayout, type ProxyPorts, type SystemLayout } from './layout.ts';
import type { Log } from './log.ts';
import { runMainJob, type MainJobOptions } from './main-job.ts';
import type { NodeProgram } from './node-process.ts';
import { chooseFreePorts } from './ports.ts';
import { StorageClient } from './storage-client.ts';
import { tokenOf } from './storage-settings.ts';
import { System } from './system.ts';
import { connectionsOf, DATABASE, SystemFolder } from './system-folder.ts';

export interface UpDeps {
  readonly clock: Clock;
  /** Called when the folder is ours: the log is in it. */
  readonly log: () => Log;
  readonly renderer: Renderer;
  readonly program: NodeProgram;
  /** Whether the output can be redrawn, so that the summary may be refreshed. */
  readonly interactive: boolean;
}

export interface UpSignals {
  /** Stop everything in order. */
  readonly stop: AbortSignal;
  /** Stop waiting for it. */
  readonly force: AbortSignal;
}

/**
 * Runs a whole system from its folder until `signals.stop` fires: coordinator, nodes, main job. Resumes what
 * the folder holds, whatever state a killed run left it in. Resolves when everything has been stopped: the
 * main job, then the nodes with their PostgreSQL, then the coordinator.
 * @throws FOLDER_IN_USE when another process runs this system
 * @throws INVALID_ARGUMENT for a change that the folder does not allow
 * @throws NODE_START when a node does not come up
 */
export async function runUp(deps: UpDeps, options: Options<'up'>, signals: UpSignals): Promise<void> {
  const folder = new SystemFolder(resolve(options.dir));
  await using _lock = await lockFolder(folder.path);
  const layout = await prepareFolder(folder, options);
  await folder.removeConnections();
  const log = deps.log();
  await using coordinator = await EmbeddedCoordinator.start(
    { folder: folder.coordinatorFolder, port: layout.coordinatorPort },
    { clock: deps.clock, log },
  );
  coordinator.broken.addEventListener('abort', () => {
    const why = messageOf(coordinator.broken.reason);
    deps.renderer.note('error', 'up', `the coordinator has stopped, repair and start again: ${why}`);
  });
  await tellStart({ clock: deps.clock, log }, coordinator.url);
  for (const node of layout.nodes) {
    await folder.writeNodeConfig(
      node.name,
      nodeConfig(folder, layout, { node, options, url: coordinator.url }),
    );
  }
  await runSystem(deps, { folder, layout, options, coordinatorUrl: coordinator.url }, signals);
  await folder.removeConnections();
}

/**
 * Writes down when the system started. A coordinator in which nothing was ever written has no index that watches
 * could wait on: they would ask without a pause, and miss its first change.
 */
async function tellStart({ clock, log }: CoordinatorDeps, url: string): Promise<void> {
  await using client = openCoordinator({ kind: 'embedded', url }, { clock, log });
  await client.put('varve/started', new Date(clock.nowMs()).toISOString());
}

async function prepareFolder(folder: SystemFolder, options: Options<'up'>): Promise<SystemLayout> {
  const existing = await folder.readLayout();
  const { access, data, portBase, postgres, shardCount } = options;
  const wanted = { access, data, portBase, postgres, shardCount };
  const layout = await nextLayout(existing, wanted, chooseFreePorts);
  await folder.writeLayout(layout);
  await folder.ensurePassword(layout.nodes);
  if (layout.groupSize !== undefined) await folder.ensureGroupPassword();
  // Before the nodes ask for it, all at once.
  await CertificateAuthority.open(folder.caFolder);
  return layout;
}

/** The settings of `varve node`, as its configuration file has them. */
function nodeConfig(
  folder: SystemFolder,
  layout: SystemLayout,
  {
    node,
    options,
    url,
  }: { readonly node: NodeLayout; readonly options: Options<'up'>; readonly url: string },
): object {
  return {
    name: node.name,
    kind: node.kind,
    folder: folder.nodeFolder(node.name),
    postgres: layout.postgres,
    pgPort: node.pgPort,
    httpPort: node.httpPort,
    ...(node.kind === 'access'
      ? { ...accessConfig(node, options), ...admissionConfig(layout, options) }
      : storageConfig(layout, options)),
    ...(node.proxies ? memberConfig(folder, layout, { options, proxies: node.proxies }) : {}),
    database: DATABASE,
    passwordFile: folder.passwordFile,
    caFolder: folder.caFolder,
    coordinatorKind: 'embedded',
    coordinator: url,
    startTimeout: `${options.startTimeout}ms`,
    stopTimeout: `${options.stopTimeout}ms`,
    logLevel: options.logLevel,
  };
}

function accessConfig(node: NodeLayout, options: Options<'up'>): object {
  const { passfile, dataNodeTls, versionPolicy, connectTimeout, callTimeout } = options;
  return {
    rpcPort: node.rpcPort,
    ...(passfile === undefined ? {} : { passfile: resolve(passfile) }),
    dataNodeTls,
    versionPolicy,
    connectTimeout: `${connectTimeout}ms`,
    callTimeout: `${callTimeout}ms`,
  };
}

/** What access nodes are told of the storage engines of data nodes. */
function admissionConfig({ nodes }: SystemLayout, { storage, storageTokenFile }: Options<'up'>): object {
  return {
    storage,
    storageNodes: Math.max(1, nodes.filter(({ kind }) => kind === 'data').length),
    ...(storageTokenFile === undefined ? {} : { storageTokenFile: resolve(storageTokenFile) }),
  };
}

/** What data nodes are told of their storage engine. */
function storageConfig(layout: SystemLayout, options: Options<'up'>): object {
  const { storage, storageTokenFile, logMode, memoryMb, maxLogMb } = options;
  const { maxBodyMb, maxReadSamples, maxReads, writeConsistency, readConsistency, hintMaxMb } = options;
  return {
    storage,
    ...(storageTokenFile === undefined ? {} : { storageTokenFile: resolve(storageTokenFile) }),
    logMode,
    shardCount: layout.shardCount ?? options.shardCount,
    memoryMb,
    maxLogMb,
    maxBodyMb,
    maxReadSamples,
    maxReads,
    writeConsistency,
    readConsistency,
    hintMaxMb,
    bootstrapOrder: options.bootstrapOrder,
    bootstrapConsistency: options.bootstrapConsistency,
    peerTimeout: `${options.peerTimeout}ms`,
    replicaTimeout: `${options.replicaTimeout}ms`,
    hintMaxAge: `${options.hintMaxAge}ms`,
    repairInterval: `${options.repairInterval}ms`,
    snapshotInterval: `${options.snapshotInterval}ms`,
    readTimeout: `${options.readTimeout}ms`,
  };
}

/** The data node whose engine gets the metrics of this machine. */
function metricsTarget(layout: SystemLayout, options: Options<'up'>): MainJobOptions['storage'] {
  const first = layout.nodes.find(({ kind }) => kind === 'data');
  if (!options.storage || !first) return undefined;
  const url = `http://127.0.0.1:${first.httpPort}`;
  return { node: first.name, client: new StorageClient(url, tokenOf(options.storageTokenFile)) };
}

/** Name of the group of access nodes of a system. */
const CLUSTER = 'main';

function memberConfig(
  folder: SystemFolder,
  layout: SystemLayout,
  { options, proxies }: { readonly options: Options<'up'>; readonly proxies: ProxyPorts },
): object {
  const { haproxy, pgbouncer, leaseTtl, durability } = options;
  return {
    cluster: CLUSTER,
    clusterSize: layout.groupSize,
    groupPasswordFile: folder.groupPasswordFile,
    writePort: proxies.write,
    readPort: proxies.read,
    poolerPort: proxies.pooler,
    durability,
    ...(leaseTtl === undefined ? {} : { leaseTtl: `${leaseTtl}ms` }),
    ...(haproxy === undefined ? {} : { haproxy: resolve(haproxy) }),
    ...(pgbouncer === undefined ? {} : { pgbouncer: resolve(pgbouncer) }),
  };
}

interface Running {
  readonly folder: SystemFolder;
  readonly layout: SystemLayout;
  readonly options: Options<'up'>;
  readonly coordinatorUrl: string;
}

async function runSystem(deps: UpDeps, running: Running, signals: UpSignals): Promise<void> {
  const { clock, renderer, program } = deps;
  const { folder, layout, options, coordinatorUrl } = running;
  const published = new Publisher(
    () => {
      const pidOf = (name: string): number => system.pidOf(name);
      return folder.writeConnections(connectionsOf(folder, layout, { pidOf, coordinatorUrl }));
    },
    (error) => renderer.note('error', 'up', `connections.json cannot be written: ${messageOf(error)}`),
  );
  const system = new System(
    {
      clock,
      program,
      onEvent: (event) => renderer.event(event),
      note: (level, source, text) => renderer.note(level, source, text),
      onChange: () => void published.again(),
    },
    { startTimeoutMs: options.startTimeout, stopTimeoutMs: options.stopTimeout },
    folder,
  );
  const kill = (): void => system.kill();
  signals.force.addEventListener('abort', kill);
  try {
    await system.start(layout.nodes, signals.stop);
    await runMainJob(
      { ...deps, onPrepared: () => published.begin() },
      {
        folder,
        layout,
        coordinatorUrl,
        metrics: options.metrics,
        storage: metricsTarget(layout, options),
      },
      signals.stop,
    );
  } catch (error) {
    if (!signals.stop.aborted || !(isAbort(error) || error === signals.stop.reason)) throw error;
  } finally {
    renderer.note('info', 'up', 'stopping the nodes');
    await system.stop();
    await published.end();
    signals.force.removeEventListener('abort', kill);
  }
}

/** Writes connections.json from `begin` on, and again after each change; one write at a time. */
class Publisher {
  readonly #write: () => Promise<void>;
  readonly #onError: (error: unknown) => void;
  #active = false;
  #tail: Promise<void> = Promise.resolve();

  constructor(write: () => Promise<void>, onError: (error: unknown) => void) {
    this.#write = write;
    this.#onError = onError;
  }

  begin(): Promise<void> {
    this.#active = true;
    return this.again();
  }

  again(): Promise<void> {
    if (this.#active) this.#tail = this.#tail.then(this.#write).catch(this.#onError);
    return this.#tail;
  }

  async end(): Promise<void> {
    this.#active = false;
    await this.#tail;
  }
}
