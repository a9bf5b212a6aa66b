import { isAbort, messageOf, VarveError } from '../../core/errors.ts';
import { hasCode } from '../../core/file-system.ts';
import { bytesText, durationText } from '../../run/figures.ts';
import type {
  BootstrapContext,
  BootstrapRequest,
  BootstrapResult,
  Unfulfilled,
} from '../bootstrap/bootstrap-source.ts';
import { unfulfilled } from '../bootstrap/bootstrap-source.ts';
import { ShardTimeRanges } from '../bootstrap/shard-time-ranges.ts';
import { TimeRanges } from '../bootstrap/time-ranges.ts';
import { stateAtOrigin } from '../bootstrap/topology-snapshot.ts';
import type { Clock } from '../../core/clock.ts';
import type { Namespace } from '../engine/namespace.ts';
import type { PeerView } from '../engine/peer-view.ts';
import { rebuildIndex, uncovered } from '../engine/rebuild-index.ts';
import type { UnfulfilledReason } from '../engine/storage-engine.ts';
import { FileDamageError } from '../fileset/fileset-damage.ts';
import {
  BlockFetch,
  type BlockJob,
  type BlockOffer,
  type FetchedBlock,
  type FetchMemo,
} from './block-fetch.ts';
import { givers, requiredGivers, type BootstrapLevel } from './consistency.ts';
import { PeerFailure, type PeerClient } from './peer-client.ts';
import { decodeShards, type PeerShard, type PeerShards } from './peer-messages.ts';

export interface FetchDeps {
  readonly view: PeerView;
  readonly clock: Clock;
  readonly client: PeerClient;
  readonly memo: FetchMemo;
  readonly onMemory: (shard: number) => void;
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

/** Shards whose blocks are listed, and then fetched, before the next are. */
const SHARDS_AT_ONCE = 32;
const ASKED_ANEW = 3;

/** One namespace, in one pass. */
export class NamespaceFetch {
  readonly #deps: FetchDeps;
  readonly #options: { readonly level: BootstrapLevel; readonly concurrency: number };
  readonly #namespace: Namespace;
  readonly #request: BootstrapRequest;
  readonly #context: BootstrapContext;
  readonly #left: Unfulfilled[] = [];
  readonly #notes = new Set<string>();
  readonly #from = new Set<string>();
  readonly #counts = {
    copied: 0,
    merged: 0,
    open: 0,
    series: 0,
    bytes: 0,
    knownBytes: 0,
    blocks: 0,
    doneBlocks: 0,
  };
  readonly #startedMs: number;

  constructor(
    deps: FetchDeps,
    options: { readonly level: BootstrapLevel; readonly concurrency: number },
    what: {
      readonly namespace: Namespace;
      readonly request: BootstrapRequest;
      readonly context: BootstrapContext;
    },
  ) {
    this.#deps = deps;
    this.#options = options;
    this.#namespace = what.namespace;
    this.#request = what.request;
    this.#context = what.context;
    this.#startedMs = deps.clock.monotonicMs();
  }

