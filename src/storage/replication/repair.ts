import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import { decodeDigests, OwnDigests, type ShardDigest } from './block-digests.ts';
import { decodeDeletions } from './deletion-ledger.ts';
import { healFrom, type HealRange } from './heal.ts';
import { idleLimited } from './idle-limit.ts';
import type { LocalReplica } from './local-replica.ts';
import type {
  ReplicaAddress,
  ReplicaDelete,
  ReplicaQuestion,
  ReplicaTransport,
} from './replica-transport.ts';
import type { Routing } from './routing.ts';

export interface RepairDeps {
  readonly node: string;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly local: LocalReplica;
  readonly transport: ReplicaTransport;
  readonly routing: () => Routing | undefined;
}

export interface RepairOptions {
  /** From one round to the next; 0 for never. */
  readonly intervalMs: number;
  /** Samples are left alone for so long: they may still be on their way. */
  readonly settledMs: number;
  /** The share of the time that a round works, from 0 to 1. */
  readonly share: number;
  /** A replica that sends nothing for so long is left to the next round. */
  readonly timeoutMs: number;
  /**
   * Where files have the same digest, nothing is read; but every block once in so many rounds, so that damage of what
   * nobody else reads is found.
   */
  readonly readAllRounds: number;
}

export interface RepairStatus {
  readonly running: boolean;
  readonly rounds: number;
  readonly lastEndedAtMs: number | undefined;
  readonly lastTookMs: number | undefined;
  /** Of the round that is running, or the last one: blocks that were compared, and those that there are. */
  readonly blocksDone: number;
  readonly blocks: number;
  /** Since the start: shards of blocks whose samples were read because files could not tell, or their turn had come. */
  readonly shardsRead: number;
  /** Since the start: comparisons of a shard and block with a replica that differed, what was missing, and what went wrong. */
  readonly differences: number;
  readonly samplesHealed: number;
  readonly deletionsHealed: number;
  readonly failures: number;
  readonly lastFailure: string | undefined;
}

/** A replica that is compared with. */
interface Peer extends ReplicaAddress {
  /** That it and this node have. */
  readonly shards: readonly number[];
  /** Deletions that it has not carried out: what they hit is not taken from it. */
  readonly behind: readonly ReplicaDelete[];
}

/** A block, or what of it is old enough to be compared. */
interface BlockRange extends Omit<HealRange, 'shards'> {
  /** Its samples are compared, whatever files say. */
  readonly readsAll: boolean;
}

/**
 * Compares what this node has with what the other replicas have, block by block, and takes what it lacks. Every node
 * does so for itself: then all have the same. It works for a share of the time only.
 */
