import { messageOf } from '../core/errors.ts';
import type { CollectShards } from './collect-shards.ts';
import type { NodeSessions } from './node-session.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations } from './operations.ts';
import { parse, type Notice, type Reply, type Request } from './request.ts';
import { fromDataNode, grouped, nodeNamed, onEach } from './shard-nodes.ts';
import { grantRequestSchema, placeKey, type GrantRequest } from './shard-request.ts';
import { grantShards } from './shard-session.ts';

/**
 * Rights on a hypertable reach its shards, so that a role with rights on the table and a user mapping gets through.
 * What a GRANT adds is granted there before the call returns, so that it can be used from the commit on; what a
 * REVOKE takes away goes when it is committed: until then, and afterwards anyway, the parent's rights decide.
 */
export interface ShardGrantsDeps {
  readonly sessions: NodeSessions;
  readonly collect: CollectShards;
}

export class ShardGrants implements OperationKind {
  readonly #deps: ShardGrantsDeps;
  /** One at a time for each database: what was read earlier must not be applied later. */
  readonly #busy = new Map<string, Promise<unknown>>();
  /** By operation: what open transactions have granted and nobody may take away before they end. */
  readonly #open = new Map<string, { readonly hypertable: string; readonly grants: readonly object[] }>();

  constructor(deps: ShardGrantsDeps) {
    this.#deps = deps;
  }

  /** A node that does not answer gives a warning; it is told as soon as it answers. */
  async handle(request: Request, operations: Operations, signal: AbortSignal): Promise<Reply> {
    const given = parse(grantRequestSchema, request.arguments, request.op);
    const { op: kind, xid, database, caller } = request;
    const { id } = await operations.begin({
      kind,
      xid,
      database,
      caller,
      subject: given.table,
      targets: [],
      facts: {},
    });
    this.#open.set(id, given);
    try {
      const notices = await this.#inTurn(database, () => this.#grant(request, given, signal));
      operations.replied(id);
      return { operation: id, notices, result: {} };
    } catch (error) {
      await operations.failed(id);
      throw error;
    }
  }

  confirm(operation: Operation, signal: AbortSignal): Promise<void> {
    this.#open.delete(operation.id);
    return this.sync(operation.database, signal);
  }

  undo(operation: Operation, signal: AbortSignal): Promise<void> {
    this.#open.delete(operation.id);
    return this.sync(operation.database, signal);
  }

  /**
   * Makes the rights on all shards of a database those that are committed on their tables.
   * @throws the first failure, after everything else was done
   */
  sync(database: string, signal: AbortSignal): Promise<void> {
    return this.#inTurn(database, () => this.#sync(database, signal));
  }

  #inTurn<T>(database: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(database) ?? Promise.resolve();
    const mine = before.then(work, work);
    this.#busy.set(database, mine);
    return mine;
  }

  async #grant(request: Request, given: GrantRequest, signal: AbortSignal): Promise<Notice[]> {
    const { table, grants, shards } = given;
    const notices: Notice[] = [];
    const schemas = grouped(shards, ({ node, schema, owner }) => JSON.stringify([node, schema, owner]));
    await onEach(schemas, async ([shard]) => {
      if (!shard) return;
      try {
        const login = { role: shard.owner, password: shard.password };
        const node = nodeNamed(request.nodes, shard.node);
        await using session = await this.#deps.sessions.open(node, login, { signal });
        const missing = await grantShards(session, shard.schema, { grants, revoke: false });
        notices.push(...missingRoles(shard.node, missing));
      } catch (error) {
        signal.throwIfAborted();
        const message = `data node "${shard.node}" does not know of the changed rights on "${table}" yet`;
        notices.push({ severity: 'warning', message, detail: messageOf(error) });
      }
    });
    return notices;
  }

  async #sync(database: string, signal: AbortSignal): Promise<void> {
    const { hypertables } = await this.#deps.collect.read(database, signal);
    const open = [...this.#open.values()];
    const schemas = hypertables.flatMap(({ uuid, grants: committed, shards }) => {
      const mine = open.filter(({ hypertable }) => hypertable === uuid);
      const grants = [...committed, ...mine.flatMap((given) => given.grants)];
      return grouped(
        shards.filter(({ available }) => available),
        (shard) => JSON.stringify([placeKey(shard), shard.schema]),
      ).flatMap(([shard]) => (shard ? [{ ...shard, grants }] : []));
    });
    await onEach(grouped(schemas, placeKey), async ([first, ...others]) => {
      if (!first) return;
      try {
        const login = { role: first.owner, password: first.password };
        await using session = await this.#deps.sessions.open(first, login, { signal });
        for (const { schema, grants } of [first, ...others])
          await grantShards(session, schema, { grants, revoke: true });
      } catch (error) {
        throw fromDataNode(first.node, error);
      }
    });
  }
}

/** A role that is missing on a data node gets its rights when it has been created. */
export function missingRoles(node: string, roles: readonly string[]): Notice[] {
  return roles.map((role) => ({
    severity: 'warning',
    message: `role "${role}", which has rights on the table, does not exist on data node "${node}"`,
    detail: 'It can use the table some seconds after it was created there.',
  }));
}
