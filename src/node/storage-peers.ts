import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../core/clock.ts';
import type { Placement } from '../placement/placement.ts';
import type { PeerBootstrapSource } from '../storage/engine/engine-bootstrap.ts';
import type { PeerView } from '../storage/engine/peer-view.ts';
import type { Door } from '../storage/http/exchange.ts';
import type { RequestBodies } from '../storage/http/request-body.ts';
import { HttpPeerTransport } from '../storage/peers/http-peer-transport.ts';
import { PeerHttp } from '../storage/peers/peer-http.ts';
import { PeerServer } from '../storage/peers/peer-server.ts';
import { PeersSource, type PeersSourceDeps, type PeersSourceOptions } from '../storage/peers/peers-source.ts';

export interface StoragePeersDeps extends Pick<PeersSourceDeps, 'settleDeletions'> {
  readonly clock: Clock;
  readonly bodies: RequestBodies;
  readonly placement: () => Placement | undefined;
  /** @throws STORAGE_NOT_READY while the engine is not open */
  readonly view: () => PeerView;
  readonly onBug: (error: unknown) => void;
}

/** How a storage node gives other nodes what it has, and gets from them what it lacks, over HTTP. */
export class StoragePeers implements AsyncDisposable {
  readonly #deps: StoragePeersDeps;
  readonly #options: PeersSourceOptions;
  readonly #transport: HttpPeerTransport;
  readonly #http: PeerHttp;

  constructor(deps: StoragePeersDeps, door: Door, options: PeersSourceOptions) {
    this.#deps = deps;
    this.#options = options;
    const endpointOf = (node: string): string | undefined =>
      deps.placement()?.instances.find(({ id }) => id === node)?.endpoint;
    this.#transport = new HttpPeerTransport(endpointOf, door.token);
    const { bodies, onBug } = deps;
    this.#http = new PeerHttp({ server: () => new PeerServer(deps.view()), bodies, door, onBug });
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    return this.#http.handle(request, response);
  }

  /** The engine's source. */
  source(view: PeerView, onMemory: (shard: number) => void): PeerBootstrapSource {
    const { clock, settleDeletions } = this.#deps;
    const transport = this.#transport;
    return new PeersSource(
      { view, onMemory, clock, transport, random: Math.random, ...(settleDeletions && { settleDeletions }) },
      this.#options,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#transport[Symbol.asyncDispose]();
  }
}
