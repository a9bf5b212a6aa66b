import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GroupContext, type BootstrapDeps, type BootstrapOptions } from '../src/cluster/bootstrap/context.ts';
import type { WriteMasterPart } from '../src/cluster/bootstrap/group-parts.ts';
import { groupBootstrapSteps } from '../src/cluster/bootstrap/group-steps.ts';
import { controlSchemaPart, groupSchemaPart } from '../src/cluster/bootstrap/parts.ts';
import { repeatBootstrap } from '../src/cluster/bootstrap/repeat.ts';
import { GroupKeys } from '../src/cluster/group-keys.ts';
import type { Coordinator } from '../src/coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../src/coordination/embedded-server.ts';
import { openCoordinator } from '../src/coordination/open-coordinator.ts';
import { systemClock } from '../src/core/clock.ts';
import type { Connection } from '../src/postgres/connection.ts';
import { SqlState, sqlStateOf } from '../src/postgres/sqlstate.ts';
import { RunEvents } from '../src/run/events.ts';
import { runSteps } from '../src/run/run.ts';
import { startGroupServers, type TestGroupServers } from './group-servers.ts';
import { TEMP_PREFIX } from './leak-check.ts';

export const quiet = { info: () => {}, warn: () => {}, error: () => {} };

/** Servers without anything of a group, and a coordinator: what nodes bootstrap on. */
export class GroupStage implements AsyncDisposable {
  readonly servers: TestGroupServers;
  #coordinator: EmbeddedCoordinator;
  readonly #folder: string;
  readonly #nodeUuids: string[] = [];
  readonly #clients: Coordinator[] = [];

  private constructor(servers: TestGroupServers, coordinator: EmbeddedCoordinator, folder: string) {
    this.servers = servers;
    this.#coordinator = coordinator;
    this.#folder = folder;
  }

  static async open(count: number, major = 18): Promise<GroupStage> {
    const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}coordinator-`));
    const [servers, coordinator] = await Promise.all([
      startGroupServers(count, { withoutRole: true, major }),
      EmbeddedCoordinator.start({ folder }, { clock: systemClock, log: quiet }),
    ]);
    return new GroupStage(servers, coordinator, folder);
  }

  /** Every test has a client of its own, as every node has. */
  coordinator(): Coordinator {
    const { url } = this.#coordinator;
    const client = openCoordinator(
      { kind: 'embedded', url, timeoutMs: 3000 },
      { clock: systemClock, log: quiet },
    );
    this.#clients.push(client);
    return client;
  }

  /** As a crash, and started again on its folder and port. */
  async restartCoordinator(): Promise<void> {
    const port = Number(new URL(this.#coordinator.url).port);
    await this.#coordinator.close();
    this.#coordinator = await EmbeddedCoordinator.start(
      { folder: this.#folder, port },
      { clock: systemClock, log: quiet },
    );
  }

  get coordinatorUrl(): string {
    return this.#coordinator.url;
  }

  nodeUuid(index: number): string {
    return (this.#nodeUuids[index] ??= randomUUID());
  }

  node(index: number, options: Partial<BootstrapOptions> & { readonly cluster: string }): GroupContext {
    return new GroupContext(this.deps(index, options.cluster), this.options(index, options));
  }

  deps(index: number, cluster: string, coordinator = this.coordinator()): BootstrapDeps {
    const keys = new GroupKeys(coordinator, cluster);
    return {
      clock: systemClock,
      log: quiet,
      keys,
      withAdmin: async (database, work) => {
        await using connection = await this.servers.connect(index, database);
        return await work(connection);
      },
      groupSchema: groupSchemaPart,
      controlSchema: controlSchemaPart({ cluster, kind: 'manager', replicated: true }, 'test'),
      master: standInMaster(keys, `n${index + 1}`),
    };
  }

  options(index: number, options: Partial<BootstrapOptions> = {}): BootstrapOptions {
    const address = this.servers.addresses[index];
    if (!address) throw new Error(`there is no server ${index}`);
    return {
      node: address.node,
      nodeUuid: this.nodeUuid(index),
      kind: 'manager',
      size: 3,
      accessDatabase: 'varve',
      host: address.host,
      port: address.port,
      groupPassword: this.servers.password,
      healthPassword: 'of-health',
      // On a busy machine.
      waitTimeoutMs: 90_000,
      registrationTtlMs: 2000,
      lockTtlMs: 1500,
      lockDelayMs: 200,
      takeoverAfterMs: 300,
      maxClockSkewMs: 2000,
      ...options,
    };
  }

  /** Everything that groups have left on the servers. */
  async clean(): Promise<void> {
    await Promise.all(this.servers.own.map((_, i) => cleanServer(this.servers, i)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#clients.map((client) => client[Symbol.asyncDispose]()));
    await this.servers[Symbol.asyncDispose]();
    await this.#coordinator.close();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** As `varve node` runs it. */
export async function bootstrap(
  context: GroupContext,
  more: { readonly events?: RunEvents; readonly signal?: AbortSignal } = {},
): Promise<void> {
  const { signal = new AbortController().signal } = more;
  await repeatBootstrap(context, signal, () => runOnce(context, more));
}

function runOnce(
  context: GroupContext,
  more: { readonly events?: RunEvents; readonly signal?: AbortSignal },
): Promise<void> {
  return runSteps(
    { clock: systemClock, events: more.events ?? new RunEvents() },
    {
      run: 'bootstrap',
      node: context.options.node,
      steps: groupBootstrapSteps(),
      context,
      signal: more.signal ?? new AbortController().signal,
    },
  );
}

function standInMaster(keys: GroupKeys, node: string): WriteMasterPart {
  return {
    claim: async (reason) => {
      await keys.master.update((present) =>
        present ? undefined : { node, term: '1', since: new Date().toISOString(), state: 'active', reason },
      );
    },
  };
}

async function cleanServer(servers: TestGroupServers, index: number): Promise<void> {
  await using admin = await servers.connect(index, 'postgres');
  const { rows } = await admin.query<{ name: string }>(
    `select datname as name from pg_database where datname in ('rdpg', 'health', 'varve')`,
  );
  for (const { name } of rows) {
    await using connection: Connection = await servers.connect(index, name);
    const { rows: subscriptions } = await connection.query<{ name: string }>(
      `select subname as name from pg_subscription where subdbid = (select oid from pg_database where datname = $1)`,
      [name],
    );
    for (const subscription of subscriptions) {
      await connection.query(`alter subscription "${subscription.name}" disable`);
      await connection.query(`alter subscription "${subscription.name}" set (slot_name = none)`);
      await connection.query(`drop subscription "${subscription.name}"`);
    }
  }
  for (;;) {
    await admin.query(
      `select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null`,
    );
    // A subscriber that is not cleaned yet may take one again in between.
    await admin
      .query(`select pg_drop_replication_slot(slot_name) from pg_replication_slots where active_pid is null`)
      .catch((error: unknown) => {
        if (sqlStateOf(error) !== SqlState.objectInUse) throw error;
      });
    const { left } = await admin.one<{ left: number }>(
      'select count(*)::int4 as left from pg_replication_slots',
    );
    if (left === 0) break;
  }
  for (const { name } of rows) await admin.query(`drop database "${name}" with (force)`);
  await admin.query('drop role if exists rdpg; drop role if exists health');
}
