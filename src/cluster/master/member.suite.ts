import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { serverOptions } from '../../../test/group-servers.ts';
import { TEMP_PREFIX } from '../../../test/leak-check.ts';
import { systemClock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';
import type { Coordinator } from '../../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../../coordination/embedded-server.ts';
import { openCoordinator } from '../../coordination/open-coordinator.ts';
import { TcpProxy } from '../../coordination/tcp-proxy.suite.ts';
import { Connection } from '../../postgres/connection.ts';
import { isAlive } from '../../postgres/postmaster.ts';
import { startServer, type OwnServer } from '../../postgres/server.ts';
import { expect } from 'vitest';
import { GroupContext } from '../bootstrap/context.ts';
import { reinitialise } from '../bootstrap/leave.ts';
import { controlSchemaPart, groupSchemaPart } from '../bootstrap/parts.ts';
import { GroupKeys, type MemberRecord } from '../group-keys.ts';
import { GroupServers } from '../mesh/group-servers.ts';
import { groupSettingsFor } from '../mesh/limits.ts';
import { GroupMember, type GroupMemberOptions } from './group-member.ts';
import type { Lease } from './master-lock.ts';
import type { Action } from './plan.ts';
import { GROUP_UUID, SCHEMA, TestMesh, type MeshNode } from './mesh.suite.ts';

export const DATABASES = ['rdpg', 'varve'];
/** The product's own. With less, a machine that others use as well is enough to lose a lease. */
export const TTL_MS = 3_000;

interface Daemon {
  readonly member: GroupMember;
  readonly stop: AbortController;
  readonly done: Promise<void>;
  readonly coordinator: Coordinator;
  readonly servers: GroupServers;
  readonly isKilled: { value: boolean };
  /** Of one that was killed. */
  readonly link?: TcpProxy;
}

async function end({ stop, done, servers, coordinator, link }: Daemon): Promise<void> {
  stop.abort();
  await done;
  await servers[Symbol.asyncDispose]();
  await coordinator[Symbol.asyncDispose]();
  await link?.[Symbol.asyncDispose]();
}

/** A group of members in this process, on real servers, with a link to the coordinator each. */
export class TestGroup implements AsyncDisposable {
  readonly mesh: TestMesh;
  readonly keys: GroupKeys;
  readonly #coordinator: { server: EmbeddedCoordinator; readonly folder: string; readonly port: number };
  readonly #client: Coordinator;
  /** From each node to the coordinator. */
  readonly toCoordinator = new Map<string, TcpProxy>();
  /** Nodes whose servers were restarted by their daemons, in order. */
  readonly restarts: string[] = [];
  /** Before each action of each daemon. */
  onAction: (node: MeshNode, action: Action['do']) => Promise<void> = () => Promise.resolve();
  /** Before each look of a daemon at the coordinator. */
  onLook: (node: MeshNode) => Promise<void> = () => Promise.resolve();
  readonly #daemons = new Map<string, Daemon>();
  readonly #killed: Daemon[] = [];
  /** What each node's folder would have. */
  readonly #leases = new Map<string, Lease>();
  readonly #restarted: OwnServer[] = [];
  readonly #options: Partial<GroupMemberOptions>;

  private constructor(
    mesh: TestMesh,
    coordinator: { server: EmbeddedCoordinator; readonly folder: string; readonly port: number },
    options: Partial<GroupMemberOptions>,
  ) {
    this.mesh = mesh;
    this.#coordinator = coordinator;
    this.#options = options;
    this.#client = openCoordinator(
      { kind: 'embedded', url: coordinator.server.url },
      { clock: systemClock, log: silent },
    );
    this.keys = new GroupKeys(this.#client, 'test');
  }

  static async start(count: number, options: Partial<GroupMemberOptions> = {}): Promise<TestGroup> {
    const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}coordinator-`));
    const [mesh, server] = await Promise.all([
      TestMesh.start(count, DATABASES),
      EmbeddedCoordinator.start({ folder }, { clock: systemClock, log: silent }),
    ]);
    const port = Number(new URL(server.url).port);
    const group = new TestGroup(mesh, { server, folder, port }, options);
    for (const node of mesh.nodes) {
      group.toCoordinator.set(node.node, await TcpProxy.start(server.url));
      await group.keys.members.at(node.node).create(recordOf(node));
    }
    await group.keys.group.create({
      uuid: GROUP_UUID,
      kind: 'manager',
      state: 'complete',
      owner: 'n1',
      ownerUuid: randomUUID(),
      token: '1',
      committed: 'schema',
      size: count,
      accessDatabase: 'varve',
      createdAt: new Date().toISOString(),
    });
    for (const node of mesh.nodes) group.startDaemon(node);
    return group;
  }

  daemon(node: MeshNode): GroupMember {
    const found = this.#daemons.get(node.node);
    if (!found) throw new Error(`the daemon of ${node.node} does not run`);
    return found.member;
  }

  /** The one of this test process; `run`s until it is stopped. */
  startDaemon(node: MeshNode): GroupMember {
    const daemon = this.#makeDaemon(node);
    this.#daemons.set(node.node, { ...daemon, done: daemon.member.run(daemon.stop.signal) });
    return daemon.member;
  }

  /**
   * The daemon alone is gone, as after SIGKILL: nothing that it sends arrives, and it does nothing. (One of this
   * process cannot be ended without a word.)
   */
  async killDaemon(node: MeshNode): Promise<void> {
    const [daemon, link] = [this.#daemons.get(node.node), this.toCoordinator.get(node.node)];
    if (!daemon || !link) throw new Error(`the daemon of ${node.node} does not run`);
    this.#daemons.delete(node.node);
    this.#killed.push({ ...daemon, link });
    daemon.isKilled.value = true;
    link.silent = true;
    this.toCoordinator.set(node.node, await TcpProxy.start(this.#coordinator.server.url));
  }

  /** As a node's next process does. Whether it goes on with the lease of the one before. */
  async resumeDaemon(node: MeshNode): Promise<boolean> {
    const daemon = this.#makeDaemon(node);
    const resumed = await daemon.member.carryOn();
    this.#daemons.set(node.node, { ...daemon, done: daemon.member.run(daemon.stop.signal) });
    return resumed;
  }

  #makeDaemon(node: MeshNode): Omit<Daemon, 'done'> {
    const link = this.toCoordinator.get(node.node);
    const coordinator = openCoordinator(
      { kind: 'embedded', url: link?.url ?? '', timeoutMs: 1_000 },
      { clock: systemClock, log: silent },
    );
    const list = coordinator.list.bind(coordinator);
    coordinator.list = async (prefix) => {
      await this.onLook(node);
      return list(prefix);
    };
    const { password } = this.mesh.group;
    const stop = new AbortController();
    const stopped = aborted(stop.signal);
    const isKilled = { value: false };
    const servers = new GroupServers({ user: 'rdpg', password });
    const member = new GroupMember(
      {
        clock: systemClock,
        log: logOf(node.node),
        coordinator,
        servers,
        restart: async () => {
          this.restarts.push(node.node);
          await this.restartServer(node);
        },
        memory: {
          load: () => Promise.resolve(this.#leases.get(node.node)),
          save: async (lease) => {
            if (isKilled.value) await stopped;
            else this.#leases.set(node.node, lease);
          },
        },
        beforeAction: (action) =>
          isKilled.value ? stopped : Promise.race([this.onAction(node, action), stopped]),
      },
      {
        cluster: 'test',
        address: node.direct,
        clientDatabases: ['varve'],
        quorumDatabases: ['varve'],
        quorum: { policy: 'safety', confirm: 'majority' },
        ttlMs: TTL_MS,
        pollMs: 200,
        ...this.#options,
      },
    );
    return { member, stop, coordinator, servers, isKilled };
  }

  async stopDaemon(node: MeshNode): Promise<void> {
    const daemon = this.#daemons.get(node.node);
    if (!daemon) return;
    this.#daemons.delete(node.node);
    await end(daemon);
  }

  /** The node as a whole is gone: server and daemon, without a word. */
  async kill(node: MeshNode): Promise<void> {
    const link = this.toCoordinator.get(node.node);
    // A daemon of this process cannot be killed; without coordinator and server it can do nothing.
    if (link) link.silent = true;
    process.kill(this.serverOf(node).pid, 'SIGKILL');
    await this.serverOf(node).exited;
  }

  /** After `kill`. */
  async revive(node: MeshNode): Promise<void> {
    await this.startServer(node);
    const link = this.toCoordinator.get(node.node);
    if (link) {
      link.silent = false;
      link.cut();
    }
  }

  serverOf(node: MeshNode): OwnServer {
    return this.#restarted.findLast(({ port }) => port === node.server.port) ?? node.server;
  }

  async startServer(node: MeshNode): Promise<void> {
    const settings = {
      ...groupSettingsFor(18, { members: this.mesh.nodes.length, databases: 4 }),
      max_connections: '100',
      shared_buffers: '16MB',
      autovacuum: 'off',
      log_min_messages: 'warning',
    };
    const folder = dirname(node.server.dataDir);
    for (let tried = 1; ; tried += 1) {
      try {
        this.#restarted.push(await startServer(serverOptions(folder, 18, settings)));
        return;
      } catch (error) {
        // After a kill the former one's shared memory may be in use for a moment.
        if (tried === 10) throw error;
        await systemClock.sleep(200);
      }
    }
  }

  async restartServer(node: MeshNode): Promise<void> {
    await this.serverOf(node).stop();
    await this.startServer(node);
  }

  async tag(node: MeshNode, tags: MemberRecord['tags']): Promise<void> {
    await this.keys.members.at(node.node).update((was) => (was ? { ...was, tags } : undefined));
  }

  /** Every process of the server stands still, or goes on. */
  freeze(node: MeshNode, frozen: boolean): void {
    const { pid } = this.serverOf(node);
    // The postmaster first: then there are no new ones.
    for (const one of [pid, ...childrenOf(pid)]) signal(one, frozen ? 'SIGSTOP' : 'SIGCONT');
  }

  /** Peers reach the node no more, and it does not reach the coordinator; clients beside it do. */
  cutOff(node: MeshNode, cut: boolean): void {
    for (const link of [node.link, this.toCoordinator.get(node.node)]) {
      if (!link) continue;
      link.silent = cut;
      if (!cut) link.cut();
    }
  }

  /** Who is write master by its own word; waits for it. */
  async master(not?: MeshNode): Promise<MeshNode> {
    return this.until('a write master', () =>
      this.mesh.nodes.find(
        (node) => node !== not && this.#daemons.get(node.node)?.member.status().state === 'active',
      ),
    );
  }

  async until<T>(
    what: string,
    look: () => T | undefined | false | Promise<T | undefined | false>,
  ): Promise<T> {
    const untilMs = Date.now() + 60_000;
    for (;;) {
      const found = await look();
      if (found !== undefined && found !== false) return found;
      if (Date.now() > untilMs) {
        const status = [...this.#daemons.values()].map(({ member }) => member.status());
        throw new Error(`no ${what}: ${JSON.stringify(status, undefined, 1)}`);
      }
      await systemClock.sleep(20);
    }
  }

  /** Everybody follows, and has the same rows. */
  async converged(nodes: readonly MeshNode[] = this.mesh.nodes): Promise<string> {
    return this.until('equal digests', async () => {
      const states = nodes.map((node) => this.daemon(node).status().state);
      if (!states.every((state) => state === 'following' || state === 'active')) return undefined;
      const digests = await Promise.all(nodes.map((node) => this.mesh.digest(node, 'varve')));
      return new Set(digests).size === 1 ? digests[0] : undefined;
    });
  }

  /** A member joins anew, as its daemon has it do on request; clients may go on writing. */
  async rejoin(node: MeshNode): Promise<void> {
    const { servers } = this.#daemons.get(node.node) ?? {};
    if (!servers) throw new Error(`the daemon of ${node.node} does not run`);
    const { host, port } = node.address;
    await using context = new GroupContext(
      {
        clock: systemClock,
        log: logOf(node.node),
        keys: this.keys,
        servers,
        withAdmin: async (database, work) => {
          const admin = this.serverOf(node).admin(database);
          const settings = { default_transaction_read_only: 'off', synchronous_commit: 'local' };
          await using connection = await Connection.open(admin, { connectTimeoutMs: 5_000, settings });
          return await work(connection);
        },
        groupSchema: {
          // The tables were there before the group, so no queue has them.
          install: async (connection, identity) => {
            const there = await connection.maybeOne(`select 1 where to_regclass('public.rows') is not null`);
            if (!there) await connection.query(SCHEMA);
            await groupSchemaPart.install(connection, identity);
          },
          prepare: (connection) => groupSchemaPart.prepare(connection),
          replay: () => Promise.resolve(),
          holdDdl: (session) => groupSchemaPart.holdDdl(session),
        },
        controlSchema: controlSchemaPart({ cluster: 'test', kind: 'manager', replicated: true }, 'test'),
        master: { claim: () => Promise.resolve() },
      },
      {
        node: node.node,
        nodeUuid: recordOf(node).nodeUuid,
        kind: 'manager',
        size: this.mesh.nodes.length,
        accessDatabase: 'varve',
        host,
        port,
        groupPassword: this.mesh.group.password,
        healthPassword: '',
        waitTimeoutMs: 60_000,
        registrationTtlMs: 5_000,
        lockTtlMs: 5_000,
        takeoverAfterMs: 10_000,
        maxClockSkewMs: 10_000,
      },
    );
    await reinitialise(context, { signal: new AbortController().signal, report: () => {} });
  }

  async stopCoordinator(): Promise<void> {
    await this.#coordinator.server[Symbol.asyncDispose]();
  }

  async startCoordinator(): Promise<void> {
    const { folder, port } = this.#coordinator;
    this.#coordinator.server = await EmbeddedCoordinator.start(
      { folder, port },
      { clock: systemClock, log: silent },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.mesh.nodes) {
      this.cutOff(node, false);
      // Of a test that failed in the middle.
      if (isAlive(this.serverOf(node).pid)) this.freeze(node, false);
    }
    const links = [...this.toCoordinator.values()];
    await disposeInTurn([
      this.#killed.map((daemon) => () => end(daemon)),
      this.mesh.nodes.map((node) => () => this.stopDaemon(node)),
      [this.#client, this.#coordinator.server, ...links].map((one) => () => one[Symbol.asyncDispose]()),
      this.#restarted.map((server) => () => server.stop()),
      [() => this.mesh[Symbol.asyncDispose]()],
      [() => rm(this.#coordinator.folder, { recursive: true, force: true })],
    ]);
  }
}

/** All of them, whatever becomes of one: what is left behind would hide why a test failed. */
async function disposeInTurn(turns: readonly (readonly (() => PromiseLike<unknown>)[])[]): Promise<void> {
  const errors: unknown[] = [];
  for (const turn of turns) {
    const results = await Promise.allSettled(turn.map((work) => work()));
    errors.push(...results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : [])));
  }
  if (errors.length > 0) throw new AggregateError(errors, errors.map(messageOf).join('; '));
}

/** A former master is a member again; where it has to join anew, that is told, and then asked for. */
export async function rejoined(group: TestGroup, node: MeshNode): Promise<'following' | 'rejoin-needed'> {
  const state = await group.until('a decision', () => {
    const { state } = group.daemon(node).status();
    return (state === 'following' || state === 'rejoin-needed') && state;
  });
  if (state === 'rejoin-needed') await group.rejoin(node);
  return state;
}

/** What was promised is there, on every member, once; and the reigns did not overlap. */
export async function nothingLost(
  group: TestGroup,
  load: WriteLoad,
  options: { readonly inOrder?: boolean } = {},
): Promise<void> {
  await load.stop();
  await group.converged();
  for (const node of group.mesh.nodes) {
    const rows = await group.mesh.sql<{ id: string }>(node, 'varve', 'select id from public.rows');
    const there = new Set(rows.map(({ id }) => Number(id)));
    expect(there.size, node.node).toBe(rows.length);
    expect(
      load.acknowledged.filter(({ id }) => !there.has(id)),
      node.node,
    ).toEqual([]);
  }
  if (options.inOrder === false) return;
  const nodes = load.acknowledged.toSorted((a, b) => a.atMs - b.atMs).map(({ node }) => node);
  const changes = nodes.filter((node, i) => i === 0 || node !== nodes[i - 1]);
  const reigns = [...(await group.keys.reigns.list())]
    .toSorted(([a], [b]) => Number(a.slice(1)) - Number(b.slice(1)))
    .map(([, { value }]) => value.node);
  expect(isInOrder(changes, reigns), `${changes.join()} acknowledged in the reigns ${reigns.join()}`).toBe(
    true,
  );
}

/** Whether `some` is left when others are taken out of `all`; matched from the end, where the last ones are. */
function isInOrder(some: readonly string[], all: readonly string[]): boolean {
  let at = all.length;
  return some.toReversed().every((one) => (at = at > 0 ? all.lastIndexOf(one, at - 1) : -1) >= 0);
}

/** What a client was told, in the order in which it was told. */
export interface Acknowledged {
  readonly id: number;
  readonly node: string;
  readonly atMs: number;
}

/** Clients that write rows one by one to whoever is write master, and remember what was acknowledged. */
export class WriteLoad {
  readonly acknowledged: Acknowledged[] = [];
  readonly #group: TestGroup;
  readonly #stop = new AbortController();
  readonly #done: Promise<unknown>;
  #nextId: number;

  constructor(group: TestGroup, options: { readonly clients: number; readonly firstId: number }) {
    this.#group = group;
    this.#nextId = options.firstId;
    this.#done = Promise.all(Array.from({ length: options.clients }, (_, i) => this.#client(i)));
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }

  /**
   * Resolves when `count` more are acknowledged: by `node` where it is given; or by whoever it is, only not by one. On
   * a busy machine masters come and go without being told to.
   */
  async more(count: number, by?: MeshNode | { readonly not: MeshNode }): Promise<void> {
    const counts = (node: string): boolean =>
      by === undefined || ('not' in by ? node !== by.not.node : node === by.node);
    const matching = (): number => this.acknowledged.filter(({ node }) => counts(node)).length;
    const wanted = matching() + count;
    await this.#group.until(`${count} more rows`, () => matching() >= wanted);
  }

  /** As one that knows all members, and tries the next when one does not answer. */
  async #client(first: number): Promise<void> {
    for (let tried = first; !this.#stop.signal.aborted; tried += 1) {
      // One that stands still believes that it is master for as long.
      const masters = this.#group.mesh.nodes.filter((node) => this.#stateOf(node) === 'active');
      const to = masters[tried % masters.length];
      if (to) await this.#writeTo(to).catch(() => {});
      await systemClock.sleep(10);
    }
  }

  #stateOf(node: MeshNode): string {
    try {
      return this.#group.daemon(node).status().state;
    } catch {
      return 'gone';
    }
  }

  async #writeTo(node: MeshNode): Promise<void> {
    let warned = false;
    const connection: Connection = await this.#group.mesh.client(node, 'varve', {
      connectTimeoutMs: 1_000,
      signal: AbortSignal.any([this.#stop.signal]),
      onNotice: () => (warned = true),
    });
    try {
      while (!this.#stop.signal.aborted) {
        const id = this.#nextId++;
        const written = connection.query(`insert into public.rows (id, writer, note) values ($1, $2, $3)`, [
          id,
          node.node,
          randomUUID(),
        ]);
        await within(written, 3_000);
        // With a warning it is committed on this server only: that is no promise.
        if (!warned) this.acknowledged.push({ id, node: node.node, atMs: performance.now() });
        warned = false;
      }
    } finally {
      connection.destroy();
    }
  }
}

/** A process that has ended meanwhile, as backends do at any time, is none that could go on. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

async function within<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error('no answer')), ms);
  });
  work.catch(() => {});
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

export function recordOf(node: MeshNode): MemberRecord {
  return {
    node: node.node,
    nodeUuid: randomUUID(),
    host: node.address.host,
    port: node.address.port,
    state: 'member',
    tags: {},
    databases: DATABASES,
    joinedAt: new Date(Date.now() - 3_600_000).toISOString(),
  };
}

const silent = { info: () => {}, warn: () => {}, error: () => {} };

function logOf(node: string) {
  if (process.env['VARVE_TEST_LOG'] !== '1') return silent;
  const write = (fields: object, message: string): void => {
    console.log(`${(performance.now() / 1000).toFixed(3)} ${node} ${message} ${JSON.stringify(fields)}`);
  };
  return { info: write, warn: write, error: write };
}

function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const [, parent] = /^\d+ \(.*\) \S+ (\d+)/.exec(readFileSync(`/proc/${name}/stat`, 'utf8')) ?? [];
        return Number(parent) === pid ? [Number(name)] : [];
      } catch {
        return [];
      }
    });
}
