import { messageOf, VarveError } from '../../core/errors.ts';
import type { Connection, Endpoint } from '../../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import { installGroupSchema } from '../ddl/install.ts';
import type { GroupKeys } from '../group-keys.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { checkLimits } from '../mesh/limits.ts';
import { allLinks, type Mesh } from '../mesh/mesh.ts';
import type { WorkLog } from '../tasks/task.ts';

export interface PoolDatabasesDeps {
  readonly mesh: Mesh;
  readonly servers: GroupServers;
  readonly keys: GroupKeys;
  readonly log: WorkLog;
}

const CONTROL = 'rdpg';
const BARRIER_TIMEOUT_MS = 20_000;
/** As `create database` has it; every encoding and locale is the server's own. */
const TEMPLATE = 'template0';

/**
 * The databases of a service group on all of its members: made, replicated, cut off, dropped. Everything looks
 * first and does what is missing, so it is repeated after a crash at any point.
 *
 * Needs every member: a database that is on some of them only could not be taken over by the others. While one
 * is away the calls fail, and are tried again.
 */
export class PoolDatabases {
  readonly #deps: PoolDatabasesDeps;

  constructor(deps: PoolDatabasesDeps) {
    this.#deps = deps;
  }

  /** The superuser's login to it on the write master. */
  async endpoint(database: string): Promise<Endpoint> {
    return this.#deps.servers.endpoint(await this.master(), database);
  }

  async members(): Promise<readonly ServerAddress[]> {
    const records = [...(await this.#deps.keys.members.list()).values()];
    return records
      .filter(({ value }) => value.state === 'member')
      .map(({ value: { node, host, port } }) => ({ node, host, port }));
  }

  /** @throws WRITE_MASTER_UNKNOWN */
  async master(): Promise<ServerAddress> {
    const record = await this.#deps.keys.master.read();
    const master = (await this.members()).find(({ node }) => node === record?.value.node);
    if (master && record?.value.state === 'active') return master;
    throw new VarveError('WRITE_MASTER_UNKNOWN', 'the group has no write master at the moment');
  }

  async onMaster<T>(database: string, work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.#deps.servers.withConnection(await this.master(), database, work);
  }

  /**
   * A database with its owner (a role that cannot log in) on every member, replicated from each to each, and open
   * to nobody but the owner's members.
   * @throws GROUP_LIMITS before anything is made, when a member's server has too few slots or workers for one more
   */
  async create(name: string, owner: string): Promise<void> {
    const { mesh, keys } = this.#deps;
    const members = await this.members();
    const group = await keys.group.read();
    if (!group) throw new VarveError('WRITE_MASTER_UNKNOWN', 'the group has no record in the coordinator');
    await this.#checkRoom(name, members);
    await Promise.all(members.map((server) => this.#createOn(server, name, owner)));
    await Promise.all(
      members.map((server) =>
        this.#deps.servers.withConnection(server, name, (connection) =>
          installGroupSchema(connection, { groupUuid: group.value.uuid, node: server.node }),
        ),
      ),
    );
    await Promise.all(
      allLinks(members, [name]).map((link) =>
        mesh.connect(link, { enabled: true, copyData: false, foundSlot: 'keep' }),
      ),
    );
    await this.#announce(name, true);
    await this.#setMaster(name, members);
    await this.barrier(name);
  }

  /** Extensions that the servers have; the others are told to the log. */
  async addExtensions(name: string, extensions: readonly string[]): Promise<void> {
    await this.onMaster(name, async (connection) => {
      for (const extension of extensions) {
        const row = await connection.maybeOne<{ present: boolean }>(
          `select installed_version is not null as present from pg_available_extensions where name = $1`,
          [extension],
        );
        if (row?.present === false) {
          await connection.query(`create extension if not exists ${quoteIdent(extension)} schema public`);
        } else if (!row) {
          this.#deps.log.warn({ database: name, extension }, 'an extension is not on offer');
        }
      }
    });
  }

  /** What was committed on the write master is on every other member when it returns. */
  async barrier(name: string): Promise<void> {
    const master = await this.master();
    const others = (await this.members()).filter(({ node }) => node !== master.node);
    await this.#deps.mesh.barrier(master, others, { database: name, timeoutMs: BARRIER_TIMEOUT_MS });
  }

  /** On every member, as far as they are there. Returns what failed, by member. */
  async onEach(
    database: string,
    work: (connection: Connection, server: ServerAddress) => Promise<void>,
  ): Promise<readonly { readonly node: string; readonly error: unknown }[]> {
    const failed: { node: string; error: unknown }[] = [];
    await Promise.all(
      (await this.members()).map((server) =>
        this.#deps.servers
          .withConnection(server, database, (connection) => work(connection, server))
          .catch((error: unknown) => failed.push({ node: server.node, error })),
      ),
    );
    return failed;
  }

  /**
   * Takes the database away from every member: first its edges (which takes their slots along), then everybody
   * out, then the database, then its owner where one is given. In another order the drop is refused, or a subscription stays that
   * asks for a slot for ever.
   */
  async drop(name: string, owner: string | undefined): Promise<void> {
    const { mesh, servers } = this.#deps;
    const members = await this.members();
    await this.#announce(name, false);
    const present = await this.#presentOn(members, name);
    for (const link of allLinks(present, [name])) {
      const left = await mesh.drop(link);
      if (left.length > 0) throw notDropped(name, left);
    }
    await Promise.all(members.map((server) => servers.forget(server, name)));
    const failed = await this.onEach(CONTROL, async (connection) => {
      await connection.query('select rdpg.disable_database($1)', [name]);
      await connection.query(`drop database if exists ${quoteIdent(name)} with (force)`);
      if (owner === undefined) return;
      const { rows } = await connection.query<{ member: string }>(
        `select m.rolname as member from pg_roles r join pg_auth_members a on a.roleid = r.oid
           join pg_roles m on m.oid = a.member where r.rolname = $1 and m.rolname ~ '^b[0-9a-f]{32}$'`,
        [owner],
      );
      for (const { member } of rows) await connection.query(`drop role if exists ${quoteIdent(member)}`);
      await connection.query(`drop role if exists ${quoteIdent(owner)}`);
    });
    if (failed.length > 0) {
      throw notDropped(
        name,
        failed.map(({ node, error }) => `${node}: ${messageOf(error)}`),
      );
    }
  }

  /** Without enough workers a subscription is made, and nothing comes over it. @throws GROUP_LIMITS */
  async #checkRoom(name: string, members: readonly ServerAddress[]): Promise<void> {
    const records = [...(await this.#deps.keys.members.list()).values()];
    const databases = new Set([name, ...records.flatMap(({ value }) => value.databases)]).size;
    await Promise.all(
      members.map((server) =>
        this.#deps.servers.withConnection(server, CONTROL, (connection) =>
          checkLimits(connection, server.node, { members: members.length, databases }),
        ),
      ),
    );
  }

  async #createOn(server: ServerAddress, name: string, owner: string): Promise<void> {
    await this.#deps.servers.withConnection(server, CONTROL, async (connection) => {
      const role = await connection.maybeOne('select 1 from pg_roles where rolname = $1', [owner]);
      if (!role) await connection.query(`create role ${quoteIdent(owner)} nologin`);
      const database = await connection.maybeOne('select 1 from pg_database where datname = $1', [name]);
      if (!database) {
        await connection.query(
          `create database ${quoteIdent(name)} owner ${quoteIdent(owner)} template ${TEMPLATE}`,
        );
      }
      await connection.query(`revoke connect, temporary on database ${quoteIdent(name)} from public`);
    });
  }

