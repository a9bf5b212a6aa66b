import * as z from 'zod';
import { messageOf, VarveError } from '../core/errors.ts';
import {
  ABSENT,
  type Comparison,
  type Coordinator,
  type Entry,
  type Operation,
  type Version,
} from '../coordination/coordinator.ts';

/**
 * What a group keeps in the coordinator, below `varve/cluster/<cluster>/`. Values are JSON. Keys of locks hold
 * nothing else. Everything read is checked against its schema: a value that somebody edited by hand is told
 * (GROUP_KEY_INVALID), never guessed at.
 *
 * | key                   | value                                                        | written by               |
 * | --------------------- | ------------------------------------------------------------ | ------------------------ |
 * | `bootstrap/lock`      | lock: bootstrap, joining, leaving, one at a time             |                          |
 * | `group`               | `GroupRecord`; permanent once its state is `complete`        | its owner, by version    |
 * | `members/<node>`      | `MemberRecord`                                               | the node; who removes it |
 * | `master/lock`         | lock; its token is the term                                  |                          |
 * | `master`              | `MasterRecord`                                               | only under `master/lock` |
 * | `fence/<term>/<node>` | `FenceRecord`                                                | the node                 |
 * | `reigns/<term>`       | `ReignRecord`                                                | the master of that term  |
 * | `restart/lock`        | lock: members restart their servers one at a time            |                          |
 * | `status/<node>`       | `MemberStatus`                                               | the node                 |
 * | `join/journal`        | `JoinJournal`, while members are frozen for a joiner         | who joins; who thaws     |
 * | `config`              | `GroupConfig`                                                | by version               |
 * | `requests/<id>`       | `GroupRequest`: switch-over, leave, replace, reinit          | who asks; who answers    |
 * | `recover`             | a group's UUID as text: its record is lost, make it anew     | people                   |
 */
export class GroupKeys {
  readonly cluster: string;
  readonly prefix: string;
  readonly coordinator: Coordinator;
  readonly group: Document<GroupRecord>;
  readonly master: Document<MasterRecord>;
  readonly joinJournal: Document<JoinJournal>;
  readonly config: Document<GroupConfig>;
  readonly members: Collection<MemberRecord>;
  readonly requests: Collection<GroupRequest>;
  readonly reigns: Collection<ReignRecord>;
  readonly status: Collection<MemberStatus>;
  readonly bootstrapLock: string;
  readonly recoverKey: string;
  readonly masterLock: string;
  readonly restartLock: string;

  /** @throws INVALID_ARGUMENT for a name that cannot stand in a key */
  constructor(coordinator: Coordinator, cluster: string) {
    checkName('cluster', cluster);
    this.coordinator = coordinator;
    this.cluster = cluster;
    this.prefix = `varve/cluster/${cluster}/`;
    const document = <T>(name: string, schema: z.ZodType<T>): Document<T> =>
      new Document(coordinator, this.prefix + name, schema);
    this.group = document('group', groupRecord);
    this.master = document('master', masterRecord);
    this.joinJournal = document('join/journal', joinJournal);
    this.config = document('config', groupConfig);
    this.members = new Collection(coordinator, `${this.prefix}members/`, memberRecord);
    this.requests = new Collection(coordinator, `${this.prefix}requests/`, groupRequest);
    this.reigns = new Collection(coordinator, `${this.prefix}reigns/`, reignRecord);
    this.status = new Collection(coordinator, `${this.prefix}status/`, memberStatus);
    this.restartLock = `${this.prefix}restart/lock`;
    this.bootstrapLock = `${this.prefix}bootstrap/lock`;
    this.recoverKey = `${this.prefix}recover`;
    this.masterLock = `${this.prefix}master/lock`;
  }

  /** The fence records of one term, by node. */
  fences(term: string): Collection<FenceRecord> {
    return new Collection(this.coordinator, `${this.prefix}fence/${term}/`, fenceRecord);
  }

