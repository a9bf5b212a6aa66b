import { randomUUID } from 'node:crypto';
import { VarveError } from '../core/errors.ts';
import { planAttach, planDetach, spreadShards, type PlacedShard } from '../placement/shard-spread.ts';
import type { Connection } from '../postgres/connection.ts';
import type { CollectShards } from './collect-shards.ts';
import type { NodeSessions } from './node-session.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations, WithAdmin } from './operations.ts';
import { parse, type Notice, type RegisteredNode, type Reply, type Request } from './request.ts';
import { missingRoles } from './shard-grants.ts';
import {
  checkShardNode,
  fromDataNode,
  grouped,
  mappedPassword,
  nodeNamed,
  onEach,
  openUnlessGone,
} from './shard-nodes.ts';
import { tableSchema, type Shard, type TableRequest } from './shard-request.ts';
import { createShards, grantShards, undoShards } from './shard-session.ts';
import type { Target } from './target.ts';

/**
 * Makes the tables of shards on data nodes, for `create_distributed_hypertable`, `attach_data_node` and
 * `detach_data_node`. All that one call makes on a node is in one schema that has the call's name: taking it back
 * is dropping that schema. Tables that a call replaces are dropped after its transaction was committed.
 */
export interface PlaceShardsDeps {
  readonly sessions: NodeSessions;
  readonly withAdmin: WithAdmin;
  readonly collect: CollectShards;
}

interface Facts {
  readonly schema: string;
  readonly nodes: readonly (Target & { readonly name: string })[];
}

interface Place {
  readonly node: RegisteredNode;
  readonly session: Connection;
  readonly timescaledb: boolean;
}

interface Plan {
  readonly shards: readonly PlacedShard[];
  /** Shards that should move and hold rows. */
  readonly keptCount: number;
}

export class PlaceShards implements OperationKind {
  readonly #deps: PlaceShardsDeps;
  /** By operation: the caller's passwords, by node. They are written nowhere. */
  readonly #passwords = new Map<string, ReadonlyMap<string, string>>();

  constructor(deps: PlaceShardsDeps) {
    this.#deps = deps;
  }

  /**
   * @throws DATA_NODE_UNREACHABLE, DATA_NODE_INVALID, PERMISSION_DENIED before anything is written
   * @throws SHARD_IN_PLACE when a node that is to leave has shards with rows
   */
  async handle(request: Request, operations: Operations, signal: AbortSignal): Promise<Reply> {
    const table = parse(tableSchema, request.arguments, request.op);
    const notices: Notice[] = [];
    const plan = await this.#plan(request, table, signal);
    if (plan.shards.length === 0) return { result: { shards: [], logins: [], kept: plan.keptCount } };
    const places: Place[] = [];
    const id = randomUUID();
    const schema = schemaName(table.table.name, id);
    let begun = false;
    try {
      await this.#open(request, plan, { places, signal });
      await this.#begin(request, operations, { id, schema, table, places });
      begun = true;
      await onEach(places, (place) => this.#make(place, { id, schema, table, plan, notices }));
    } catch (error) {
      for (const { session } of places) session.destroy();
      if (begun) await operations.failed(id);
      throw error;
    } finally {
      for (const { session } of places) void session.close();
    }
    operations.replied(id);
    const shards = plan.shards.map(({ number, node }) => ({
      number,
      node,
      schema,
      table: tableName(number, table),
    }));
    const logins = await this.#logins(request, places);
    return { operation: id, notices, result: { shards, logins, kept: plan.keptCount } };
  }

  async confirm(operation: Operation, signal: AbortSignal): Promise<void> {
    this.#passwords.delete(operation.id);
    await this.#deps.collect.collect(operation.database, signal);
  }

  async undo(operation: Operation, signal: AbortSignal): Promise<void> {
    const { schema, nodes } = operation.facts as unknown as Facts;
    const { database, caller: role, id } = operation;
    await onEach(nodes, async (node) => {
      const password =
        this.#passwords.get(id)?.get(node.name) ??
        (await mappedPassword(this.#deps.withAdmin, { database, node: node.name, role }).catch(
          () => undefined,
        ));
      await using session = await openUnlessGone(this.#deps.sessions, node, { role, password }, { signal });
      // Without its database nothing is left that could be taken back.
      if (session) await undoShards(session, schema, id);
    });
    this.#passwords.delete(id);
  }

  async #plan(request: Request, table: TableRequest, signal: AbortSignal): Promise<Plan> {
    const { nodes, node, shards, shardCount } = table;
    if (node === undefined) return { shards: spreadShards(shardCount, nodes), keptCount: 0 };
    if (request.op === 'attach_data_node') {
      const members = { nodes, newcomer: node };
      const ideal = planAttach(shards, members, () => true);
      const empty = await this.#empty(request, shards, signal);
      const moves = planAttach(shards, members, (number) => empty.has(number));
      return { shards: moves, keptCount: ideal.length - moves.length };
    }
    const leaving = shards.filter((shard) => shard.node === node);
    const empty = await this.#empty(request, leaving, signal);
    const kept = leaving.filter(({ number }) => !empty.has(number));
    if (kept.length > 0) {
      throw new VarveError('SHARD_IN_PLACE', 'insufficient number of data nodes', {
        detail: `Distributed hypertable "${table.table.name}" would lose data if data node "${node}" left it: ${kept.length} of its ${leaving.length} shards there hold rows, of which there is no other copy.`,
        hint: 'This version moves shards without rows only. Delete the rows, or copy them to a table on other nodes.',
      });
    }
    const available = nodes.filter((name) => nodeNamed(request.nodes, name).available);
    const moves = planDetach(shards, { nodes: available, leaver: node });
    if (moves.length < leaving.length) {
      throw new VarveError('SHARD_IN_PLACE', 'insufficient number of data nodes', {
        detail: `No other data node of "${table.table.name}" is available to take the ${leaving.length} shards on "${node}".`,
        hint: 'Attach another data node, or make one available again (alter_data_node).',
      });
    }
    return { shards: moves, keptCount: 0 };
  }

  /** Numbers of the shards without rows, as committed by now; one that is being written to is not among them. */
  async #empty(request: Request, shards: readonly Shard[], signal: AbortSignal): Promise<Set<number>> {
    const empty = new Set<number>();
    const groups = grouped(shards, ({ node, owner, schema }) => JSON.stringify([node, owner, schema]));
    await onEach(groups, async (group) => {
      const [{ node: name, owner: role, password, schema } = {} as Shard] = group;
      const node = nodeNamed(request.nodes, name);
      await using session = await this.#deps.sessions.open(node, { role, password }, { signal });
      const { tables } = await session
        .one<{ tables: string[] }>('select varve.empty_shards($1, $2)::text[] as tables', [
          schema,
          group.map(({ table }) => table),
        ])
        .catch((error: unknown) => {
          throw fromDataNode(name, error);
        });
      for (const shard of group) if (tables.includes(shard.table)) empty.add(shard.number);
    });
    return empty;
  }

