import { setImmediate as nextTurn } from 'node:timers/promises';
import type { WriteBatch } from '../buffer/write-batch.ts';
import { NO_OVERWRITES, type Columns } from './columns.ts';
import type { HybridClock } from './hybrid-clock.ts';
import type { Namespace } from './namespace.ts';
import { blocksIn } from './series-reader.ts';
import { storedBlock } from './stored-block.ts';
import type { ReadQuery, RemoteWriteVersion, SeriesRead, WriteOutcome } from './storage-engine.ts';

/** Samples of one series, bit for bit. */
export interface SeriesBits {
  /** As a protobuf series has them, in any order. */
  readonly labels: Uint8Array;
  /** In any order. */
  readonly times: BigInt64Array;
  readonly bits: BigUint64Array;
}

/** Samples of one series, any number and ascending, with the versions of those that replaced others. */
export interface SeriesBatch {
  /** Canonical labels: the ID of the series. */
  readonly id: Uint8Array;
  readonly columns: Columns;
}

/** A write that has its version from elsewhere. */
export interface StampedWrite {
  readonly stamp: bigint;
  /** It is what another replica has: all within retention is taken, and wins over what has no version here. */
  readonly heals?: boolean;
}

/** What an engine shows of itself for it. */
export interface ReplicaView {
  readonly clock: HybridClock;
  readonly namespace: (name: string) => Namespace;
  readonly write: (
    name: string,
    decode: (namespace: Namespace) => WriteBatch,
    write: StampedWrite,
  ) => Promise<WriteOutcome>;
  readonly read: (name: string, query: ReadQuery) => AsyncIterable<SeriesRead>;
  readonly standsAlone: () => boolean;
  /** Undefined when the log can be written to. */
  readonly ready: (bytes: number) => Promise<void> | undefined;
}

/** So many samples are read without giving others their turn. */
const SAMPLES_A_TURN = 500_000;

/**
 * An engine as one of several replicas: writes have the version that the node gave them that took them, so that in
 * whichever order they come the same stays everywhere; reads tell versions.
 */
export class ReplicaAccess {
  readonly #view: ReplicaView;

  constructor(view: ReplicaView) {
    this.#view = view;
  }

  /** It follows no placement: all shards are its own. */
  get standsAlone(): boolean {
    return this.#view.standsAlone();
  }

  /** A version for a write that this node takes: larger than all that it knows of. */
  nextStamp(): bigint {
    return this.#view.clock.next();
  }

  /**
   * As `writeRemote`. What is in bounds is said by the stamp, so that all replicas decide alike however late it comes;
   * series of other nodes' shards are passed over and counted.
   */
  async writeReplica(
    namespace: string,
    remote: { readonly version: RemoteWriteVersion; readonly body: Uint8Array },
    write: StampedWrite,
  ): Promise<WriteOutcome> {
    const { version, body } = remote;
    await this.#view.ready(body.length);
    return await this.#view.write(
      namespace,
      ({ buffer }) => buffer.decodeRemote(version, body, write.stamp, 'passOver'),
      write,
    );
  }

  /** The same for samples as columns. */
  async writeBits(
    namespace: string,
    series: readonly SeriesBits[],
    write: StampedWrite,
  ): Promise<WriteOutcome> {
    await this.#view.ready(0);
    const nowNs = write.heals ? this.#view.clock.nowNs() : write.stamp;
    return await this.#view.write(
      namespace,
      ({ buffer }) => buffer.prepareBits(series, nowNs, write.heals === true),
      write,
    );
  }

  /** An ordered `read` in batches that say whose they are. Valid until the next is asked for. */
  async *readBatches(namespace: string, query: ReadQuery): AsyncGenerator<SeriesBatch, void, void> {
    let samples = 0;
    for await (const series of this.#view.read(namespace, { ...query, ordered: true })) {
      const id = series.labelBytes;
      for await (const { times, bits, overwrites = NO_OVERWRITES } of series.batches) {
        yield { id, columns: { times, bits, overwrites } };
        samples += times.length;
        if (samples < SAMPLES_A_TURN) continue;
        samples = 0;
        await nextTurn();
      }
    }
  }

  /**
   * Digests of what shards have in a block, by shard, without reading any of it: of a shard whose samples are all in one
   * file, in hexadecimal; empty where there is nothing. Of others nothing is said: they have to be read. Equal ones stand
   * for the same samples with the same versions; the same samples may have different ones.
   */
  sealedBlock(
    namespace: string,
    blockStartNs: bigint,
    shards: readonly number[],
  ): ReadonlyMap<number, string> {
    const found = this.#view.namespace(namespace);
    const digests = new Map<number, string>();
    for (const shard of shards) {
      if (!found.ownership.owns(shard) || !found.isWhole(shard)) continue;
      const { info, memorySeries, hasDeletions } = storedBlock(found, shard, blockStartNs);
      if (memorySeries === 0 && !hasDeletions) digests.set(shard, info?.digest.toString('hex') ?? '');
    }
    return digests;
  }

  /** Starts of the blocks that the namespace has samples in, in memory or files; ascending. */
  blockStarts(namespace: string): readonly bigint[] {
    const { memory, files } = blocksIn(this.#view.namespace(namespace), ALL_TIMES);
    return [...new Set([...memory, ...files])].sort((a, b) => (a < b ? -1 : 1));
  }
}

const ALL_TIMES = { startNs: -(1n << 62n), endNs: 1n << 62n };
