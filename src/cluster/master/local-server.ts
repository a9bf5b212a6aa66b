import type { Clock } from '../../core/clock.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { quoteIdent, quoteLiteral } from '../../postgres/sql.ts';
import type { QuorumRule } from '../group-keys.ts';
import { publisherGivesUp } from '../mesh/dead-links.ts';
import { GROUP_SCHEMA } from '../mesh/edge.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { endSessions } from './client-sessions.ts';
import { parseLsn, type Lsn } from './lsn.ts';
import { standbyNames } from './quorum.ts';
import { letClientsWrite, letWrite, makeReadOnly, readOnlyDatabases } from './read-only.ts';

export interface LocalServerDeps {
  readonly clock: Clock;
  readonly servers: GroupServers;
}

export interface LocalServerOptions {
  readonly address: ServerAddress;
  /** Where clients write, as of now. */
  readonly clientDatabases: () => readonly string[];
  /** Whose commits wait for a quorum, as of now. */
  readonly quorumDatabases: () => readonly string[];
}

const POLL_MS = 10;
const LIFE_TIMEOUT_MS = 3_000;
const RELOAD_TIMEOUT_MS = 5_000;

/**
 * Whether clients may write on this member's server. Kept out, sessions are read-only by default and those that
 * were there are ended; and should a client say READ WRITE, its commit is acknowledged by nobody.
 */
export class LocalServer {
  readonly #deps: LocalServerDeps;
  readonly #options: LocalServerOptions;
  /** Databases that this process has closed to the end: nobody who might write is left in them. */
  readonly #closed = new Set<string>();

