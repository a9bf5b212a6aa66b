import { messageOf, VarveError } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import type { NodeSessions, SessionWork } from './node-session.ts';
import type { WithAdmin } from './operations.ts';
import type { RegisteredNode } from './request.ts';
import { describeTarget, type Target } from './target.ts';

/** Work on several data nodes at once, each in one session. */

/** Sessions open at a time. */
const CONCURRENCY = 16;

/** Runs `work` on all items, `CONCURRENCY` at a time, and throws what failed, together, after all have ended. */
export async function onEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const errors: unknown[] = [];
  const worker = async (): Promise<void> => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) {
      await work(item).catch((error: unknown) => errors.push(error));
    }
  };
  await Promise.all(Array.from({ length: Math.min(CONCURRENCY, items.length) }, worker));
  if (errors.length > 0) throw together(errors);
}

/** One error that has all of them; the first one gives code, SQLSTATE and hint. */
function together(errors: readonly unknown[]): unknown {
  const messages = new Set(errors.map(messageOf));
  const [first] = errors;
  if (messages.size === 1 || !errors.every((error) => error instanceof VarveError)) return first;
  const all = errors as VarveError[];
  const hints = new Set(all.map(({ hint }) => hint));
  const lines = all.map(({ message, detail, hint }, i) =>
    [
      `${i + 1}. ${message}`,
      ...(detail ? [`   ${detail}`] : []),
      ...(hint && hints.size > 1 ? [`   Remedy: ${hint}`] : []),
    ].join('\n'),
  );
  const { code, sqlstate, hint } = first as VarveError;
  return new VarveError(code, `${errors.length} data nodes failed; ${messageOf(first)}`, {
    sqlstate,
    detail: lines.join('\n'),
    hint: hints.size === 1 ? hint : 'Mend all of them and repeat the call.',
    cause: first,
  });
}

/** The items that have the same key, in the order of their first appearance. */
export function grouped<T>(items: readonly T[], key: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(key(item));
    if (group) group.push(item);
    else groups.set(key(item), [item]);
  }
  return [...groups.values()];
}

/** The registered node of this name, as the caller's transaction sees it. */
export function nodeNamed(nodes: readonly RegisteredNode[], name: string): RegisteredNode {
  const node = nodes.find((candidate) => candidate.name === name);
  if (node) return node;
  throw new VarveError('INVALID_ARGUMENT', `data node "${name}" does not exist`, {
    sqlstate: SqlState.undefinedObject,
    hint: 'SELECT * FROM varve.data_nodes lists those that do.',
  });
}

/** Errors of a data node's server carry the node's name in front, with the SQLSTATE that they had there. */
export function fromDataNode(node: string, error: unknown): unknown {
  if (!(error instanceof VarveError)) return error;
  if (error.code !== 'QUERY_FAILED' && error.code !== 'CONNECTION_LOST') return error;
  const { sqlstate, detail } = error;
  const locked = sqlstate === SqlState.lockNotAvailable;
  const hint = locked
    ? 'A session there holds a lock: perhaps this transaction itself, which has read or written the table. Call it in a transaction of its own.'
    : error.hint;
  return new VarveError(error.code, `[${node}]: ${messageOf(error)}`, {
    sqlstate,
    detail,
    hint,
    cause: error,
  });
}

/** The password of a role's user mapping, as committed; undefined where it logs in otherwise. */
export async function mappedPassword(
  withAdmin: WithAdmin,
  where: { readonly database: string; readonly node: string; readonly role: string },
): Promise<string | undefined> {
  const row = await withAdmin(where.database, (admin) =>
    admin.maybeOne<{ password: string }>(
      `select o.option_value as password from pg_user_mappings m, pg_options_to_table(m.umoptions) o
       where m.srvname = $1 and m.usename = $2 and o.option_name = 'password'`,
      [where.node, where.role],
    ),
  );
  return row?.password;
}

/** A session on a database that may be gone, with all that would have to be done there; undefined then. */
export async function openUnlessGone(
  sessions: NodeSessions,
  target: Target,
  login: { readonly role: string; readonly password?: string | null | undefined },
  work: SessionWork,
): Promise<Connection | undefined> {
  try {
    return await sessions.open(target, login, work);
  } catch (error) {
    if (sqlStateOf(error) === SqlState.invalidCatalogName) return undefined;
    throw error;
  }
}

/** What a data node has to be able to do, found out before anything is written. */
export async function checkShardNode(
  session: Connection,
  node: RegisteredNode,
  distId: string,
): Promise<{ timescaledb: boolean }> {
  const { ready } = await session.one<{ ready: boolean }>(
    `select to_regprocedure('varve.create_shards(jsonb)') is not null as ready`,
  );
  if (!ready) {
    throw new VarveError(
      'DATA_NODE_INVALID',
      `data node "${node.name}" does not have extension varve as it is here`,
      {
        hint: 'Update the extension there, or delete the node and add it anew.',
      },
    );
  }
  const seen = await session.one<{
    dist_id: string | null;
    uuid: string;
    timescaledb: boolean;
    may_create: boolean;
    recovering: boolean;
  }>(
    `select d ->> 'distId' as dist_id, d ->> 'uuid' as uuid, d -> 'timescaledb' <> 'null' as timescaledb,
       has_database_privilege(current_database(), 'CREATE') as may_create, pg_is_in_recovery() as recovering
     from varve._describe_database() d`,
  );
  const where = describeTarget(node);
  if (seen.uuid !== node.uuid || seen.dist_id !== distId) {
    throw new VarveError('DATA_NODE_INVALID', `${where} is no longer data node "${node.name}"`, {
      hint: 'SELECT * FROM health() tells what is wrong with it.',
    });
  }
  if (seen.recovering) {
    throw new VarveError('DATA_NODE_READ_ONLY', `data node "${node.name}" is a standby and takes no writes`, {
      hint: 'Give alter_data_node the address of its primary.',
    });
  }
  if (!seen.may_create) {
    const role = session.endpoint.user;
    throw new VarveError(
      'PERMISSION_DENIED',
      `role "${role}" may not create schemas on data node "${node.name}"`,
      {
        hint: `On the data node, in database "${node.database}": GRANT CREATE ON DATABASE "${node.database}" TO "${role}".`,
      },
    );
  }
  return { timescaledb: seen.timescaledb };
}