  async #presentOn(members: readonly ServerAddress[], name: string): Promise<ServerAddress[]> {
    const present = await Promise.all(
      members.map((server) =>
        this.#deps.servers.withConnection(server, CONTROL, async (connection) => {
          const row = await connection.maybeOne<{ open: boolean }>(
            'select datallowconn as open from pg_database where datname = $1',
            [name],
          );
          // An attempt that was killed in between has closed it: its edges were gone by then.
          return row?.open === true;
        }),
      ),
    );
    return members.filter((_, i) => present[i] === true);
  }

  /** Members' records say which databases they replicate: a fail-over looks after those. */
  async #announce(name: string, isThere: boolean): Promise<void> {
    const { keys } = this.#deps;
    for (const { node } of await this.members()) {
      await keys.members.at(node).update((record) => {
        if (!record || record.databases.includes(name) === isThere) return undefined;
        const others = record.databases.filter((database) => database !== name);
        return { ...record, databases: isThere ? [...others, name].toSorted() : others };
      });
    }
  }

  async #setMaster(name: string, members: readonly ServerAddress[]): Promise<void> {
    const { node } = await this.master();
    await Promise.all(
      members.map((server) =>
        this.#deps.servers.withConnection(server, name, (connection) =>
          connection.query('update varve_group.local set master = $1 where master is distinct from $1', [
            node,
          ]),
        ),
      ),
    );
  }
}

/** For statements that take no parameters. */
export function createBindingRole(role: string, verifier: string): string {
  return `create role ${quoteIdent(role)} login password ${quoteLiteral(verifier)}`;
}

function notDropped(name: string, left: readonly string[]): VarveError {
  return new VarveError('DATABASE_NOT_DROPPED', `database ${name} could not be dropped on all members`, {
    detail: left.join('\n'),
    hint: 'It is tried again; all members have to be there for it.',
  });
}
