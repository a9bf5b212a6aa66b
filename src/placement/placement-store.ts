import { assert, messageOf, VarveError } from '../core/errors.ts';
import { checkPlacement } from './check-placement.ts';
import { decodePlacement, encodePlacement } from './placement-codec.ts';
import type { Placement } from './placement.ts';

/** What the store needs of the coordinator; every coordinator has it. */
export interface PlacementCoordinator {
  readonly bounds: { readonly maxValueBytes: number };
  get(key: string): Promise<StoredEntry | undefined>;
  list(prefix: string): Promise<readonly StoredEntry[]>;
  txn(
    compare: readonly (
      | { readonly kind: 'version'; readonly key: string; readonly version: bigint }
      | { readonly kind: 'absent'; readonly key: string }
    )[],
    operations: readonly (
      | { readonly kind: 'put'; readonly key: string; readonly value: string | Uint8Array }
      | { readonly kind: 'delete'; readonly key: string }
    )[],
  ): Promise<{ readonly committed: boolean }>;
  watch(prefix: string, signal: AbortSignal): AsyncIterable<readonly StoredEntry[]>;
}

interface StoredEntry {
  readonly key: string;
  readonly value: Uint8Array;
  readonly version: bigint;
}

/** Who changed a placement, and what. */
export interface PlacementChange {
  /** The version that it made. */
  readonly version: number;
  readonly at: string;
  readonly by: string;
  readonly what: string;
}

/** What a change is written down as; those that nobody decided (a shard is available) are not. */
export type ChangeNote = Omit<PlacementChange, 'version'>;

/** Below its own prefix: who watches it is told of nothing else. */
const PREFIX = 'varve/storage/placement/';
const KEY = `${PREFIX}current`;
const CHANGES = 'varve/storage/placement-changes/';
const KEPT_CHANGES = 100;
const ATTEMPTS = 50;

/** The placement in the coordinator: one key, changed by comparing its version, with the history of changes beside it. */
export class PlacementStore {
  readonly #coordinator: PlacementCoordinator;

  constructor(coordinator: PlacementCoordinator) {
    this.#coordinator = coordinator;
  }

  /** @throws PLACEMENT_UNREADABLE, COORDINATOR_UNAVAILABLE */
  async read(): Promise<Placement | undefined> {
    const entry = await this.#coordinator.get(KEY);
    return entry && decodePlacement(entry.value);
  }

  /**
   * Makes it what `change` gives for the one that is there; again when somebody else was faster. Nothing is written
   * when that is undefined, or the very placement that was there. What was written is durable when this resolves.
   * @throws PLACEMENT_CONFLICT, PLACEMENT_TOO_LARGE, PLACEMENT_UNREADABLE, COORDINATOR_UNAVAILABLE (it may have been
   *   written then), and what `change` throws
   */
  async update(
    change: (was: Placement | undefined) => Placement | undefined,
    note?: ChangeNote,
  ): Promise<Placement | undefined> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const entry = await this.#coordinator.get(KEY);
      const was = entry && decodePlacement(entry.value);
      const next = change(was);
      if (next === undefined || next === was) return was;
      const { committed } = await this.#coordinator.txn(
        [entry ? { kind: 'version', key: KEY, version: entry.version } : { kind: 'absent', key: KEY }],
        [
          { kind: 'put', key: KEY, value: this.#encode(next) },
          ...(note ? [{ kind: 'put' as const, ...changeEntry(next.version, note) }] : []),
        ],
      );
      if (!committed) continue;
      if (note) await this.#forgetOld();
      return next;
    }
    throw new VarveError('PLACEMENT_CONFLICT', `others changed the placement ${ATTEMPTS} times meanwhile`, {
      hint: 'Repeat it.',
    });
  }

  /**
   * The placement now and after each change, undefined while there is none, until the signal fires. The latest: some
   * in between may be skipped.
   * @throws PLACEMENT_UNREADABLE, COORDINATOR_REFUSED
   */
  async *watch(signal: AbortSignal): AsyncGenerator<Placement | undefined> {
    let seen: bigint | undefined;
    for await (const entries of this.#coordinator.watch(PREFIX, signal)) {
      const entry = entries.find(({ key }) => key === KEY);
      if (entry && entry.version === seen) continue;
      seen = entry?.version;
      yield entry && decodePlacement(entry.value);
    }
  }

  /** The newest first. */
  async changes(): Promise<PlacementChange[]> {
    const entries = await this.#coordinator.list(CHANGES);
    return entries.flatMap(({ value }) => parseChange(value)).sort((a, b) => b.version - a.version);
  }

  #encode(placement: Placement): Buffer {
    const [finding] = checkPlacement(placement);
    assert(finding === undefined, `the next placement is one: ${finding}`);
    const value = encodePlacement(placement);
    const { maxValueBytes } = this.#coordinator.bounds;
    if (value.length <= maxValueBytes) return value;
    throw new VarveError(
      'PLACEMENT_TOO_LARGE',
      `the placement takes ${value.length} bytes, and the coordinator ${maxValueBytes}`,
      { hint: 'It depends on the number of shards and replicas: make a storage cluster with fewer shards.' },
    );
  }

  /** The history is for people: what cannot be shortened now is shortened with a later change. */
  async #forgetOld(): Promise<void> {
    try {
      const entries = await this.#coordinator.list(CHANGES);
      for (const { key } of entries.slice(0, Math.max(0, entries.length - KEPT_CHANGES))) {
        await this.#coordinator.txn([], [{ kind: 'delete', key }]);
      }
    } catch (error) {
      if (!(error instanceof VarveError)) throw error;
    }
  }
}

/** In the order of versions. */
function changeEntry(version: number, note: ChangeNote): { readonly key: string; readonly value: string } {
  return {
    key: `${CHANGES}${String(version).padStart(12, '0')}`,
    value: JSON.stringify({ version, ...note } satisfies PlacementChange),
  };
}

function parseChange(value: Uint8Array): PlacementChange[] {
  try {
    return [JSON.parse(Buffer.from(value).toString()) as PlacementChange];
  } catch (error) {
    return [{ version: 0, at: '', by: '', what: `cannot be read: ${messageOf(error)}` }];
  }
}
