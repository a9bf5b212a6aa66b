import type { NodeSessions } from './node-session.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations, WithAdmin } from './operations.ts';
import { parse, type Reply, type Request } from './request.ts';
import { fromDataNode, grouped, onEach, openUnlessGone } from './shard-nodes.ts';
import { placeKey, upkeepSchema, type Upkeep } from './shard-request.ts';
import { dropShardIndexes, dropShards } from './shard-session.ts';

/**
 * Drops on the data nodes what the committed catalog of an access database no longer has: tables of dropped
 * hypertables, tables that were replaced, twins of dropped indexes. It may be repeated, and done by several at once.
 */
export interface CollectShardsDeps {
  readonly sessions: NodeSessions;
  readonly withAdmin: WithAdmin;
}

export class CollectShards implements OperationKind {
  readonly #deps: CollectShardsDeps;
  /** By database: two at once would wait for each other's locks. */
  readonly #busy = new Map<string, Promise<void>>();

  constructor(deps: CollectShardsDeps) {
    this.#deps = deps;
  }

  /** A table or index was dropped in the caller's transaction: nothing happens before that is committed. */
  async handle(request: Request, operations: Operations): Promise<Reply> {
    const { xid, database, caller } = request;
    const what = { kind: 'collect_shards', subject: 'dropped tables and indexes', targets: [], facts: {} };
    const { id } = await operations.begin({ ...what, xid, database, caller });
    operations.replied(id);
    return { operation: id, result: {} };
  }

  confirm(operation: Operation, signal: AbortSignal): Promise<void> {
    return this.collect(operation.database, signal);
  }

  undo(): Promise<void> {
    return Promise.resolve();
  }

  /** @throws what failed, after everything else was done; it is to be tried again */
  collect(database: string, signal: AbortSignal): Promise<void> {
    const work = (): Promise<void> => this.#collect(database, signal);
    const mine = (this.#busy.get(database) ?? Promise.resolve()).then(work, work);
    this.#busy.set(database, mine);
    return mine;
  }

  /** The committed catalog, after tables that are gone were given up. */
  async read(database: string, signal: AbortSignal): Promise<Upkeep> {
    const { upkeep } = await this.#deps.withAdmin(
      database,
      (admin) => admin.one<{ upkeep: unknown }>('select varve._upkeep() as upkeep'),
      signal,
    );
    return parse(upkeepSchema, upkeep, 'varve._upkeep()');
  }

  async #collect(database: string, signal: AbortSignal): Promise<void> {
    const upkeep = await this.read(database, signal);
    await this.#dropShards(database, upkeep, signal);
    await this.#dropIndexes(database, upkeep, signal);
  }

  async #dropShards(database: string, { uuid, leaving }: Upkeep, signal: AbortSignal): Promise<void> {
    await onEach(grouped(leaving, placeKey), async ([first, ...others]) => {
      if (!first) return;
      const login = { role: first.owner, password: first.password };
      const gone: number[] = [];
      try {
        await using session = await openUnlessGone(this.#deps.sessions, first, login, { signal });
        for (const shards of grouped([first, ...others], ({ schema }) => schema)) {
          if (session) await dropShards(session, shards, uuid, (shard) => gone.push(shard.id));
          // With its database all of it is gone.
          else gone.push(...shards.map(({ id }) => id));
        }
      } catch (error) {
        throw fromDataNode(first.node, error);
      } finally {
        await this.#forget(database, 'delete from varve.shard where id = any ($1)', [gone]);
      }
    });
  }

  async #dropIndexes(database: string, { hypertables }: Upkeep, signal: AbortSignal): Promise<void> {
    for (const { id, droppedIndexes: numbers, shards } of hypertables) {
      if (numbers.length === 0) continue;
      await onEach(grouped(shards, placeKey), async ([first, ...others]) => {
        if (!first) return;
        const login = { role: first.owner, password: first.password };
        await using session = await this.#deps.sessions.open(first, login, { signal });
        for (const shard of [first, ...others]) await dropShardIndexes(session, shard, numbers);
      });
      await this.#forget(
        database,
        'delete from varve.hypertable_index where hypertable_id = $1 and number = any ($2) and dropped',
        [id, numbers],
      );
    }
  }

  async #forget(database: string, sql: string, params: readonly unknown[]): Promise<void> {
    await this.#deps.withAdmin(database, (admin) => admin.query(sql, params));
  }
}
