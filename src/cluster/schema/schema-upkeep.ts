import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import { held, type Lock } from '../../coordination/coordinator.ts';
import type { ControlSchemaPart, GroupSchemaPart } from '../bootstrap/group-parts.ts';
import { membersOf, readRoster } from '../bootstrap/members.ts';
import { met, waitsFor, waitUntil } from '../bootstrap/wait.ts';
import type { GroupKeys, GroupRecord } from '../group-keys.ts';
import type { GroupServers, ServerAddress } from '../mesh/group-servers.ts';

/**
 * Brings the schemas of a running group up to date after a program was updated. Members are updated one after the
 * other, so for a while they run different programs; each migration of the control schema therefore has to leave a
 * schema that the program before it can work with.
 *
 * - The control schema is the group's: the write master brings it up to date when it starts or takes over, under the
 *   bootstrap lock, so that nobody joins meanwhile. When it is on every member that lives, its version goes into the
 *   group's record, by which the others are told.
 * - Schema `varve_group` is each member's own, and is replaced by the member itself.
 *
 * What the group has and what this program knows:
 *
 * | version in the record | write master                          | other members                         |
 * | --------------------- | ------------------------------------- | ------------------------------------- |
 * | the same              | looks once whether it has all of it   | nothing to do                         |
 * | older                 | brings it up to date                  | wait for a write master of their kind |
 * | newer                 | leaves it alone, says so              | say that they have to be updated      |
 */
export interface SchemaUpkeepDeps {
  readonly clock: Clock;
  readonly log: {
    info(fields: object, message: string): void;
    warn(fields: object, message: string): void;
  };
  readonly keys: GroupKeys;
  readonly servers: Pick<GroupServers, 'withConnection'>;
  readonly controlSchema: ControlSchemaPart;
  readonly groupSchema: Pick<GroupSchemaPart, 'install'>;
}

export interface SchemaUpkeepOptions {
  readonly self: ServerAddress;
  /** As of now: this member's replicated databases, none while it is no member; and whether it is write master. */
  readonly view: () => { readonly databases: readonly string[]; readonly isMaster: boolean };
  readonly intervalMs: number;
  /** Of the bootstrap lock's session. */
  readonly lockTtlMs: number;
  /** How long living members may take to get the schema; then it is tried anew. */
  readonly arriveTimeoutMs: number;
}

export interface SchemaStatus {
  /** Of this program. */
  readonly version: string;
  /** Why the group's is another; undefined when it is not. */
  readonly trouble: string | undefined;
}

const CONTROL_DATABASE = 'rdpg';
/** Somebody joins: that takes its time, and there will be another round. */
const LOCK_WAIT_MS = 200;

export class SchemaUpkeep {
  readonly #deps: SchemaUpkeepDeps;
  readonly #options: SchemaUpkeepOptions;
  /** Databases whose `varve_group` is this program's. */
  readonly #own = new Set<string>();
  #trouble: string | undefined;
  /** The control schema was seen to be complete since this member is write master. */
  #seen = false;

  constructor(deps: SchemaUpkeepDeps, options: SchemaUpkeepOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  status(): SchemaStatus {
    return { version: this.#deps.controlSchema.version, trouble: this.#trouble };
  }

  /** Rounds until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.round(signal);
      await this.#deps.clock.sleep(this.#options.intervalMs, signal).catch(() => {});
    }
  }

  /** One round; what is in the way is told by `status` and, when it is new, by the log. */
  async round(signal: AbortSignal): Promise<void> {
    const trouble = await this.#look(signal).catch((error: unknown) => {
      const more = error instanceof VarveError ? [error.detail, error.hint] : [];
      return [messageOf(error), ...more].filter((line) => line !== undefined).join('\n');
    });
    if (signal.aborted) return;
    if (trouble !== undefined && trouble !== this.#trouble) {
      this.#deps.log.warn(
        { trouble, version: this.#deps.controlSchema.version },
        'schemas are not alike yet',
      );
    }
    this.#trouble = trouble;
  }

