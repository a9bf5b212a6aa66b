import * as z from 'zod';
import type { Connection } from '../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import type { NodeSessions } from './node-session.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations } from './operations.ts';
import { dropDatabaseByOid } from './provision.ts';
import { parse, type Reply, type Request } from './request.ts';
import type { Target } from './target.ts';

/**
 * `delete_data_node`: the registry row goes in the caller's transaction; on the data node nothing happens
 * before that is committed. Then the mark is removed, or with `drop_database` the whole database, as soon as
 * the node answers. A node that is down can be deleted.
 */
const argumentsSchema = z.object({
  name: z.string(),
  host: z.string(),
  port: z.number(),
  database: z.string(),
  token: z.uuid(),
  dropDatabase: z.boolean(),
});

interface Facts {
  readonly token: string;
  readonly dropDatabase: boolean;
}

export class DeleteDataNode implements OperationKind {
  readonly #sessions: NodeSessions;
  readonly #passwords = new Map<string, string>();

  constructor(deps: { readonly sessions: NodeSessions }) {
    this.#sessions = deps.sessions;
  }

  async handle(request: Request, operations: Operations): Promise<Reply> {
    const { name, token, dropDatabase, ...target } = parse(
      argumentsSchema,
      request.arguments,
      'delete_data_node',
    );
    const { xid, database, caller } = request;
    const facts: Facts = { token, dropDatabase };
    const operation = await operations.begin({
      kind: 'delete_data_node',
      xid,
      database,
      caller,
      subject: name,
      targets: [target],
      facts: { ...facts },
    });
    const password = request.nodes.find((node) => node.name === name)?.password;
    if (password) this.#passwords.set(operation.id, password);
    operations.replied(operation.id);
    return { operation: operation.id, result: {} };
  }

  async confirm(operation: Operation, signal: AbortSignal): Promise<void> {
    const [target] = operation.targets;
    const { token, dropDatabase } = operation.facts as unknown as Facts;
    if (target) await this.#leave(operation, target, { token, dropDatabase, signal });
    this.#passwords.delete(operation.id);
  }

  undo(operation: Operation): Promise<void> {
    this.#passwords.delete(operation.id);
    return Promise.resolve();
  }

  async #leave(operation: Operation, target: Target, work: Facts & { signal: AbortSignal }): Promise<void> {
    const { signal, token } = work;
    const login = { role: operation.caller, password: this.#passwords.get(operation.id) };
    let session: Connection;
    try {
      session = await this.#sessions.open(target, login, { signal });
    } catch (error) {
      if (sqlStateOf(error) === SqlState.invalidCatalogName) return;
      throw error;
    }
    let oid: number | undefined;
    try {
      // Only what still carries the mark of this registration is ours to remove.
      const seen = await session
        .maybeOne<{ oid: string; mine: boolean }>(
          `select d.oid::text as oid, (varve._describe_database() ->> 'distToken') = $1 as mine
         from pg_database d where d.datname = current_database()
           and to_regprocedure('varve._describe_database()') is not null`,
          [token],
        )
        .catch((error: unknown) => {
          if (
            sqlStateOf(error) === SqlState.undefinedFunction ||
            sqlStateOf(error) === SqlState.invalidSchemaName
          )
            return undefined;
          throw error;
        });
      if (!seen?.mine) return;
      if (work.dropDatabase) oid = Number(seen.oid);
      else await session.query('select varve.clear_dist_id($1)', [token]);
    } finally {
      await session.close();
    }
    if (oid === undefined) return;
    await using maintenance = await this.#sessions.openMaintenance(target, login, { signal });
    await dropDatabaseByOid(maintenance, oid);
  }
}
