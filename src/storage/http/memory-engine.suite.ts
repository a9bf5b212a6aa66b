import { VarveError } from '../../core/errors.ts';
import type {
  ColumnBatch,
  DeleteQuery,
  EngineStatus,
  LimitedResult,
  MetadataQuery,
  NamespaceOptions,
  ReadQuery,
  RejectReason,
  Rejection,
  RemoteWriteVersion,
  SeriesRead,
  SeriesSamples,
  StorageEngine,
  WriteOutcome,
} from '../engine/storage-engine.ts';
import { decodeLabels, encodeLabels, sortTexts, type LabelPair } from '../index/labels.ts';
import type { LabelMatcher } from '../index/matcher.ts';
import { KernelFault } from '../kernel/kernel-fault.ts';
import { canonicalLabels, walkWriteRequest } from '../kernel/remote-write.ts';
import { walkWriteRequest2 } from '../kernel/remote-write-2.ts';
import { decodeSnappy } from '../kernel/snappy.ts';

const LIMITS = { maxSeries: 100_000, maxSamples: 1_000_000, maxSymbols: 100_000, maxLabelBytes: 10_000_000 };

interface Stored {
  readonly labels: readonly LabelPair[];
  readonly labelBytes: Uint8Array;
  /** Bits by time. */
  readonly samples: Map<bigint, bigint>;
}

/**
 * An engine that keeps everything in maps: the interface in its plainest form, for tests of what stands on it.
 * `now` gives the bounds of what is taken; without it, everything is.
 */
export class MemoryEngine implements StorageEngine {
  readonly #namespaces = new Map<string, { options: NamespaceOptions; series: Map<string, Stored> }>();
  readonly #nowNs: (() => bigint) | undefined;
  /** Thrown by the next write. */
  failure: Error | undefined;
  batchSamples = 7;

  constructor(namespaces: readonly NamespaceOptions[], nowNs?: () => bigint) {
    this.#nowNs = nowNs;
    for (const options of namespaces) this.#namespaces.set(options.name, { options, series: new Map() });
  }

