import { randomUUID } from 'node:crypto';
import * as z from 'zod';
import type { Connection } from '../postgres/connection.ts';
import type { NodeSessions } from './node-session.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations, WithAdmin } from './operations.ts';
import { parse, type Reply, type Request } from './request.ts';
import { fromDataNode, grouped, mappedPassword, nodeNamed, onEach, openUnlessGone } from './shard-nodes.ts';
import { indexRequestSchema, type Shard } from './shard-request.ts';
import { dropShardIndexes, fence } from './shard-session.ts';

/** `CREATE INDEX` on a hypertable: the same index on every shard, taken back unless it is committed. */
export interface ShardIndexesDeps {
  readonly sessions: NodeSessions;
  readonly withAdmin: WithAdmin;
}

const factsSchema = z.object({
  number: z.number(),
  shards: z.array(
    z.object({
      node: z.string(),
      host: z.string(),
      port: z.number(),
      database: z.string(),
      schema: z.string(),
      table: z.string(),
      owner: z.string(),
    }),
  ),
});

export class ShardIndexes implements OperationKind {
  readonly #deps: ShardIndexesDeps;

  constructor(deps: ShardIndexesDeps) {
    this.#deps = deps;
  }

  async handle(request: Request, operations: Operations, signal: AbortSignal): Promise<Reply> {
    const { table, number, definition, shards } = parse(indexRequestSchema, request.arguments, request.op);
    const { op: kind, xid, database, caller } = request;
    const id = randomUUID();
    const facts: z.infer<typeof factsSchema> = {
      number,
      shards: shards.map(({ node, schema, table: name, owner }) => {
        const { host, port, database: remote } = nodeNamed(request.nodes, node);
        return { node, host, port, database: remote, schema, table: name, owner };
      }),
    };
    await operations.begin({ id, kind, xid, database, caller, subject: table, targets: [], facts });
    const sessions: Connection[] = [];
    try {
      await onEach(grouped(shards, key), async (group) => {
        const [{ node, owner: role, password } = {} as Shard] = group;
        const session = await this.#deps.sessions.open(
          nodeNamed(request.nodes, node),
          { role, password },
          { signal },
        );
        sessions.push(session);
        for (const shard of group) {
          await session
            .query('select varve.create_shard_index($1, $2, $3, $4, $5)', [
              id,
              shard.schema,
              [shard.table],
              number,
              definition,
            ])
            .catch((error: unknown) => {
              throw fromDataNode(node, error);
            });
        }
      });
    } catch (error) {
      for (const session of sessions) session.destroy();
      await operations.failed(id);
      throw error;
    } finally {
      for (const session of sessions) void session.close();
    }
    operations.replied(id);
    return { operation: id, result: {} };
  }

  confirm(): Promise<void> {
    return Promise.resolve();
  }

  async undo(operation: Operation, signal: AbortSignal): Promise<void> {
    const { number, shards } = parse(factsSchema, operation.facts, operation.kind);
    const { database } = operation;
    await onEach(grouped(shards, key), async ([first, ...others]) => {
      if (!first) return;
      const { node, owner: role } = first;
      const password = await mappedPassword(this.#deps.withAdmin, { database, node, role });
      await using session = await openUnlessGone(this.#deps.sessions, first, { role, password }, { signal });
      if (!session) return;
      await fence(session, operation.id);
      for (const shard of [first, ...others]) await dropShardIndexes(session, shard, [number]);
    });
  }
}

function key(shard: { readonly node: string; readonly owner: string }): string {
  return JSON.stringify([shard.node, shard.owner]);
}