export class Repair {
  readonly #deps: RepairDeps;
  readonly #options: RepairOptions;
  #status: RepairStatus = {
    running: false,
    rounds: 0,
    lastEndedAtMs: undefined,
    lastTookMs: undefined,
    blocksDone: 0,
    blocks: 0,
    shardsRead: 0,
    differences: 0,
    samplesHealed: 0,
    deletionsHealed: 0,
    failures: 0,
    lastFailure: undefined,
  };

  /** Not the same blocks first after each start. */
  readonly #firstDue: number;

  constructor(deps: RepairDeps, options: RepairOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#firstDue = Math.floor(deps.random() * options.readAllRounds);
  }

  get status(): RepairStatus {
    return this.#status;
  }

  /** Rounds until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random } = this.#deps;
    const { intervalMs } = this.#options;
    if (intervalMs === 0) return;
    while (!signal.aborted) {
      // Not all nodes at once.
      await clock.sleep(intervalMs * (0.5 + random()), signal).catch(() => {});
      if (!signal.aborted) await this.round(signal);
    }
  }

  /** One comparison of everything. What fails is told, and left to the next round. */
  async round(signal: AbortSignal): Promise<void> {
    const routing = this.#deps.routing();
    const place = routing?.instances.findIndex(({ id }) => id === this.#deps.node) ?? -1;
    if (!routing || place < 0 || this.#status.running) return;
    const { clock } = this.#deps;
    const startedMs = clock.monotonicMs();
    this.#note({ running: true, blocks: 0, blocksDone: 0 });
    try {
      const peers = await this.#peers(routing, place, signal);
      const namespaces = this.#deps.local.engine.namespaces();
      for (const { name, blockSizeNs } of namespaces) {
        if (peers.length > 0) await this.#namespace(peers, { name, blockSizeNs }, signal);
      }
    } catch (error) {
      if (!signal.aborted) this.#fail('a round of repair was not ended', error);
    } finally {
      this.#note({
        running: false,
        rounds: this.#status.rounds + 1,
        lastEndedAtMs: clock.nowMs(),
        lastTookMs: clock.monotonicMs() - startedMs,
      });
    }
  }

  /** The others that have shards of this node's, after what they have deleted was deleted here, too. */
  async #peers(routing: Routing, place: number, signal: AbortSignal): Promise<Peer[]> {
    const { local } = this.#deps;
    const found: {
      readonly address: ReplicaAddress;
      readonly shards: number[];
      readonly deletions: ReplicaDelete[];
    }[] = [];
    for (const [other, { id, endpoint }] of routing.instances.entries()) {
      const groups = routing.groups.filter(
        ({ readers }) => readers.includes(place) && readers.includes(other) && other !== place,
      );
      if (groups.length === 0) continue;
      const address = { id, endpoint };
      try {
        const deletions = decodeDeletions(await this.#ask(address, { kind: 'deletions' }, signal));
        found.push({ address, shards: groups.flatMap(({ shards }) => shards), deletions });
      } catch (error) {
        signal.throwIfAborted();
        this.#fail(`replica ${id} could not be compared with`, error);
      }
    }
    const known = new Set(local.engine.namespaces().map(({ name }) => name));
    for (const deletion of found.flatMap(({ deletions }) => deletions)) {
      if (local.ledger.has(deletion) || !known.has(deletion.namespace)) continue;
      await local.delete(deletion);
      this.#note({ deletionsHealed: this.#status.deletionsHealed + 1 });
    }
    return found.map(({ address, shards, deletions }) => ({
      ...address,
      shards: shards.sort((a, b) => a - b),
      behind: local.ledger.all.filter(
        ({ stamp, namespace }) =>
          !deletions.some((theirs) => theirs.stamp === stamp && theirs.namespace === namespace),
      ),
    }));
  }

  async #namespace(
    peers: readonly Peer[],
    { name, blockSizeNs }: { readonly name: string; readonly blockSizeNs: bigint },
    signal: AbortSignal,
  ): Promise<void> {
    const { local, clock } = this.#deps;
    const starts = new Set(local.replica.blockStarts(name));
    for (const peer of peers) {
      try {
        const answer = await this.#ask(peer, { kind: 'blocks', namespace: name }, signal);
        for (const start of JSON.parse(Buffer.from(answer).toString()) as string[]) starts.add(BigInt(start));
      } catch (error) {
        signal.throwIfAborted();
        this.#fail(`replica ${peer.id} does not tell its blocks`, error);
      }
    }
    this.#note({ blocks: this.#status.blocks + starts.size });
    const settledNs = BigInt(Math.floor(clock.nowMs() - this.#options.settledMs)) * 1_000_000n;
    // The newest first: they are asked for most.
    for (const startNs of [...starts].sort((a, b) => (a > b ? -1 : 1))) {
      signal.throwIfAborted();
      const startedMs = clock.monotonicMs();
      const blockEndNs = startNs + blockSizeNs;
      const endNs = blockEndNs < settledNs ? blockEndNs : settledNs;
      const readsAll = endNs < blockEndNs || this.#isDue(startNs / blockSizeNs);
      if (startNs < endNs) await this.#block(peers, { namespace: name, startNs, endNs, readsAll }, signal);
      this.#note({ blocksDone: this.#status.blocksDone + 1 });
      const { share } = this.#options;
      await clock.sleep((clock.monotonicMs() - startedMs) * (1 / share - 1), signal);
    }
  }

  /** Each block once in so many rounds. */
  #isDue(block: bigint): boolean {
    const { readAllRounds } = this.#options;
    return Math.abs(Number(block)) % readAllRounds === (this.#firstDue + this.#status.rounds) % readAllRounds;
  }

  async #block(peers: readonly Peer[], range: BlockRange, signal: AbortSignal): Promise<void> {
    const { namespace, startNs, endNs } = range;
    const mine = new OwnDigests(this.#deps.local.engine, namespace, { startNs, endNs, signal });
    for (const peer of peers) {
      try {
        const asked = range.readsAll ? peer.shards : await this.#unlikeFiles(peer, range, signal);
        if (asked.length === 0) continue;
        this.#note({ shardsRead: this.#status.shardsRead + asked.length });
        const shards = await mine.unlike(await this.#digests(peer, { ...range, shards: asked }, signal));
        if (shards.length === 0) continue;
        this.#note({ differences: this.#status.differences + shards.length });
        const healed = await healFrom(this.#deps, peer, {
          range: { namespace, startNs, endNs, shards },
          signal,
          timeoutMs: this.#options.timeoutMs,
        });
        this.#note({ samplesHealed: this.#status.samplesHealed + healed });
        if (healed > 0) mine.forget(shards);
      } catch (error) {
        signal.throwIfAborted();
        this.#fail(`a block could not be compared with replica ${peer.id}`, error);
      }
    }
  }

  /** Of the peer's shards those of a block that may have what this node has not, as far as files tell. */
  async #unlikeFiles(
    peer: Peer,
    { namespace, startNs }: BlockRange,
    signal: AbortSignal,
  ): Promise<readonly number[]> {
    const { shards } = peer;
    const question = { kind: 'sealed', namespace, startNs: String(startNs), shards } as const;
    const answer = Buffer.from(await this.#ask(peer, question, signal)).toString();
    const theirs = new Map(JSON.parse(answer) as [number, string][]);
    const mine = this.#deps.local.replica.sealedBlock(namespace, startNs, shards);
    return shards.filter((shard) => {
      const digest = theirs.get(shard);
      return digest !== '' && (digest === undefined || digest !== mine.get(shard));
    });
  }

  async #digests(
    peer: Peer,
    { namespace, startNs, endNs, shards }: HealRange,
    signal: AbortSignal,
  ): Promise<ShardDigest[]> {
    const range = { startNs: String(startNs), endNs: String(endNs), shards };
    return decodeDigests(await this.#ask(peer, { kind: 'digests', namespace, ...range }, signal));
  }

  async #ask(to: ReplicaAddress, question: ReplicaQuestion, signal: AbortSignal): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    // One that hangs is not waited for, nor is its connection kept.
    const ended = new AbortController();
    const answer = this.#deps.transport.ask(to, question, AbortSignal.any([signal, ended.signal]));
    const { clock } = this.#deps;
    const { timeoutMs } = this.#options;
    const limited = idleLimited(answer, { who: `replica ${to.id}`, timeoutMs, clock });
    try {
      for await (const part of limited) parts.push(part);
    } finally {
      ended.abort(new VarveError('CANCELLED', 'the answer is whole, or not waited for'));
    }
    return Buffer.concat(parts);
  }

  #note(change: Partial<RepairStatus>): void {
    this.#status = { ...this.#status, ...change };
  }

  #fail(what: string, error: unknown): void {
    this.#deps.log.warn({ reason: messageOf(error) }, what);
    this.#note({ failures: this.#status.failures + 1, lastFailure: `${what}: ${messageOf(error)}` });
  }
}
