import { randomUUID } from 'node:crypto';
import * as z from 'zod';
import { messageOf, VarveError } from '../core/errors.ts';
import { runSteps, type RunDeps } from '../run/run.ts';
import { done, todo, type Step } from '../run/step.ts';
import type { Connection } from '../postgres/connection.ts';
import { describeDatabase } from './describe-database.ts';
import { findingsError } from './findings.ts';
import { judge } from './judge.ts';
import type { Judgement, Wanted } from './judgement.ts';
import type { Login, NodeSessions } from './node-session.ts';
import { observeDatabase, observeServer, type ServerObservation } from './observe.ts';
import { OfferMemory } from './offer-memory.ts';
import type { Operation } from './operation.ts';
import type { OperationKind, Operations, WithAdmin } from './operations.ts';
import {
  becomeDataNode,
  createDatabaseSql,
  databaseByOid,
  drawDatabaseOid,
  dropDatabaseByOid,
  holdDatabase,
  leaveDataNode,
} from './provision.ts';
import { parse, type Notice, type RegisteredNode, type Reply, type Request } from './request.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import { describeTarget, type Target } from './target.ts';
import type { VersionPolicy } from './version-rule.ts';

/** `add_data_node`, after TimescaleDB's document on data node bootstrapping: look, judge, then act. */

export interface AddDataNodeDeps extends RunDeps {
  readonly sessions: NodeSessions;
  readonly withAdmin: WithAdmin;
}

export interface AddDataNodeOptions {
  /** Name of the access node, for other systems' error messages. */
  readonly node: string;
  readonly policy: VersionPolicy;
}

const argumentsSchema = z.object({
  name: z.string().min(1),
  host: z.string().min(1).max(255),
  port: z.number().int().min(1).max(65_535),
  database: z.string().min(1).max(63),
  bootstrap: z.boolean(),
  password: z.string().nullable(),
});

interface Bootstrap extends Disposable {
  readonly request: Request;
  readonly wanted: Wanted;
  readonly login: Login;
  readonly token: string;
  readonly notices: Notice[];
  /** Sessions that end with the call. */
  readonly sessions: Connection[];
  maintenance?: Connection;
  database?: Connection;
  judgement?: Judgement;
  begun: boolean;
  uuid?: string;
}

export class AddDataNode implements OperationKind {
  readonly #deps: AddDataNodeDeps;
  readonly #options: AddDataNodeOptions;
  /** Of calls that gave one, by target: taking back after a failure needs it, and it is written nowhere. */
  readonly #passwords = new Map<string, string>();
  readonly #offers = new OfferMemory();

