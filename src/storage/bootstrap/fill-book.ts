import type { ShardFill, UnfulfilledStatus } from '../engine/storage-engine.ts';
import type { BootstrapPass } from './bootstrap-source.ts';
import type { ShardTimeRanges } from './shard-time-ranges.ts';
import { TimeRanges } from './time-ranges.ts';

/** What one source did with the ranges of one namespace. */
export interface SourceFill {
  readonly source: string;
  readonly pass: BootstrapPass;
  /** Of the attempt, from 0. */
  readonly round: number;
  readonly namespace: string;
  readonly atNs: bigint;
  /** What those before had left. */
  readonly requested: ShardTimeRanges;
  readonly fulfilled: ShardTimeRanges;
  /** Of what it said it had, and had not after all. */
  readonly reasons: readonly UnfulfilledStatus[];
  /** Nothing is to be told of these: a later round fills them. */
  readonly deferred: ReadonlySet<number>;
  /** Why it has nothing of a shard. */
  readonly why: (shard: number) => string;
}

const ATTEMPTS = 20;

/** Which source had what, of the last attempts: sets of ranges that are shared, so it costs little. */
export class FillBook {
  readonly #sources = new Map<string, Map<number, { readonly attempt: number; names: readonly string[] }>>();
  #attempts: { readonly attempt: number; readonly fills: SourceFill[] }[] = [];

  add(attempt: number, fill: SourceFill): void {
    this.#noteSource(attempt, fill);
    const last = this.#attempts.at(-1);
    if (last?.attempt === attempt) {
      last.fills.push(fill);
      return;
    }
    this.#attempts = [...this.#attempts.slice(1 - ATTEMPTS), { attempt, fills: [fill] }];
  }

  /** A namespace of that name was deleted. */
  forget(namespace: string): void {
    this.#sources.delete(namespace);
    this.#attempts = this.#attempts.map(({ attempt, fills }) => ({
      attempt,
      fills: fills.filter((fill) => fill.namespace !== namespace),
    }));
  }

  explain(shard: number): ShardFill[] {
    return this.#attempts.flatMap(({ attempt, fills }) => {
      const passes = new Map<string, SourceFill[]>();
      for (const fill of fills) {
        const key = `${fill.namespace}/${fill.pass}/${fill.round}`;
        passes.set(key, [...(passes.get(key) ?? []), fill]);
      }
      return [...passes.values()].flatMap((chain) => explainChain(attempt, chain, shard));
    });
  }

  /** Which sources had any of a shard, in the newest attempt that had any of it. */
  sourcesOf(namespace: string, shard: number): readonly string[] {
    return this.#sources.get(namespace)?.get(shard)?.names ?? [];
  }

  #noteSource(attempt: number, { namespace, source, fulfilled }: SourceFill): void {
    // What was whole already was filled before.
    if (source === 'whole') return;
    const known =
      this.#sources.get(namespace) ?? new Map<number, { attempt: number; names: readonly string[] }>();
    this.#sources.set(namespace, known);
    for (const shard of fulfilled.shards) {
      const before = known.get(shard);
      if (before?.attempt !== attempt) known.set(shard, { attempt, names: [source] });
      else if (!before.names.includes(source)) before.names = [...before.names, source];
    }
  }
}

/** Sources of one pass over one namespace, in their order. */
function explainChain(attempt: number, chain: readonly SourceFill[], shard: number): ShardFill[] {
  if (chain.some(({ deferred }) => deferred.has(shard))) return [];
  const found: ShardFill[] = [];
  const others: { source: string; reason: string }[] = [];
  let open = chain[0]?.requested.get(shard) ?? TimeRanges.EMPTY;
  let atNs = 0n;
  for (const fill of chain) {
    const { source, pass, namespace } = fill;
    ({ atNs } = fill);
    if (open.isEmpty) break;
    const fulfilled = fill.fulfilled.get(shard).intersect(open);
    for (const { startNs, endNs } of fulfilled) {
      found.push({ namespace, attempt, pass, startNs, endNs, source, atNs, others: [...others] });
    }
    open = open.subtract(fulfilled);
    const reason = fill.reasons.find((one) => one.shard === shard);
    const text = reason ? `${reason.reason}: ${reason.detail}` : fill.why(shard);
    if (!open.isEmpty) others.push({ source, reason: text });
  }
  const [first] = chain;
  for (const { startNs, endNs } of first ? open : TimeRanges.EMPTY) {
    const { namespace = '', pass = 'persist' } = first ?? {};
    found.push({ namespace, attempt, pass, startNs, endNs, source: undefined, atNs, others });
  }
  return found;
}
