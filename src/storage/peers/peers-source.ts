import type { Clock } from '../../core/clock.ts';
import {
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapRequest,
  type BootstrapResult,
  type BootstrapSource,
  type Unfulfilled,
} from '../bootstrap/bootstrap-source.ts';
import { ShardTimeRanges } from '../bootstrap/shard-time-ranges.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { canBeGiven, givers, requiredGivers, type BootstrapLevel } from './consistency.ts';
import type { FetchMemo } from './block-fetch.ts';
import { NamespaceFetch } from './namespace-fetch.ts';
import { PeerClient } from './peer-client.ts';
import type { PeerTransport } from './peer-transport.ts';

export interface PeersSourceDeps {
  readonly view: PeerView;
  readonly transport: PeerTransport;
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** Told of every shard of which something came into the memory. */
  readonly onMemory: (shard: number) => void;
}

export interface PeersSourceOptions {
  readonly level: BootstrapLevel;
  /** Of one request to a peer; 15,000 unless given. */
  readonly timeoutMs?: number;
  /** Of a request, before its peer is left behind; 3 unless given. */
  readonly tries?: number;
  /** Blocks that are fetched at the same time; 12 unless given: mostly they wait for the disk. */
  readonly concurrency?: number;
}

const NOTHING: Unfulfilled = { ranges: ShardTimeRanges.EMPTY, reasons: [] };

/**
 * What other replicas of the shards have. Blocks that take no more writes become filesets: copied as they are where all
 * that answer have the same, merged series by series where not. Open blocks come into the memory; the engine takes a
 * snapshot of it afterwards.
 */
export class PeersSource implements BootstrapSource {
  readonly name = 'peers';
  readonly #deps: PeersSourceDeps;
  readonly #options: PeersSourceOptions;
  readonly #client: PeerClient;
  readonly #memo: FetchMemo = { partial: new Map() };

  constructor(deps: PeersSourceDeps, options: PeersSourceOptions) {
    this.#deps = deps;
    this.#options = options;
    const { timeoutMs = 15_000, tries = 3 } = options;
    this.#client = new PeerClient(deps, { timeoutMs, tries });
  }

  async availableData(
    _namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    { topology }: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    return ranges.filterShards((shard) => canBeGiven(this.#options.level, topology, shard));
  }

  async availableIndex(
    namespace: BootstrapNamespace,
    ranges: ShardTimeRanges,
    context: BootstrapContext,
  ): Promise<ShardTimeRanges> {
    return await this.availableData(namespace, ranges, context);
  }

  why(shard: number, { topology }: BootstrapContext): string {
    const { level } = this.#options;
    const count = givers(topology, shard).length;
    if (count === 0) return 'no other node has the shard';
    return `${count} other replicas are available, ${requiredGivers(level, topology, shard)} are required (${level})`;
  }

  async read(
    requests: ReadonlyMap<string, BootstrapRequest>,
    context: BootstrapContext,
  ): Promise<ReadonlyMap<string, BootstrapResult>> {
    const results = new Map<string, BootstrapResult>();
    await this.#forgetForeign();
    for (const [name, request] of requests) {
      const namespace = this.#deps.view.namespace(name);
      if (!namespace) continue;
      if (request.data.isEmpty && request.index.isEmpty) {
        results.set(name, { data: NOTHING, index: NOTHING, detail: 'nothing was left to ask for' });
        continue;
      }
      const fetch = new NamespaceFetch(
        { ...this.#deps, client: this.#client, memo: this.#memo },
        { level: this.#options.level, concurrency: this.#options.concurrency ?? 12 },
        { namespace, request, context },
      );
      results.set(name, await fetch.run());
    }
    return results;
  }

  /** Takes back copies that are not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const receiver of this.#memo.partial.values()) await receiver.abort();
    this.#memo.partial.clear();
  }

  /** Copies that are not finished, of shards that are others' now. */
  async #forgetForeign(): Promise<void> {
    for (const [key, receiver] of this.#memo.partial) {
      const { namespace, shard } = receiver.what.id;
      if (this.#deps.view.namespace(namespace)?.ownership.owns(shard)) continue;
      this.#memo.partial.delete(key);
      await receiver.abort();
    }
  }
}
