import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { CollectShards } from './collect-shards.ts';
import type { Log } from './log.ts';
import type { NodeSessions } from './node-session.ts';
import type { ShardGrants } from './shard-grants.ts';
import { fromDataNode, grouped, onEach } from './shard-nodes.ts';
import { placeKey } from './shard-request.ts';

/** Looks after the distributed hypertables of the access databases, from the committed catalog, again and again. */
export interface HypertableUpkeepDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly sessions: NodeSessions;
  readonly collect: CollectShards;
  readonly grants: ShardGrants;
}

export interface HypertableUpkeepOptions {
  readonly intervalMs: number;
  /** Access databases to look after. */
  readonly databases: () => readonly string[];
}

/** Chunks made on one node in one round; the rest waits for the next. */
const CHUNKS_A_ROUND = 64;

export class HypertableUpkeep {
  readonly #deps: HypertableUpkeepDeps;
  readonly #options: HypertableUpkeepOptions;
  /** The last failure of each database, so that the same trouble is said once. */
  readonly #failures = new Map<string, string>();

  constructor(deps: HypertableUpkeepDeps, options: HypertableUpkeepOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Rounds until the signal fires; a failing one is logged, and the next one tries again. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      for (const database of this.#options.databases()) await this.#logged(database, signal);
      await this.#deps.clock.sleep(this.#options.intervalMs, signal).catch(() => {});
    }
  }

  /** One round over one database. @throws the first failure, after everything else was done */
  async round(database: string, signal: AbortSignal): Promise<void> {
    // Dropped tables first: the others need not bother with them.
    const collected = await Promise.allSettled([this.#deps.collect.collect(database, signal)]);
    const kept = await Promise.allSettled([
      this.#deps.grants.sync(database, signal),
      this.#makeChunks(database, signal),
    ]);
    for (const outcome of [...collected, ...kept]) if (outcome.status === 'rejected') throw outcome.reason;
  }

  async #logged(database: string, signal: AbortSignal): Promise<void> {
    try {
      await this.round(database, signal);
      this.#failures.delete(database);
    } catch (error) {
      if (signal.aborted) return;
      const message = messageOf(error);
      if (this.#failures.get(database) !== message)
        this.#deps.log.warn({ error, database }, 'distributed hypertables could not be looked after');
      this.#failures.set(database, message);
    }
  }

  async #makeChunks(database: string, signal: AbortSignal): Promise<void> {
    const { hypertables } = await this.#deps.collect.read(database, signal);
    const shards = hypertables.flatMap((hypertable) =>
      hypertable.shards.filter(({ available }) => available),
    );
    await onEach(grouped(shards, placeKey), async ([place]) => {
      if (!place) return;
      try {
        const login = { role: place.owner, password: place.password };
        await using session = await this.#deps.sessions.open(place, login, { signal });
        for (let i = 0; i < CHUNKS_A_ROUND; i += 1) {
          const { rowCount } = await session.query('select * from varve.maintain_chunks()');
          if (rowCount === 0) return;
        }
      } catch (error) {
        throw fromDataNode(place.node, error);
      }
    });
  }
}
