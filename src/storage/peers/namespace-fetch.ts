import type { Clock } from '../../core/clock.ts';
import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { hasCode } from '../../core/file-system.ts';
import type { Turns } from '../../core/turns.ts';
import {
  unfulfilled,
  type BootstrapContext,
  type BootstrapRequest,
  type BootstrapResult,
  type Unfulfilled,
} from '../bootstrap/bootstrap-source.ts';
import { ShardTimeRanges } from '../bootstrap/shard-time-ranges.ts';
import { TimeRanges } from '../bootstrap/time-ranges.ts';
import { stateAtOrigin } from '../bootstrap/topology-snapshot.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { rebuildIndex, uncovered } from '../engine/rebuild-index.ts';
import type { UnfulfilledReason } from '../engine/storage-engine.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import type { FilesetId } from '../fileset/fileset-id.ts';
import type { ShardFolders } from '../fileset/shard-folders.ts';
import type { AnswerRooms } from './answer-rooms.ts';
import {
  BlockFetch,
  type BlockJob,
  type BlockOffer,
  type FetchedBlock,
  type FetchMemo,
} from './block-fetch.ts';
import { givers, requiredGivers, type BootstrapLevel } from './consistency.ts';
import type { FetchTally } from './fetch-tally.ts';
import { PeerFailure, type PeerClient } from './peer-client.ts';
import type { Settlement } from './peers-source.ts';
import { decodeShards, type PeerShard, type PeerShards } from './peer-messages.ts';

export interface FetchDeps {
  readonly view: PeerView;
  readonly clock: Clock;
  readonly client: PeerClient;
  readonly memo: FetchMemo;
  /** So many blocks come at the same time. */
  readonly turns: Turns;
  readonly folders: ShardFolders;
  readonly seal: (id: FilesetId) => Promise<void>;
  readonly inlineBytes: number;
  readonly rooms: AnswerRooms;
  readonly onMemory: (shard: number) => void;
}

export interface FetchRequest {
  readonly namespace: Namespace;
  readonly request: BootstrapRequest;
  readonly context: BootstrapContext;
  readonly level: BootstrapLevel;
  readonly tally: FetchTally;
  /** Who may have what was deleted, and why. */
  readonly settlement: Settlement;
}

/** What a peer says it has of a shard. */
interface Offer {
  readonly node: string;
  readonly shard: PeerShard;
  readonly version: bigint;
}

/** Of one shard, when enough peers have answered. */
interface ShardPlan {
  readonly shard: number;
  readonly required: number;
  readonly offers: readonly Offer[];
}

const ASKED_ANEW = 3;
/** A peer that does not know the placement yet is asked again, with pauses that double. */
const BEHIND_FIRST_MS = 20;
const BEHIND_MOST_MS = 700;

/** What is fetched of one namespace, in one pass and round. */
export class NamespaceFetch {
  readonly #deps: FetchDeps;
  readonly #what: FetchRequest;
  /** Peers that did not answer, and why. */
  readonly #silent: Map<string, string>;
  readonly #left: Unfulfilled[] = [];
  readonly #deferred = new Set<number>();

  constructor(deps: FetchDeps, what: FetchRequest) {
    this.#deps = deps;
    this.#what = what;
    this.#silent = new Map(what.settlement.silent);
  }

  get shards(): readonly number[] {
    return this.#what.request.data.shards;
  }

  /** Some of the shards that are to be filled have everything already. */
  get needsNoneOfSome(): boolean {
    const { data, namespace } = this.#what.request;
    return data.shards.length < namespace.shards.length;
  }

  /** What is to be fetched of shards, the newest blocks first; what too few can give is left. */
  async list(batch: readonly number[]): Promise<BlockJob[]> {
    const { request, tally } = this.#what;
    const asked = batch.filter((shard) => !request.data.get(shard).isEmpty);
    if (asked.length === 0) return [];
    if (this.isSuperseded) {
      this.#leave(asked, 'aborted', 'the placement has changed meanwhile');
      return [];
    }
    const offers = await this.#ask(asked);
    const jobs = asked.flatMap((shard) => {
      const plan = this.#plan(shard, offers);
      return plan ? this.#jobs(plan) : [];
    });
    for (const job of jobs) tally.expect(job.shard, sizeOf(job));
    tally.listedShards += asked.length;
    for (const shard of asked) this.#tell(shard);
    // What was written lately is asked for most.
    return jobs.sort((a, b) => (a.startNs > b.startNs ? -1 : a.startNs < b.startNs ? 1 : a.shard - b.shard));
  }

  /** These are not begun. */
  defer(shards: readonly number[]): void {
    for (const shard of shards) this.#deferred.add(shard);
  }

  get isSuperseded(): boolean {
    const { context, namespace } = this.#what;
    return context.superseded?.aborted === true || namespace.deleted;
  }

