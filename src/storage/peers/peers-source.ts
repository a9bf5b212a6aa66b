import { basename, dirname } from 'node:path';
import type { Clock } from '../../core/clock.ts';
import { makeFolders } from '../../core/file-system.ts';
import { Turns } from '../../core/turns.ts';
import {
  type BootstrapContext,
  type BootstrapNamespace,
  type BootstrapPace,
  type BootstrapRequest,
  type BootstrapResult,
  type BootstrapSource,
  type Unfulfilled,
} from '../bootstrap/bootstrap-source.ts';
import { ShardTimeRanges } from '../bootstrap/shard-time-ranges.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { canBeGiven, givers, requiredGivers, type BootstrapLevel } from './consistency.ts';
import { GroupSeal } from '../fileset/group-seal.ts';
import { ShardFolders } from '../fileset/shard-folders.ts';
import { AnswerRooms } from './answer-rooms.ts';
import type { FetchMemo } from './block-fetch.ts';
import { FetchTally } from './fetch-tally.ts';
import { NamespaceFetch, type FetchDeps } from './namespace-fetch.ts';
import { PeerClient } from './peer-client.ts';
import type { PeerTransport } from './peer-transport.ts';
import { fetchRound } from './round-fetch.ts';

export interface PeersSourceDeps {
  readonly view: PeerView;
  readonly transport: PeerTransport;
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /**
   * Has these nodes, and this one, carry out what any of them has deleted. Once in a round: what this node deletes from
   * then on is deleted from what it takes. Without it, or an answer, nobody deletes.
   */
  readonly settleDeletions?: (
    nodes: readonly string[],
    signal: AbortSignal,
  ) => Promise<Settlement | undefined>;
  /** Told of every shard of which something came into the memory. */
  readonly onMemory: (shard: number) => void;
}

/** Of deletions, before anything is taken. */
export interface Settlement {
  /** Who did not carry out all of them, and why: nothing is taken from there. */
  readonly silent: ReadonlyMap<string, string>;
  /** The version of this node before every deletion that it was told of since; undefined: nobody deletes. */
  readonly since: bigint | undefined;
}

export interface PeersSourceOptions {
  readonly level: BootstrapLevel;
  /** Of one request to a peer; 15,000 unless given. */
  readonly timeoutMs?: number;
  /** Of a request, before its peer is left behind; 3 unless given. */
  readonly tries?: number;
  /** Blocks that come at the same time; 12 unless given: mostly they wait for each other's disks. */
  readonly concurrency?: number;
  /** Filesets up to this size come in one answer; 1 MiB unless given. */
  readonly inlineBytes?: number;
}

const UNSETTLED: Settlement = { silent: new Map(), since: undefined };
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
  readonly #memo: FetchMemo = { partial: new Map(), doubted: new Set() };
  readonly #tallies = new Map<string, FetchTally>();
  readonly #turns: Turns;
  #settled:
    | { readonly pace: BootstrapPace; readonly nodes: ReadonlySet<string>; readonly settlement: Settlement }
    | undefined;

  constructor(deps: PeersSourceDeps, options: PeersSourceOptions) {
    this.#deps = deps;
    this.#options = options;
    const { timeoutMs = 15_000, tries = 3, concurrency = 12 } = options;
    this.#turns = new Turns(concurrency);
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
    await this.#forgetForeign();
    const { view, clock } = this.#deps;
    const { level, inlineBytes = 1024 * 1024 } = this.#options;
    const results = new Map<string, BootstrapResult>();
    const fetches = new Map<string, NamespaceFetch>();
    const settlement = await this.#settle(requests, context);
    const rooms = new AnswerRooms();
    let files: Pick<FetchDeps, 'folders' | 'seal'> | undefined;
    for (const [name, request] of requests) {
      const namespace = view.namespace(name);
      if (!namespace) continue;
      if (request.data.isEmpty && request.index.isEmpty) {
        results.set(name, { data: NOTHING, index: NOTHING, detail: 'nothing was left to ask for' });
        continue;
      }
      // One for all namespaces of an engine.
      files ??= await this.#filesIn(namespace.filesets.root);
      const tally = this.#tallyOf(name, request, context);
      const own = { client: this.#client, memo: this.#memo, turns: this.#turns, inlineBytes, rooms };
      const what = { namespace, request, context, level, tally, settlement };
      fetches.set(name, new NamespaceFetch({ ...this.#deps, ...own, ...files }, what));
    }
    await fetchRound([...fetches.values()], context);
    const fetchedMs = clock.monotonicMs();
    for (const [name, fetch] of fetches) results.set(name, await fetch.finish());
    context.pace?.spent(clock.monotonicMs() - fetchedMs);
    return results;
  }

  askAnew(): void {
    this.#client.forgive();
  }

  /** Takes back copies that are not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const receiver of this.#memo.partial.values()) await receiver.abort();
    this.#memo.partial.clear();
  }

  /** A memory that the log comes to yet cannot be deleted from: then the repair does it. */
  async #settle(
    requests: ReadonlyMap<string, BootstrapRequest>,
    { topology, signal, pace }: BootstrapContext,
  ): Promise<Settlement> {
    const { view, settleDeletions } = this.#deps;
    const shards = [...requests.values()].flatMap(({ data }) => data.shards);
    const nodes = new Set(shards.flatMap((shard) => givers(topology, shard)));
    if (!settleDeletions || nodes.size === 0 || !view.isOpen()) return UNSETTLED;
    const before = this.#settled;
    if (before && before.pace === pace && [...nodes].every((node) => before.nodes.has(node)))
      return before.settlement;
    const settlement = (await settleDeletions([...nodes], signal)) ?? UNSETTLED;
    this.#settled = pace && { pace, nodes, settlement };
    return settlement;
  }

  /** Where filesets are written, and who makes them durable, in one round. */
  async #filesIn(root: string): Promise<Pick<FetchDeps, 'folders' | 'seal'>> {
    const { fs } = this.#deps.view;
    await makeFolders(fs, dirname(root), [basename(root)]);
    const group = new GroupSeal(fs, root);
    return { folders: new ShardFolders(fs, root), seal: (id) => group.seal(id) };
  }

  /** One for all rounds of an attempt. */
  #tallyOf(name: string, { namespace }: BootstrapRequest, { pass, pace }: BootstrapContext): FetchTally {
    const key = `${name}/${pass}`;
    const known = (pace?.round ?? 0) > 0 ? this.#tallies.get(key) : undefined;
    const tally = known ?? new FetchTally(namespace.shards.length, this.#deps.clock.monotonicMs());
    this.#tallies.set(key, tally);
    return tally;
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