  constructor(deps: LocalServerDeps, options: LocalServerOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  get address(): ServerAddress {
    return this.#options.address;
  }

  /** What the group's own role needs to work on a server that keeps clients out; for apply workers, too. */
  async prepare(): Promise<void> {
    const { user } = this.#deps.servers;
    await this.#admin(async (connection) => {
      await letWrite(connection, user);
      await connection.query(`alter role ${quoteIdent(user)} set synchronous_commit = local`);
      await connection.query(publisherGivesUp(user));
    });
  }

  /** Whether all is as `letIn` (with a rule) or `keepOut` (without) leaves it. */
  async isSet(rule: QuorumRule | undefined): Promise<boolean> {
    const clientDatabases = this.#options.clientDatabases();
    return this.#admin(async (connection) => {
      const { names } = await connection.one<{ names: string }>(
        `select pg_catalog.current_setting('synchronous_standby_names') as names`,
      );
      if (names !== this.#names(rule)) return false;
      const closed = await readOnlyDatabases(connection);
      return clientDatabases.every((name) => closed.has(name) === (rule === undefined));
    });
  }

  /**
   * Ends what clients do here, and keeps them from writing. Nobody who waits for the confirmation of a commit is
   * told that it succeeded.
   */
  async keepOut(): Promise<void> {
    await this.#admin(async (connection) => {
      // First, because it takes effect for those who are here, too.
      await this.#setNames(connection, this.#names(undefined));
      const readOnly = await readOnlyDatabases(connection);
      // A database that was made since has no clients yet, and those of the others only read.
      const open = this.#options
        .clientDatabases()
        .filter((database) => !readOnly.has(database) || !this.#closed.has(database));
      for (const database of open) {
        this.#closed.delete(database);
        await makeReadOnly(connection, database);
      }
      if (open.length === 0) return;
      const { clock, servers } = this.#deps;
      await endSessions({ clock, except: servers.user }, connection, {
        node: this.address.node,
        databases: open,
      });
      for (const database of open) this.#closed.add(database);
    });
  }

  /** Commits wait for `rule` from before the first that can be made here. */
  async letIn(rule: QuorumRule): Promise<void> {
    await this.#admin(async (connection) => {
      this.#closed.clear();
      await this.#setNames(connection, this.#names(rule));
      for (const database of this.#options.clientDatabases()) {
        // Whatever the server's own default is.
        await connection.query(`alter database ${quoteIdent(database)} set synchronous_commit = on`);
        await letClientsWrite(connection, database);
      }
    });
  }

  /** For a master whose members change; its sessions go on. */
  async setRule(rule: QuorumRule): Promise<void> {
    await this.#admin((connection) => this.#setNames(connection, this.#names(rule)));
  }

  /** Tells sessions of the replicated databases who may write, for the refusal of DDL and for messages. */
  async tellMaster(databases: readonly string[], master: string): Promise<void> {
    await Promise.all(
      databases.map((database) =>
        this.#deps.servers.withConnection(this.address, database, async (connection) => {
          const there = await connection.maybeOne(
            `select 1 where pg_catalog.to_regclass('${GROUP_SCHEMA}.local') is not null`,
          );
          if (!there) return;
          await connection.query(
            `update ${GROUP_SCHEMA}.local set master = $1 where master is distinct from $1`,
            [master],
          );
        }),
      ),
    );
  }

  /** On a new write master that has all changes: sequences go beyond what was drawn, the registry is taken over. */
  async takeOver(databases: readonly string[]): Promise<void> {
    await Promise.all(
      databases.map((database) =>
        this.#deps.servers.withConnection(this.address, database, async (connection) => {
          const there = await connection.maybeOne(
            `select 1 where pg_catalog.to_regprocedure('${GROUP_SCHEMA}.take_over()') is not null`,
          );
          if (!there) return;
          await connection.query(
            `select ${GROUP_SCHEMA}.take_over() from ${GROUP_SCHEMA}.local where not is_taken_over`,
          );
        }),
      ),
    );
  }

  /** Which server it is, and since when it runs: another text after each start, and of another data folder. */
  async life(): Promise<string> {
    const { life } = await this.#admin((connection) =>
      connection.one<{ life: string }>(
        `select system_identifier || ' since ' || pg_catalog.extract('epoch', pg_catalog.pg_postmaster_start_time()) as life
           from pg_catalog.pg_control_system()`,
        [],
        { timeoutMs: LIFE_TIMEOUT_MS },
      ),
    );
    return life;
  }

  async flushedLsn(): Promise<Lsn> {
    const { lsn } = await this.#admin((connection) =>
      connection.one<{ lsn: string }>(`select pg_catalog.pg_current_wal_flush_lsn()::text as lsn`),
    );
    return parseLsn(lsn);
  }

  /** Whether it answers in time; a server that hangs does not. */
  async answers(timeoutMs: number): Promise<boolean> {
    return this.#admin((connection) => connection.query('select 1', [], { timeoutMs })).then(
      () => true,
      () => false,
    );
  }

  #names(rule: QuorumRule | undefined): string {
    return standbyNames(rule, this.#options.quorumDatabases());
  }

  #admin<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.#deps.servers.withConnection(this.address, 'postgres', work);
  }

  async #setNames(connection: Connection, names: string): Promise<void> {
    const read = async (): Promise<string> => {
      const row = await connection.one<{ names: string }>(
        `select pg_catalog.current_setting('synchronous_standby_names') as names`,
      );
      return row.names;
    };
    if ((await read()) === names) return;
    await connection.query(`alter system set synchronous_standby_names = ${quoteLiteral(names)}`);
    await connection.query('select pg_catalog.pg_reload_conf()');
    const untilMs = this.#deps.clock.monotonicMs() + RELOAD_TIMEOUT_MS;
    while ((await read()) !== names) {
      if (this.#deps.clock.monotonicMs() > untilMs) {
        throw new VarveError('DEADLINE_EXCEEDED', 'PostgreSQL did not take its new configuration in time', {
          detail: `synchronous_standby_names was to become ${names}.`,
          hint: 'A value on its command line wins over ours; look at pg_file_settings.',
        });
      }
      await this.#deps.clock.sleep(POLL_MS);
    }
  }
}
