import type { Clock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';
import { compactQueue, lastCarriedOut } from './compact-queue.ts';
import { copyGlobals } from './copy-globals.ts';

/** What of the group's databases is not in the stream of changes, on one member; and what holds the stream up. */
export interface StructureUpkeepDeps {
  readonly clock: Clock;
  readonly log: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
  readonly servers: Pick<GroupServers, 'withConnection'>;
}

export interface StructureUpkeepOptions {
  readonly self: ServerAddress;
  /** As of now: the write master, when clients are let in there, the replicated databases, and the other members. */
  readonly view: () => {
    readonly master: ServerAddress | undefined;
    readonly databases: readonly string[];
    readonly others: readonly ServerAddress[];
  };
  readonly intervalMs: number;
  /**
   * For so long readers on this member may hold up a change of the structure; then they are ended, as on a
   * standby (`max_standby_streaming_delay`). 30 s.
   */
  readonly readerPatienceMs?: number | undefined;
  /** How often the write master looks whether the queue of DDL can be made shorter. 10 minutes. */
  readonly compactEveryMs?: number | undefined;
}

/** For `status`. */
export interface DatabaseStructure {
  readonly database: string;
  /** Statements of the write master's queue that are not carried out here, and the first of them. */
  readonly pending?: PendingDdl | undefined;
  /** Roles and the like that could not be made like the write master's, or why nothing is known. */
  readonly problems: readonly string[];
}

export interface PendingDdl {
  readonly count: number;
  readonly id: string;
  readonly tag: string;
  readonly statement: string;
  readonly at: Date;
  /** What it fails with here; undefined while it is merely on its way. */
  readonly error?: string | undefined;
}

/** A statement that has been on its way for so long is tried, to learn what it fails with. */
const PATIENCE_MS = 3_000;
const READER_PATIENCE_MS = 30_000;
const COMPACT_EVERY_MS = 600_000;
const HELD_MS = 10_000;
const STATEMENT_SHOWN = 500;

/**
 * Keeps roles, sequences and the knowledge of who is write master up to date in each replicated database of a
 * member, and looks for statements that do not get through. Level-triggered: whatever was missed, the next
 * round brings.
 */
export class StructureUpkeep {
  readonly #deps: StructureUpkeepDeps;
  readonly #options: StructureUpkeepOptions;
  readonly #known = new Map<string, DatabaseStructure>();
  /** By database: when the queue was looked at last, and up to where. */
  readonly #compacted = new Map<string, { readonly atMs: number; readonly upTo: bigint }>();

  constructor(deps: StructureUpkeepDeps, options: StructureUpkeepOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** As of the last round. */
  status(): readonly DatabaseStructure[] {
    return [...this.#known.values()];
  }

  /** Rounds until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.round(signal);
      await this.#deps.clock.sleep(this.#options.intervalMs, signal).catch(() => {});
    }
  }

  /** One round; what fails is told by `status` and, when it is new, by the log. */
  async round(signal?: AbortSignal): Promise<void> {
    const { master, databases, others } = this.#options.view();
    for (const name of this.#known.keys()) if (!databases.includes(name)) this.#known.delete(name);
    // One behind the other: roles belong to the server, and two sessions that change one get in each other's way.
    for (const database of databases) {
      const before = this.#known.get(database);
      const found = await this.#look(database, master, signal).catch((error: unknown) => ({
        database,
        problems: [messageOf(error)],
      }));
      if (master?.node === this.#options.self.node) await this.#compact(database, others, signal);
      if (signal?.aborted) return;
      this.#known.set(database, found);
      this.#tell(before, found);
    }
  }

  async #look(
    database: string,
    master: ServerAddress | undefined,
    signal: AbortSignal | undefined,
  ): Promise<DatabaseStructure> {
    const { self } = this.#options;
    const { servers } = this.#deps;
    return servers.withConnection(
      self,
      database,
      async (here) => {
        if (!master) return { database, problems: [] };
        await here.query('select varve_group.set_write_master($1)', [master.node]);
        if (master.node === self.node) return { database, problems: [] };
        await this.#endBlockers(database, here);
        return servers.withConnection(
          master,
          database,
          (there) => this.#follow(database, there, here),
          signal,
        );
      },
      signal,
    );
  }

  async #follow(database: string, master: Connection, here: Connection): Promise<DatabaseStructure> {
    const { problems } = await copyGlobals(master, here);
    const { values } = await master.one<{ values: object }>('select varve_group.sequence_values() as values');
    await here.query('select varve_group.take_sequence_values($1)', [JSON.stringify(values)]);
    await tellFacts(this.#options.self.node, master, here);
    await askForIdentity(master, here);
    const pending = await pendingDdl(master, here, this.#deps.clock.nowMs());
    return { database, problems, pending };
  }

  /** Never throws: a member that is away has its statements when it comes back, and the queue waits for it. */
  async #compact(
    database: string,
    others: readonly ServerAddress[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { servers, clock, log } = this.#deps;
    const { self, compactEveryMs = COMPACT_EVERY_MS } = this.#options;
    const before = this.#compacted.get(database);
    const atMs = clock.monotonicMs();
    if (before && atMs - before.atMs < compactEveryMs) return;
    try {
      const reached = await Promise.all(
        [self, ...others].map((member) => servers.withConnection(member, database, lastCarriedOut, signal)),
      );
      const upTo = reached.reduce((least, id) => (id < least ? id : least));
      this.#compacted.set(database, { atMs, upTo });
      if (upTo === before?.upTo) return;
      const done = await servers.withConnection(
        self,
        database,
        (connection) => compactQueue(connection, upTo),
        signal,
      );
      // DDL is held: soon, rather than at once.
      if (!done) this.#compacted.set(database, { atMs: atMs - compactEveryMs + HELD_MS, upTo: -1n });
      else if (done.removed > 0) log.info({ database, ...done }, 'the queue of DDL was made shorter');
    } catch (error) {
      if (signal?.aborted) return;
      this.#compacted.set(database, { atMs, upTo: before?.upTo ?? -1n });
      log.info({ database, error: messageOf(error) }, 'the queue of DDL is made shorter later');
    }
  }

  async #endBlockers(database: string, here: Connection): Promise<void> {
    const { readerPatienceMs = READER_PATIENCE_MS } = this.#options;
    const { rows } = await here.query<{ pid: number; role: string; query: string }>(
      `select pid, role, query from varve_group.end_blockers(pg_catalog.make_interval(secs => $1))`,
      [readerPatienceMs / 1000],
    );
    for (const row of rows) {
      this.#deps.log.warn(
        { database, ...row },
        'a session was ended: it held a table that a statement from the write master has to change',
      );
    }
  }

  #tell(before: DatabaseStructure | undefined, { database, problems, pending }: DatabaseStructure): void {
    for (const problem of problems) {
      if (!before?.problems.includes(problem))
        this.#deps.log.warn({ database, problem }, 'not all of the group is alike yet');
    }
    if (pending?.error !== undefined && before?.pending?.error !== pending.error) {
      this.#deps.log.warn(
        { database, ...pending },
        'a statement that changed the structure on the write master fails here, and holds up all that comes behind it',
      );
    }
  }
}

