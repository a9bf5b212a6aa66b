import type * as api from '../engine/storage-engine.ts';
import type { LabelPair } from '../index/labels.ts';
import { VarveError } from '../../core/errors.ts';
import { encodeLabels } from '../index/labels.ts';
import { writeLabel } from '../index/labels.ts';
import { ByteWriter } from '../index/byte-writer.ts';
import { NO_OVERWRITES } from '../engine/columns.ts';
import { ColumnsWriter } from './columns-body.ts';
import type { LocalReplica } from './local-replica.ts';
import { plainMatchers } from './plain-matchers.ts';
import type { ReplicatedRead } from './replicated-read.ts';
import type { ReplicatedWrite } from './replicated-write.ts';
import type { Routing } from './routing.ts';

export interface ReplicatedEngineParts {
  readonly local: LocalReplica;
  readonly write: ReplicatedWrite;
  readonly read: ReplicatedRead;
  /** Undefined: this node is alone, and everything is its own. */
  readonly routing: () => Routing | undefined;
}

/**
 * The engine of a system of nodes: each of them takes any write and any read, for all replicas of the shards concerned.
 * A node that is alone is its own engine, without anything between.
 */
export class ReplicatedEngine implements api.StorageEngine {
  readonly #parts: ReplicatedEngineParts;
  readonly #local: api.StorageEngine;

  constructor(parts: ReplicatedEngineParts) {
    this.#parts = parts;
    this.#local = parts.local.engine;
  }

  /**
   * As the engine's own. @throws WRITE_LEVEL_NOT_REACHED when too few replicas took it: repeat it
   */
  writeRemote(name: string, version: api.RemoteWriteVersion, body: Uint8Array): Promise<api.WriteOutcome> {
    const routing = this.#parts.routing();
    if (!routing) return this.#local.writeRemote(name, version, body);
    // It may be used again as soon as this returns, and a slow replica is sent it long after.
    const kept = Uint8Array.from(body);
    return this.#write(routing, name, { format: version, body: kept });
  }

  async writeSeries(name: string, series: readonly api.SeriesSamples[]): Promise<api.WriteOutcome> {
    const routing = this.#parts.routing();
    if (!routing) return await this.#local.writeSeries(name, series);
    return await this.#write(routing, name, { format: 'columns', body: bodyOf(series) });
  }

  read(name: string, query: api.ReadQuery): AsyncIterable<api.SeriesRead> {
    const routing = this.#parts.routing();
    if (!routing) return this.#local.read(name, query);
    this.#check(name);
    return this.#parts.read.read(routing, name, query);
  }

  /** What comes from several nodes is merged series by series. */
  readPages(name: string, query: api.ReadQuery): AsyncIterable<readonly api.SeriesRead[]> {
    return this.#parts.routing() ? singly(this.read(name, query)) : this.#local.readPages(name, query);
  }

