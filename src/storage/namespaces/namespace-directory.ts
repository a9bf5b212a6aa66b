import { dirname } from 'node:path';
import { Backoff } from '../../core/backoff.ts';
import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { hasCode, readWholeFile, writeFileAtomically, type FileSystem } from '../../core/file-system.ts';
import { ABSENT, type Coordinator, type CoordinatorLog, type Entry } from '../../coordination/coordinator.ts';
import { refusedChange } from '../engine/namespace-options.ts';
import type { NamespaceOptions, StorageEngine } from '../engine/storage-engine.ts';
import type { NamespaceRegistry } from '../http/namespace-handlers.ts';
import {
  entryText,
  IMPLICIT,
  mergeEntries,
  parseEntry,
  type MergedEntries,
  type NamespaceEntries,
  type NamespaceEntry,
} from './namespace-entry.ts';

export interface NamespaceDirectoryDeps {
  readonly log: CoordinatorLog;
  readonly clock: Clock;
  readonly fs: FileSystem;
  /** Where they are kept for all nodes; left out on a node that stands alone. */
  readonly coordinator: Coordinator | undefined;
  /** For incarnations. */
  readonly newId: () => string;
}

/** Keys of the coordinator, one a namespace. */
export const NAMESPACE_PREFIX = 'varve/storage/namespaces/';

const RETRY = { firstMs: 250, maxMs: 10_000 } as const;
const CONFLICT_ATTEMPTS = 10;

/**
 * Keeps an engine's namespaces what the coordinator says: the whole list, after each change. While the coordinator
 * is away the last known list stays in force; it is in a file as well, so that this holds for a restart, too.
 */
export class NamespaceDirectory implements NamespaceRegistry {
  readonly #deps: NamespaceDirectoryDeps;
  readonly #file: string;
  readonly #engine: StorageEngine;
  #entries: NamespaceEntries;
  #isKnown: boolean;
  /** What the file says, as far as that is known, and whether a loss of power leaves it so. */
  #saved: { readonly text: string; readonly isDurable: boolean } | undefined;
  /** Why a namespace is not what was asked for. */
  #problems: ReadonlyMap<string, string> = new Map();
  #tail: Promise<void> = Promise.resolve();

  private constructor(
    deps: NamespaceDirectoryDeps,
    { file, engine, stored }: { file: string; engine: StorageEngine; stored: StoredList | undefined },
  ) {
    this.#deps = deps;
    this.#file = file;
    this.#engine = engine;
    this.#entries = withAdopted(stored?.entries ?? new Map(), engine.namespaces());
    this.#saved = stored && { text: stored.text, isDurable: false };
    this.#isKnown = this.#entries.size > 0;
  }

  /**
   * Reads the last known list and puts it in force. Where there is none yet, and no coordinator to ask, that is the
   * namespace `default`.
   */
  static async open(
    deps: NamespaceDirectoryDeps,
    { file, engine }: { readonly file: string; readonly engine: StorageEngine },
  ): Promise<NamespaceDirectory> {
    const stored = await readEntries(deps, file);
    const directory = new NamespaceDirectory(deps, { file, engine, stored });
    if (directory.isKnown || !deps.coordinator) await directory.#merge([]);
    return directory;
  }

  /** False on a new node that has not heard from its coordinator yet: any namespace may be one that it has. */
  get isKnown(): boolean {
    return this.#isKnown;
  }

  get problems(): ReadonlyMap<string, string> {
    return this.#problems;
  }