  status(): EngineStatus {
    return {
      state: 'ready',
      shardCount: 1,
      namespaces: [...this.#namespaces.values()].map(({ options, series }) => ({
        options,
        series: series.size,
        samplesWritten: [...series.values()].reduce((sum, { samples }) => sum + BigInt(samples.size), 0n),
        rejected: { tooOld: 0, tooNew: 0, invalidLabels: 0, seriesLimit: 0 },
        openBlocks: [],
        filesets: 0,
        filesetBytes: 0,
        quarantined: 0,
        tombstones: 0,
        cache: { bytes: 0, hits: 0, misses: 0 },
        shards: [{ shard: 0, state: 'bootstrapped' }],
      })),
      bootstrapRuns: [],
      memory: { usedBytes: 0, limitBytes: 1, refusing: false },
      log: { mode: 'behind', state: 'writing', reason: undefined, bytes: 0 },
      snapshots: { lastAtNs: undefined, failures: 0, lastFailure: undefined },
      disk: { freeBytes: 1, full: false },
    };
  }

  namespaces(): readonly NamespaceOptions[] {
    return [...this.#namespaces.values()].map(({ options }) => options);
  }

  applyNamespaces(wanted: readonly NamespaceOptions[]): Promise<void> {
    const names = new Set(wanted.map(({ name }) => name));
    for (const name of this.#namespaces.keys()) if (!names.has(name)) this.#namespaces.delete(name);
    for (const options of wanted) {
      const series = this.#namespaces.get(options.name)?.series ?? new Map<string, Stored>();
      this.#namespaces.set(options.name, { options, series });
    }
    return Promise.resolve();
  }

  // oxlint-disable-next-line typescript/require-await -- what it throws has to come as a rejection
  async writeRemote(namespace: string, version: RemoteWriteVersion, body: Uint8Array): Promise<WriteOutcome> {
    try {
      const message = decodeSnappy(body, 32 << 20);
      const walk = version === 1 ? walkWriteRequest : walkWriteRequest2;
      const { series, exemplars, histograms } = walk(message, LIMITS);
      const outcome = this.#write(
        namespace,
        series.map(({ labels, times, values }) => ({
          labelBytes: (): Uint8Array => canonicalLabels(labels),
          samples: times.map((time, i) => [time, values[i] ?? 0n] as const),
        })),
      );
      return { ...outcome, exemplars, histograms };
    } catch (error) {
      if (error instanceof KernelFault) throw new VarveError('WRITE_INVALID', error.message);
      throw error;
    }
  }

  // oxlint-disable-next-line typescript/require-await -- what it throws has to come as a rejection
  async writeSeries(namespace: string, series: readonly SeriesSamples[]): Promise<WriteOutcome> {
    return this.#write(
      namespace,
      series.map(({ labels, samples }) => ({
        labelBytes: () => encodeLabels(labels),
        samples: samples.map(({ timeNs, value }) => [timeNs, bitsOf(value)] as const),
      })),
    );
  }

  #write(
    namespace: string,
    series: readonly { labelBytes: () => Uint8Array; samples: readonly (readonly [bigint, bigint])[] }[],
  ): WriteOutcome {
    const { failure } = this;
    this.failure = undefined;
    if (failure) throw failure;
    const stored = this.#namespace(namespace);
    const rejected = new Map<RejectReason, Rejection>();
    const reject = (reason: RejectReason, count: number, example: string): void => {
      rejected.set(reason, { reason, example, count: (rejected.get(reason)?.count ?? 0) + count });
    };
    let [samples, created] = [0, 0];
    for (const { labelBytes, samples: given } of series) {
      let bytes: Uint8Array;
      try {
        bytes = labelBytes();
      } catch (error) {
        reject('invalidLabels', given.length, error instanceof Error ? error.message : '');
        continue;
      }
      const key = Buffer.from(bytes).toString('latin1');
      let one = stored.series.get(key);
      if (!one) {
        one = { labels: decodeLabels(bytes), labelBytes: bytes, samples: new Map() };
        stored.series.set(key, one);
        created += 1;
      }
      for (const [time, bits] of given) {
        const bad = this.#outOfBounds(stored.options, time);
        if (bad) reject(bad, 1, `at ${time}`);
        else {
          one.samples.set(time, bits);
          samples += 1;
        }
      }
    }
    return { samples, series: created, rejected: [...rejected.values()], exemplars: 0, histograms: 0 };
  }

  #outOfBounds(options: NamespaceOptions, time: bigint): RejectReason | undefined {
    const now = this.#nowNs?.();
    if (now === undefined) return undefined;
    if (time < now - options.bufferPastNs) return 'tooOld';
    return time >= now + options.bufferFutureNs ? 'tooNew' : undefined;
  }

  async *read(namespace: string, query: ReadQuery): AsyncGenerator<SeriesRead> {
    const found = this.#matching(namespace, [query.matchers]);
    if (query.ordered) found.sort((a, b) => compareLabels(a.labels, b.labels));
    if (found.length > (query.limits?.maxSeries ?? Infinity)) {
      throw new VarveError('READ_LIMIT_EXCEEDED', 'too many series');
    }
    for (const { labels, labelBytes, samples } of found) {
      query.signal?.throwIfAborted();
      const times = [...samples.keys()]
        .filter((time) => time >= query.startNs && time < query.endNs)
        .sort((a, b) => (a < b ? -1 : 1));
      yield { labels, labelBytes, batches: this.#batches(times, samples) };
    }
  }

  async *readPages(namespace: string, query: ReadQuery): AsyncGenerator<readonly SeriesRead[]> {
    for await (const series of this.read(namespace, query)) yield [series];
  }

  async *#batches(
    times: readonly bigint[],
    samples: ReadonlyMap<bigint, bigint>,
  ): AsyncGenerator<ColumnBatch> {
    const memory = new BigUint64Array(this.batchSamples + 3);
    for (let start = 0; start < times.length; start += this.batchSamples) {
      const some = times.slice(start, start + this.batchSamples);
      const bits = memory.subarray(3, 3 + some.length);
      bits.set(some.map((time) => samples.get(time) ?? 0n));
      const values = new Float64Array(bits.buffer, bits.byteOffset, some.length);
      yield { times: BigInt64Array.from(some), bits, values };
    }
  }

  series(namespace: string, query: MetadataQuery): Promise<LimitedResult<readonly LabelPair[]>> {
    return Promise.resolve(
      limited(
        this.#inRange(namespace, query).map(({ labels }) => labels),
        query,
      ),
    );
  }

  labelNames(namespace: string, query: MetadataQuery): Promise<LimitedResult<string>> {
    const names = this.#inRange(namespace, query).flatMap(({ labels }) => labels.map(([name]) => name));
    return Promise.resolve(limited(sortTexts([...new Set(names)]), query));
  }

  labelValues(namespace: string, label: string, query: MetadataQuery): Promise<LimitedResult<string>> {
    const values = this.#inRange(namespace, query).flatMap(({ labels }) =>
      labels.filter(([name]) => name === label).map(([, value]) => value),
    );
    return Promise.resolve(limited(sortTexts([...new Set(values)]), query));
  }

  cardinality(namespace: string, query: MetadataQuery): ReturnType<StorageEngine['cardinality']> {
    const all = this.#inRange(namespace, query);
    const names = new Set(all.flatMap(({ labels }) => labels.map(([name]) => name)));
    const labels = [...names].map((name) => {
      const values = all.flatMap((one) =>
        one.labels.filter(([other]) => other === name).map(([, value]) => value),
      );
      return { name, valueCount: new Set(values).size, seriesCount: values.length };
    });
    return Promise.resolve({ seriesCount: all.length, labels });
  }

  deleteSeries(namespace: string, { selectors, startNs, endNs }: DeleteQuery): Promise<{ series: number }> {
    const found = this.#matching(namespace, selectors);
    for (const { samples } of found) {
      for (const time of samples.keys()) if (time >= startNs && time < endNs) samples.delete(time);
    }
    return Promise.resolve({ series: found.length });
  }

  flush(): ReturnType<StorageEngine['flush']> {
    return Promise.resolve({ filesets: 0, series: 0, bytes: 0, failures: [] });
  }

  snapshot(): ReturnType<StorageEngine['snapshot']> {
    return Promise.resolve({ snapshots: 0, removedLogSegments: 0 });
  }

  cleanUp(): ReturnType<StorageEngine['cleanUp']> {
    return Promise.resolve({ expiredFilesets: 0, supersededFilesets: 0, indexSegments: 0, snapshots: 0 });
  }

  async *verify(): AsyncGenerator<never> {}

  async *inspect(): AsyncGenerator<never> {}

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  #namespace(name: string): { options: NamespaceOptions; series: Map<string, Stored> } {
    const found = this.#namespaces.get(name);
    if (found) return found;
    throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace ${name}`);
  }

  #matching(namespace: string, selectors: readonly (readonly LabelMatcher[])[]): Stored[] {
    return [...this.#namespace(namespace).series.values()].filter(({ labels }) => {
      const values = new Map(labels);
      return selectors.some((matchers) =>
        matchers.every((matcher) => matcher.matches(values.get(matcher.name) ?? '')),
      );
    });
  }

  #inRange(namespace: string, { selectors, startNs, endNs }: MetadataQuery): Stored[] {
    return this.#matching(namespace, selectors?.length ? selectors : [[]]).filter(({ samples }) =>
      [...samples.keys()].some((time) => time >= startNs && time < endNs),
    );
  }
}

function limited<T>(values: readonly T[], { limit = Infinity }: MetadataQuery): LimitedResult<T> {
  return { values: values.slice(0, limit), truncated: values.length > limit };
}

function bitsOf(value: number): bigint {
  return new BigUint64Array(Float64Array.of(value).buffer)[0] ?? 0n;
}

function compareLabels(a: readonly LabelPair[], b: readonly LabelPair[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i += 1) {
    for (const part of [0, 1] as const) {
      const order = Buffer.compare(Buffer.from(a[i]?.[part] ?? ''), Buffer.from(b[i]?.[part] ?? ''));
      if (order !== 0) return order;
    }
  }
  return a.length - b.length;
}
