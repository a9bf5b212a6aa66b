import { dirname } from 'node:path';
import { Backoff } from '../core/backoff.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import { hasCode, readWholeFile, writeFileAtomically, type FileSystem } from '../core/file-system.ts';
import { markAvailable } from '../placement/change-placement.ts';
import { decodePlacement, encodePlacement } from '../placement/placement-codec.ts';
import type { PlacementStore } from '../placement/placement-store.ts';
import type { PlacedShardState, Placement } from '../placement/placement.ts';
import { topologyOf } from '../placement/topology.ts';
import type { PlacedEngine } from '../storage/engine/storage-engine.ts';
import type { Log } from './log.ts';

export interface StoragePlacementDeps {
  readonly log: Log;
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly fs: FileSystem;
  /** Left out on a node that stands alone. */
  readonly store: PlacementStore | undefined;
}

export interface StoragePlacementOptions {
  readonly node: string;
  /** For the last placement that was seen: a restart must not wait for the coordinator to know where the others are. */
  readonly file: string;
  readonly engine: Pick<PlacedEngine, 'applyTopology' | 'durableShards'>;
  /** Before the engine gets a placement: what the node took while it stood alone is given to others. */
  readonly handOver?: (placement: Placement, signal: AbortSignal) => Promise<void>;
}

/** What a node says of the placement that it knows. */
export interface PlacementStatus {
  readonly version: number;
  readonly replicaFactor: number;
  readonly shardCount: number;
  readonly instances: readonly PlacedInstanceStatus[];
  /** Why it is not followed, or shards are not marked; null when all is well. */
  readonly problem: string | null;
}

export interface PlacedInstanceStatus {
  readonly node: string;
  readonly isolationGroup: string;
  readonly weight: number;
  readonly endpoint: string;
  readonly isLeaving: boolean;
  readonly shards: Readonly<Record<PlacedShardState, number>>;
}

const RETRY = { firstMs: 250, maxMs: 10_000 } as const;
const MARK_EVERY_MS = 1000;
/** After a change of the placement: what is whole already, or new, need not wait a second. */
const MARK_FIRST_MS = 50;

/**
 * A storage node's part in the placement: it gives the engine the shards that the placement says, and says in the
 * placement which of them are whole and durable here.
 */
export class StoragePlacement {
  readonly #deps: StoragePlacementDeps;
  readonly #options: StoragePlacementOptions;
  #current: Placement | undefined;
  /** What the engine has; older than `current` while it is being put in force. */
  #applied: Placement | undefined;
  #isKnown = false;
  #markDelayMs = MARK_EVERY_MS;
  #marked = new AbortController();
  #followProblem: string | undefined;
  #markProblem: string | undefined;
  /** Of one that was asked for; those who watch have not told of it yet. */
  #aheadVersion = 0;
  readonly #listeners = new Set<(placement: Placement) => void>();

