import { randomBytes } from 'node:crypto';
import { chown, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { withDeadline } from '../core/deadline.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import type { RunDeps } from '../run/run.ts';
import { AccessDatabases, type AccessDatabase } from './access-databases.ts';
import { AddDataNode } from './add-data-node.ts';
import { Credentials, type CredentialOptions } from './credentials.ts';
import { DeleteDataNode } from './delete-data-node.ts';
import { DistributedExec } from './distributed-exec.ts';
import { Hypertables } from './hypertables.ts';
import type { Log } from './log.ts';
import { NodeChecks } from './node-checks.ts';
import { NodeSessions, type NodeSessionsOptions } from './node-session.ts';
import { Operations, type OperationStatus, type WithAdmin } from './operations.ts';
import { parseRequest, type Reply, type Request } from './request.ts';
import { RpcServer, type RpcServerOptions } from './rpc-server.ts';
import type { VersionPolicy } from './version-rule.ts';

/** Layer 2 on an access node: answers the SQL functions of extension `varve` and settles what they began. */

export interface DataNodeServiceDeps extends RunDeps {
  readonly log: Log;
  readonly withAdmin: WithAdmin;
}

export interface DataNodeServiceOptions {
  /** Name of this access node. */
  readonly node: string;
  /** The daemon's own folder: journal and secret, 0600. */
  readonly folder: string;
  readonly listen: RpcServerOptions['listen'];
  readonly tls?: RpcServerOptions['tls'];
  readonly credentials: CredentialOptions;
  readonly ownServer?: NodeSessionsOptions['ownServer'];
  readonly versionPolicy?: VersionPolicy | undefined;
  readonly connectTimeoutMs?: number | undefined;
  /** One statement on a data node. */
  readonly statementTimeoutMs?: number | undefined;
  readonly lockTimeoutMs?: number | undefined;
  /** A whole call, and the wait for another call on the same database. */
  readonly callTimeoutMs?: number | undefined;
  readonly targetWaitMs?: number | undefined;
  /** The administrator's database, and the address that databases are told; without it none are looked after. */
  readonly reconcile?:
    | {
        readonly homeDatabase: string;
        readonly host: string;
        readonly intervalMs?: number;
        /** Data folder of the server, in which a new database looks for the address. */
        readonly dataDir?: string | undefined;
      }
    | undefined;
}

/**
 * libpq finds a unix socket as `.s.PGSQL.<port>` in the folder that is given as its host. No server has this port,
 * so the daemon's socket can lie beside the server's.
 */
const SOCKET_PORT = 1;
export const SOCKET_NAME = `.s.PGSQL.${SOCKET_PORT}`;

const UPKEEP_INTERVAL_MS = 10_000;

type Handler = (request: Request, signal: AbortSignal) => Promise<Reply>;

export class DataNodeService implements AsyncDisposable {
  readonly #deps: DataNodeServiceDeps;
  readonly #options: DataNodeServiceOptions;
  readonly #operations: Operations;
  readonly #handlers: Readonly<Record<string, Handler>>;
  #server: RpcServer | undefined;
  #databases: AccessDatabases | undefined;
  readonly #hypertables: Hypertables;
  #loop: Promise<unknown> = Promise.resolve();
  readonly #stop = new AbortController();
  readonly secret: string;

  private constructor(
    deps: DataNodeServiceDeps,
    options: DataNodeServiceOptions,
    parts: {
      readonly operations: Operations;
      readonly handlers: Record<string, Handler>;
      readonly hypertables: Hypertables;
      readonly secret: string;
    },
  ) {
    this.#deps = deps;
    this.#options = options;
    this.#operations = parts.operations;
    this.#handlers = parts.handlers;
    this.#hypertables = parts.hypertables;
    this.secret = parts.secret;
  }

  /** Resolves when calls are taken. What an earlier process left unsettled is being settled by then. */
  static async start(deps: DataNodeServiceDeps, options: DataNodeServiceOptions): Promise<DataNodeService> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const sessions = new NodeSessions({
      credentials: new Credentials(options.credentials),
      connectTimeoutMs: options.connectTimeoutMs ?? 5_000,
      statementTimeoutMs: options.statementTimeoutMs ?? 60_000,
      lockTimeoutMs: options.lockTimeoutMs ?? 10_000,
      ownServer: options.ownServer,
    });
    const hypertables = new Hypertables({ ...deps, sessions });
    const { operations, handlers } = await openHandlers(deps, options, { sessions, hypertables });
    const secret = await keepSecret(join(options.folder, 'rpc.secret'));
    const service = new DataNodeService(deps, options, { operations, handlers, hypertables, secret });
    service.#server = await RpcServer.listen(
      { listen: options.listen, secret, tls: options.tls },
      (text, signal) => service.#answer(text, signal),
    );
    await service.#lookAfterDatabases(sessions);
    return service;
  }

  /** The port by which `dblink` finds it; on a unix socket, the one in the socket's name. */
  get addressPort(): number {
    return this.#server?.port || SOCKET_PORT;
  }

  /** Access databases with their data nodes, as of the last look. */
  databases(): readonly AccessDatabase[] {
    return this.#databases?.known() ?? [];
  }

  /** Calls whose transaction is open or that ended lately, oldest first. */
  status(): OperationStatus[] {
    return this.#operations.status();
  }

  async #lookAfterDatabases(sessions: NodeSessions): Promise<void> {
    const { reconcile } = this.#options;
    if (!reconcile) return;
    const { host, homeDatabase, intervalMs = 5_000, dataDir } = reconcile;
    const address = { host, port: this.addressPort, secret: this.secret };
    if (dataDir !== undefined) await leaveAddress(dataDir, address);
    this.#databases = new AccessDatabases({ ...this.#deps, sessions }, { homeDatabase, address, intervalMs });
    await this.#databases.round(this.#stop.signal);
    // What the registry says is carried out by one access node of a group.
    const databases = (): string[] =>
      this.databases().flatMap(({ database, isWriteMaster }) => (isWriteMaster ? [database] : []));
    const upkeep = this.#hypertables.upkeep({ databases, intervalMs: UPKEEP_INTERVAL_MS });
    const { signal } = this.#stop;
    this.#loop = Promise.all([this.#databases.run(signal), upkeep.run(signal)]);
  }

  /** One round of what otherwise happens by itself: dropped shards, grants and chunks of one access database. */
  lookAfterHypertables(database: string): Promise<void> {
    const upkeep = this.#hypertables.upkeep({ databases: () => [], intervalMs: UPKEEP_INTERVAL_MS });
    return upkeep.round(database, this.#stop.signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    await this.#server?.[Symbol.asyncDispose]();
    await this.#operations[Symbol.asyncDispose]();
  }

  async #answer(text: string, signal: AbortSignal): Promise<string> {
    try {
      return JSON.stringify(await this.#dispatch(JSON.parse(text), signal));
    } catch (error) {
      if (error instanceof VarveError) return JSON.stringify({ error: error.toJSON() });
      // A bug here, or a server that answers in an unknown way: the caller learns that, the log has the rest.
      this.#deps.log.error({ error }, 'a call failed unexpectedly');
      return JSON.stringify({ error: { sqlstate: 'XX000', message: messageOf(error) } });
    }
  }

  async #dispatch(value: unknown, signal: AbortSignal): Promise<Reply> {
    const { op, database } = value as { op?: unknown; database?: unknown };
    if (op === 'runs') return { result: { runs: this.#runsOf(database) } };
    const handler =
      typeof op === 'string' && Object.hasOwn(this.#handlers, op) ? this.#handlers[op] : undefined;
    if (!handler) {
      throw new VarveError('UNKNOWN_OPERATION', `this daemon does not know "${String(op)}"`, {
        hint: 'The extension in the database is newer than the daemon: update the daemon.',
      });
    }
    const request = parseRequest(value);
    const timeoutMs = this.#options.callTimeoutMs ?? 120_000;
    return withDeadline(request.op, timeoutMs, signal, (within) => handler(request, within));
  }

  #runsOf(database: unknown): object[] {
    return this.#operations
      .status()
      .filter(({ operation }) => operation.database === database)
      .map(({ operation, state, endedAtMs, error }) => ({
        id: operation.id,
        op: operation.kind,
        database: operation.database,
        caller: operation.caller,
        target: operation.subject,
        state,
        begunAt: new Date(operation.begunAtMs),
        endedAt: endedAtMs === undefined ? null : new Date(endedAtMs),
        error: error ?? null,
      }));
  }
}

/** What the SQL functions may ask for, and the operations that some of it begins. */
async function openHandlers(
  deps: DataNodeServiceDeps,
  options: DataNodeServiceOptions,
  { sessions, hypertables }: { readonly sessions: NodeSessions; readonly hypertables: Hypertables },
): Promise<{ operations: Operations; handlers: Record<string, Handler> }> {
  const { node, versionPolicy: policy = 'document', targetWaitMs = 30_000 } = options;
  const add = new AddDataNode({ ...deps, sessions }, { node, policy });
  const remove = new DeleteDataNode({ sessions });
  const exec = new DistributedExec({ sessions });
  const checks = new NodeChecks({ sessions });
  const kinds = {
    ...hypertables.kinds,
    add_data_node: add,
    delete_data_node: remove,
    distributed_exec: exec,
  };
  const journalPath = join(options.folder, 'operations.journal');
  const operations = await Operations.open(deps, { journalPath, kinds, targetWaitMs });
  return {
    operations,
    handlers: {
      ...hypertables.handlers(operations),
      add_data_node: (request, signal) => add.handle(request, operations, signal),
      plan_data_node: async (request, signal) => ({ result: await add.plan(request, signal) }),
      delete_data_node: (request) => remove.handle(request, operations),
      distributed_exec: (request, signal) => exec.handle(request, operations, signal),
      ping_data_node: (request, signal) => checks.ping(request, signal),
      health: (request, signal) => checks.health(request, signal),
      check_address: (request, signal) => checks.address(request, signal),
    },
  };
}

/** For `create extension varve` in a database that the daemon has not seen yet; readable by the server only. */
async function leaveAddress(dataDir: string, address: object): Promise<void> {
  const owner = await stat(dataDir);
  const folder = join(dataDir, 'varve');
  await mkdir(folder, { mode: 0o700, recursive: true });
  await chown(folder, owner.uid, owner.gid);
  await writeFileAtomic(join(folder, 'endpoint.json'), JSON.stringify(address), { mode: 0o600, owner });
}

/** The secret survives restarts, so that what the databases hold stays true. */
async function keepSecret(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const secret = randomBytes(32).toString('base64url');
    await writeFile(path, secret, { mode: 0o600, flush: true });
    return secret;
  }
}
