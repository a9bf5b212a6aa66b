import { VarveError } from '../core/errors.ts';
import { Connection, PLAIN_SESSION } from '../postgres/connection.ts';
import { SqlState, sqlStateOf } from '../postgres/sqlstate.ts';
import type { Credentials } from './credentials.ts';
import type { Notice } from './request.ts';
import { describeServer, describeTarget, type Target } from './target.ts';

/** Opens sessions on data nodes as a role of the access node, each with its deadlines. */
export interface NodeSessionsOptions {
  readonly credentials: Credentials;
  readonly connectTimeoutMs: number;
  readonly statementTimeoutMs: number;
  /** A lock that the caller itself holds gives an error after this time instead of an unseen deadlock. */
  readonly lockTimeoutMs: number;
  /** The server on which the access database is, when its socket lets every role in from the daemon. */
  readonly ownServer?:
    | { readonly port: number; readonly socketFolder: string; readonly socketFolderForServer: string }
    | undefined;
}

export interface Login {
  readonly role: string;
  readonly password?: string | null | undefined;
}

/** Databases in which one can be at home while another is created, in the order of trying. */
const MAINTENANCE_DATABASES = ['postgres', 'template0', 'template1', 'defaultdb'];

export class NodeSessions {
  readonly #options: NodeSessionsOptions;

  constructor(options: NodeSessionsOptions) {
    this.#options = options;
  }

  /**
   * @throws DATA_NODE_UNREACHABLE with the server's own SQLSTATE where it has one; 3D000 for a missing database
   */
  async open(target: Target, login: Login, work: SessionWork = {}): Promise<Connection> {
    const { connectTimeoutMs, statementTimeoutMs, lockTimeoutMs } = this.#options;
    const endpoint = await this.#options.credentials.endpoint(this.route(target), login.role, login.password);
    try {
      return await Connection.open(endpoint, {
        connectTimeoutMs: work.connectTimeoutMs ?? connectTimeoutMs,
        statementTimeoutMs,
        lockTimeoutMs,
        applicationName: 'varve',
        settings: PLAIN_SESSION,
        signal: work.signal,
        onNotice: work.onNotice && ((notice) => work.onNotice?.(passOn(target, notice))),
      });
    } catch (error) {
      work.signal?.throwIfAborted();
      throw unreachable(target, login.role, error);
    }
  }

  /**
   * A session in a maintenance database. The next candidate is tried only when one is missing or takes no
   * connections, never after a refused login.
   */
  async openMaintenance(
    server: Omit<Target, 'database'>,
    login: Login,
    work: SessionWork,
  ): Promise<Connection> {
    const missing: string[] = [];
    for (const database of MAINTENANCE_DATABASES) {
      try {
        return await this.open({ ...server, database }, login, work);
      } catch (error) {
        const sqlstate = sqlStateOf(error);
        const absent = sqlstate === SqlState.invalidCatalogName;
        const closed = sqlstate === SqlState.objectNotInPrerequisiteState;
        if (!absent && !closed) throw error;
        missing.push(database);
      }
    }
    throw new VarveError('DATA_NODE_UNREACHABLE', `no maintenance database on ${describeServer(server)}`, {
      sqlstate: SqlState.invalidCatalogName,
      detail: `Tried ${missing.join(', ')}; none of them is there and takes connections.`,
      hint: 'Create database "postgres" there, or create the data node’s database by hand; it is found then.',
    });
  }

  /** Options of the target's foreign server, as the access node's own server needs them. */
  serverOptions(target: Target): Record<string, string> {
    const route = this.route(target);
    const options = this.#options.credentials.serverOptions(route.host);
    const { ownServer } = this.#options;
    return ownServer && route !== target ? { ...options, host: ownServer.socketFolderForServer } : options;
  }

  /** The same with the user mapping of one role: what `varve._derive_server` takes. */
  async serverLogin(target: Target, login: Login): Promise<{ server: object; user: object }> {
    return {
      server: this.serverOptions(target),
      user: await this.#options.credentials.userOptions(login.role, login.password),
    };
  }

  /** The way to a target: the own server's socket where that is meant, else its address. */
  route(target: Target): Target {
    const { ownServer } = this.#options;
    const own =
      ownServer && target.port === ownServer.port && /^(127\.[\d.]+|localhost|::1)$/.test(target.host);
    return own ? { ...target, host: ownServer.socketFolder } : target;
  }
}

export interface SessionWork {
  readonly signal?: AbortSignal;
  readonly connectTimeoutMs?: number;
  readonly onNotice?: (notice: Notice) => void;
}

function unreachable(target: Target, role: string, error: unknown): unknown {
  if (!(error instanceof VarveError)) return error;
  const { sqlstate } = error;
  const said = error.detail ?? error.message;
  const parts = { sqlstate, detail: said, cause: error };
  if (error.code === 'LOGIN_FAILED') {
    const noRole = /role ".*" does not exist/.test(said);
    return new VarveError(
      'DATA_NODE_UNREACHABLE',
      noRole
        ? `role "${role}" does not exist on ${describeServer(target)}`
        : `could not log in to ${describeServer(target)} as "${role}"`,
      {
        ...parts,
        hint: noRole
          ? `The current user must exist on both sides. On the data node: CREATE ROLE "${role}" LOGIN.`
          : `Role "${role}" must exist on the data node, may log in there, and must be let in by certificate, by the password file, or by password => '…'.`,
      },
    );
  }
  if (sqlstate === SqlState.invalidCatalogName) {
    return new VarveError('DATA_NODE_UNREACHABLE', `${describeTarget(target)} does not exist`, {
      ...parts,
      hint: 'Let it be created (bootstrap => true), or create it.',
    });
  }
  // A server that answered is there; what it lacks (connections, …) has a hint of its own.
  const answered = sqlstate?.startsWith('53') && error.hint;
  return new VarveError('DATA_NODE_UNREACHABLE', `could not connect to ${describeServer(target)}`, {
    ...parts,
    hint: answered || 'Check host and port, that PostgreSQL runs there, and that it listens on this address.',
  });
}

function passOn(
  target: Target,
  notice: {
    readonly severity: string;
    readonly code: string;
    readonly message: string;
    readonly detail?: string | undefined;
  },
): Notice {
  return {
    severity: notice.severity === 'WARNING' ? 'warning' : 'notice',
    sqlstate: notice.code,
    message: `[${describeServer(target)}]: ${notice.message}`,
    ...(notice.detail === undefined ? {} : { detail: notice.detail }),
  };
}
