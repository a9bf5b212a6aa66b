import type { NamespaceOptions } from '../engine/storage-engine.ts';

/** Absent, or the bits of a double. */
export type Held = bigint | undefined;

/** Something that was asked of the engine. What came of it is known only when it ended before the crash. */
export interface Attempt {
  readonly startedAt: number;
  endedAt: number;
  acknowledged: boolean;
  /** In words, for messages. */
  readonly what: string;
}

interface Change {
  readonly attempt: Attempt;
  /** Undefined: a deletion. */
  readonly bits: Held;
}

/** Series by its canonical labels as text, then times; of each sample all that was done to it, in order. */
type Points = Map<string, Map<bigint, Change[]>>;

interface NamespaceModel {
  readonly name: string;
  options: NamespaceOptions;
  points: Points;
}

/**
 * What must be in the engine, kept as plainly as can be: every change of every sample in the order in which it was
 * asked for. A moment is a number; of any moment it can be said which values a sample may have then: the last
 * acknowledged one, or one that was asked for after it and not answered yet, or with an error.
 */
export class Model {
  #moment = 0;
  readonly namespaces = new Map<string, NamespaceModel>();
  /** A change of namespaces that is under way, or ended with an error: after a crash either is right. */
  pendingNamespaces: { readonly attempt: Attempt; readonly wanted: readonly NamespaceOptions[] } | undefined;
  /** The highest time that the clock ever had: what was out of retention once need not come back. */
  latestNs = 0n;

  get moment(): number {
    return this.#moment;
  }

  begin(what: string): Attempt {
    return { startedAt: ++this.#moment, endedAt: Number.POSITIVE_INFINITY, acknowledged: false, what };
  }

  end(attempt: Attempt, acknowledged: boolean): void {
    attempt.endedAt = ++this.#moment;
    attempt.acknowledged = acknowledged;
  }

  write(namespace: string, sample: { series: string; timeNs: bigint; bits: bigint }, attempt: Attempt): void {
    this.#changes(namespace, sample.series, sample.timeNs).push({ attempt, bits: sample.bits });
  }

  /** Of all samples that were ever asked for: a deletion says nothing of later ones. */
  delete(namespace: string, covers: (series: string, timeNs: bigint) => boolean, attempt: Attempt): void {
    for (const [series, times] of this.#of(namespace).points) {
      for (const [timeNs, changes] of times) {
        if (covers(series, timeNs)) changes.push({ attempt, bits: undefined });
      }
    }
  }

  setNamespaces(wanted: readonly NamespaceOptions[]): void {
    const names = new Set(wanted.map(({ name }) => name));
    for (const name of this.namespaces.keys()) if (!names.has(name)) this.namespaces.delete(name);
    for (const options of wanted) {
      const known = this.namespaces.get(options.name);
      if (known) known.options = options;
      else this.namespaces.set(options.name, { name: options.name, options, points: new Map() });
    }
  }

  times(namespace: string, series: string): readonly bigint[] {
    return [...(this.#of(namespace).points.get(series)?.keys() ?? [])];
  }

  /** As it is at this instant; what is not answered yet never will be. */
  frozen(): Model {
    const copy = new Model();
    copy.#moment = this.#moment;
    copy.latestNs = this.latestNs;
    copy.pendingNamespaces = this.pendingNamespaces;
    const attempts = new Map<Attempt, Attempt>();
    const frozen = (attempt: Attempt): Attempt => {
      if (attempt.endedAt <= this.#moment) return attempt;
      const open = attempts.get(attempt) ?? { ...attempt, endedAt: this.#moment };
      attempts.set(attempt, open);
      return open;
    };
    const copyOf = (changes: readonly Change[]): Change[] =>
      changes.map(({ attempt, bits }) => ({ attempt: frozen(attempt), bits }));
    for (const { name, options, points } of this.namespaces.values()) {
      const copied: Points = new Map();
      for (const [series, times] of points) {
        copied.set(series, new Map([...times].map(([timeNs, changes]) => [timeNs, copyOf(changes)])));
      }
      copy.namespaces.set(name, { name, options, points: copied });
    }
    return copy;
  }

  /** No write after this moment is certain any more. Deletions are: they are durable when they resolve. */
  forgetWritesAfter(durableMoment: number): void {
    for (const { points } of this.namespaces.values()) {
      for (const times of points.values()) {
        for (const changes of times.values()) {
          for (const [i, { attempt, bits }] of changes.entries()) {
            if (bits !== undefined && attempt.endedAt > durableMoment) {
              changes[i] = { attempt: { ...attempt, acknowledged: false }, bits };
            }
          }
        }
      }
    }
  }

  /**
   * Compares with what an engine gave, one sample at a time; returns what is wrong. What was not acknowledged and is
   * not there is forgotten: it must not come back.
   */
  compare(namespace: string, found: ReadonlyMap<string, ReadonlyMap<bigint, bigint>>): string[] {
    const wrong: string[] = [];
    const { points, options } = this.#of(namespace);
    const keptFromNs = this.latestNs - options.retentionNs;
    for (const [series, times] of points) {
      for (const [timeNs, changes] of times) {
        const held = found.get(series)?.get(timeNs);
        const expired = timeNs < keptFromNs;
        const fault = judge(changes, held, expired);
        if (fault !== undefined) wrong.push(`${namespace} ${series} at ${timeNs}: ${fault}`);
      }
    }
    for (const [series, times] of found) {
      for (const [timeNs, bits] of times) {
        if (!points.get(series)?.has(timeNs)) {
          wrong.push(`${namespace} ${series} at ${timeNs}: ${show(bits)} was never written`);
        }
      }
    }
    return wrong;
  }

  #of(namespace: string): NamespaceModel {
    const found = this.namespaces.get(namespace);
    if (!found) throw new Error(`the model has no namespace ${namespace}`);
    return found;
  }

  #changes(namespace: string, series: string, timeNs: bigint): Change[] {
    const { points } = this.#of(namespace);
    const times = points.get(series) ?? new Map<bigint, Change[]>();
    points.set(series, times);
    const changes = times.get(timeNs) ?? [];
    times.set(timeNs, changes);
    return changes;
  }
}

/** Undefined when what is held may be; then the changes that did not come to pass are dropped. */
function judge(changes: Change[], held: Held, expired: boolean): string | undefined {
  // It is hidden or gone, nobody can tell which: it may be seen again when the clock is set back.
  if (expired && held === undefined) return undefined;
  const certain = changes.findLastIndex(({ attempt }) => attempt.acknowledged);
  const base = certain < 0 ? undefined : changes[certain]?.bits;
  const open = changes.slice(certain + 1);
  const place = open.findLastIndex(({ bits }) => bits === held);
  if (place < 0 && held !== base) {
    const history = changes.map(
      ({ attempt, bits }) =>
        `${attempt.what} (${attempt.startedAt}) ${show(bits)}${attempt.acknowledged ? '' : ' (not acknowledged)'}`,
    );
    return `there is ${show(held)}, after ${history.join(', ')}`;
  }
  // What came before the one that is seen may still be under it.
  changes.length = certain + 1 + place + 1;
  return undefined;
}

function show(bits: Held): string {
  return bits === undefined ? 'nothing' : bits.toString(16).padStart(16, '0');
}
