import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { SeriesBatch } from '../engine/replica-access.ts';
import type {
  Cardinality,
  LimitedResult,
  MetadataQuery,
  ReadQuery,
  SeriesRead,
} from '../engine/storage-engine.ts';
import { encodeLabels, type LabelPair } from '../index/labels.ts';
import { readColumns } from './columns-body.ts';
import { idleLimited } from './idle-limit.ts';
import { compareLabelBytes } from './label-order.ts';
import type { LocalReplica } from './local-replica.ts';
import { BatchCursor, mergeStreams, type MergePosition } from './merge-streams.ts';
import { seriesOfBatches } from './merged-series.ts';
import { plainMatchers } from './plain-matchers.ts';
import { ReadPlan, type Assignment } from './read-plan.ts';
import type { ReplicaHealth } from './replica-health.ts';
import { answer } from './replica-server.ts';
import type {
  MetadataQuestion,
  ReplicaAddress,
  ReplicaQuestion,
  ReplicaTransport,
} from './replica-transport.ts';
import type { ReadLevel, Routing } from './routing.ts';

export interface ReplicatedReadDeps {
  readonly node: string;
  readonly clock: Clock;
  readonly random: () => number;
  readonly local: LocalReplica;
  readonly transport: ReplicaTransport;
  readonly health: ReplicaHealth;
}

export interface ReplicatedReadOptions {
  readonly level: ReadLevel;
  /** After which a replica that sends nothing more is left behind. */
  readonly timeoutMs: number;
}

export interface ReadFigures {
  readonly reads: number;
  readonly failed: number;
  /** Replicas that did not answer, or broke off. */
  readonly replaced: number;
}

const NEVER = new AbortController().signal;
/** Another replica would say the same. */
const FINAL: ReadonlySet<string> = new Set([
  'READ_LIMIT_EXCEEDED',
  'READ_LEVEL_NOT_REACHED',
  'SELECTOR_INVALID',
  'INVALID_ARGUMENT',
  'CANCELLED',
]);

/** Reads of several replicas as of one. */
export class ReplicatedRead {
  readonly #deps: ReplicatedReadDeps;
  readonly #options: ReplicatedReadOptions;
  readonly #figures = { reads: 0, failed: 0, replaced: 0 };