  constructor(deps: AddDataNodeDeps, options: AddDataNodeOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /**
   * Validates or creates the database and marks it. Nothing is written before everything was checked.
   * @throws DATA_NODE_INVALID, DATA_NODE_FOREIGN, DATA_NODE_EXISTS, … : all findings at once
   */
  async handle(request: Request, operations: Operations, signal: AbortSignal): Promise<Reply> {
    using bootstrap = this.#prepare(request);
    const { wanted, login, token, notices } = bootstrap;
    await operations.waitForTarget(wanted.target, { ...request, visible: request.operations }, signal);
    const steps = this.#steps(operations);
    const run = { run: `add-data-node ${wanted.name}`, node: this.#options.node };
    try {
      await runSteps(this.#deps, { ...run, steps, context: bootstrap, signal });
    } catch (error) {
      // Taking back waits for their end.
      await Promise.all(bootstrap.sessions.map((session) => session.close()));
      if (bootstrap.begun) await operations.failed(token);
      throw fromNode(wanted.name, error);
    }
    operations.replied(token);
    const plan = bootstrap.judgement?.plan;
    return {
      operation: token,
      notices,
      result: {
        token,
        uuid: bootstrap.uuid,
        databaseCreated: plan?.createDatabase ?? false,
        extensionCreated: plan?.extensions.some((extension) => extension.name === 'varve') ?? false,
        login: await this.#deps.sessions.serverLogin(wanted.target, login),
      },
    };
  }

  /** The checks alone: what a call with these arguments would find and do. */
  async plan(request: Request, signal: AbortSignal): Promise<Judgement> {
    using bootstrap = this.#prepare(request);
    await this.#look(bootstrap, signal);
    if (!bootstrap.judgement) throw new Error('assertion failed: looked without judging');
    return bootstrap.judgement;
  }

  async confirm(operation: Operation): Promise<void> {
    for (const target of operation.targets) this.#passwords.delete(describeTarget(target));
    return Promise.resolve();
  }

  async undo(operation: Operation, signal: AbortSignal): Promise<void> {
    const [target] = operation.targets;
    if (!target) return;
    const login = { role: operation.caller, password: this.#passwords.get(describeTarget(target)) };
    const oid = operation.facts['databaseOid'];
    if (typeof oid === 'number') {
      await using session = await this.#deps.sessions.openMaintenance(target, login, { signal });
      await holdDatabase(session, target, 'outside');
      if (!(await this.#isInGroup(operation.database, signal))) await dropDatabaseByOid(session, oid);
      else {
        const database = await databaseByOid(session, oid);
        const theirs =
          database !== undefined && (await this.#isTakenOver({ ...target, database }, login, operation.id));
        if (!theirs) await dropDatabaseByOid(session, oid);
      }
    } else {
      await this.#leave(target, login, { token: operation.id, signal });
    }
    this.#passwords.delete(describeTarget(target));
  }

  /** Where an access node stands alone nobody else adopts what it made, and no further connection is needed. */
  async #isInGroup(database: string, signal: AbortSignal): Promise<boolean> {
    const look = async (admin: Connection): Promise<boolean> => {
      const { grouped } = await admin.one<{ grouped: boolean }>(
        `select pg_catalog.to_regclass('varve_group.local') is not null as grouped`,
      );
      return grouped;
    };
    return await this.#deps.withAdmin(database, look, signal).catch((error: unknown) => {
      // An access database that was dropped is in no group.
      if (sqlStateOf(error) === SqlState.invalidCatalogName) return false;
      throw error;
    });
  }

  /** Whether another call has made the database its own: one on another access node of the group, after a fail-over. */
  async #isTakenOver(target: Target, login: Login, token: string): Promise<boolean> {
    try {
      await using session = await this.#deps.sessions.open(target, login, {});
      const mark = (await describeDatabase(session))?.distToken ?? null;
      return mark !== null && mark !== token;
    } catch (error) {
      // Gone by now, or never finished: nobody can have made anything of it.
      const state = sqlStateOf(error);
      if (state === SqlState.invalidCatalogName || state === SqlState.objectNotInPrerequisiteState)
        return false;
      throw error;
    }
  }

  async #leave(target: Target, login: Login, work: { token: string; signal: AbortSignal }): Promise<void> {
    let session: Connection;
    try {
      session = await this.#deps.sessions.open(target, login, { signal: work.signal });
    } catch (error) {
      // Without its database nothing is left that could be taken back.
      if (sqlStateOf(error) === SqlState.invalidCatalogName) return;
      throw error;
    }
    try {
      await holdDatabase(session, target, 'inside');
      await leaveDataNode(session, work.token);
    } finally {
      await session.close();
    }
  }

  #prepare(request: Request): Bootstrap {
    const given = parse(argumentsSchema, request.arguments, 'add_data_node');
    const target = { host: given.host, port: given.port, database: given.database };
    if (given.password !== null) this.#passwords.set(describeTarget(target), given.password);
    const sessions: Connection[] = [];
    const held = this.#offers.hold(target);
    return {
      request,
      wanted: {
        name: given.name,
        target,
        caller: request.caller,
        bootstrap: given.bootstrap,
        access: request.access,
        nodes: request.nodes,
        policy: this.#options.policy,
      },
      login: { role: request.caller, password: given.password },
      token: randomUUID(),
      notices: [],
      sessions,
      begun: false,
      [Symbol.dispose]: () => {
        held[Symbol.dispose]();
        for (const session of sessions) void session.close();
      },
    };
  }

  #steps(operations: Operations): Step<Bootstrap>[] {
    return [
      {
        name: 'check',
        check: () => Promise.resolve(todo('nothing is written before all is checked')),
        apply: async (bootstrap, { signal }) => {
          await this.#look(bootstrap, signal);
          const { findings = [], notices = [] } = bootstrap.judgement ?? {};
          if (findings.length > 0) throw findingsError(bootstrap.wanted.name, findings);
          bootstrap.notices.push(...notices);
        },
      },
      {
        name: 'create-database',
        check: (bootstrap) =>
          Promise.resolve(
            bootstrap.judgement?.plan.createDatabase ? todo(describeTarget(bootstrap.wanted.target)) : done,
          ),
        apply: (bootstrap) => this.#createDatabase(bootstrap, operations),
      },
      {
        name: 'become-data-node',
        check: (bootstrap) => Promise.resolve(todo(describeTarget(bootstrap.wanted.target))),
        apply: (bootstrap, { signal }) => this.#becomeDataNode(bootstrap, operations, signal),
      },
    ];
  }