  /** Opens all nodes and checks them, before anything is written anywhere. */
  async #open(
    request: Request,
    plan: Plan,
    into: { readonly places: Place[]; readonly signal: AbortSignal },
  ): Promise<void> {
    const names = [...new Set(plan.shards.map(({ node }) => node))];
    await onEach(names, async (name) => {
      const node = nodeNamed(request.nodes, name);
      const login = { role: request.caller, password: node.password };
      const session = await this.#deps.sessions.open(node, login, { signal: into.signal });
      const place = { node, session, timescaledb: false };
      into.places.push(place);
      const { timescaledb } = await checkShardNode(session, node, request.access.uuid);
      place.timescaledb = timescaledb && request.access.timescaledb !== null;
    });
  }

  async #begin(
    request: Request,
    operations: Operations,
    made: {
      readonly id: string;
      readonly schema: string;
      readonly table: TableRequest;
      readonly places: readonly Place[];
    },
  ): Promise<void> {
    const { op: kind, xid, database, caller } = request;
    const { id, schema, table, places } = made;
    const facts: Facts = {
      schema,
      nodes: places.map(({ node: { name, host, port, database: remote } }) => ({
        name,
        host,
        port,
        database: remote,
      })),
    };
    const passwords = places.flatMap(({ node }): [string, string][] =>
      node.password === null ? [] : [[node.name, node.password]],
    );
    this.#passwords.set(id, new Map(passwords));
    const subject = `${table.table.schema}.${table.table.name}`;
    // No targets: calls on other tables of the same nodes need not wait for this one's transaction.
    await operations.begin({ id, kind, xid, database, caller, subject, targets: [], facts: { ...facts } });
  }

  async #make(
    place: Place,
    made: {
      readonly id: string;
      readonly schema: string;
      readonly table: TableRequest;
      readonly plan: Plan;
      readonly notices: Notice[];
    },
  ): Promise<void> {
    const { id, schema, table, plan, notices } = made;
    const { hypertable, timeColumn, timeType, chunkInterval, columns, checks, indexes, grants } = table;
    const display = `${table.table.schema}.${table.table.name}`;
    const facts = { operation: id, hypertable, table: display, timeColumn, timeType, chunkInterval };
    const { timescaledb, session, node } = place;
    const spec = { operation: id, schema, facts, timescaledb, columns, checks, indexes };
    const tables = plan.shards
      .filter((shard) => shard.node === node.name)
      .map(({ number }) => tableName(number, table));
    try {
      await createShards(session, spec, tables);
      const missing = await grantShards(session, schema, { grants, revoke: false });
      notices.push(...missingRoles(node.name, missing));
    } catch (error) {
      throw fromDataNode(node.name, error);
    }
  }

  async #logins(request: Request, places: readonly Place[]): Promise<object[]> {
    return Promise.all(
      places.map(async ({ node }) => ({
        node: node.name,
        login: await this.#deps.sessions.serverLogin(node, { role: request.caller, password: node.password }),
      })),
    );
  }
}

/** `varve_<table>_<call>`: readable, of at most 63 bytes, and never the same twice. */
export function schemaName(table: string, operation: string): string {
  const suffix = `_${operation.replaceAll('-', '').slice(0, 12)}`;
  let stem = table;
  while (Buffer.byteLength(`varve_${stem}${suffix}`) > 63) stem = Array.from(stem).slice(0, -1).join('');
  return `varve_${stem}${suffix}`;
}

function tableName(number: number, { shardCount }: TableRequest): string {
  return `s${String(number).padStart(Math.max(2, String(shardCount - 1).length), '0')}`;
}
