import { ABSENT, type Coordinator } from '../../coordination/coordinator.ts';
import type { PlacementCoordinator } from '../../placement/placement-store.ts';
import type { SeededRandom } from '../../../test/seeded-random.ts';
import type { SimulatedClock } from './clock.suite.ts';
import { COORDINATOR, type SimulatedNetwork } from './cluster-network.suite.ts';

interface Entry {
  readonly key: string;
  readonly value: Buffer;
  readonly version: bigint;
  readonly holder: undefined;
}

/** What placements and the list of namespaces need. */
export type SeenCoordinator = PlacementCoordinator & Pick<Coordinator, 'put'>;

/** Those who watch hear of a change after up to so long. */
const LATEST_MS = 4000;
const RETRY_MS = 500;

/** A coordinator in memory. It never fails; the way to it does. */
export class SimulatedCoordinator {
  readonly #clock: SimulatedClock;
  readonly #random: SeededRandom;
  readonly #network: SimulatedNetwork;
  readonly #entries = new Map<string, Entry>();
  #version = 0n;
  readonly #waiting = new Set<() => void>();

  constructor(clock: SimulatedClock, random: SeededRandom, network: SimulatedNetwork) {
    this.#clock = clock;
    this.#random = random;
    this.#network = network;
  }

  /** As one node reaches it; without one: as the operator does, who sits beside it. */
  seenFrom(node?: string): SeenCoordinator {
    const at = async <T>(work: () => T, signal?: AbortSignal): Promise<T> => {
      if (node === undefined) return work();
      const message = { from: node, to: COORDINATOR, lost: 'COORDINATOR_UNAVAILABLE', signal } as const;
      return await this.#network.carry(message, async () => work());
    };
    return {
      bounds: { maxValueBytes: 512 * 1024 },
      get: (key) => at(() => this.#entries.get(key)),
      list: (prefix) => at(() => this.#list(prefix)),
      txn: (compare, operations) => at(() => this.#txn(compare, operations)),
      put: (key, value, { ifVersion } = {}) =>
        at(() => {
          const compare = ifVersion === undefined ? [] : [unchanged(key, ifVersion)];
          return this.#txn(compare, [{ kind: 'put', key, value }]).committed;
        }),
      watch: (prefix, signal) => this.#watch(prefix, signal, at),
    };
  }

  #list(prefix: string): Entry[] {
    return [...this.#entries.values()].filter(({ key }) => key.startsWith(prefix));
  }

  #txn(...[compare, operations]: Parameters<PlacementCoordinator['txn']>): { readonly committed: boolean } {
    const isRight = compare.every((one) =>
      one.kind === 'absent'
        ? !this.#entries.has(one.key)
        : this.#entries.get(one.key)?.version === one.version,
    );
    if (!isRight) return { committed: false };
    this.#version++;
    for (const one of operations) {
      if (one.kind === 'delete') this.#entries.delete(one.key);
      else {
        const { key, value } = one;
        this.#entries.set(key, { key, value: Buffer.from(value), version: this.#version, holder: undefined });
      }
    }
    for (const wake of this.#waiting) wake();
    return { committed: true };
  }

  async *#watch(
    prefix: string,
    signal: AbortSignal,
    at: <T>(work: () => T, signal?: AbortSignal) => Promise<T>,
  ): AsyncGenerator<readonly Entry[]> {
    let seen = -1n;
    while (!signal.aborted) {
      if (seen === this.#version) await this.#changed(signal);
      try {
        if (seen >= 0n && this.#random.chance(0.7)) {
          await this.#clock.sleep(this.#random.below(LATEST_MS), signal);
        }
        const [version, entries] = await at(() => [this.#version, this.#list(prefix)] as const, signal);
        seen = version;
        yield entries;
      } catch {
        if (signal.aborted) return;
        await this.#clock.sleep(RETRY_MS, signal).catch(() => {});
      }
    }
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}

function unchanged(key: string, version: bigint): Parameters<PlacementCoordinator['txn']>[0][number] {
  return version === ABSENT ? { kind: 'absent', key } : { kind: 'version', key, version };
}
