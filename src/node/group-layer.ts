import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Hono } from 'hono';
import { addressOf, CONTROL_DATABASE, GroupContext } from '../cluster/bootstrap/context.ts';
import { groupBootstrapSteps } from '../cluster/bootstrap/group-steps.ts';
import { hasLeft } from '../cluster/bootstrap/left.ts';
import { controlSchemaPart, groupSchemaPart } from '../cluster/bootstrap/parts.ts';
import { repeatBootstrap } from '../cluster/bootstrap/repeat.ts';
import { tendMembership } from '../cluster/bootstrap/requests.ts';
import { StructureUpkeep } from '../cluster/ddl/structure-upkeep.ts';
import { GroupKeys } from '../cluster/group-keys.ts';
import { GroupMember } from '../cluster/master/group-member.ts';
import type { ServerAddress } from '../cluster/mesh/group-servers.ts';
import type { GroupShape } from '../cluster/schema/default-rows.ts';
import { SchemaUpkeep } from '../cluster/schema/schema-upkeep.ts';
import type { GroupServices } from '../cluster/services/group-services.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import type { Clock } from '../core/clock.ts';
import { messageOf, VarveError } from '../core/errors.ts';
import { writeFileAtomic } from '../postgres/atomic-file.ts';
import type { RunEvents } from '../run/events.ts';
import { planSteps, runSteps, type PlannedStep } from '../run/run.ts';
import { done, todo, type Step } from '../run/step.ts';
import { AdminPools } from './admin-pools.ts';
import { createExtensions } from './extension-setup.ts';
import { GroupDesk } from './group-desk.ts';
import { groupJobs, type GroupJobs } from './group-jobs.ts';
import { readGroupSecrets, type GroupSecrets } from './group-secrets.ts';
import type { GroupSettings } from './group-settings.ts';
import { openGroupServices } from './group-proxies.ts';
import { leaseFile } from './lease-file.ts';
import type { Log } from './log.ts';
import type { RunningPostgres } from './postgres-service.ts';

export interface GroupLayerDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly events: RunEvents;
  readonly coordinator: Coordinator;
  /** As of now: after a recovery it may be another server process. */
  readonly postgres: () => RunningPostgres;
  /** Restarts a server of our own; undefined for one that somebody else runs. */
  readonly restartPostgres: (() => Promise<void>) | undefined;
}

export interface GroupLayerOptions {
  readonly node: string;
  /** The node's. */
  readonly folder: string;
  readonly httpPort: number;
  readonly database: string;
  readonly group: GroupSettings;
}

const REGISTRATION_TTL_MS = 5_000;
const LOCK_TTL_MS = 5_000;
const USUAL_LEASE_MS = 3_000;
const TAKEOVER_AFTER_MS = 10_000;
const MAX_CLOCK_SKEW_MS = 10_000;
const TEND_EVERY_MS = 1_000;
const STRUCTURE_EVERY_MS = 1_000;
const SCHEMA_EVERY_MS = 5_000;
const SCHEMA_ARRIVES_MS = 30_000;
const CLAIM_POLL_MS = 20;

/**
 * What a member of a group is beyond its PostgreSQL: it bootstraps, takes part in there being one write master,
 * keeps what is derived up to date, carries out the group's work, and leads clients. `run` goes on until its
 * signal; everything else shows or asks.
 */
export class GroupLayer implements AsyncDisposable {
  readonly desk: GroupDesk;
  /** Below `/v2` and `/databases` of the node's HTTP, and its health. */
  readonly jobs: GroupJobs;
  readonly services: GroupServices;
  readonly #deps: GroupLayerDeps;
  readonly #options: GroupLayerOptions;
  readonly #context: GroupContext;
  readonly #member: GroupMember;
  readonly #structure: StructureUpkeep;
  readonly #schemas: SchemaUpkeep;
  readonly #admins: AdminPools;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #out = false;