  constructor(deps: ReplicatedReadDeps, options: ReplicatedReadOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  get figures(): ReadFigures {
    return this.#figures;
  }

  /** Ordered, whatever the query says. @throws READ_LEVEL_NOT_REACHED, READ_LIMIT_EXCEEDED */
  async *read(routing: Routing, namespace: string, query: ReadQuery): AsyncGenerator<SeriesRead, void, void> {
    const plan = this.#plan(routing);
    // Replicas that are left behind need not go on.
    const ended = new AbortController();
    const signal = query.signal ? AbortSignal.any([query.signal, ended.signal]) : ended.signal;
    const assigned = new Map<BatchCursor, Assignment>();
    const open = (assignment: Assignment, from?: MergePosition): BatchCursor => {
      const batches = this.#batches(routing, assignment, { namespace, query: { ...query, signal } });
      const cursor = new BatchCursor(batches, from);
      assigned.set(cursor, assignment);
      return cursor;
    };
    try {
      const first = plan.begin().map((assignment) => open(assignment));
      for (const text of plan.warnings) query.onWarning?.(text);
      const batches = mergeStreams(first, (cursor, error, at) => {
        this.#judge(error, query.signal);
        this.#figures.replaced++;
        const assignment = assigned.get(cursor) as Assignment;
        return plan.replace(assignment, error).map((one) => open(one, at));
      });
      yield* seriesOfBatches(batches, query.limits ?? {});
    } catch (error) {
      this.#figures.failed++;
      throw error;
    } finally {
      ended.abort(new VarveError('CANCELLED', 'the read has ended'));
      for (const text of plan.warnings) query.onWarning?.(text);
    }
  }

  async series(
    routing: Routing,
    namespace: string,
    query: MetadataQuery,
  ): Promise<LimitedResult<readonly LabelPair[]>> {
    const { parts, warnings } = await this.#lists<readonly LabelPair[]>(routing, {
      kind: 'series',
      ...question(namespace, query),
    });
    const seen = new Map<string, { readonly bytes: Uint8Array; readonly labels: readonly LabelPair[] }>();
    for (const labels of parts.values) {
      const bytes = encodeLabels(labels);
      seen.set(Buffer.from(bytes).toString('latin1'), { bytes, labels });
    }
    const ordered = [...seen.values()].sort((a, b) => compareLabelBytes(a.bytes, b.bytes));
    const values = ordered.map(({ labels }) => labels);
    return limited(values, { limit: query.limit, truncated: parts.truncated, warnings });
  }

  async texts(
    routing: Routing,
    asked: { readonly kind: 'labelNames' } | { readonly kind: 'labelValues'; readonly label: string },
    { namespace, query }: { readonly namespace: string; readonly query: MetadataQuery },
  ): Promise<LimitedResult<string>> {
    const { parts, warnings } = await this.#lists<string>(routing, {
      ...asked,
      ...question(namespace, query),
    });
    const distinct = [...new Set(parts.values)].map((text) => ({ text, bytes: Buffer.from(text) }));
    const values = distinct.sort((a, b) => Buffer.compare(a.bytes, b.bytes)).map(({ text }) => text);
    return limited(values, { limit: query.limit, truncated: parts.truncated, warnings });
  }

  /** Exact where one replica has everything; otherwise all series are gone through. */
  async cardinality(routing: Routing, namespace: string, query: MetadataQuery): Promise<Cardinality> {
    if (routing.isWhole) {
      const plan = this.#plan(routing, 'one');
      const [answers] = await this.#gather(routing, plan, {
        kind: 'cardinality',
        ...question(namespace, query),
      });
      const found = JSON.parse(textOf(answers ?? [])) as Cardinality;
      return { ...found, warnings: plan.warnings };
    }
    const { limit, ...unlimited } = query;
    const { values, warnings = [] } = await this.series(routing, namespace, unlimited);
    return { ...cardinalityOf(values, limit), warnings };
  }

  async #lists<T>(
    routing: Routing,
    asked: ReplicaQuestion,
  ): Promise<{
    readonly parts: { readonly values: readonly T[]; readonly truncated: boolean };
    readonly warnings: readonly string[];
  }> {
    const plan = this.#plan(routing);
    const values: T[] = [];
    let truncated = false;
    for (const [head, ...rest] of await this.#gather(routing, plan, asked)) {
      truncated ||= (JSON.parse(textOf(head ? [head] : [])) as { truncated: boolean }).truncated;
      for (const part of rest) for (const value of JSON.parse(textOf([part])) as T[]) values.push(value);
    }
    return { parts: { values, truncated }, warnings: plan.warnings };
  }

  /** The answers of all that are asked, each whole. */
  async #gather(routing: Routing, plan: ReadPlan, asked: ReplicaQuestion): Promise<Uint8Array[][]> {
    const answers: Uint8Array[][] = [];
    try {
      let waiting = plan.begin();
      while (waiting.length > 0) {
        const next: Assignment[] = [];
        await Promise.all(
          waiting.map(async (assignment) => {
            try {
              answers.push(await this.#answer(routing, assignment, asked));
            } catch (error) {
              this.#judge(error, undefined);
              this.#figures.replaced++;
              next.push(...plan.replace(assignment, error));
            }
          }),
        );
        waiting = next;
      }
      return answers;
    } catch (error) {
      this.#figures.failed++;
      throw error;
    }
  }

  async #answer(routing: Routing, assignment: Assignment, asked: ReplicaQuestion): Promise<Uint8Array[]> {
    const to = this.#address(routing, assignment);
    const shards = this.#shards(routing, assignment);
    // One that hangs is not waited for, nor is its connection kept.
    const ended = new AbortController();
    const own = shards ? ({ ...asked, shards } as ReplicaQuestion) : asked;
    const found: Uint8Array[] = [];
    try {
      for await (const part of this.#watched(to.id, this.#parts(to, own, ended.signal))) {
        if (part.length > 0) found.push(part);
      }
    } finally {
      ended.abort(new VarveError('CANCELLED', 'the answer is whole, or not waited for'));
    }
    return found;
  }

  #plan(routing: Routing, level = this.#options.level): ReadPlan {
    this.#figures.reads++;
    const { node, health, random } = this.#deps;
    const places = routing.instances.map(({ id }, place) => ({ id, place, chance: random() }));
    const rank = (id: string): number => (id === node ? 0 : health.down(id) ? 2 : 1);
    const order = places.sort((a, b) => rank(a.id) - rank(b.id) || a.chance - b.chance);
    const plan = new ReadPlan(routing, level, { order: order.map(({ place }) => place) });
    for (const { id } of places) {
      const down = id === node ? undefined : health.down(id);
      if (down) plan.warn(`replica ${id} is down: ${down.reason}`);
    }
    const short = routing.groups.filter(({ readers }) => readers.length < routing.replicaFactor);
    if (short.length > 0) {
      const shards = short.reduce((sum, group) => sum + group.shards.length, 0);
      const { replicaFactor } = routing;
      plan.warn(`${shards} shards have fewer than ${replicaFactor} replicas that can be read`);
    }
    return plan;
  }

  #address(routing: Routing, { place }: Assignment): ReplicaAddress {
    return routing.instances[place] as ReplicaAddress;
  }

  /** Undefined: all that it has. */
  #shards(routing: Routing, { groups }: Assignment): readonly number[] | undefined {
    if (groups.length === routing.groups.length && routing.isWhole) return undefined;
    return groups.flatMap((group) => routing.groups[group]?.shards ?? []).sort((a, b) => a - b);
  }

  #batches(
    routing: Routing,
    assignment: Assignment,
    { namespace, query }: { readonly namespace: string; readonly query: ReadQuery },
  ): AsyncIterable<SeriesBatch> {
    const to = this.#address(routing, assignment);
    const shards = this.#shards(routing, assignment);
    if (to.id === this.#deps.node) {
      return this.#deps.local.replica.readBatches(namespace, { ...query, ...(shards ? { shards } : {}) });
    }
    const parts = this.#parts(to, readQuestion(namespace, query, shards), query.signal ?? NEVER);
    return recordsOf(this.#watched(to.id, parts));
  }

  #parts(to: ReplicaAddress, asked: ReplicaQuestion, signal: AbortSignal): AsyncIterable<Uint8Array> {
    if (to.id === this.#deps.node) return answer(this.#deps.local, asked, signal);
    return this.#deps.transport.ask(to, asked, signal);
  }

  /** Notes whether a replica answers, and leaves one behind that sends nothing more, not even that it is at it. */
  async *#watched(id: string, parts: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
    const { health, node, clock } = this.#deps;
    if (id === node) {
      yield* parts;
      return;
    }
    try {
      const { timeoutMs } = this.#options;
      yield* idleLimited(parts, { who: `replica ${id}`, timeoutMs, clock });
      health.answered(id);
    } catch (error) {
      // One that takes long for a read may be quick to write.
      if (error instanceof VarveError && error.code === 'REPLICA_UNREACHABLE') health.failed(id, error);
      throw error;
    }
  }

  /** @throws what is no matter of one replica */
  #judge(error: unknown, signal: AbortSignal | undefined): void {
    signal?.throwIfAborted();
    if (error instanceof VarveError && !FINAL.has(error.code)) return;
    throw error instanceof Error ? error : new VarveError('INTERNAL', messageOf(error));
  }
}