  list(): readonly NamespaceOptions[] {
    return [...this.#engine.namespaces()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async put(options: NamespaceOptions): Promise<void> {
    const current = this.#engine.namespaces().find(({ name }) => name === options.name);
    const refused = current && refusedChange(current, options);
    if (refused !== undefined) {
      throw new VarveError(
        'NAMESPACE_CHANGE_REFUSED',
        `namespace ${JSON.stringify(options.name)}: ${refused}`,
        {
          hint: 'Nothing was changed. Make a namespace of another name, or delete this one with its data first.',
        },
      );
    }
    await this.#store(options.name, (stored) => ({
      name: options.name,
      incarnation: stored?.options ? stored.incarnation : this.#deps.newId(),
      options,
    }));
  }

  async remove(name: string): Promise<boolean> {
    if (!this.#engine.namespaces().some((options) => options.name === name)) return false;
    await this.#store(name, (stored) => ({
      name,
      incarnation: stored?.incarnation ?? this.#entries.get(name)?.incarnation ?? this.#deps.newId(),
      options: undefined,
    }));
    return true;
  }

  /** Follows the coordinator until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { coordinator, clock, log } = this.#deps;
    if (!coordinator) return;
    const backoff = new Backoff(RETRY);
    while (!signal.aborted) {
      try {
        for await (const stored of coordinator.watch(NAMESPACE_PREFIX, signal)) {
          await this.#merge(this.#parsed(stored));
          backoff.reset();
        }
      } catch (error) {
        if (signal.aborted) return;
        const delayMs = backoff.nextMs();
        log.warn(
          { error: messageOf(error), delayMs },
          'the list of namespaces is not followed; trying again',
        );
        await clock.sleep(delayMs, signal).catch(() => {});
      }
    }
  }

  /** Changes the stored entry, and puts the outcome in force here at once. */
  async #store(name: string, change: (stored: NamespaceEntry | undefined) => NamespaceEntry): Promise<void> {
    const { coordinator } = this.#deps;
    if (!coordinator) {
      await this.#merge([change(this.#entries.get(name))]);
      return;
    }
    const key = `${NAMESPACE_PREFIX}${name}`;
    for (let attempt = 1; ; attempt += 1) {
      const found = await coordinator.get(key);
      const [stored] = found ? this.#parsed([found]) : [];
      const entry = change(stored ?? this.#entries.get(name));
      const isDone = await coordinator.put(key, entryText(entry), { ifVersion: found?.version ?? ABSENT });
      if (isDone) {
        await this.#merge([entry]);
        return;
      }
      if (attempt === CONFLICT_ATTEMPTS) {
        throw new VarveError(
          'COORDINATOR_UNAVAILABLE',
          `namespace ${name} is being changed by others all the time`,
        );
      }
    }
  }

  /** One after the other: two lists must not be put in force at once. */
  #merge(stored: readonly NamespaceEntry[]): Promise<void> {
    const done = this.#tail.then(() => this.#apply(mergeEntries(this.#entries, stored)));
    this.#tail = done.catch(() => {});
    return done;
  }

  /**
   * What goes, goes before its successor is written down, and what comes is written down before it can take samples:
   * a crash in between repeats the first and never takes the second back.
   */
  async #apply({ entries, recreated }: MergedEntries): Promise<void> {
    const engine = this.#engine;
    const { wanted, problems } = this.#permitted(entries, recreated);
    if (recreated.length > 0) {
      await engine.applyNamespaces(wanted.filter(({ name }) => !recreated.includes(name)));
    }
    await this.#save(entries);
    this.#entries = entries;
    await engine.applyNamespaces(wanted);
    this.#isKnown = true;
    for (const [name, why] of problems) {
      if (this.#problems.get(name) !== why)
        this.#deps.log.error({ namespace: name }, `kept as it is: ${why}`);
    }
    this.#problems = problems;
  }

  /** One namespace that cannot become what is wanted does not hold up the others. */
  #permitted(
    entries: NamespaceEntries,
    recreated: readonly string[],
  ): { readonly wanted: NamespaceOptions[]; readonly problems: Map<string, string> } {
    const inForce = new Map(this.#engine.namespaces().map((options) => [options.name, options]));
    const problems = new Map<string, string>();
    const wanted = [...entries.values()].flatMap(({ name, options }) => {
      if (!options) return [];
      const current = recreated.includes(name) ? undefined : inForce.get(name);
      const refused = current && refusedChange(current, options);
      if (!current || refused === undefined) return [options];
      problems.set(name, refused);
      return [current];
    });
    return { wanted, problems };
  }

  async #save(entries: NamespaceEntries): Promise<void> {
    const { fs } = this.#deps;
    const lines = [...entries.values()].map((entry) => `${JSON.stringify(entry.name)} ${entryText(entry)}\n`);
    const text = lines.join('');
    const saved = this.#saved;
    this.#saved = undefined;
    // A start waits for this: a file that says it already is left as it is, only its name is made durable.
    if (saved?.text !== text) await writeFileAtomically(fs, this.#file, Buffer.from(text));
    else if (!saved.isDurable) await fs.syncFolder(dirname(this.#file));
    this.#saved = { text, isDurable: true };
  }

  /** What cannot be read stays as it is known here. */
  #parsed(stored: readonly Entry[]): NamespaceEntry[] {
    return stored.flatMap(({ key, value }) => {
      const name = key.slice(NAMESPACE_PREFIX.length);
      try {
        return [parseEntry(name, value.toString())];
      } catch (error) {
        this.#deps.log.error({ key, error: messageOf(error) }, 'an entry of the coordinator cannot be read');
        return [];
      }
    });
  }
}

/** What the engine has and no list knows was there before the list, or the list is lost: it stays. */
function withAdopted(entries: NamespaceEntries, inForce: readonly NamespaceOptions[]): NamespaceEntries {
  const all = new Map(entries);
  for (const options of inForce) {
    if (!all.has(options.name)) all.set(options.name, { name: options.name, incarnation: IMPLICIT, options });
  }
  return all;
}

interface StoredList {
  readonly entries: NamespaceEntries;
  readonly text: string;
}

async function readEntries(
  { fs, log }: NamespaceDirectoryDeps,
  file: string,
): Promise<StoredList | undefined> {
  let text: string;
  try {
    text = (await readWholeFile(fs, file)).toString();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
  const entries = new Map<string, NamespaceEntry>();
  for (const line of text.split('\n').filter((one) => one !== '')) {
    try {
      const name = JSON.parse(/^"(?:[^"\\]|\\.)*"/.exec(line)?.[0] ?? 'null') as string;
      entries.set(name, parseEntry(name, line.slice(JSON.stringify(name).length + 1)));
    } catch (error) {
      // The engine knows its namespaces by itself; what is lost is only that they were deleted or made anew.
      log.error({ file, error: messageOf(error) }, 'a line of the list of namespaces cannot be read');
    }
  }
  return { entries, text };
}