/** What the write master checks extensions against before it makes one. */
async function tellFacts(node: string, master: Connection, here: Connection): Promise<void> {
  const { version, extensions } = await here.one<{ version: number; extensions: object }>(
    `select pg_catalog.current_setting('server_version_num')::int as version,
       (select pg_catalog.jsonb_object_agg(e.name, e.versions) from (
         select name, pg_catalog.jsonb_agg(version order by version) as versions
           from pg_catalog.pg_available_extension_versions group by name) e) as extensions`,
  );
  await master.query(
    `insert into varve_group.member as m (node, server_version, extensions) values ($1, $2, $3)
     on conflict (node) do update set server_version = $2, extensions = $3, at = pg_catalog.clock_timestamp()
     where (m.server_version, m.extensions) is distinct from ($2::int, $3::jsonb)`,
    [node, version, JSON.stringify(extensions)],
  );
}

/**
 * Access databases have an identity from the moment they are made, and the group's is the write master's. Members
 * whose edges were made after it said so have it say so again.
 */
async function askForIdentity(master: Connection, here: Connection): Promise<void> {
  const identity = async (connection: Connection): Promise<string | undefined> => {
    const { there } = await connection.one<{ there: boolean }>(
      `select pg_catalog.to_regclass('varve.identity') is not null as there`,
    );
    if (!there) return undefined;
    return (await connection.maybeOne<{ uuid: string }>('select uuid from varve.identity'))?.uuid;
  };
  const [wanted, present] = [await identity(master), await identity(here)];
  if (wanted === undefined || present === undefined || wanted === present) return;
  await master.query('update varve.identity set uuid = uuid');
}

/** Statements that are committed on the write master and not here. */
async function pendingDdl(
  master: Connection,
  here: Connection,
  nowMs: number,
): Promise<PendingDdl | undefined> {
  const last = await lastCarriedOut(here);
  const first = await master.maybeOne<Omit<PendingDdl, 'error'> & { entry: object }>(
    `select pg_catalog.count(*) over ()::int as count, id::text as id, tag,
       pg_catalog.left(statement, ${STATEMENT_SHOWN}) as statement, at, pg_catalog.to_jsonb(q) as entry
       from varve_group.ddl_queue q where id > $1 order by id limit 1`,
    [last.toString()],
  );
  if (!first) return undefined;
  const { entry, ...pending } = first;
  if (nowMs - pending.at.getTime() < PATIENCE_MS) return pending;
  const { error } = await here.one<{ error: string | null }>('select varve_group.try_ddl($1) as error', [
    JSON.stringify(entry),
  ]);
  // It may have come meanwhile.
  const came = await here.maybeOne('select 1 from varve_group.ddl_queue where id = $1', [pending.id]);
  return came || error === null ? pending : { ...pending, error };
}