  /** What came of it; the index of what was fetched is durable then. */
  async finish(): Promise<BootstrapResult> {
    const data = joined(this.#left);
    const index = await this.#index(data);
    return { data, index, detail: this.#what.tally.toString(), deferred: [...this.#deferred] };
  }

  /** Asks all that could give any of these shards; who does not answer is noted, and left. */
  async #ask(batch: readonly number[]): Promise<Map<number, Offer[]>> {
    const { topology, signal } = this.#what.context;
    const nodes = new Set(batch.flatMap((shard) => givers(topology, shard)));
    const found = new Map<number, Offer[]>(batch.map((shard) => [shard, []]));
    await Promise.all(
      [...nodes].map(async (node) => {
        if (this.#what.settlement.silent.has(node)) return;
        const asked = batch.filter((shard) => givers(topology, shard).includes(node));
        try {
          const { shards, version } = await this.#askOne(node, asked, signal);
          for (const shard of shards) found.get(shard.shard)?.push({ node, shard, version });
        } catch (error) {
          if (!(error instanceof PeerFailure)) throw error;
          this.#silent.set(node, error.reason);
          this.#what.tally.notes.add(`${error.message} (left behind)`);
        }
      }),
    );
    return found;
  }

  async #askOne(node: string, shards: readonly number[], signal: AbortSignal): Promise<PeerShards> {
    const span = this.#what.request.data.span ?? { startNs: 0n, endNs: 0n };
    const { name: namespace } = this.#what.namespace;
    const { client, clock } = this.#deps;
    const placement = this.#what.context.topology.version;
    for (let pauseMs = BEHIND_FIRST_MS; ; pauseMs *= 2) {
      const bytes = await client.call(
        node,
        { kind: 'shards', namespace, shards, placement, ...span },
        signal,
      );
      let answer: PeerShards;
      try {
        answer = decodeShards(bytes);
      } catch (error) {
        throw client.distrust(node, error);
      }
      // It hears of the placement at about the same time.
      const isBehind = answer.shards.some(({ state }) => state === 'behind');
      if (!isBehind || pauseMs > BEHIND_MOST_MS || this.isSuperseded) return answer;
      await clock.sleep(pauseMs, signal);
    }
  }

  /** Undefined when too few can give it: then it is left, and said why. */
  #plan(shard: number, found: ReadonlyMap<number, readonly Offer[]>): ShardPlan | undefined {
    const { topology } = this.#what.context;
    const answers = found.get(shard) ?? [];
    const offers = answers.filter((offer) => offer.shard.state === 'whole');
    const required = requiredGivers(this.#what.level, topology, shard);
    if (offers.length >= required) return { shard, required, offers };
    const all = givers(topology, shard);
    const own = stateAtOrigin(topology, shard);
    const othersWait =
      answers.length === all.length && answers.every((one) => ['whole', 'waiting'].includes(one.shard.state));
    if (othersWait && (own === 'available' || own === 'leaving')) {
      // Nobody else would begin: what all of them have is all that there is.
      this.#what.tally.notes.add(`shard ${shard}: the others wait as well, so what is here counts`);
      return { shard, required: 0, offers };
    }
    const states = all.map((node) => {
      const answer = answers.find((offer) => offer.node === node);
      const reason = answer?.shard.state ?? this.#silent.get(node) ?? 'no answer';
      return `${node}: ${reason}`;
    });
    const detail = `${offers.length} of ${required} required replicas can give the shard (${states.join('; ')})`;
    this.#leave([shard], 'consistencyNotMet', detail);
    return undefined;
  }

  #jobs({ shard, required, offers }: ShardPlan): BlockJob[] {
    const { blockSizeNs } = this.#what.namespace.options;
    const wanted = this.#what.request.data.get(shard);
    const blocks = new Map<bigint, BlockOffer[]>();
    for (const { node, version, shard: has } of offers) {
      for (const block of has.blocks) {
        if (!wanted.overlaps({ startNs: block.startNs, endNs: block.startNs + blockSizeNs })) continue;
        const known = blocks.get(block.startNs) ?? [];
        blocks.set(block.startNs, known);
        known.push({ node, block, version });
      }
    }
    const others = offers.length;
    return [...blocks].map(([startNs, found]) => ({
      shard,
      startNs,
      offers: found,
      // So many of those that answered may fail before there are too few.
      spare: Math.max(0, others - Math.max(required, 1)),
    }));
  }