  async #look(signal: AbortSignal): Promise<string | undefined> {
    const { keys, controlSchema } = this.#deps;
    const { databases, isMaster } = this.#options.view();
    if (!isMaster) this.#seen = false;
    const group = await keys.group.read();
    if (group?.value.state !== 'complete' || databases.length === 0) return undefined;
    await this.#updateOwn(group.value, databases);
    const recorded = group.value.schemaVersion;
    if (isMaster) return this.#seen ? undefined : this.#update(signal);
    if (recorded === undefined || recorded === controlSchema.version) return undefined;
    return numberOf(recorded) > numberOf(controlSchema.version)
      ? `the control schema is of version ${recorded}, which this program does not know: update Varve on this node`
      : `the control schema is of version ${recorded}, until the write master runs this program`;
  }

  /** Of this member's databases: what the group's machinery needs there. */
  async #updateOwn({ uuid }: GroupRecord, databases: readonly string[]): Promise<void> {
    const { servers, groupSchema } = this.#deps;
    const { self } = this.#options;
    for (const name of this.#own) if (!databases.includes(name)) this.#own.delete(name);
    for (const database of databases) {
      if (this.#own.has(database)) continue;
      await servers.withConnection(self, database, (connection) =>
        groupSchema.install(connection, { groupUuid: uuid, node: self.node }),
      );
      this.#own.add(database);
    }
  }

  /** On the write master. @returns why not, when somebody else holds the lock */
  async #update(signal: AbortSignal): Promise<string | undefined> {
    const { keys, servers, controlSchema } = this.#deps;
    const { self } = this.#options;
    // Also that of a record that was made anew and knows nothing of what is in the databases.
    const complete = await servers.withConnection(self, CONTROL_DATABASE, (connection) =>
      controlSchema.isComplete(connection),
    );
    const group = await keys.group.read();
    this.#seen = complete && group?.value.schemaVersion === controlSchema.version;
    return this.#seen ? undefined : this.#underLock(signal, (lock) => this.#install(lock, signal));
  }

  async #install(lock: Lock, signal: AbortSignal): Promise<void> {
    const { clock, keys, servers, controlSchema, log } = this.#deps;
    const { self, view, arriveTimeoutMs } = this.#options;
    const [group, master] = await Promise.all([keys.group.read(), keys.master.read()]);
    // Another may have taken over while this one waited for the lock.
    if (!group || !view().isMaster || master?.value.node !== self.node) return;
    await servers.withConnection(self, CONTROL_DATABASE, (connection) => controlSchema.install(connection));
    const work = { signal: AbortSignal.any([signal, lock.lost]), report: () => {} };
    const wait = { what: 'the control schema', timeoutMs: arriveTimeoutMs, hint: 'It is looked at again.' };
    await waitUntil(clock, work, wait, async () => {
      const missing = await this.#missing();
      return missing.length === 0 ? met : waitsFor(missing.join(', '));
    });
    const former = group.value.schemaVersion ?? 'none';
    if (former === controlSchema.version) return;
    const { committed } = await keys.coordinator.txn(
      [held(lock), keys.group.unchanged(group)],
      [keys.group.put({ ...group.value, schemaVersion: controlSchema.version })],
    );
    if (!committed) {
      throw new VarveError(
        'SESSION_LOST',
        'the group changed while its control schema was brought up to date',
        {
          hint: 'It is looked at again in a moment.',
        },
      );
    }
    log.info({ former, version: controlSchema.version }, 'the control schema was brought up to date');
    await servers.withConnection(self, CONTROL_DATABASE, (connection) =>
      connection.query('insert into rdpg.events (host, key, msg, detail) values ($1, $2, $3, $4)', [
        self.node,
        'schema/updated',
        `the control schema is of version ${controlSchema.version}, no longer ${former}`,
        JSON.stringify({ version: controlSchema.version, former }),
      ]),
    );
  }

  /** Members that give signs of life and do not have it yet. One that is away gets it in the stream of changes. */
  async #missing(): Promise<string[]> {
    const { keys, servers, controlSchema } = this.#deps;
    const roster = await readRoster(keys);
    const living = membersOf(roster).filter(({ node }) => roster.alive.has(node));
    const found = await Promise.all(
      living.map(async ({ node, host, port }) => {
        const complete = await servers
          .withConnection({ node, host, port }, CONTROL_DATABASE, (connection) =>
            controlSchema.isComplete(connection),
          )
          .catch((error: unknown) => {
            if (error instanceof VarveError && error.code.startsWith('CONNECTION_')) return false;
            throw error;
          });
        return complete ? [] : [node];
      }),
    );
    return found.flat();
  }

  /** With a session of its own: this member may hold the lock for something else. */
  async #underLock(signal: AbortSignal, work: (lock: Lock) => Promise<void>): Promise<string | undefined> {
    const { keys } = this.#deps;
    const { self, lockTtlMs } = this.#options;
    const session = await keys.coordinator.session({
      ttlMs: lockTtlMs,
      name: `${self.node}: schemas of group ${keys.cluster}`,
    });
    try {
      const options = { owner: self.node, waitMs: LOCK_WAIT_MS, signal };
      await work(await keys.coordinator.lock(keys.bootstrapLock, session, options));
      return undefined;
    } catch (error) {
      if (!(error instanceof VarveError) || error.code !== 'LOCK_TIMEOUT') throw error;
      const { message, detail = '' } = error;
      return `the control schema is to be brought up to date, once nobody joins or leaves: ${message}. ${detail}`;
    } finally {
      await session.close();
    }
  }
}

/** `3-0123456789ab`: the number of the newest migration, and what all of them are. */
function numberOf(version: string): number {
  return Number.parseInt(version, 10);
}
