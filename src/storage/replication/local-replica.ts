import type { ReplicaAccess, SeriesBits } from '../engine/replica-access.ts';
import { Serial } from '../engine/serial.ts';
import type { RemoteWriteVersion, StorageEngine, WriteOutcome } from '../engine/storage-engine.ts';
import { REQUEST_LIMITS } from '../buffer/request-decoder.ts';
import { VarveError } from '../../core/errors.ts';
import { decodeLabels, type LabelPair } from '../index/labels.ts';
import { labelMatcher } from '../index/matcher.ts';
import { KernelFault } from '../kernel/kernel-fault.ts';
import { canonicalLabels, walkWriteRequest } from '../kernel/remote-write.ts';
import { walkWriteRequest2 } from '../kernel/remote-write-2.ts';
import { decodeSnappy } from '../kernel/snappy.ts';
import { readColumns, type ColumnsRecord } from './columns-body.ts';
import type { DeletionLedger } from './deletion-ledger.ts';
import { matchersOf } from './plain-matchers.ts';
import type { ReplicaDelete, HandedOver, ReplicaWrite } from './replica-transport.ts';
import { keyOf } from './settle-deletions.ts';
import { shardOf } from './split-body.ts';

/** This node's own replicas: takes what its own clients and other nodes bring, in whichever order it comes. */
export class LocalReplica {
  readonly engine: StorageEngine;
  readonly replica: ReplicaAccess;
  readonly ledger: DeletionLedger;
  readonly #nowNs: () => bigint;
  readonly #leastVersion: () => number;
  readonly #isJoining: () => boolean;
  readonly #deleting = new Serial();

  constructor(parts: {
    readonly engine: StorageEngine;
    readonly replica: ReplicaAccess;
    readonly ledger: DeletionLedger;
    readonly nowNs: () => bigint;
    /** Of the placement: what is routed by an older one may miss replicas. */
    readonly leastVersion: () => number;
    /** It stands alone, and is about to follow a placement: it may give up what it has. */
    readonly isJoining: () => boolean;
  }) {
    this.engine = parts.engine;
    this.replica = parts.replica;
    this.ledger = parts.ledger;
    this.#nowNs = parts.nowNs;
    this.#leastVersion = parts.leastVersion;
    this.#isJoining = parts.isJoining;
  }

  /** @throws CLOCK_AHEAD, PLACEMENT_STALE, SHARD_NOT_READY, and what the engine throws */
  async write({ namespace, format, body, stamp, routedBy }: ReplicaWrite): Promise<WriteOutcome> {
    this.#checkClock(stamp);
    this.#checkJoined(routedBy);
    this.#checkRoute(routedBy);
    const deletions = this.ledger.after(namespace, stamp);
    if (deletions.length > 0) {
      const series = seriesOf(format, body);
      return await this.replica.writeBits(namespace, survivors(series, deletions), { stamp });
    }
    if (format === 'columns') return await this.replica.writeBits(namespace, bitsOf(body), { stamp });
    return await this.replica.writeReplica(namespace, { version: format, body }, { stamp });
  }

  /** Once: the same again does nothing. Durable when it resolves. @throws PLACEMENT_STALE, SHARD_NOT_READY */
  async delete(deletion: ReplicaDelete): Promise<void> {
    await this.#deleting.run(() => this.#carryOut(deletion, false));
  }

  /**
   * Carries out what those have that something is taken from afterwards.
   * @returns a version after all of them, and before every deletion that comes later: what is taken is to be looked at
   * through these. Undefined when there are others of these namespaces by now, which those are to have first.
   */
  async settle(
    deletions: readonly ReplicaDelete[],
    namespaces: readonly string[],
  ): Promise<bigint | undefined> {
    return await this.#deleting.run(async () => {
      for (const deletion of deletions) await this.#carryOut(deletion, true);
      const settled = new Set(deletions.map(keyOf));
      const isAll = this.ledger.of(namespaces).every((deletion) => settled.has(keyOf(deletion)));
      return isAll ? this.replica.nextStamp() : undefined;
    });
  }

  async #carryOut(deletion: ReplicaDelete, isSettled: boolean): Promise<void> {
    if (this.ledger.has(deletion)) return;
    const { routedBy, ...kept } = deletion;
    this.#checkJoined(routedBy);
    this.#checkRoute(routedBy);
    const { namespace, startNs, endNs, selectors: plain } = kept;
    await this.engine.deleteSeries(namespace, {
      startNs,
      endNs,
      selectors: plain.map(matchersOf),
      isSettled,
    });
    await this.ledger.add(kept, this.#nowNs());
  }

  /** Takes what another replica has. */
  async heal(namespace: string, series: readonly SeriesBits[], version: bigint): Promise<WriteOutcome> {
    return await this.replica.writeBits(namespace, series, { stamp: version, heals: true });
  }

  /**
   * Takes samples of times for which there is none here. What they were written with is not known, so what is here stays.
   * @throws SHARD_NOT_OWNED, SHARD_NOT_READY, PLACEMENT_STALE, and what the engine throws
   */
  async takeOver({ namespace, body, routedBy }: HandedOver): Promise<void> {
    this.#checkRoute(routedBy);
    const { shardCount } = this.engine.status();
    const missing: SeriesBits[] = [];
    for (const { labels, columns } of wholeRecords(body)) {
      const { times, bits } = columns;
      const shards = [shardOf(labels, shardCount)];
      const [startNs = 0n, last = 0n] = [times[0], times.at(-1)];
      const matchers = decodeLabels(labels).map(([name, value]) => labelMatcher(name, '=', value));
      const there = new Set<bigint>();
      const query = { matchers, shards, startNs, endNs: last + 1n };
      for await (const batch of this.replica.readBatches(namespace, query)) {
        // Series with more labels match, too.
        if (Buffer.compare(batch.id, labels) === 0) for (const time of batch.columns.times) there.add(time);
      }
      const left = keptOf({ labels, times, bits }, (time) => !there.has(time));
      if (left) missing.push(left);
    }
    if (missing.length === 0) return;
    this.#checkRoute(routedBy);
    const { notOwned = 0 } = await this.heal(namespace, missing, LEAST_VERSION);
    if (notOwned === 0) return;
    throw new VarveError(
      'SHARD_NOT_OWNED',
      'some of the shards that the samples belong to are not this node’s',
      {
        hint: 'Ask a node that has them.',
      },
    );
  }

  /** What it takes until it follows the placement may be dropped then: that must not count. */
  #checkJoined(routedBy: number | undefined): void {
    if (routedBy === undefined || !this.#isJoining()) return;
    throw new VarveError(
      'SHARD_NOT_READY',
      'this node has heard of the placement, and does not follow it yet',
      {
        hint: 'Repeat it in a moment.',
      },
    );
  }

  /** From when on this node may have given what it has to a new replica, it takes nothing that passes that one by. */
  #checkRoute(routedBy: number | undefined): void {
    const least = this.#leastVersion();
    if (routedBy === undefined || routedBy >= least) return;
    throw new VarveError(
      'PLACEMENT_STALE',
      `it was sent here by version ${routedBy} of the placement, and there are new replicas since version ${least}`,
    );
  }

  /** Versions never go back: one from a clock that is far ahead would be with all nodes for as long. */
  #checkClock(stamp: bigint): void {
    const aheadNs = stamp - this.#nowNs();
    if (aheadNs <= MAX_AHEAD_NS) return;
    throw new VarveError(
      'CLOCK_AHEAD',
      `the clock of the node that took the write is ${aheadNs / 1_000_000_000n} seconds ahead of this one's`,
      { hint: 'Have all nodes set their clocks by the same source.' },
    );
  }
}

