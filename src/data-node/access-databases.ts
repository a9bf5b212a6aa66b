import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Connection } from '../postgres/connection.ts';
import type { Log } from './log.ts';
import type { NodeSessions } from './node-session.ts';
import type { WithAdmin } from './operations.ts';

/**
 * Keeps what is derived in each access database equal to its registry: the daemon's own address, foreign
 * servers, user mappings. It finds access databases by itself, so `create extension varve` in a new database
 * is all that a user has to do.
 */
export interface AccessDatabasesDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly withAdmin: WithAdmin;
  readonly sessions: NodeSessions;
}

export interface AccessDatabasesOptions {
  /** A database that is always there, to list the others from. */
  readonly homeDatabase: string;
  /** Where the functions reach the daemon. */
  readonly address: { readonly host: string; readonly port: number; readonly secret: string };
  readonly intervalMs: number;
}

/** A server may hold many databases that are none of ours. */
const LOOK_AGAIN_MS = 15_000;

export interface AccessDatabase {
  readonly database: string;
  /** Whether this access node may change the registry: in a group, only one may. */
  readonly isWriteMaster: boolean;
  readonly nodes: readonly {
    readonly name: string;
    readonly host: string;
    readonly port: number;
    readonly database: string;
    readonly available: boolean;
  }[];
  readonly error?: string;
}

export class AccessDatabases {
  readonly #deps: AccessDatabasesDeps;
  readonly #options: AccessDatabasesOptions;
  #known: AccessDatabase[] = [];
  #failure: string | undefined;
  /** Databases that were seen without the extension, by OID, with the time of the next look. */
  readonly #without = new Map<string, number>();

  constructor(deps: AccessDatabasesDeps, options: AccessDatabasesOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** As of the last round; databases that have the extension and are no data nodes themselves. */
  known(): readonly AccessDatabase[] {
    return this.#known;
  }

  /** Rounds until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#deps.clock.sleep(this.#options.intervalMs, signal).catch(() => {});
      if (!signal.aborted) await this.round(signal);
    }
  }

  /** One round; a failing one is logged, and the next one tries again. */
  async round(signal: AbortSignal): Promise<void> {
    try {
      await this.reconcile(signal);
      this.#failure = undefined;
    } catch (error) {
      if (signal.aborted) return;
      // The same trouble is said once, not every round.
      if (messageOf(error) !== this.#failure)
        this.#deps.log.warn({ error }, 'access databases could not be looked after');
      this.#failure = messageOf(error);
    }
  }

  /** One round over all databases of the server. */
  async reconcile(signal: AbortSignal): Promise<void> {
    const known: AccessDatabase[] = [];
    for (const database of await this.#candidates(signal)) {
      try {
        const found = await this.#deps.withAdmin(database.name, (admin) => this.#reconcileOne(admin), signal);
        if (found === undefined)
          this.#without.set(database.oid, this.#deps.clock.monotonicMs() + LOOK_AGAIN_MS);
        else if (found !== 'data-node') known.push({ database: database.name, ...found });
      } catch (error) {
        signal.throwIfAborted();
        known.push({ database: database.name, isWriteMaster: true, nodes: [], error: messageOf(error) });
        this.#deps.log.warn(
          { error, database: database.name },
          'an access database could not be looked after',
        );
      }
    }
    this.#known = known;
  }

  async #candidates(signal: AbortSignal): Promise<{ oid: string; name: string }[]> {
    const { rows } = await this.#deps.withAdmin(
      this.#options.homeDatabase,
      (admin) =>
        admin.query<{ oid: string; name: string }>(
          `select oid::text as oid, datname as name from pg_database
           where datallowconn and not datistemplate order by datname`,
        ),
      signal,
    );
    const nowMs = this.#deps.clock.monotonicMs();
    return rows.filter((row) => (this.#without.get(row.oid) ?? 0) <= nowMs);
  }

  async #reconcileOne(
    admin: Connection,
  ): Promise<Pick<AccessDatabase, 'isWriteMaster' | 'nodes'> | 'data-node' | undefined> {
    const { present } = await admin.one<{ present: boolean }>(
      `select to_regclass('varve.endpoint') is not null and to_regprocedure('varve._unmapped_roles()') is not null as present`,
    );
    if (!present) return undefined;
    const { host, port, secret } = this.#options.address;
    await admin.query(
      `insert into varve.endpoint as e (host, port, secret) values ($1, $2, $3)
       on conflict (only_row) do update set host = $1, port = $2, secret = $3
       where (e.host, e.port, e.secret) is distinct from ($1, $2, $3)`,
      [host, port, secret],
    );
    const { member } = await admin.one<{ member: boolean }>(
      'select dist_id is not null and dist_id <> uuid as member from varve.identity',
    );
    if (member) return 'data-node';
    const nodes = await this.#reconcileNodes(admin);
    return { nodes, isWriteMaster: await this.#reconcileGroup(admin) };
  }

  /** What came from the group's write master and is not derived here yet. Returns whether this is the master. */
  async #reconcileGroup(admin: Connection): Promise<boolean> {
    const { present } = await admin.one<{ present: boolean }>(
      `select to_regclass('varve_group.local') is not null as present`,
    );
    if (!present) return true;
    const { rows } = await admin.query<{ what: string; error: string }>(
      'select what, error from varve._derive_group()',
    );
    for (const row of rows) this.#deps.log.warn(row, 'not all of the group’s registry is derived here yet');
    const { master } = await admin.one<{ master: boolean }>('select varve._is_write_master() as master');
    return master;
  }

  async #reconcileNodes(admin: Connection): Promise<AccessDatabase['nodes']> {
    const { rows: nodes } = await admin.query<AccessDatabase['nodes'][number]>(
      'select node_name as name, host, port, database, available from varve.data_node order by node_name',
    );
    for (const node of nodes) {
      const server = this.#deps.sessions.serverOptions(node);
      await admin.query(
        'select varve._derive_server(n, null, $2) from varve.data_node n where n.node_name = $1',
        [node.name, JSON.stringify({ server })],
      );
    }
    if (nodes.length === 0) return nodes;
    const { rows: unmapped } = await admin.query<{ node_name: string; role: string }>(
      'select node_name, role from varve._unmapped_roles()',
    );
    for (const { node_name: name, role } of unmapped) {
      const node = nodes.find((candidate) => candidate.name === name);
      if (!node) continue;
      const login = await this.#deps.sessions.serverLogin(node, { role });
      await admin.query(
        'select varve._derive_server(n, $2, $3) from varve.data_node n where n.node_name = $1',
        [name, role, JSON.stringify(login)],
      );
    }
    return nodes;
  }
}
