import * as z from 'zod';
import { messageOf, VarveError } from '../core/errors.ts';
import { ABSENT, type Coordinator, type Version } from '../coordination/coordinator.ts';

/** Beside the placement: which of its instances the registry of data nodes owns, so that nobody else takes them. */
const KEY = 'varve/storage/placement-registry';

const value = z.strictObject({
  /** The access databases in whose registry each name is. */
  names: z.record(z.string(), z.array(z.string())),
  /**
   * How many replicas there are to be as soon as there are nodes enough; null when the placement was made by hand,
   * and its replica factor is nobody else's business.
   */
  replicas: z.int().min(1).nullable(),
});

export type OwnedNames = z.output<typeof value>;

const NONE: OwnedNames = { names: {}, replicas: null };

/** What the write master wrote down of the registry of data nodes, for all who change the placement. */
export class PlacementRegistry {
  readonly #coordinator: Coordinator;

  constructor(coordinator: Coordinator) {
    this.#coordinator = coordinator;
  }

  /** @throws PLACEMENT_UNREADABLE, COORDINATOR_UNAVAILABLE */
  async read(): Promise<{ readonly owned: OwnedNames; readonly version: Version }> {
    const entry = await this.#coordinator.get(KEY);
    if (!entry) return { owned: NONE, version: ABSENT };
    try {
      return { owned: value.parse(JSON.parse(entry.value.toString())), version: entry.version };
    } catch (error) {
      throw new VarveError(
        'PLACEMENT_UNREADABLE',
        `the names that the registry of data nodes owns cannot be read from ${KEY}: ${messageOf(error)}`,
      );
    }
  }

  /** False when somebody else changed it since that version was read. */
  async write(owned: OwnedNames, version: Version): Promise<boolean> {
    return await this.#coordinator.put(KEY, JSON.stringify(owned), { ifVersion: version });
  }
}
