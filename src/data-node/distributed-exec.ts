import { randomUUID } from 'node:crypto';
import * as z from 'zod';
import { messageOf, VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteLiteral } from '../postgres/sql.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import type { NodeSessions } from './node-session.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations } from './operations.ts';
import { parse, type Notice, type RegisteredNode, type Reply, type Request } from './request.ts';

/**
 * `distributed_exec`: one command on several data nodes. Transactional: it is prepared on all of them (two-phase
 * commit) before the call returns, and committed or rolled back there when the caller's transaction ends.
 * Otherwise it takes effect on each node at once.
 */
const argumentsSchema = z.object({
  query: z.string().min(1),
  nodes: z.array(z.string()).nullable(),
  transactional: z.boolean(),
});

export class DistributedExec implements OperationKind {
  readonly #sessions: NodeSessions;
  readonly #passwords = new Map<string, readonly (string | null)[]>();

  constructor(deps: { readonly sessions: NodeSessions }) {
    this.#sessions = deps.sessions;
  }

  async handle(request: Request, operations: Operations, signal: AbortSignal): Promise<Reply> {
    const { query, nodes, transactional } = parse(argumentsSchema, request.arguments, 'distributed_exec');
    const chosen = request.nodes.filter((node) => nodes === null || nodes.includes(node.name));
    const notices: Notice[] = [];
    const sessions: Connection[] = [];
    try {
      for (const node of chosen) {
        const login = { role: request.caller, password: node.password };
        const onNotice = (notice: Notice): void => void notices.push(notice);
        sessions.push(await this.#sessions.open(node, login, { signal, onNotice }));
      }
      if (!transactional) {
        await everywhere(chosen, sessions, (session) => session.query(query));
        return { result: {}, notices };
      }
      const operation = await this.#prepare({ request, operations, chosen, sessions, query });
      return { operation, result: {}, notices };
    } finally {
      for (const session of sessions) void session.close();
    }
  }

  confirm(operation: Operation, signal: AbortSignal): Promise<void> {
    return this.#finish(operation, 'commit prepared', signal);
  }

  undo(operation: Operation, signal: AbortSignal): Promise<void> {
    return this.#finish(operation, 'rollback prepared', signal);
  }

  async #prepare(call: {
    readonly request: Request;
    readonly operations: Operations;
    readonly chosen: readonly RegisteredNode[];
    readonly sessions: readonly Connection[];
    readonly query: string;
  }): Promise<string> {
    const { request, operations, chosen, sessions } = call;
    await everywhere(chosen, sessions, refuseWithoutPrepared);
    const { xid, database, caller } = request;
    const id = randomUUID();
    const targets = chosen.map(({ host, port, database: remote }) => ({ host, port, database: remote }));
    const subject = chosen.map((node) => node.name).join(', ');
    this.#passwords.set(
      id,
      chosen.map((node) => node.password),
    );
    await operations.begin({
      id,
      kind: 'distributed_exec',
      xid,
      database,
      caller,
      subject,
      targets,
      facts: {},
    });
    try {
      await everywhere(chosen, sessions, async (session, i) => {
        await holdOperation(session, id);
        await session.query('begin');
        await session.query(call.query);
        const { command } = await session.query(
          `prepare transaction ${quoteLiteral(transactionName(id, i))}`,
        );
        // A command that ended the transaction by itself leaves nothing to prepare.
        if (command.startsWith('PREPARE')) return;
        throw new VarveError('INVALID_ARGUMENT', 'the command may not begin or end transactions', {
          hint: 'Leave COMMIT and ROLLBACK out, or pass transactional => false.',
        });
      });
    } catch (error) {
      for (const session of sessions) session.destroy();
      await operations.failed(id);
      throw error;
    }
    operations.replied(id);
    return id;
  }

  async #finish(
    operation: Operation,
    verb: 'commit prepared' | 'rollback prepared',
    signal: AbortSignal,
  ): Promise<void> {
    const passwords = this.#passwords.get(operation.id) ?? [];
    for (const [i, target] of operation.targets.entries()) {
      await using session = await this.#sessions.open(
        target,
        { role: operation.caller, password: passwords[i] },
        { signal },
      );
      await holdOperation(session, operation.id);
      try {
        await session.query(`${verb} ${quoteLiteral(transactionName(operation.id, i))}`);
      } catch (error) {
        // Not prepared, or finished by an earlier attempt.
        if (sqlStateOf(error) !== SqlState.undefinedObject) throw error;
      }
    }
    this.#passwords.delete(operation.id);
  }
}

function transactionName(id: string, index: number): string {
  return `varve_${id}_${index}`;
}

/**
 * Waits for the end of the session that works for this operation: a server finishes what it was sent, and could
 * prepare behind the back of the one who looked and found nothing to roll back.
 */
async function holdOperation(session: Connection, id: string): Promise<void> {
  await session.query('select pg_advisory_lock(hashtextextended($1, 0))', [`varve operation ${id}`]);
}

async function refuseWithoutPrepared(session: Connection): Promise<void> {
  const { allowed } = await session.one<{ allowed: number }>(
    `select current_setting('max_prepared_transactions')::integer as allowed`,
  );
  if (allowed > 0) return;
  throw new VarveError('PREPARED_TRANSACTIONS_DISABLED', 'prepared transactions are disabled', {
    detail: 'Parameter max_prepared_transactions=0.',
    hint: 'Set max_prepared_transactions to the number of sessions there and restart it, or pass transactional => false.',
  });
}

/** All nodes at once; the first error, with its node's name in front, after all have ended. */
async function everywhere(
  nodes: readonly RegisteredNode[],
  sessions: readonly Connection[],
  work: (session: Connection, index: number) => Promise<unknown>,
): Promise<void> {
  const outcomes = await Promise.allSettled(sessions.map((session, i) => work(session, i)));
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome.status === 'fulfilled') continue;
    const { reason } = outcome as { reason: unknown };
    if (!(reason instanceof VarveError)) throw reason;
    const { sqlstate, detail, hint } = reason;
    throw new VarveError(reason.code, `[${nodes[i]?.name}]: ${messageOf(reason)}`, {
      sqlstate,
      detail,
      hint,
      cause: reason,
    });
  }
}