  /** A block, which is durable or in the memory when it resolves, or left. */
  async fetch(job: BlockJob): Promise<void> {
    const { namespace, context, settlement } = this.#what;
    const { signal, pass, atNs } = context;
    let left = job;
    for (let asked = 0; ; asked++) {
      if (this.isSuperseded) {
        this.#leaveBlock(job, 'aborted', 'the placement has changed meanwhile');
        return;
      }
      try {
        const fetch = new BlockFetch(
          { ...this.#deps, signal, onBytes: (bytes) => this.#came(job, bytes) },
          { namespace, pass, atNs, since: settlement.since },
        );
        this.#count(await fetch.run(left), left);
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof PeerFailure) {
          const next =
            error.isStale && asked < ASKED_ANEW ? await this.#anew(left) : without(left, error.node);
          if (next) {
            if (!error.isStale) this.#what.tally.notes.add(`${error.message} (left behind)`);
            left = next;
            continue;
          }
          this.#leaveBlock(job, 'peerError', error.message);
          return;
        }
        if (!isTrouble(error)) throw error;
        this.#leaveBlock(job, 'persistFailed', messageOf(error));
        return;
      }
    }
  }

  /** What its peers have of it now: something was flushed or replaced there. */
  async #anew(job: BlockJob): Promise<BlockJob | undefined> {
    const offers: BlockOffer[] = [];
    let { spare } = job;
    for (const { node } of job.offers) {
      try {
        const { shards, version } = await this.#askOne(node, [job.shard], this.#what.context.signal);
        const block = shards[0]?.blocks.find(({ startNs }) => startNs === job.startNs);
        if (shards[0]?.state !== 'whole') spare--;
        else if (block) offers.push({ node, block, version });
      } catch (error) {
        if (!(error instanceof PeerFailure)) throw error;
        spare--;
      }
    }
    return spare < 0 ? undefined : { ...job, offers, spare };
  }

  #count(fetched: FetchedBlock, { shard }: BlockJob): void {
    if (fetched.kind === 'memory' && fetched.series > 0) this.#deps.onMemory(shard);
    this.#what.tally.done(shard, fetched);
    this.#tell(shard);
  }

  #came({ shard }: BlockJob, bytes: number): void {
    this.#what.tally.came(shard, bytes);
    this.#tell(shard);
  }

  /** How far a shard is, and all that is asked for. */
  #tell(shard: number): void {
    const { tally, context, namespace } = this.#what;
    context.onShard?.(namespace.name, shard, tally.ofShard(shard));
    context.report({
      done: tally.doneBlocks,
      total: tally.blocks,
      unit: 'blocks',
      detail: `${namespace.name}: ${tally.rateText(this.#deps.clock.monotonicMs())}`,
    });
  }

  /** Of what was written: read back from it. */
  async #index(data: Unfulfilled): Promise<Unfulfilled> {
    const { index: wanted } = this.#what.request;
    const missing = data.ranges.intersect(wanted);
    const reasons = data.reasons.filter(({ shard }) => !missing.get(shard).isEmpty);
    if (this.#what.context.pass === 'memory' || wanted.isEmpty || this.#what.namespace.deleted) {
      return { ranges: missing, reasons };
    }
    try {
      await rebuildIndex(this.#what.namespace, uncovered(this.#what.namespace));
      return { ranges: missing, reasons };
    } catch (error) {
      if (!isTrouble(error) && !(error instanceof FileDamageError)) throw error;
      const detail = `the index of what peers gave cannot be made: ${messageOf(error)}`;
      return unfulfilled(this.#what.namespace.name, wanted, 'persistFailed', detail);
    }
  }

  #leave(shards: readonly number[], reason: UnfulfilledReason, detail: string): void {
    const ranges = this.#what.request.data.filterShards((shard) => shards.includes(shard));
    this.#left.push(unfulfilled(this.#what.namespace.name, ranges, reason, detail));
  }

  #leaveBlock({ shard, startNs }: BlockJob, reason: UnfulfilledReason, detail: string): void {
    const { blockSizeNs, name } = this.#what.namespace.options;
    const block = ShardTimeRanges.of([[shard, TimeRanges.of({ startNs, endNs: startNs + blockSizeNs })]]);
    this.#left.push(unfulfilled(name, block.intersect(this.#what.request.data), reason, detail));
  }
}

/** What the disk or the memory does not allow now; not a bug. */
function isTrouble(error: unknown): boolean {
  if (isAbort(error)) return false;
  return (
    error instanceof VarveError || hasCode(error, 'ENOSPC', 'EDQUOT', 'EIO', 'ENOENT', 'EMFILE', 'ENFILE')
  );
}

/** Undefined when there would be too few. */
function without(job: BlockJob, node: string): BlockJob | undefined {
  if (job.spare === 0) return undefined;
  const offers = job.offers.filter((offer) => offer.node !== node);
  return offers.length === job.offers.length ? undefined : { ...job, offers, spare: job.spare - 1 };
}

function sizeOf({ offers }: BlockJob): number {
  return Math.max(0, ...offers.map(({ block }) => block.fileset?.sizeBytes ?? 0));
}

function joined(parts: readonly Unfulfilled[]): Unfulfilled {
  return {
    ranges: ShardTimeRanges.of(parts.flatMap(({ ranges }) => [...ranges])),
    reasons: parts.flatMap(({ reasons }) => reasons),
  };
}