  private constructor(deps: StoragePlacementDeps, options: StoragePlacementOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** With the placement that was seen last. */
  static async open(deps: StoragePlacementDeps, options: StoragePlacementOptions): Promise<StoragePlacement> {
    const placement = new StoragePlacement(deps, options);
    if (deps.store) placement.#current = await placement.#load();
    return placement;
  }

  /** Whether it was ever heard of, or that there is none: before that a node must not take itself for alone. */
  get isKnown(): boolean {
    return this.#isKnown || this.#current !== undefined;
  }

  /** As it was seen last; undefined while there is none. */
  get current(): Placement | undefined {
    return this.#current;
  }

  /** Calls the listener with each placement from now on, before the engine gets it. */
  onChange(listener: (placement: Placement) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Looks whether there is a newer one than was heard of. The engine gets it as all others: from the watch. */
  async refresh(): Promise<void> {
    const placement = await this.#deps.store?.read();
    if (!placement || placement.version <= (this.#current?.version ?? 0)) return;
    this.#current = placement;
    this.#aheadVersion = placement.version;
  }

  status(): PlacementStatus | null {
    const problem = this.#followProblem ?? this.#markProblem ?? null;
    return this.#current ? placementStatus(this.#current, problem) : null;
  }

  /** Until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const { store } = this.#deps;
    if (!store) return;
    await Promise.all([this.#follow(store, signal), this.#mark(store, signal)]);
  }

  async #follow(store: PlacementStore, signal: AbortSignal): Promise<void> {
    const { clock, log, random } = this.#deps;
    const backoff = new Backoff({ ...RETRY, random });
    while (!signal.aborted) {
      try {
        for await (const placement of store.watch(signal)) {
          // One that vanished stays in force: data is not given up because a key is gone.
          if (placement) await this.#take(placement, signal);
          this.#isKnown = true;
          this.#followProblem = undefined;
          backoff.reset();
        }
      } catch (error) {
        if (signal.aborted) return;
        const delayMs = backoff.nextMs();
        const problem = messageOf(error);
        if (problem !== this.#followProblem) log.warn({ error: problem }, 'the placement is not followed');
        this.#followProblem = problem;
        await clock.sleep(delayMs, signal).catch(() => {});
      }
    }
  }

  async #take(placement: Placement, signal: AbortSignal): Promise<void> {
    const { node, engine, handOver } = this.#options;
    if (placement.version >= this.#aheadVersion) {
      this.#current = placement;
      this.#aheadVersion = 0;
    }
    this.#isKnown = true;
    await this.#save(placement);
    for (const listener of this.#listeners) listener(placement);
    await handOver?.(placement, signal);
    await engine.applyTopology(topologyOf(placement, node));
    const isChanged = ownShards(this.#applied, node) !== ownShards(placement, node);
    this.#applied = placement;
    if (!isChanged) return;
    this.#markDelayMs = MARK_FIRST_MS;
    this.#marked.abort();
  }

  /** Soon after a change of this node's shards, then less and less often, down to about every second. */
  async #mark(store: PlacementStore, signal: AbortSignal): Promise<void> {
    const { clock, log, random } = this.#deps;
    signal.addEventListener('abort', () => this.#marked.abort(), { once: true });
    while (!signal.aborted) {
      try {
        await this.#markOnce(store);
        this.#markProblem = undefined;
      } catch (error) {
        if (signal.aborted) return;
        const problem = messageOf(error);
        if (problem !== this.#markProblem)
          log.warn({ error: problem }, 'shards are not marked available yet');
        this.#markProblem = problem;
      }
      this.#marked = new AbortController();
      if (signal.aborted) return;
      await clock.sleep(this.#markDelayMs * (0.75 + random() / 2), this.#marked.signal).catch(() => {});
      this.#markDelayMs = Math.min(MARK_EVERY_MS, this.#markDelayMs * 2);
    }
  }

  async #markOnce(store: PlacementStore): Promise<void> {
    const { node, engine } = this.#options;
    const applied = this.#applied;
    const own = applied?.instances.find(({ id }) => id === node);
    const waiting = own?.shards.filter(({ state }) => state === 'initializing') ?? [];
    if (!applied || waiting.length === 0) return;
    const durable = new Set(engine.durableShards());
    const done = waiting.map(({ id }) => id).filter((shard) => durable.has(shard));
    if (done.length === 0) return;
    // The engine spoke of the shards as that version has them: since then one may have been taken away and given back.
    await store.update((was) => (was?.version === applied.version ? markAvailable(was, node, done) : was));
  }

  async #load(): Promise<Placement | undefined> {
    const { fs, log } = this.#deps;
    try {
      return decodePlacement(await readWholeFile(fs, this.#options.file));
    } catch (error) {
      // It comes again from the coordinator.
      if (!hasCode(error, 'ENOENT'))
        log.warn({ error: messageOf(error) }, 'the stored placement is not used');
      return undefined;
    }
  }

  async #save(placement: Placement): Promise<void> {
    const { fs } = this.#deps;
    const { file } = this.#options;
    await writeFileAtomically(fs, file, encodePlacement(placement));
    await fs.syncFolder(dirname(file));
  }
}

/** As text, to be compared. */
function ownShards(placement: Placement | undefined, node: string): string {
  return JSON.stringify(placement?.instances.find(({ id }) => id === node)?.shards ?? []);
}

export function placementStatus(placement: Placement, problem: string | null): PlacementStatus {
  const { version, replicaFactor, shardCount, instances } = placement;
  return {
    version,
    replicaFactor,
    shardCount,
    instances: instances.map(({ id, isolationGroup, weight, endpoint, isLeaving = false, shards }) => {
      const counts = { initializing: 0, available: 0, leaving: 0 };
      for (const { state } of shards) counts[state] += 1;
      return { node: id, isolationGroup, weight, endpoint, isLeaving, shards: counts };
    }),
    problem,
  };
}