  async #look(bootstrap: Bootstrap, signal: AbortSignal): Promise<void> {
    const { wanted, login } = bootstrap;
    const { sessions } = this.#deps;
    const work = { signal, onNotice: (notice: Notice) => bootstrap.notices.push(notice) };
    let server: ServerObservation | undefined;
    if (wanted.bootstrap) {
      bootstrap.maintenance = await sessions.openMaintenance(wanted.target, login, work);
      bootstrap.sessions.push(bootstrap.maintenance);
      await holdDatabase(bootstrap.maintenance, wanted.target, 'outside');
      server = await observeServer(
        bootstrap.maintenance,
        wanted.target.database,
        this.#offers.recall(wanted.target),
      );
    }
    if (server && !server.database) {
      this.#offers.remember(wanted.target, server.offers);
      bootstrap.judgement = judge(wanted, { server });
      return;
    }
    const session = await sessions.open(wanted.target, login, work);
    bootstrap.sessions.push(session);
    bootstrap.database = session;
    await holdDatabase(session, wanted.target, 'inside');
    const { access } = wanted;
    const extensions = [access.varve, ...(access.timescaledb ? [access.timescaledb] : [])];
    const names = access.timescaledb ? ['varve', 'timescaledb'] : ['varve'];
    const database = await observeDatabase(session, {
      schemas: ['varve', ...extensions.map(({ schema }) => schema)],
      create: wanted.bootstrap ? names : [],
    });
    const ours = database.description?.distId === access.uuid;
    const nodes = ours ? [...wanted.nodes, ...(await this.#registered(access.database))] : wanted.nodes;
    bootstrap.judgement = judge({ ...wanted, nodes }, { server, database });
  }

  /** The registry as committed by now: the caller's snapshot may be older. */
  async #registered(database: string): Promise<RegisteredNode[]> {
    return this.#deps.withAdmin(database, async (admin) => {
      const { rows } = await admin.query<RegisteredNode>(
        `select node_name as name, host, port, database, node_uuid as uuid, token, available, null as password
         from varve.data_node`,
      );
      return rows;
    });
  }

  async #begin(bootstrap: Bootstrap, operations: Operations, facts: Record<string, unknown>): Promise<void> {
    const { request, wanted, token } = bootstrap;
    const { xid, database, caller } = request;
    const targets = [wanted.target];
    await operations.begin({
      id: token,
      kind: 'add_data_node',
      xid,
      database,
      caller,
      subject: wanted.name,
      targets,
      facts,
    });
    bootstrap.begun = true;
  }

  async #createDatabase(bootstrap: Bootstrap, operations: Operations): Promise<void> {
    const { wanted, maintenance } = bootstrap;
    if (!maintenance)
      throw new Error('assertion failed: a database is created without a maintenance session');
    const oid = drawDatabaseOid();
    await this.#begin(bootstrap, operations, { databaseOid: oid });
    await maintenance.query(createDatabaseSql(wanted.access, wanted.target.database, wanted.caller, oid));
  }

  async #becomeDataNode(bootstrap: Bootstrap, operations: Operations, signal: AbortSignal): Promise<void> {
    const { wanted, login, token, judgement } = bootstrap;
    if (!judgement) throw new Error('assertion failed: acting without a judgement');
    if (!bootstrap.begun) await this.#begin(bootstrap, operations, {});
    if (!bootstrap.database) {
      const onNotice = (notice: Notice): unknown => bootstrap.notices.push(notice);
      bootstrap.database = await this.#deps.sessions.open(wanted.target, login, {
        signal,
        onNotice: (n) => void onNotice(n),
      });
      bootstrap.sessions.push(bootstrap.database);
    }
    const { access } = wanted;
    bootstrap.uuid = await becomeDataNode(bootstrap.database, judgement.plan, {
      distId: access.uuid,
      token,
      owner: `database "${access.database}" of access node ${this.#options.node} (port ${access.serverPort})`,
    });
  }
}

/** Errors of the data node's server carry its name in front, with the SQLSTATE that they had there. */
function fromNode(name: string, error: unknown): unknown {
  if (!(error instanceof VarveError) || (error.code !== 'QUERY_FAILED' && error.code !== 'CONNECTION_LOST'))
    return error;
  return new VarveError(error.code, `[${name}]: ${messageOf(error)}`, {
    sqlstate: error.sqlstate,
    detail: error.detail,
    hint:
      error.hint ?? 'What had been made on the data node is taken back. Mend the cause and repeat the call.',
    cause: error,
  });
}
