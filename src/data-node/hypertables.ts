import type { Clock } from '../core/clock.ts';
import { CollectShards } from './collect-shards.ts';
import { PlaceShards } from './hypertable-shards.ts';
import { HypertableUpkeep, type HypertableUpkeepOptions } from './hypertable-upkeep.ts';
import type { Log } from './log.ts';
import type { NodeSessions } from './node-session.ts';
import type { OperationKind, Operations, WithAdmin } from './operations.ts';
import type { Reply, Request } from './request.ts';
import { ShardGrants } from './shard-grants.ts';
import { ShardIndexes } from './shard-indexes.ts';

/** What the daemon does for distributed hypertables: answers, operations, and a loop that looks after them. */
export interface HypertablesDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly sessions: NodeSessions;
  readonly withAdmin: WithAdmin;
}

export class Hypertables {
  readonly #deps: HypertablesDeps;
  readonly #collect: CollectShards;
  readonly #place: PlaceShards;
  readonly #indexes: ShardIndexes;
  readonly #grants: ShardGrants;

  constructor(deps: HypertablesDeps) {
    this.#deps = deps;
    this.#collect = new CollectShards(deps);
    this.#place = new PlaceShards({ ...deps, collect: this.#collect });
    this.#indexes = new ShardIndexes(deps);
    this.#grants = new ShardGrants({ ...deps, collect: this.#collect });
  }

  /** What settles their operations. */
  get kinds(): Readonly<Record<string, OperationKind>> {
    return {
      create_distributed_hypertable: this.#place,
      attach_data_node: this.#place,
      detach_data_node: this.#place,
      create_shard_index: this.#indexes,
      grant_shards: this.#grants,
      collect_shards: this.#collect,
    };
  }

  handlers(
    operations: Operations,
  ): Readonly<Record<string, (request: Request, signal: AbortSignal) => Promise<Reply>>> {
    const place = (request: Request, signal: AbortSignal): Promise<Reply> =>
      this.#place.handle(request, operations, signal);
    return {
      create_distributed_hypertable: place,
      attach_data_node: place,
      detach_data_node: place,
      create_shard_index: (request, signal) => this.#indexes.handle(request, operations, signal),
      grant_shards: (request, signal) => this.#grants.handle(request, operations, signal),
      collect_shards: (request) => this.#collect.handle(request, operations),
    };
  }

  upkeep(options: HypertableUpkeepOptions): HypertableUpkeep {
    return new HypertableUpkeep({ ...this.#deps, collect: this.#collect, grants: this.#grants }, options);
  }
}