const MAX_AHEAD_NS = 300n * 1_000_000_000n;
/** Before every version that a node gives, and behind none. */
export const LEAST_VERSION = 1n;

function bitsOf(body: Uint8Array): SeriesBits[] {
  return [...readColumns(body)].map(({ labels, columns: { times, bits } }) => ({ labels, times, bits }));
}

/** The slow way, for the rare write that comes after a deletion that it was before. @throws WRITE_INVALID */
function seriesOf(format: RemoteWriteVersion | 'columns', body: Uint8Array): SeriesBits[] {
  if (format === 'columns') return bitsOf(body);
  try {
    const message = decodeSnappy(body, REQUEST_LIMITS.bodyBytes);
    const limits = {
      maxSeries: REQUEST_LIMITS.series,
      maxSamples: REQUEST_LIMITS.samples,
      maxSymbols: REQUEST_LIMITS.symbols,
      maxLabelBytes: REQUEST_LIMITS.labelBytes,
    };
    const { series } = format === 1 ? walkWriteRequest(message, limits) : walkWriteRequest2(message, limits);
    return series.map(({ labels, times, values }) => ({
      labels,
      times: BigInt64Array.from(times),
      bits: BigUint64Array.from(values),
    }));
  } catch (error) {
    if (!(error instanceof KernelFault)) throw error;
    throw new VarveError('WRITE_INVALID', `the body is no remote write request: ${error.message}`, {
      cause: error,
    });
  }
}

/** What none of the deletions hits. */
export function survivors(series: readonly SeriesBits[], deletions: readonly ReplicaDelete[]): SeriesBits[] {
  const parsed = deletions.map(({ startNs, endNs, selectors }) => ({
    startNs,
    endNs,
    selectors: selectors.map(matchersOf),
  }));
  return series.flatMap((one) => {
    const labels = labelsOf(one.labels);
    const hits = parsed.filter(({ selectors }) =>
      selectors.some((selector) =>
        selector.every((matcher) =>
          matcher.matches(labels.find(([name]) => name === matcher.name)?.[1] ?? ''),
        ),
      ),
    );
    if (hits.length === 0) return [one];
    const left = keptOf(one, (time) => !hits.some(({ startNs, endNs }) => startNs <= time && time < endNs));
    return left ? [left] : [];
  });
}

/** The samples of times that are kept; undefined when there are none. */
function keptOf(one: SeriesBits, isKept: (timeNs: bigint) => boolean): SeriesBits | undefined {
  const kept = [...one.times.keys()].filter((place) => isKept(one.times[place] as bigint));
  if (kept.length === 0) return undefined;
  return {
    labels: one.labels,
    times: BigInt64Array.from(kept, (place) => one.times[place] as bigint),
    bits: BigUint64Array.from(kept, (place) => one.bits[place] as bigint),
  };
}

/** Each with its labels, also those that go on with the series before. */
function* wholeRecords(body: Uint8Array): Generator<ColumnsRecord> {
  let labels = body.subarray(0, 0);
  for (const record of readColumns(body)) {
    if (record.labels.length > 0) labels = record.labels;
    if (record.columns.times.length > 0) yield { ...record, labels };
  }
}

function labelsOf(labels: Uint8Array): readonly LabelPair[] {
  try {
    return decodeLabels(canonicalLabels(labels));
  } catch {
    // The engine refuses them.
    return [];
  }
}