  private constructor(parts: {
    readonly deps: GroupLayerDeps;
    readonly options: GroupLayerOptions;
    readonly secrets: GroupSecrets;
    readonly nodeUuid: string;
    readonly keys: GroupKeys;
    readonly admins: AdminPools;
    readonly services: GroupServices;
  }) {
    const { deps, options, secrets, keys } = parts;
    // Every loop waits on it, each for several things: they are more than the ten that Node takes for a leak.
    setMaxListeners(0, this.#stop.signal);
    this.#deps = deps;
    this.#options = options;
    const { clock, log, coordinator } = deps;
    const { group, node } = options;
    this.#admins = parts.admins;
    this.#context = this.#makeContext(parts, keys);
    const { servers, self } = this.#context;
    // Of a service group those that are handed out, which come and go.
    const databases =
      group.kind === 'manager'
        ? [options.database]
        : (): readonly string[] => this.#view().databases.filter((name) => name !== CONTROL_DATABASE);
    this.#member = new GroupMember(
      {
        clock,
        log,
        coordinator,
        servers,
        restart: deps.restartPostgres,
        memory: leaseFile(join(options.folder, 'master.session')),
      },
      {
        cluster: group.cluster,
        address: self,
        clientDatabases: databases,
        quorumDatabases: databases,
        quorum: { policy: group.durability, confirm: group.kind === 'manager' ? 'majority' : 'all' },
        ttlMs: leaseTtlMs(group, coordinator),
      },
    );
    this.services = parts.services;
    this.#structure = new StructureUpkeep(
      { clock, log, servers },
      { self, view: () => this.#view(), intervalMs: STRUCTURE_EVERY_MS },
    );
    this.#schemas = this.#makeSchemas(keys);
    this.jobs = groupJobs(
      { ...deps, keys, context: this.#context, member: this.#member, services: this.services },
      { node, secrets, shape: shapeOf(group), group, view: () => this.#view() },
    );
    this.desk = new GroupDesk(
      { clock, keys, member: this.#member, context: this.#context, services: this.services, jobs: this.jobs },
      {
        node,
        cluster: group.cluster,
        kind: group.kind,
        structure: () => this.#structure.status(),
        schema: () => this.#schemas.status(),
        plan: (signal) => this.#plan(signal),
      },
    );
  }

  /** Nothing is done yet. @throws CONFIG_INVALID for a secret that cannot be used */
  static async open(deps: GroupLayerDeps, options: GroupLayerOptions): Promise<GroupLayer> {
    const { group, folder } = options;
    const secrets = await readGroupSecrets(group.passwordFile);
    const keys = new GroupKeys(deps.coordinator, group.cluster);
    const admins = new AdminPools(() => deps.postgres().endpoint);
    const services = await openGroupServices({ ...deps, keys, admins }, options);
    return new GroupLayer({
      deps,
      options,
      secrets,
      nodeUuid: await ownUuid(folder),
      keys,
      admins,
      services,
    });
  }

  /** What a node says of itself. */
  get role(): string | null {
    const { state, master, masterState } = this.#member.status();
    if (this.#out) return 'left the group';
    if (this.#running === undefined) return null;
    if (state === 'active') return 'write master';
    return master !== undefined && masterState === 'active' && state === 'following' ? 'member' : state;
  }

  get term(): number | null {
    const { term } = this.#member.status();
    return term === undefined ? null : Number(term);
  }

  /**
   * Whether this node has left the group and keeps what it has: it takes no part until it is asked back. False, too,
   * while nobody can tell: the bootstrap waits for who can.
   */
  async isOut(): Promise<boolean> {
    this.#out = await hasLeft(this.#context).catch(() => false);
    return this.#out;
  }

  /** Resolves when it is. */
  async untilAskedBack(signal: AbortSignal): Promise<void> {
    while (await this.isOut()) await this.#deps.clock.sleep(TEND_EVERY_MS, signal);
  }

  /** For whom or what this member waits. */
  get waitingFor(): string | null {
    if (this.#out) return `being asked back (varve cluster reinit ${this.#options.node})`;
    if (this.#running === undefined) return null;
    const { waitingFor, trouble } = this.#member.status();
    return waitingFor ?? trouble ?? null;
  }

  get http(): Hono {
    return this.jobs.http;
  }

  /**
   * The document's bootstrap, from wherever an earlier run stopped, to a member that takes its part.
   * @throws what the failing step throws; run again it carries on
   */
  async bootstrap(signal: AbortSignal): Promise<void> {
    const { clock, events } = this.#deps;
    const steps = this.#steps();
    if (await this.#member.carryOn()) void this.#take();
    await repeatBootstrap(this.#context, signal, () =>
      runSteps(
        { clock, events },
        { run: 'group', node: this.#options.node, steps, context: this.#context, signal },
      ),
    );
  }

  /** After the bootstrap, until the signal fires. */
  async run(signal: AbortSignal): Promise<void> {
    const stop = (): void => this.#stop.abort();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    try {
      await Promise.all([
        this.#take(),
        this.#structure.run(this.#stop.signal),
        this.#schemas.run(this.#stop.signal),
        this.services.run(this.#stop.signal),
        this.jobs.run(this.#stop.signal),
        this.#tend(this.#stop.signal),
      ]);
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running?.catch(() => {});
    await this.services[Symbol.asyncDispose]();
    await this.jobs[Symbol.asyncDispose]();
    await this.#context[Symbol.asyncDispose]();
    await this.#admins[Symbol.asyncDispose]();
  }

  #makeSchemas(keys: GroupKeys): SchemaUpkeep {
    const { clock, log } = this.#deps;
    const { servers, self, deps, options } = this.#context;
    const view = (): { databases: readonly string[]; isMaster: boolean } => ({
      databases: this.#view().databases,
      isMaster: this.#member.status().state === 'active',
    });
    return new SchemaUpkeep(
      { clock, log, keys, servers, controlSchema: deps.controlSchema, groupSchema: deps.groupSchema },
      {
        self,
        view,
        intervalMs: SCHEMA_EVERY_MS,
        lockTtlMs: options.lockTtlMs,
        arriveTimeoutMs: SCHEMA_ARRIVES_MS,
      },
    );
  }

  #makeContext(
    {
      deps,
      options,
      secrets,
      nodeUuid,
    }: {
      readonly deps: GroupLayerDeps;
      readonly options: GroupLayerOptions;
      readonly secrets: GroupSecrets;
      readonly nodeUuid: string;
    },
    keys: GroupKeys,
  ): GroupContext {
    const { group, node, httpPort, database } = options;
    const { clock, log, coordinator, postgres } = deps;
    return new GroupContext(
      {
        clock,
        log,
        keys,
        withAdmin: (name, work) => this.#admins.withConnection(name, work),
        groupSchema: groupSchemaPart,
        controlSchema: controlSchemaPart(shapeOf(group), secrets.key.fingerprint),
        master: { claim: () => this.#claim() },
        onDatabaseMade: async (name) => {
          if (name === database) await this.#admins.withConnection(name, createExtensions);
        },
      },
      {
        node,
        nodeUuid,
        kind: group.kind,
        size: group.size,
        accessDatabase: group.kind === 'manager' ? database : undefined,
        host: group.host,
        port: postgres().endpoint.port,
        httpUrl: `http://${group.host}:${httpPort}`,
        poolerPort: group.proxies.poolerPort,
        nofailover: group.nofailover,
        groupPassword: secrets.groupPassword,
        healthPassword: secrets.healthPassword,
        waitTimeoutMs: group.timeoutMs,
        registrationTtlMs: Math.max(REGISTRATION_TTL_MS, coordinator.bounds.minTtlMs),
        lockTtlMs: Math.max(LOCK_TTL_MS, coordinator.bounds.minTtlMs),
        takeoverAfterMs: TAKEOVER_AFTER_MS,
        maxClockSkewMs: MAX_CLOCK_SKEW_MS,
      },
    );
  }

  /** Those of the document: the group's, then services reconfigured and registered, and watches. */
  #steps(): Step<GroupContext>[] {
    return [
      ...groupBootstrapSteps(),
      {
        name: 'reconfigure-services',
        check: () => Promise.resolve(todo('the proxies are to follow the group')),
        // A node without its proxies serves all the same; what is wrong is in its status.
        apply: async () => {
          await this.services.reconfigure().catch((error: unknown) => {
            this.#deps.log.warn({ error: messageOf(error) }, 'the proxies cannot follow the group yet');
          });
        },
      },
      {
        name: 'register-services',
        check: () => Promise.resolve(this.#options.group.kind === 'service' ? todo('for clients') : done),
        apply: () => this.services.register(),
      },
    ];
  }

  #plan(signal: AbortSignal): Promise<PlannedStep[]> {
    return planSteps(this.#steps(), this.#context, signal);
  }

  /** Takes part in the election until there is a write master, whoever it is. */
  async #claim(): Promise<void> {
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + this.#options.group.timeoutMs;
    void this.#take();
    while ((await this.#context.keys.master.read())?.value.state !== 'active') {
      if (clock.monotonicMs() > untilMs) {
        throw new VarveError('DEADLINE_EXCEEDED', 'nobody became write master in time', {
          detail: `It waits for ${this.waitingFor ?? 'nothing'}.`,
        });
      }
      await clock.sleep(CLAIM_POLL_MS, this.#stop.signal);
    }
  }

  #take(): Promise<void> {
    this.#running ??= this.#member.run(this.#stop.signal).catch((error: unknown) => {
      if (!this.#stop.signal.aborted) throw error;
    });
    return this.#running;
  }

  async #tend(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    let said: string | undefined;
    while (!signal.aborted) {
      await tendMembership(this.#context, { signal, report: () => {} }).then(
        () => (said = undefined),
        (error: unknown) => {
          const trouble = messageOf(error);
          if (!signal.aborted && trouble !== said)
            log.warn({ error: trouble }, 'members are looked after again');
          said = trouble;
        },
      );
      await clock.sleep(TEND_EVERY_MS, signal).catch(() => {});
    }
  }

  #view(): GroupView {
    const { master, masterState } = this.#member.status();
    const { members } = this.services;
    const active = masterState === 'active' ? members.find(({ node }) => node === master) : undefined;
    const own = members.find(({ node }) => node === this.#options.node);
    const present = members.filter(({ state }) => state === 'member');
    return {
      master: active && addressOf(active),
      databases: own?.state === 'member' ? own.databases : [],
      members: present.map(({ node }) => node),
      others: present.filter(({ node }) => node !== this.#options.node).map(addressOf),
    };
  }
}

/** As of now. */
export interface GroupView {
  /** When clients are let in there. */
  readonly master: ServerAddress | undefined;
  /** Replicated ones, of this member. */
  readonly databases: readonly string[];
  readonly members: readonly string[];
  readonly others: readonly ServerAddress[];
}

export function shapeOf({ cluster, kind, size }: GroupSettings): GroupShape {
  return { cluster, kind, replicated: size > 1 };
}

function leaseTtlMs({ leaseTtlMs: asked }: GroupSettings, { bounds }: Coordinator): number {
  const wanted = asked ?? Math.max(USUAL_LEASE_MS, bounds.minTtlMs);
  if (wanted >= bounds.minTtlMs && wanted <= bounds.maxTtlMs) return wanted;
  throw new VarveError('CONFIG_INVALID', `"leaseTtl" is ${wanted} ms, which the coordinator does not allow`, {
    hint: `It takes ${bounds.minTtlMs} to ${bounds.maxTtlMs} ms.`,
  });
}

/** Made with the node's folder: the same name in another folder is another node. */
async function ownUuid(folder: string): Promise<string> {
  const file = join(folder, 'node.uuid');
  const present = (await readFile(file, 'utf8').catch(() => '')).trim();
  if (present !== '') return present;
  const made = randomUUID();
  await writeFileAtomic(file, `${made}\n`);
  return made;
}
