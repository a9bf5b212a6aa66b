import type { ShardProgress } from '../bootstrap/bootstrap-source.ts';
import { bytesText, durationText } from '../../run/figures.ts';
import type { FetchedBlock } from './block-fetch.ts';

/** What came from peers for a namespace in one pass of an attempt, over all its rounds. */
export class FetchTally {
  bytes = 0;
  /** What the blocks have that were listed so far. */
  knownBytes = 0;
  doneBlocks = 0;
  blocks = 0;
  /** Shards whose blocks were listed. */
  listedShards = 0;
  readonly notes = new Set<string>();
  readonly #from = new Set<string>();
  readonly #shards = new Map<number, { -readonly [K in keyof ShardProgress]: ShardProgress[K] }>();
  readonly #kinds: Record<FetchedBlock['kind'], number> = { copied: 0, merged: 0, memory: 0, nothing: 0 };
  readonly #startedMs: number;
  /** That are to be listed in all. */
  readonly #shardCount: number;
  #series = 0;

  constructor(shardCount: number, startedMs: number) {
    this.#shardCount = shardCount;
    this.#startedMs = startedMs;
  }

  /** A block is to come. */
  expect(shard: number, bytes: number): void {
    const of = this.#of(shard);
    of.blocks++;
    of.bytes += bytes;
    this.blocks++;
    this.knownBytes += bytes;
  }

  came(shard: number, bytes: number): void {
    this.#of(shard).doneBytes += bytes;
    this.bytes += bytes;
  }

  done(shard: number, { kind, series, from }: FetchedBlock): void {
    this.#of(shard).doneBlocks++;
    this.doneBlocks++;
    this.#kinds[kind]++;
    this.#series += series;
    for (const node of from) this.#from.add(node);
  }

  /** A copy; the tally goes on. */
  ofShard(shard: number): ShardProgress {
    return { ...this.#of(shard) };
  }

  /** How much came, how fast, and about how long it will take: shards that are not listed yet count as the others. */
  rateText(nowMs: number): string {
    const { bytes, knownBytes, listedShards } = this;
    const tookMs = nowMs - this.#startedMs;
    const rate = tookMs > 0 ? (bytes / tookMs) * 1000 : 0;
    const allBytes = listedShards > 0 ? (knownBytes / listedShards) * this.#shardCount : knownBytes;
    const leftMs = rate > 0 && allBytes > bytes ? ((allBytes - bytes) / rate) * 1000 : 0;
    const eta = leftMs > 0 ? `, about ${durationText(leftMs)} left` : '';
    return `${bytesText(bytes)} from peers, ${bytesText(rate)}/s${eta}`;
  }

  /** In words. */
  toString(): string {
    const { copied, merged, memory } = this.#kinds;
    const parts = [
      `${copied} filesets copied, ${merged} merged, ${memory} open blocks (${this.#series} series read one by one)`,
      `${bytesText(this.bytes)} from ${[...this.#from].sort().join(', ') || 'nobody: they have nothing'}`,
      ...this.notes,
    ];
    return parts.join('; ');
  }

  #of(shard: number): { -readonly [K in keyof ShardProgress]: ShardProgress[K] } {
    const known = this.#shards.get(shard) ?? { doneBlocks: 0, blocks: 0, doneBytes: 0, bytes: 0 };
    this.#shards.set(shard, known);
    return known;
  }
}