  async run(): Promise<BootstrapResult> {
    const { shards } = this.#request.data;
    for (let at = 0; at < shards.length; at += SHARDS_AT_ONCE) {
      const batch = shards.slice(at, at + SHARDS_AT_ONCE);
      if (this.#isSuperseded) this.#leave(batch, 'aborted', 'the placement has changed meanwhile');
      else await this.#fetchShards(batch);
    }
    const data = joined(this.#left);
    const index = await this.#index(data);
    return { data, index, detail: this.#detail() };
  }

  get #isSuperseded(): boolean {
    return this.#context.superseded?.aborted === true || this.#namespace.deleted;
  }

  async #fetchShards(batch: readonly number[]): Promise<void> {
    const offers = await this.#ask(batch);
    const jobs: BlockJob[] = [];
    for (const shard of batch) {
      const plan = this.#plan(shard, offers);
      if (plan) jobs.push(...this.#jobs(plan));
    }
    // What was written lately is asked for most.
    jobs.sort((a, b) => (a.startNs > b.startNs ? -1 : a.startNs < b.startNs ? 1 : a.shard - b.shard));
    for (const job of jobs) this.#counts.knownBytes += sizeOf(job);
    this.#counts.blocks += jobs.length;
    const next = jobs[Symbol.iterator]();
    const worker = async (): Promise<void> => {
      for (const job of next) await this.#fetchBlock(job);
    };
    await Promise.all(Array.from({ length: this.#options.concurrency }, worker));
  }

  /** Asks all that could give any of these shards; who does not answer is noted, and left. */
  async #ask(batch: readonly number[]): Promise<Map<number, Offer[]>> {
    const { topology, signal } = this.#context;
    const nodes = new Set(batch.flatMap((shard) => givers(topology, shard)));
    const found = new Map<number, Offer[]>(batch.map((shard) => [shard, []]));
    await Promise.all(
      [...nodes].map(async (node) => {
        const asked = batch.filter((shard) => givers(topology, shard).includes(node));
        try {
          const { shards, version } = await this.#askOne(node, asked, signal);
          for (const shard of shards) found.get(shard.shard)?.push({ node, shard, version });
        } catch (error) {
          if (!(error instanceof PeerFailure)) throw error;
          this.#notes.add(`${error.message} (left behind)`);
        }
      }),
    );
    return found;
  }

  async #askOne(node: string, shards: readonly number[], signal: AbortSignal): Promise<PeerShards> {
    const span = this.#request.data.span ?? { startNs: 0n, endNs: 0n };
    const { name: namespace } = this.#namespace;
    const bytes = await this.#deps.client.call(node, { kind: 'shards', namespace, shards, ...span }, signal);
    try {
      return decodeShards(bytes);
    } catch (error) {
      throw this.#deps.client.distrust(node, error);
    }
  }

  /** Undefined when too few can give it: then it is left, and said why. */
  #plan(shard: number, found: ReadonlyMap<number, readonly Offer[]>): ShardPlan | undefined {
    const { topology } = this.#context;
    const answers = found.get(shard) ?? [];
    const offers = answers.filter((offer) => offer.shard.state === 'whole');
    const required = requiredGivers(this.#options.level, topology, shard);
    if (offers.length >= required) return { shard, required, offers };
    const all = givers(topology, shard);
    const own = stateAtOrigin(topology, shard);
    const othersWait =
      answers.length === all.length && answers.every((one) => ['whole', 'waiting'].includes(one.shard.state));
    if (othersWait && (own === 'available' || own === 'leaving')) {
      // Nobody else would begin: what all of them have is all that there is.
      this.#notes.add(`shard ${shard}: the others wait as well, so what is here counts`);
      return { shard, required: 0, offers };
    }
    const states = all.map((node) => {
      const answer = answers.find((offer) => offer.node === node);
      const reason = answer?.shard.state ?? this.#deps.client.absence(node) ?? 'no answer';
      return `${node}: ${reason}`;
    });
    const detail = `${offers.length} of ${required} required replicas can give the shard (${states.join('; ')})`;
    this.#leave([shard], 'consistencyNotMet', detail);
    return undefined;
  }

  #jobs({ shard, required, offers }: ShardPlan): BlockJob[] {
    const { blockSizeNs } = this.#namespace.options;
    const wanted = this.#request.data.get(shard);
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

  async #fetchBlock(job: BlockJob): Promise<void> {
    const { signal } = this.#context;
    let left = job;
    for (let asked = 0; ; asked++) {
      if (this.#isSuperseded) {
        this.#leaveBlock(job, 'aborted', 'the placement has changed meanwhile');
        return;
      }
      try {
        const fetch = new BlockFetch(
          { ...this.#deps, signal, onBytes: (bytes) => this.#came(bytes) },
          { namespace: this.#namespace, pass: this.#context.pass, atNs: this.#context.atNs },
        );
        this.#count(await fetch.run(left), left);
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof PeerFailure) {
          const next =
            error.isStale && asked < ASKED_ANEW ? await this.#anew(left) : without(left, error.node);
          if (next) {
            if (!error.isStale) this.#notes.add(`${error.message} (left behind)`);
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
        const { shards, version } = await this.#askOne(node, [job.shard], this.#context.signal);
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

  #count(fetched: FetchedBlock, job: BlockJob): void {
    const counts = this.#counts;
    counts.doneBlocks++;
    counts.series += fetched.series;
    if (fetched.kind === 'copied') counts.copied++;
    if (fetched.kind === 'merged') counts.merged++;
    if (fetched.kind === 'memory') {
      counts.open++;
      if (fetched.series > 0) this.#deps.onMemory(job.shard);
    }
    for (const node of fetched.from) this.#from.add(node);
    this.#tell();
  }

  #came(bytes: number): void {
    this.#counts.bytes += bytes;
    this.#tell();
  }

  #tell(): void {
    const { bytes, knownBytes, blocks, doneBlocks } = this.#counts;
    const tookMs = this.#deps.clock.monotonicMs() - this.#startedMs;
    const rate = tookMs > 0 ? (bytes / tookMs) * 1000 : 0;
    const leftMs = rate > 0 && knownBytes > bytes ? ((knownBytes - bytes) / rate) * 1000 : 0;
    const eta = leftMs > 0 ? `, about ${durationText(leftMs)} left` : '';
    this.#context.report({
      done: doneBlocks,
      total: blocks,
      unit: 'blocks',
      detail: `${this.#namespace.name}: ${bytesText(bytes)} from peers, ${bytesText(rate)}/s${eta}`,
    });
  }

  /** Of what was written: read back from it. */
  async #index(data: Unfulfilled): Promise<Unfulfilled> {
    const { index: wanted } = this.#request;
    const missing = data.ranges.intersect(wanted);
    const reasons = data.reasons.filter(({ shard }) => !missing.get(shard).isEmpty);
    if (this.#context.pass === 'memory' || wanted.isEmpty || this.#namespace.deleted) {
      return { ranges: missing, reasons };
    }
    try {
      await rebuildIndex(this.#namespace, uncovered(this.#namespace));
      return { ranges: missing, reasons };
    } catch (error) {
      if (!isTrouble(error) && !(error instanceof FileDamageError)) throw error;
      const detail = `the index of what peers gave cannot be made: ${messageOf(error)}`;
      return unfulfilled(this.#namespace.name, wanted, 'persistFailed', detail);
    }
  }

  #leave(shards: readonly number[], reason: UnfulfilledReason, detail: string): void {
    const ranges = this.#request.data.filterShards((shard) => shards.includes(shard));
    this.#left.push(unfulfilled(this.#namespace.name, ranges, reason, detail));
  }

  #leaveBlock({ shard, startNs }: BlockJob, reason: UnfulfilledReason, detail: string): void {
    const { blockSizeNs, name } = this.#namespace.options;
    const block = ShardTimeRanges.of([[shard, TimeRanges.of({ startNs, endNs: startNs + blockSizeNs })]]);
    this.#left.push(unfulfilled(name, block.intersect(this.#request.data), reason, detail));
  }

  #detail(): string {
    const { copied, merged, open, series, bytes } = this.#counts;
    const parts = [
      `${copied} filesets copied, ${merged} merged, ${open} open blocks (${series} series read one by one)`,
      `${bytesText(bytes)} from ${[...this.#from].sort().join(', ') || 'nobody: they have nothing'}`,
      ...this.#notes,
    ];
    return parts.join('; ');
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