function question(namespace: string, query: MetadataQuery): MetadataQuestion {
  const { selectors = [], startNs, endNs, limit } = query;
  return {
    namespace,
    selectors: selectors.map(plainMatchers),
    startNs: String(startNs),
    endNs: String(endNs),
    ...(limit === undefined ? {} : { limit }),
  };
}

function readQuestion(
  namespace: string,
  { matchers, startNs, endNs, limits = {} }: ReadQuery,
  shards: readonly number[] | undefined,
): ReplicaQuestion {
  const { maxSeries, maxSamples } = limits;
  return {
    kind: 'read',
    namespace,
    matchers: plainMatchers(matchers),
    startNs: String(startNs),
    endNs: String(endNs),
    ...(shards ? { shards } : {}),
    ...(maxSeries === undefined ? {} : { maxSeries }),
    ...(maxSamples === undefined ? {} : { maxSamples }),
  };
}

/** The batches in the parts of an answer. */
export async function* recordsOf(parts: AsyncIterable<Uint8Array>): AsyncGenerator<SeriesBatch, void, void> {
  for await (const part of parts) {
    let id: Uint8Array = part.subarray(0, 0);
    for (const { labels, columns } of readColumns(part)) {
      if (labels.length > 0) id = labels;
      yield { id, columns };
    }
  }
}

function textOf(parts: readonly Uint8Array[]): string {
  return Buffer.concat(parts).toString();
}

function limited<T>(
  values: readonly T[],
  about: {
    readonly limit: number | undefined;
    readonly truncated: boolean;
    readonly warnings: readonly string[];
  },
): LimitedResult<T> {
  const { limit, truncated, warnings } = about;
  const isOver = limit !== undefined && values.length > limit;
  return { values: isOver ? values.slice(0, limit) : values, truncated: truncated || isOver, warnings };
}

function cardinalityOf(
  series: readonly (readonly LabelPair[])[],
  limit: number | undefined,
): Omit<Cardinality, 'warnings'> {
  const labels = new Map<string, { readonly values: Set<string>; seriesCount: number }>();
  for (const one of series) {
    for (const [name, value] of one) {
      const label = labels.get(name) ?? { values: new Set(), seriesCount: 0 };
      label.values.add(value);
      label.seriesCount++;
      labels.set(name, label);
    }
  }
  const counted = [...labels].map(([name, { values, seriesCount }]) => ({
    name,
    valueCount: values.size,
    seriesCount,
  }));
  counted.sort((a, b) => b.valueCount - a.valueCount || (a.name < b.name ? -1 : 1));
  return { seriesCount: series.length, labels: counted.slice(0, limit ?? counted.length) };
}
