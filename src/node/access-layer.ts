import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Registry } from 'prom-client';
import { Gauge } from 'prom-client';
import type { AccessDatabase } from '../data-node/access-databases.ts';
import { DataNodeService, SOCKET_NAME } from '../data-node/service.ts';
import type { RunDeps } from '../run/run.ts';
import { AdminPools } from './admin-pools.ts';
import type { Log } from './log.ts';
import type { DataNodeSettings } from './node-options.ts';
import type { RunningPostgres } from './postgres-service.ts';

export interface AccessLayerDeps extends RunDeps {
  readonly log: Log;
  /** As of now: after a recovery it may be another server process. */
  readonly postgres: () => RunningPostgres;
}

export interface AccessLayerOptions {
  readonly node: string;
  /** For what the service keeps: its journal and secret. */
  readonly folder: string;
  /** 0: a free one. */
  readonly rpcPort: number;
  readonly database: string;
  readonly dataNodes: DataNodeSettings;
}

/** What an access node has beyond its PostgreSQL. */
export interface AccessLayer extends AsyncDisposable {
  /** Parts of the node's status; lists named as in `varve status --json`. */
  status(): Readonly<Record<string, unknown>>;
  /** What the registries of data nodes say, as of a moment ago. */
  databases(): readonly AccessDatabase[];
  registerMetrics(registry: Registry): void;
}

/** Starts the service behind the SQL functions on this node's PostgreSQL. */
export async function startAccessLayer(
  deps: AccessLayerDeps,
  options: AccessLayerOptions,
): Promise<AccessLayer> {
  const admins = new AdminPools(() => deps.postgres().endpoint);
  const { rpcPort, dataNodes } = options;
  const { own, credentials } = deps.postgres();
  const socket = own && own.socketDir.length <= SOCKET_FOLDER_MAX_LENGTH ? own : undefined;
  const service = await DataNodeService.start(
    { ...deps, withAdmin: (database, work, signal) => admins.withConnection(database, work, signal) },
    {
      node: options.node,
      folder: options.folder,
      // Nobody but the server and we reach its socket folder, so that is where its functions find us, too.
      listen: socket
        ? { path: join(socket.socketDir, SOCKET_NAME) }
        : { host: dataNodes.rpcHost, port: rpcPort },
      tls: socket ? undefined : await rpcTls(dataNodes),
      credentials: { ...credentials, ...dataNodes.credentials },
      versionPolicy: dataNodes.versionPolicy,
      connectTimeoutMs: dataNodes.connectTimeoutMs,
      callTimeoutMs: dataNodes.callTimeoutMs,
      // Before 16 the socket asks for a password as everything else does.
      ownServer:
        socket && socket.major >= 16
          ? {
              port: socket.port,
              socketFolder: socket.socketDir,
              socketFolderForServer: socket.socketDirForBackends,
            }
          : undefined,
      reconcile: {
        homeDatabase: own ? 'postgres' : options.database,
        host: socket?.socketDirForBackends ?? dataNodes.rpcHost,
        dataDir: own?.dataDir,
      },
    },
  );
  return {
    status: () => ({
      dataNodes: service
        .databases()
        .flatMap(({ database, nodes }) => nodes.map((node) => ({ accessDatabase: database, ...node }))),
      operations: service.status(),
    }),
    databases: () => service.databases(),
    registerMetrics: (registry) => {
      const gauge: Gauge = new Gauge({
        name: 'varve_data_nodes',
        help: 'Data nodes that the access databases of this node have.',
        registers: [registry],
        collect: () => gauge.set(service.databases().reduce((sum, { nodes }) => sum + nodes.length, 0)),
      });
    },
    async [Symbol.asyncDispose]() {
      await service[Symbol.asyncDispose]();
      await admins[Symbol.asyncDispose]();
    },
  };
}

async function rpcTls({
  rpcFiles,
}: DataNodeSettings): Promise<{ certPem: string; keyPem: string } | undefined> {
  if (!rpcFiles) return undefined;
  return {
    certPem: await readFile(rpcFiles.certFile, 'utf8'),
    keyPem: await readFile(rpcFiles.keyFile, 'utf8'),
  };
}

/** A unix socket's path is at most 107 bytes on Linux, 103 elsewhere, name included. */
const SOCKET_FOLDER_MAX_LENGTH = 85;
