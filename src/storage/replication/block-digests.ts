import { createHash } from 'node:crypto';
import type { StorageEngine } from '../engine/storage-engine.ts';
import { shardOf } from './split-body.ts';

/** What a shard has in some span: equal where the samples are the same bit for bit, whatever wrote them where. */
export interface ShardDigest {
  readonly shard: number;
  readonly series: number;
  readonly samples: number;
  readonly digest: bigint;
}

export interface DigestRange {
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly shards: readonly number[];
  readonly signal?: AbortSignal;
}

const DIGEST_BITS = 128n;
const MASK = (1n << DIGEST_BITS) - 1n;

/**
 * Digests of shards: the sum of what SHA-256 makes of each series, so that the order in which they come does not matter.
 * Shards without samples have none. Versions do not count: a replica may know one where another need not.
 * @throws what a read throws
 */
export async function digestBlocks(
  engine: Pick<StorageEngine, 'read' | 'status'>,
  namespace: string,
  { startNs, endNs, shards, signal }: DigestRange,
): Promise<ShardDigest[]> {
  const { shardCount } = engine.status();
  const found = new Map<number, { shard: number; series: number; samples: number; digest: bigint }>();
  const wanted = new Set(shards);
  const query = { matchers: [], startNs, endNs, shards, ...(signal ? { signal } : {}) };
  for await (const { labelBytes, batches } of engine.read(namespace, query)) {
    const shard = shardOf(labelBytes, shardCount);
    if (!wanted.has(shard)) continue;
    const times = createHash('sha256');
    const bits = createHash('sha256');
    let samples = 0;
    for await (const batch of batches) {
      times.update(batch.times);
      bits.update(batch.bits);
      samples += batch.times.length;
    }
    const whole = createHash('sha256')
      .update(labelBytes)
      .update(times.digest())
      .update(bits.digest())
      .digest();
    const one = found.get(shard) ?? { shard, series: 0, samples: 0, digest: 0n };
    one.series++;
    one.samples += samples;
    one.digest = (one.digest + whole.readBigUInt64LE(0) + (whole.readBigUInt64LE(8) << 64n)) & MASK;
    found.set(shard, one);
  }
  return [...found.values()].sort((a, b) => a.shard - b.shard);
}

/** This node's digests of one block, of those shards that somebody asks for, each made once. */
export class OwnDigests {
  readonly #engine: Parameters<typeof digestBlocks>[0];
  readonly #namespace: string;
  readonly #range: Omit<DigestRange, 'shards'>;
  /** Undefined of a shard that has nothing. */
  readonly #known = new Map<number, bigint | undefined>();

  constructor(
    engine: Parameters<typeof digestBlocks>[0],
    namespace: string,
    range: Omit<DigestRange, 'shards'>,
  ) {
    this.#engine = engine;
    this.#namespace = namespace;
    this.#range = range;
  }

  /** Those of `theirs` that are otherwise here. @throws what a read throws */
  async unlike(theirs: readonly ShardDigest[]): Promise<number[]> {
    const shards = theirs.map(({ shard }) => shard).filter((shard) => !this.#known.has(shard));
    if (shards.length > 0) {
      for (const shard of shards) this.#known.set(shard, undefined);
      const found = await digestBlocks(this.#engine, this.#namespace, { ...this.#range, shards });
      for (const { shard, digest } of found) this.#known.set(shard, digest);
    }
    return theirs.flatMap(({ shard, digest }) => (this.#known.get(shard) === digest ? [] : [shard]));
  }

  /** They were written to. */
  forget(shards: readonly number[]): void {
    for (const shard of shards) this.#known.delete(shard);
  }
}

export function encodeDigests(digests: readonly ShardDigest[]): Buffer {
  return Buffer.from(
    JSON.stringify(
      digests.map(({ shard, series, samples, digest }) => [shard, series, samples, digest.toString(16)]),
    ),
  );
}

export function decodeDigests(bytes: Uint8Array): ShardDigest[] {
  const plain = JSON.parse(Buffer.from(bytes).toString()) as [number, number, number, string][];
  return plain.map(([shard, series, samples, digest]) => ({
    shard,
    series,
    samples,
    digest: BigInt(`0x${digest}`),
  }));
}
