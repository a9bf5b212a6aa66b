import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../core/clock.ts';
import type { FileSystem } from '../core/file-system.ts';
import type { Placement } from '../placement/placement.ts';
import type { Engine } from '../storage/engine/engine.ts';
import type { StorageEngine } from '../storage/engine/storage-engine.ts';
import type { Door } from '../storage/http/exchange.ts';
import type { RequestBodies } from '../storage/http/request-body.ts';
import type { Settlement } from '../storage/peers/peers-source.ts';
import { HttpReplicaTransport } from '../storage/replication/http-replica-transport.ts';
import { ReplicaHttp } from '../storage/replication/replica-http.ts';
import { Replication, type ReplicationStatus } from '../storage/replication/replication.ts';
import type { Log } from './log.ts';
import type { StorageSettings } from './storage-settings.ts';

export interface StorageReplicationDeps {
  readonly log: Log;
  readonly clock: Clock;
  readonly fs: FileSystem;
  readonly engine: Engine;
  readonly bodies: RequestBodies;
  readonly placement: () => Placement | undefined;
  readonly refreshPlacement: () => Promise<void>;
}

export interface StorageReplicationOptions {
  readonly node: string;
  readonly settings: StorageSettings;
  readonly door: Door;
}

/** A storage node's part in the replication of metrics, over HTTP. */
export class StorageReplication implements AsyncDisposable {
  readonly #replication: Replication;
  readonly #transport: HttpReplicaTransport;
  readonly #http: ReplicaHttp;

  private constructor(replication: Replication, transport: HttpReplicaTransport, http: ReplicaHttp) {
    this.#replication = replication;
    this.#transport = transport;
    this.#http = http;
  }

  static async open(
    deps: StorageReplicationDeps,
    { node, settings, door }: StorageReplicationOptions,
  ): Promise<StorageReplication> {
    const { log, bodies } = deps;
    const { engine, token, replication: options, readTimeoutMs } = settings;
    const transport = new HttpReplicaTransport(token);
    const replication = await Replication.open(
      { ...deps, random: Math.random, transport },
      { node, folder: engine.folder, ...options },
    );
    const http = new ReplicaHttp({
      local: () => replication.local,
      bodies,
      door,
      readTimeoutMs,
      onBug: (error) => log.error({ error }, 'a request of another node met a bug'),
    });
    return new StorageReplication(replication, transport, http);
  }

  /** For clients; the node's own while it is alone. */
  get engine(): StorageEngine {
    return this.#replication.engine;
  }

  /** Null while the node is alone. */
  status(): ReplicationStatus | null {
    return this.#replication.status() ?? null;
  }

  /** See `Replication.handOver`. */
  async handOver(placement: Placement, signal: AbortSignal): Promise<void> {
    await this.#replication.handOver(placement, signal);
  }

  /** See `Replication.settleDeletions`. */
  async settleDeletions(nodes: readonly string[], signal: AbortSignal): Promise<Settlement> {
    return await this.#replication.settleDeletions(nodes, signal);
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    return this.#http.handle(request, response);
  }

  async run(signal: AbortSignal): Promise<void> {
    await this.#replication.run(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#transport[Symbol.asyncDispose]();
  }
}
