import type { SeededRandom } from '../../../test/seeded-random.ts';

/** Absent, or the bits of a double. */
type Held = bigint | undefined;

export type Found = ReadonlyMap<string, ReadonlyMap<bigint, bigint>>;

interface Change {
  /** In words, for messages. */
  readonly what: string;
  /** Undefined: a deletion. */
  readonly bits: Held;
  acknowledged: boolean;
}

interface Point {
  /** What all replicas had when they were equal the last time. */
  base: Held;
  /** Since then, in the order in which they were asked for, which is that of their versions. */
  changes: Change[];
}

/**
 * What must be in a cluster, kept as plainly as can be: of each sample what all replicas had when they were equal the
 * last time, and every change since. Two changes of one sample are never under way at the same time.
 */
export class ClusterModel {
  readonly #points = new Map<string, Map<string, Map<bigint, Point>>>();
  /** A replica was lost since replicas were equal: it may have been the only one that saw both of two values. */
  #lostWitness = false;
  /** By clocks that are wrong: which of two changes of a sample is the later one is for them to say. */
  readonly #isSkewed: boolean;
  acknowledged = 0;
  refused = 0;

  constructor({ isSkewed = false } = {}) {
    this.#isSkewed = isSkewed;
  }

  /** @param bits undefined: a deletion */
  change(
    namespace: string,
    where: { readonly series: string; readonly timeNs: bigint },
    change: Change,
  ): void {
    const all = entry(this.#points, namespace, newMap<string, Map<bigint, Point>>);
    const series = entry(all, where.series, newMap<bigint, Point>);
    entry(series, where.timeNs, newPoint).changes.push(change);
  }

  /** Of all samples that were ever written. */
  delete(namespace: string, covers: (series: string, timeNs: bigint) => boolean, what: string): Change[] {
    const made: Change[] = [];
    for (const [series, times] of this.#points.get(namespace) ?? []) {
      for (const [timeNs, { changes }] of times) {
        if (!covers(series, timeNs)) continue;
        const change = { what, bits: undefined, acknowledged: false };
        changes.push(change);
        made.push(change);
      }
    }
    return made;
  }

  /** The namespace is gone, with all that it had. */
  forget(namespace: string): void {
    this.#points.delete(namespace);
  }

  /** A replica is gone for good, or what it had of some block. */
  loseWitness(): void {
    this.#lostWitness = true;
  }

  /** A time that was written before, if there is any. */
  timeOf(namespace: string, series: string, random: SeededRandom): bigint | undefined {
    const times = [...(this.#points.get(namespace)?.get(series)?.keys() ?? [])];
    return times[random.below(times.length)];
  }

  /**
   * What is wrong with what a read gave. With `equal`, all replicas have the same: then it is what they are compared with
   * from now on, and the latest acknowledged value is wanted where some replica saw it and the one before.
   * @param keptFromNs what is older may be gone
   */
  compare(
    namespace: string,
    found: Found,
    { keptFromNs, equal }: { readonly keptFromNs: bigint; readonly equal: boolean },
  ): string[] {
    const wrong: string[] = [];
    const points = this.#points.get(namespace) ?? newMap<string, Map<bigint, Point>>();
    for (const [series, times] of points) {
      for (const [timeNs, point] of times) {
        const held = found.get(series)?.get(timeNs);
        const isExpired = timeNs < keptFromNs;
        if (!isExpired && !this.#allowed(point, equal).includes(held)) {
          wrong.push(`${namespace} ${series} at ${timeNs}: there is ${show(held)}, ${told(point)}`);
        }
        if (isExpired && equal) times.delete(timeNs);
        else if (equal) Object.assign(point, { base: held, changes: [] });
      }
    }
    for (const [series, times] of found) {
      for (const [timeNs, bits] of times) {
        if (timeNs < keptFromNs || points.get(series)?.has(timeNs)) continue;
        wrong.push(`${namespace} ${series} at ${timeNs}: ${show(bits)} was never written`);
      }
    }
    return wrong;
  }

  /** Replicas are equal, and were compared. */
  settled(): void {
    this.#lostWitness = false;
  }

  #allowed({ base, changes }: Point, equal: boolean): Held[] {
    const last = changes.findLastIndex(({ acknowledged }) => acknowledged);
    const certain = last < 0 ? base : changes[last]?.bits;
    const open = changes.slice(last + 1).map(({ bits }) => bits);
    const allowed: Held[] = [certain, ...open];
    const before = [base, ...changes.slice(0, Math.max(0, last)).map(({ bits }) => bits)];
    if (this.#isSkewed && changes.length + Number(base !== undefined) > 1) return [...allowed, ...before];
    // Until all have carried out a deletion, those that have not may answer.
    if (certain === undefined) {
      return equal ? allowed : [...allowed, ...before];
    }
    const isContested = before.some((bits) => bits !== undefined);
    if (!isContested) return allowed;
    // What replaced something has a version only where the other one was. Some replica had both of two acknowledged
    // values; of one that was not acknowledged perhaps none.
    const wasRefused = changes
      .slice(0, Math.max(0, last))
      .some((one) => !one.acknowledged && one.bits !== undefined);
    const isStrict = equal && !this.#lostWitness && !wasRefused;
    return isStrict ? allowed : [...allowed, ...before.filter((bits) => bits !== undefined)];
  }
}

function told({ base, changes }: Point): string {
  const list = changes.map(
    ({ what, bits, acknowledged }) => `${what} ${show(bits)}${acknowledged ? '' : ' (not acknowledged)'}`,
  );
  return `after ${[`all had ${show(base)}`, ...list].join(', ')}`;
}

function show(bits: Held): string {
  return bits === undefined ? 'nothing' : bits.toString(16).padStart(16, '0');
}

function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}

function newMap<K, V>(): Map<K, V> {
  return new Map<K, V>();
}

function newPoint(): Point {
  return { base: undefined, changes: [] };
}
