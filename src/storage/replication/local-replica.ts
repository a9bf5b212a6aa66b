import type { ReplicaAccess, SeriesBits } from '../engine/replica-access.ts';
import { Serial } from '../engine/serial.ts';
import type { RemoteWriteVersion, StorageEngine, WriteOutcome } from '../engine/storage-engine.ts';
import { REQUEST_LIMITS } from '../buffer/request-decoder.ts';
import { VarveError } from '../../core/errors.ts';
import { decodeLabels, type LabelPair } from '../index/labels.ts';
import { KernelFault } from '../kernel/kernel-fault.ts';
import { canonicalLabels, walkWriteRequest } from '../kernel/remote-write.ts';
import { walkWriteRequest2 } from '../kernel/remote-write-2.ts';
import { decodeSnappy } from '../kernel/snappy.ts';
import { readColumns } from './columns-body.ts';
import type { DeletionLedger } from './deletion-ledger.ts';
import { matchersOf } from './plain-matchers.ts';
import type { ReplicaDelete, ReplicaWrite } from './replica-transport.ts';

/** This node's own replicas: takes what its own clients and other nodes bring, in whichever order it comes. */
export class LocalReplica {
  readonly engine: StorageEngine;
  readonly replica: ReplicaAccess;
  readonly ledger: DeletionLedger;
  readonly #nowNs: () => bigint;
  readonly #deleting = new Serial();

  constructor(parts: {
    readonly engine: StorageEngine;
    readonly replica: ReplicaAccess;
    readonly ledger: DeletionLedger;
    readonly nowNs: () => bigint;
  }) {
    this.engine = parts.engine;
    this.replica = parts.replica;
    this.ledger = parts.ledger;
    this.#nowNs = parts.nowNs;
  }

  /** @throws CLOCK_AHEAD, and what the engine throws */
  async write({ namespace, format, body, stamp }: ReplicaWrite): Promise<WriteOutcome> {
    this.#checkClock(stamp);
    const deletions = this.ledger.after(namespace, stamp);
    if (deletions.length > 0) {
      const series = seriesOf(format, body);
      return await this.replica.writeBits(namespace, survivors(series, deletions), { stamp });
    }
    if (format === 'columns') return await this.replica.writeBits(namespace, bitsOf(body), { stamp });
    return await this.replica.writeReplica(namespace, { version: format, body }, { stamp });
  }

  /** Once: the same again does nothing. Durable when it resolves. */
  async delete(deletion: ReplicaDelete): Promise<void> {
    await this.#deleting.run(async () => {
      if (this.ledger.has(deletion)) return;
      const { namespace, startNs, endNs, selectors } = deletion;
      await this.engine.deleteSeries(namespace, { startNs, endNs, selectors: selectors.map(matchersOf) });
      await this.ledger.add(deletion, this.#nowNs());
    });
  }

  /** Takes what another replica has. */
  async heal(namespace: string, series: readonly SeriesBits[], version: bigint): Promise<WriteOutcome> {
    return await this.replica.writeBits(namespace, series, { stamp: version, heals: true });
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
    const kept = [...one.times.keys()].filter((place) => {
      const time = one.times[place] as bigint;
      return !hits.some(({ startNs, endNs }) => startNs <= time && time < endNs);
    });
    if (kept.length === 0) return [];
    return [
      {
        labels: one.labels,
        times: BigInt64Array.from(kept, (place) => one.times[place] as bigint),
        bits: BigUint64Array.from(kept, (place) => one.bits[place] as bigint),
      },
    ];
  });
}

function labelsOf(labels: Uint8Array): readonly LabelPair[] {
  try {
    return decodeLabels(canonicalLabels(labels));
  } catch {
    // The engine refuses them.
    return [];
  }
}