  async series(name: string, query: api.MetadataQuery): Promise<api.LimitedResult<readonly LabelPair[]>> {
    const routing = this.#routingFor(name);
    return await (routing ? this.#parts.read.series(routing, name, query) : this.#local.series(name, query));
  }

  async labelNames(name: string, query: api.MetadataQuery): Promise<api.LimitedResult<string>> {
    const routing = this.#routingFor(name);
    if (!routing) return await this.#local.labelNames(name, query);
    return await this.#parts.read.texts(routing, { kind: 'labelNames' }, { namespace: name, query });
  }

  async labelValues(
    name: string,
    label: string,
    query: api.MetadataQuery,
  ): Promise<api.LimitedResult<string>> {
    const routing = this.#routingFor(name);
    if (!routing) return await this.#local.labelValues(name, label, query);
    return await this.#parts.read.texts(routing, { kind: 'labelValues', label }, { namespace: name, query });
  }

  async cardinality(name: string, query: api.MetadataQuery): Promise<api.Cardinality> {
    const routing = this.#routingFor(name);
    if (!routing) return await this.#local.cardinality(name, query);
    return await this.#parts.read.cardinality(routing, name, query);
  }

  /** On all replicas, with one stamp. The number of series is as the readable replicas had it before. */
  async deleteSeries(name: string, query: api.DeleteQuery): Promise<{ readonly series: number }> {
    const routing = this.#routingFor(name);
    if (!routing) return await this.#local.deleteSeries(name, query);
    const { write, read, local } = this.#parts;
    const { selectors, startNs, endNs } = query;
    const { seriesCount } = await read.cardinality(routing, name, query);
    await write.delete(routing, {
      namespace: name,
      stamp: local.replica.nextStamp(),
      startNs,
      endNs,
      selectors: selectors.map(plainMatchers),
    });
    return { series: seriesCount };
  }

  status(): api.EngineStatus {
    return this.#local.status();
  }

  namespaces(): readonly api.NamespaceOptions[] {
    return this.#local.namespaces();
  }

  async applyNamespaces(wanted: readonly api.NamespaceOptions[]): Promise<void> {
    await this.#local.applyNamespaces(wanted);
  }

  async flush(options?: { readonly namespace?: string; readonly force?: boolean }): Promise<api.FlushReport> {
    return await this.#local.flush(options);
  }

  async snapshot(): Promise<api.SnapshotReport> {
    return await this.#local.snapshot();
  }

  async cleanUp(): Promise<api.CleanUpReport> {
    return await this.#local.cleanUp();
  }

  verify(signal?: AbortSignal): AsyncIterable<api.Finding> {
    return this.#local.verify(signal);
  }

  inspect(namespace?: string): AsyncIterable<api.StoredFileset> {
    return this.#local.inspect(namespace);
  }

  /** The engine below is whoever's opened it. */
  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  async #write(
    routing: Routing,
    name: string,
    body: Parameters<ReplicatedWrite['write']>[2],
  ): Promise<api.WriteOutcome> {
    this.#check(name);
    return await this.#parts.write.write(routing, name, body);
  }

  #routingFor(name: string): Routing | undefined {
    const routing = this.#parts.routing();
    if (routing) this.#check(name);
    return routing;
  }

  /** @throws NAMESPACE_UNKNOWN before any replica is asked */
  #check(name: string): void {
    if (this.#local.namespaces().some((options) => options.name === name)) return;
    throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace ${JSON.stringify(name.slice(0, 100))}`, {
      hint: 'varve namespace list shows those that are there; varve namespace create NAME makes one.',
    });
  }
}

function bodyOf(series: readonly api.SeriesSamples[]): Uint8Array {
  const writer = new ColumnsWriter();
  for (const { labels, samples } of series) {
    const times = BigInt64Array.from(samples, ({ timeNs }) => clamped(timeNs));
    const values = Float64Array.from(samples, ({ value }) => value);
    const bits = new BigUint64Array(values.buffer);
    writer.add(labelBytes(labels), { times, bits, overwrites: NO_OVERWRITES });
  }
  return writer.take();
}

/** Those that no series can have are passed on as they are: replicas refuse them, with the reason. */
function labelBytes(labels: readonly LabelPair[]): Uint8Array {
  try {
    return encodeLabels(labels);
  } catch (error) {
    if (!(error instanceof VarveError)) throw error;
    const writer = new ByteWriter();
    for (const [name, value] of labels) writeLabel(writer, Buffer.from(name), Buffer.from(value));
    return writer.take();
  }
}

const MAX_TIME = (1n << 63n) - 1n;

function clamped(timeNs: bigint): bigint {
  return timeNs > MAX_TIME ? MAX_TIME : timeNs < -MAX_TIME ? -MAX_TIME - 1n : timeNs;
}

async function* singly<T>(all: AsyncIterable<T>): AsyncGenerator<readonly T[]> {
  for await (const one of all) yield [one];
}
