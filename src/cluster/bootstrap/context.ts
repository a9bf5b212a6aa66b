import type { Clock } from '../../core/clock.ts';
import { assert } from '../../core/errors.ts';
import type { Lock, Registration, Session } from '../../coordination/coordinator.ts';
import type { Connection } from '../../postgres/connection.ts';
import type { GroupKeys, MemberRecord } from '../group-keys.ts';
import { GroupServers, type GroupLogin, type ServerAddress } from '../mesh/group-servers.ts';
import { Mesh } from '../mesh/mesh.ts';
import { Changes } from './changes.ts';
import type { ControlSchemaPart, GroupSchemaPart, WriteMasterPart } from './group-parts.ts';

export const CONTROL_DATABASE = 'rdpg';
export const HEALTH_DATABASE = 'health';
export const GROUP_ROLE = 'rdpg';
export const HEALTH_ROLE = 'health';

export interface BootstrapDeps {
  readonly clock: Clock;
  readonly log: GroupLog;
  readonly keys: GroupKeys;
  /**
   * A superuser's session on this node's own server, before the group's role is there. Its commits wait for nobody:
   * where clients are kept out, nobody would confirm them.
   */
  readonly withAdmin: <T>(database: string, work: (connection: Connection) => Promise<T>) => Promise<T>;
  readonly groupSchema: GroupSchemaPart;
  readonly controlSchema: ControlSchemaPart;
  readonly master: WriteMasterPart;
  /** After a database that had to be made anew was: the node puts into it what it needs there, an extension say. */
  readonly onDatabaseMade?: (database: string) => Promise<void>;
  /** Instead of connections of its own, for tests. */
  readonly servers?: GroupServers;
}

/** A pino logger is one. */
export interface GroupLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface BootstrapOptions {
  readonly node: string;
  /** Of the node's folder, made with it. */
  readonly nodeUuid: string;
  readonly kind: 'manager' | 'service';
  /** For how many members the first bootstrap waits; 1 is a single PostgreSQL. */
  readonly size: number;
  /** Where users' tables are: of a manager group. */
  readonly accessDatabase: string | undefined;
  /** Where peers reach this node's PostgreSQL. */
  readonly host: string;
  readonly port: number;
  readonly httpUrl?: string | undefined;
  readonly poolerPort?: number | undefined;
  readonly nofailover?: boolean | undefined;
  /** The same on all nodes: password of role `rdpg`. */
  readonly groupPassword: string;
  readonly healthPassword: string;
  readonly tls?: GroupLogin['tls'];
  /** Of each wait for others. */
  readonly waitTimeoutMs: number;
  /** The node counts as alive for so long without a sign. */
  readonly registrationTtlMs: number;
  /** Of the bootstrap lock's session. */
  readonly lockTtlMs: number;
  readonly lockDelayMs?: number | undefined;
  /** How long a creator has to be away before another takes over from it. */
  readonly takeoverAfterMs: number;
  readonly maxClockSkewMs: number;
  /** Names of the nodes that make the group up, where they are known: then a wait tells who is missing. */
  readonly expectedNodes?: readonly string[] | undefined;
}

/** What this node is in the bootstrap: it creates the group, or joins it. */
export type BootstrapRole = 'leader' | 'member';

/** What the steps of one node's bootstrap share. */
export class GroupContext implements AsyncDisposable {
  readonly deps: BootstrapDeps;
  readonly options: BootstrapOptions;
  readonly servers: GroupServers;
  readonly mesh: Mesh;
  readonly changes: Changes;
  role: BootstrapRole | undefined;
  /** This node came into a group that is being made, just now: its edges are as new as it is. */
  isNewcomer = false;
  /** Stays after the bootstrap: the daemon reports through it. */
  registration: Registration | undefined;
  /** Since when the group's creator is missing, on the monotonic clock. */
  ownerMissingSinceMs: number | undefined;
  /** When this member last looked whether its edges are whole, on the monotonic clock. */
  edgesTendedMs: number | undefined;
  #session: Session | undefined;
  #lock: Lock | undefined;

  constructor(deps: BootstrapDeps, options: BootstrapOptions) {
    this.deps = deps;
    this.options = options;
    this.servers =
      deps.servers ??
      new GroupServers({ user: GROUP_ROLE, password: options.groupPassword, tls: options.tls });
    this.mesh = new Mesh({ clock: deps.clock, servers: this.servers });
    this.changes = new Changes(deps.keys, deps.log);
  }

  get keys(): GroupKeys {
    return this.deps.keys;
  }

  /** This node's server, as peers see it. */
  get self(): ServerAddress {
    const { node, host, port } = this.options;
    return { node, host, port };
  }

  /** Databases that are replicated from the beginning, sorted. */
  get databases(): string[] {
    const { accessDatabase } = this.options;
    return [CONTROL_DATABASE, ...(accessDatabase === undefined ? [] : [accessDatabase])].toSorted();
  }

  /** The bootstrap lock, while this node holds it. */
  get lock(): Lock | undefined {
    return this.#lock;
  }

  heldLock(): Lock {
    assert(this.#lock, 'the bootstrap lock is held here');
    this.#lock.lost.throwIfAborted();
    return this.#lock;
  }

  /** @throws LOCK_TIMEOUT naming the holder */
  async takeLock(signal: AbortSignal, waitMs = this.options.waitTimeoutMs): Promise<Lock> {
    if (this.#lock && !this.#lock.lost.aborted) return this.#lock;
    await this.releaseLock();
    const { keys } = this;
    const { node, lockTtlMs, lockDelayMs } = this.options;
    this.#session = await keys.coordinator.session({
      ttlMs: lockTtlMs,
      name: `${node}: bootstrap of group ${keys.cluster}`,
      ...(lockDelayMs === undefined ? {} : { lockDelayMs }),
    });
    this.#lock = await keys.coordinator.lock(keys.bootstrapLock, this.#session, {
      owner: node,
      waitMs,
      signal,
    });
    return this.#lock;
  }

  async releaseLock(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    this.#lock = undefined;
    await session?.close();
  }

  /** On one of the group's databases of this node. */
  onSelf<T>(database: string, work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.servers.withConnection(this.self, database, work);
  }

  /** Ends what the bootstrap holds; the registration, too. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.changes[Symbol.asyncDispose]();
    await this.releaseLock();
    await this.registration?.deregister();
    if (!this.deps.servers) await this.servers[Symbol.asyncDispose]();
  }
}

export function addressOf({ node, host, port }: MemberRecord): ServerAddress {
  return { node, host, port };
}