  /** Under which name the members' nodes are registered: who passes its check is alive. */
  get serviceName(): string {
    return `varve-${this.cluster}`;
  }

  serviceId(node: string): string {
    return `${this.serviceName}-${node}`;
  }
}

/** A key's value together with what a conditional write needs. */
export interface Versioned<T> {
  readonly value: T;
  readonly version: Version;
}

/** One key and what it may hold. */
export class Document<T> {
  readonly key: string;
  readonly #coordinator: Coordinator;
  readonly #schema: z.ZodType<T>;

  constructor(coordinator: Coordinator, key: string, schema: z.ZodType<T>) {
    this.#coordinator = coordinator;
    this.key = key;
    this.#schema = schema;
  }

  /** @throws GROUP_KEY_INVALID, and what the coordinator throws */
  async read(): Promise<Versioned<T> | undefined> {
    const entry = await this.#coordinator.get(this.key);
    return entry === undefined ? undefined : this.parse(entry);
  }

  parse(entry: Entry): Versioned<T> {
    return { value: parseValue(this.#schema, entry), version: entry.version };
  }

  /** False when the key has another version by now. */
  write(value: T, ifVersion: Version): Promise<boolean> {
    return this.#coordinator.put(this.key, this.#encode(value), { ifVersion });
  }

  /** False when the key exists. */
  create(value: T): Promise<boolean> {
    return this.write(value, ABSENT);
  }

  /** For a transaction. */
  put(value: T): Operation {
    return { kind: 'put', key: this.key, value: this.#encode(value) };
  }

  remove(): Operation {
    return { kind: 'delete', key: this.key };
  }

  /** For a transaction: the key is as it was when `seen` was read; undefined is a key that did not exist. */
  unchanged(seen: Pick<Versioned<T>, 'version'> | undefined): Comparison {
    return seen === undefined
      ? { kind: 'absent', key: this.key }
      : { kind: 'version', key: this.key, version: seen.version };
  }

  /**
   * Replaces the value by what `change` makes of it, again when another was faster; undefined leaves it. The
   * result is the value that is there afterwards.
   */
  async update(change: (value: T | undefined) => T | undefined): Promise<T | undefined> {
    for (;;) {
      const seen = await this.read();
      const next = change(seen?.value);
      if (next === undefined) return seen?.value;
      if (await this.write(next, seen?.version ?? ABSENT)) return next;
    }
  }

  /** The value now and after changes, level-triggered, as `Coordinator.watch`. */
  async *watch(signal: AbortSignal): AsyncGenerator<Versioned<T> | undefined, void> {
    for await (const entries of this.#coordinator.watch(this.key, signal)) {
      const entry = entries.find(({ key }) => key === this.key);
      yield entry === undefined ? undefined : this.parse(entry);
    }
  }

  #encode(value: T): string {
    return JSON.stringify(this.#schema.parse(value));
  }
}

/** Keys of one kind below a prefix, by the name that follows it. */
export class Collection<T> {
  readonly prefix: string;
  readonly #coordinator: Coordinator;
  readonly #schema: z.ZodType<T>;

  constructor(coordinator: Coordinator, prefix: string, schema: z.ZodType<T>) {
    this.#coordinator = coordinator;
    this.prefix = prefix;
    this.#schema = schema;
  }

  at(name: string): Document<T> {
    checkName('name', name);
    return new Document(this.#coordinator, this.prefix + name, this.#schema);
  }

  /** In the order of their names. @throws GROUP_KEY_INVALID */
  async list(): Promise<ReadonlyMap<string, Versioned<T>>> {
    return this.#parse(await this.#coordinator.list(this.prefix));
  }

  async *watch(signal: AbortSignal): AsyncGenerator<ReadonlyMap<string, Versioned<T>>, void> {
    for await (const entries of this.#coordinator.watch(this.prefix, signal)) yield this.#parse(entries);
  }

  #parse(entries: readonly Entry[]): ReadonlyMap<string, Versioned<T>> {
    return new Map(
      entries.map((entry) => [
        entry.key.slice(this.prefix.length),
        { value: parseValue(this.#schema, entry), version: entry.version },
      ]),
    );
  }
}

/** Names of clusters and nodes: they stand in keys, names of services and replication slots. */
export function checkName(what: string, name: string): void {
  if (/^[a-z][a-z0-9-]{0,39}$/.test(name)) return;
  throw new VarveError('INVALID_ARGUMENT', `${JSON.stringify(name)} cannot be the name of a ${what}`, {
    hint: 'Use at most 40 lower-case letters, digits and hyphens, with a letter first.',
  });
}

function parseValue<T>(schema: z.ZodType<T>, { key, value }: Entry): T {
  let json: unknown;
  try {
    json = JSON.parse(value.toString('utf8'));
  } catch (error) {
    throw invalid(key, `it is not JSON: ${messageOf(error)}`);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw invalid(
    key,
    parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'value'}: ${message}`).join('\n'),
  );
}

function invalid(key: string, detail: string): VarveError {
  return new VarveError('GROUP_KEY_INVALID', `the coordinator's key ${key} does not hold what it should`, {
    detail,
    hint: 'Somebody changed it by hand, or a newer version wrote it. Put the former value back; nothing was changed.',
  });
}

const time = z.iso.datetime();
const uuid = z.uuid();
const lsn = z.string().regex(/^[0-9A-F]+\/[0-9A-F]+$/, 'not a position like 0/16B3748');
/** A lock's token, which is a bigint. */
const token = z.string().regex(/^\d+$/, 'not a number');

export const groupRecord = z.object({
  uuid,
  kind: z.enum(['manager', 'service']),
  /** `creating` until the control schema is on every member of the first hour. */
  state: z.enum(['creating', 'complete']),
  /** The node that creates the group. */
  owner: z.string(),
  ownerUuid: uuid,
  /** Of the bootstrap lock under which the owner became it. */
  token,
  /**
   * What the owner may have committed. Under `none` another node may take over from a dead owner; the owner
   * writes `schema` before it commits anything that the group would have to keep.
   */
  committed: z.enum(['none', 'schema']),
  /** Number of members that the first bootstrap waits for. */
  size: z.int().min(1),
  accessDatabase: z.string().optional(),
  /** Of the control schema, once it is complete. */
  schemaVersion: z.string().optional(),
  /** The coordinator had lost it: whoever has its UUID in all databases is a member without asking. */
  recovered: z.boolean().optional(),
  createdAt: time,
});
export type GroupRecord = z.infer<typeof groupRecord>;

export const memberRecord = z.object({
  node: z.string(),
  /** Of the node's folder: the same name in another folder is another node. */
  nodeUuid: uuid,
  /** Where peers reach its PostgreSQL. */
  host: z.string().min(1),
  port: z.int().min(1).max(65_535),
  httpUrl: z.string().optional(),
  /** Of its PgBouncer; clients are led to PostgreSQL itself where there is none. */
  poolerPort: z.int().min(1).max(65_535).optional(),
  /**
   * `joining`: no member counts on it yet. `leaving`: others drop it from their sides. `rejoin-needed`: it has
   * changes that the group does not have, or lost track; its content is to be made anew.
   */
  state: z.enum(['joining', 'member', 'leaving', 'rejoin-needed']),
  tags: z.object({ nofailover: z.boolean().optional() }),
  /** Its replicated databases, sorted. */
  databases: z.array(z.string()),
  /** Why it is in this state, for people. */
  reason: z.string().optional(),
  joinedAt: time,
});
export type MemberRecord = z.infer<typeof memberRecord>;

/** Who has to confirm a commit of a master before it is acknowledged: `count` of `others`. */
export const quorumRule = z.object({ others: z.array(z.string()), count: z.int().min(0) });
export type QuorumRule = z.infer<typeof quorumRule>;

export const masterRecord = z.object({
  node: z.string(),
  /** The token of `master/lock`, as decimal text. */
  term: token,
  since: time,
  state: z.enum(['electing', 'fencing', 'active']),
  reason: z.string(),
  /**
   * The term in which this master was elected. It stays when the same node takes the lock again before anybody
   * else wrote here: then nobody has to be fenced.
   */
  reign: token.optional(),
  /** Whose changes end with this reign: the last node that was active before. Null: there was none. */
  previous: z
    .object({ node: z.string(), reign: token, rules: z.array(quorumRule) })
    .nullable()
    .optional(),
  /** By database: where the changes of `previous` end; known when the master is active. */
  fill: z.record(z.string(), lsn).optional(),
  /** By which this master may acknowledge commits; two while they are being changed. */
  rules: z.array(quorumRule).optional(),
  /** A switch-over under way: only this node takes the lock, for a while. */
  handover: z.object({ to: z.string(), request: z.string().optional(), at: time }).optional(),
});
export type MasterRecord = z.infer<typeof masterRecord>;

export const fenceRecord = z.object({
  node: z.string(),
  term: token,
  /** By database: how far it had applied the former master's changes. */
  progress: z.record(z.string(), lsn),
  /** Of the former master itself: where its own changes end. */
  own: z.record(z.string(), lsn).optional(),
  /** It has all changes of former masters and takes those of this one. */
  followed: z.boolean().optional(),
  at: time,
});
export type FenceRecord = z.infer<typeof fenceRecord>;

/** What was decided at the start of a reign, for members that were away. */
export const reignRecord = z.object({
  node: z.string(),
  previous: z.string().nullable(),
  fill: z.record(z.string(), lsn),
});
export type ReignRecord = z.infer<typeof reignRecord>;

/** What a member tells about itself, for people and for those who restart servers one by one. */
export const memberStatus = z.object({
  node: z.string(),
  state: z.string(),
  reign: z.string().optional(),
  waitingFor: z.string().optional(),
  configVersion: z.int().optional(),
  /** Settings that take effect at a restart of its server. */
  pendingRestart: z.array(z.string()).optional(),
  at: time,
});
export type MemberStatus = z.infer<typeof memberStatus>;

export const joinJournal = z.object({
  joiner: z.string(),
  joinerUuid: uuid,
  donor: z.string(),
  step: z.string(),
  /** Subscriptions on the donor that are disabled for the time being: from which node, in which database. */
  frozen: z.array(z.object({ from: z.string(), database: z.string() })),
  /** Of the bootstrap lock of who joins: when that is not held any more, anybody thaws. */
  token,
  startedAt: time,
});
export type JoinJournal = z.infer<typeof joinJournal>;

export const groupConfig = z.object({
  version: z.int(),
  settings: z.record(z.string(), z.string()),
  maintenance: z
    .object({ paused: z.boolean(), by: z.string().optional(), since: time.optional() })
    .optional(),
});
export type GroupConfig = z.infer<typeof groupConfig>;

export const groupRequest = z.object({
  id: z.string(),
  kind: z.enum(['switchover', 'leave', 'replace', 'reinit']),
  /** The node that it is about. */
  node: z.string().optional(),
  arguments: z.record(z.string(), z.string()),
  by: z.string(),
  at: time,
  state: z.enum(['asked', 'running', 'done', 'failed']),
  /** Who works on it. */
  worker: z.string().optional(),
  detail: z.string().optional(),
  /** It is carried on with to its end, because something of it cannot be taken back. */
  irrevocable: z.boolean().optional(),
  /** Somebody wants it to be given up. */
  cancel: z.object({ by: z.string(), at: time }).optional(),
});
export type GroupRequest = z.infer<typeof groupRequest>;
