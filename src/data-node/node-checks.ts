import * as z from 'zod';
import { messageOf, VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { describeDatabase } from './describe-database.ts';
import type { NodeSessions } from './node-session.ts';
import { parse, type RegisteredNode, type Reply, type Request } from './request.ts';
import { describeTarget, type Target } from './target.ts';

/** Questions to data nodes that change nothing. Each opens a fresh session, as a later query would. */

const CONCURRENCY = 16;

export class NodeChecks {
  readonly #sessions: NodeSessions;

  constructor(deps: { readonly sessions: NodeSessions }) {
    this.#sessions = deps.sessions;
  }

  /** Whether the node lets the caller in within the time; never an error for a node that does not. */
  async ping(request: Request, signal: AbortSignal): Promise<Reply> {
    const schema = z.object({ name: z.string(), timeoutMs: z.number().positive().nullable() });
    const { name, timeoutMs } = parse(schema, request.arguments, 'ping_data_node');
    const node = request.nodes.find((candidate) => candidate.name === name);
    if (!node) return { result: { alive: false } };
    try {
      await using session = await this.#open(node, request.caller, { signal, timeoutMs });
      await session.query('select 1', [], timeoutMs === null ? {} : { timeoutMs });
      return { result: { alive: true } };
    } catch (error) {
      signal.throwIfAborted();
      const notice = { severity: 'warning' as const, sqlstate: '08001', message: messageOf(error) };
      return { result: { alive: false }, notices: [notice] };
    }
  }

  /** One row a node: whether it answers, is writable, and is still this access database's data node. */
  async health(request: Request, signal: AbortSignal): Promise<Reply> {
    const waiting = [...request.nodes];
    const rows = new Map<string, object>();
    const worker = async (): Promise<void> => {
      for (let node = waiting.shift(); node; node = waiting.shift()) {
        rows.set(node.name, await this.#healthOf(node, request, signal));
      }
    };
    await Promise.all(Array.from({ length: CONCURRENCY }, worker));
    return { result: { nodes: request.nodes.map((node) => rows.get(node.name)) } };
  }

  /**
   * An address that `alter_data_node` is to store: it must lead to the same database as before.
   * @throws DATA_NODE_UNREACHABLE, DATA_NODE_INVALID
   */
  async address(request: Request, signal: AbortSignal): Promise<Reply> {
    const schema = z.object({
      name: z.string(),
      host: z.string(),
      port: z.number(),
      database: z.string(),
      uuid: z.uuid(),
    });
    const { name, uuid, ...target } = parse(schema, request.arguments, 'alter_data_node');
    const password = request.nodes.find((node) => node.name === name)?.password;
    const login = { role: request.caller, password };
    await using session = await this.#sessions.open(target, login, { signal });
    const there = await describeDatabase(session);
    if (there?.uuid !== uuid) {
      throw new VarveError(
        'DATA_NODE_INVALID',
        `${describeTarget(target)} is not the database of data node "${name}"`,
        {
          detail: there ? `Its uuid is ${there.uuid}, expected was ${uuid}.` : 'It has no extension "varve".',
          hint: 'alter_data_node follows a database to a new address. To use another database, delete the node and add it anew.',
        },
      );
    }
    return { result: { login: await this.#sessions.serverLogin(target, login) } };
  }

  async #healthOf(node: RegisteredNode, request: Request, signal: AbortSignal): Promise<object> {
    const row = {
      name: node.name,
      healthy: false,
      inRecovery: null as boolean | null,
      error: null as string | null,
    };
    try {
      await using session = await this.#open(node, request.caller, { signal, timeoutMs: null });
      const there = await describeDatabase(session);
      const { recovering } = await session.one<{ recovering: boolean }>(
        'select pg_is_in_recovery() as recovering',
      );
      row.inRecovery = recovering;
      if (there?.uuid !== node.uuid) row.error = 'the database at this address is another one than was added';
      else if (there.distId !== request.access.uuid)
        row.error = 'the database is no longer marked as a data node';
      else row.healthy = true;
    } catch (error) {
      signal.throwIfAborted();
      row.error = messageOf(error);
    }
    return row;
  }

  #open(
    node: Target & { readonly password: string | null },
    role: string,
    work: {
      readonly signal: AbortSignal;
      readonly timeoutMs: number | null;
    },
  ): Promise<Connection> {
    return this.#sessions.open(
      node,
      { role, password: node.password },
      { signal: work.signal, ...(work.timeoutMs === null ? {} : { connectTimeoutMs: work.timeoutMs }) },
    );
  }
}
