import type { Clock } from '../../core/clock.ts';
import { messageOf, VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { awaitBarrier, writeBarrier } from './barrier.ts';
import { describeEdge, edgeNames, slotName, type Edge } from './edge.ts';
import { edgeStatus, readConflicts, type ConflictCounts, type EdgeStatus } from './edge-status.ts';
import type { GroupServers, ServerAddress } from './group-servers.ts';
import { dropSlot, ensureSlot, readSlots, type Slot } from './slots.ts';
import {
  createSubscription,
  disableSubscription,
  dropSubscription,
  enableSubscription,
  readSubscription,
  readSubscriptions,
  setConninfo,
  type Subscription,
} from './subscription.ts';

export interface MeshDeps {
  readonly clock: Clock;
  readonly servers: GroupServers;
}

/** An edge by the addresses of its ends. */
export interface Link {
  readonly from: ServerAddress;
  readonly to: ServerAddress;
  readonly database: string;
}

export interface ConnectOptions {
  /** False: made, but nothing is taken over it until `enable`. */
  readonly enabled: boolean;
  /** Whether the tables' content is copied first. */
  readonly copyData: boolean;
  /**
   * What becomes of a slot that is there without its subscription. `keep`: an attempt that was killed in between
   * has made it, and everything since is in it. `renew`: it is of an earlier life of the subscriber.
   */
  readonly foundSlot: 'keep' | 'renew';
}

/** For one statement that may have to wait for others' transactions. */
const SLOT_TIMEOUT_MS = 20_000;
const WORKER_TIMEOUT_MS = 20_000;

/**
 * The logical replication among a group's members, edge by edge. Everything here may be repeated at any time and
 * carries on from whatever is there. Who may change which edge when is the caller's matter.
 */
export class Mesh {
  readonly servers: GroupServers;
  readonly #clock: Clock;

  constructor({ clock, servers }: MeshDeps) {
    this.#clock = clock;
    this.servers = servers;
  }

  /**
   * Makes the edge, or brings what is there into this form: address, login, slot.
   * @throws GROUP_EDGE_LOST when the subscription is there but the slot that has its changes is not
   * @throws DEADLINE_EXCEEDED when the slot waits for a long write transaction on `from`
   */
  async connect(link: Link, options: ConnectOptions): Promise<void> {
    const edge = edgeOf(link);
    const { slot } = edgeNames(edge);
    const present = await this.#onTo(link, (connection) => readSubscription(connection, edge));
    await this.#onFrom(link, async (connection) => {
      const found = (await readSlots(connection)).get(slot);
      if (present && (!found || found.lost)) throw edgeLost(edge, present, found);
      if (found && !present && options.foundSlot === 'renew') await this.dropSlots(connection, [slot]);
      await ensureSlot(connection, slot, SLOT_TIMEOUT_MS);
    });
    const conninfo = this.servers.conninfo(link.from, link.database, slot);
    await this.#onTo(link, async (connection) => {
      if (!present) await createSubscription(connection, edge, { ...options, conninfo });
      else {
        if (present.conninfo !== conninfo) await setConninfo(connection, edge, conninfo);
        if (options.enabled && !present.enabled) await enableSubscription(connection, edge);
      }
    });
  }

  /** Has an edge's subscription find `from` where it is now. False when there is no such edge. */
  async readdress(link: Link): Promise<boolean> {
    const edge = edgeOf(link);
    const conninfo = this.servers.conninfo(link.from, link.database, edgeNames(edge).slot);
    return this.#onTo(link, async (connection) => {
      const present = await readSubscription(connection, edge);
      if (present && present.conninfo !== conninfo) await setConninfo(connection, edge, conninfo);
      return present !== undefined;
    });
  }

  async enable(link: Link): Promise<void> {
    await this.#onTo(link, (connection) => enableSubscription(connection, edgeOf(link)));
  }

  /** Returns when nothing is applied over the edge any more. Needs only `to`. */
  async disable(
    link: Pick<Link, 'to' | 'database'> & { readonly from: { readonly node: string } },
  ): Promise<void> {
    await this.servers.withConnection(link.to, link.database, (connection) =>
      disableSubscription({ clock: this.#clock }, connection, edgeOf(link), WORKER_TIMEOUT_MS),
    );
  }

  /**
   * Removes both sides. A side whose server cannot be reached stays for `sweep` there.
   * @returns what could not be removed, for people; empty when all is gone
   */
  async drop(link: Link): Promise<string[]> {
    const edge = edgeOf(link);
    const subscriber = this.#onTo(link, (connection) =>
      dropSubscription(connection, edgeNames(edge).subscription),
    );
    const left: string[] = [];
    await subscriber.catch((error: unknown) => left.push(`${describeEdge(edge)}: ${messageOf(error)}`));
    await this.#onFrom(link, (connection) => this.dropSlots(connection, [edgeNames(edge).slot])).catch(
      (error: unknown) => left.push(`slot of ${describeEdge(edge)}: ${messageOf(error)}`),
    );
    return left;
  }

  /**
   * Removes what a member's database has of nodes that are no members: their slots, which would keep WAL for ever,
   * and the subscriptions from them.
   */
  async sweep(server: ServerAddress, database: string, members: readonly string[]): Promise<void> {
    await this.servers.withConnection(server, database, async (connection) => {
      const found = await strays(connection, server, members);
      for (const name of found.subscriptions) await dropSubscription(connection, name);
      await this.dropSlots(connection, found.slots);
    });
  }

  /** Whether `sweep` would remove anything. */
  async hasStrays(server: ServerAddress, database: string, members: readonly string[]): Promise<boolean> {
    return this.servers.withConnection(server, database, async (connection) => {
      const found = await strays(connection, server, members);
      return found.subscriptions.length + found.slots.length > 0;
    });
  }

  async dropSlots(connection: Connection, names: readonly string[]): Promise<void> {
    for (const name of names) await dropSlot(connection, name, SLOT_TIMEOUT_MS);
  }

  /** What was committed on `from` before this call is on each of `to` when it returns. */
  async barrier(
    from: ServerAddress,
    to: readonly ServerAddress[],
    wait: {
      readonly database: string;
      readonly timeoutMs: number;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<void> {
    const { database, timeoutMs, signal } = wait;
    const token = await this.servers.withConnection(from, database, (connection) =>
      writeBarrier(connection, from.node),
    );
    await Promise.all(
      to.map((server) =>
        this.servers.withConnection(server, database, (connection) =>
          awaitBarrier({ clock: this.#clock, signal }, connection, token, {
            timeoutMs,
            what: describeEdge({ from: from.node, to: server.node, database }),
          }),
        ),
      ),
    );
  }

  /** Never throws: what cannot be asked is unknown. */
  async status(links: readonly Link[]): Promise<EdgeStatus[]> {
    // Each database is asked once, for all edges that begin or end there.
    const asked = new Map<string, Promise<DatabaseEdges | undefined>>();
    const ask = (server: ServerAddress, database: string): Promise<DatabaseEdges | undefined> => {
      const key = JSON.stringify([server.host, server.port, database]);
      const answer =
        asked.get(key) ??
        this.servers.withConnection(server, database, readDatabaseEdges).catch(() => undefined);
      asked.set(key, answer);
      return answer;
    };
    return Promise.all(
      links.map(async (link) => {
        const edge = edgeOf(link);
        const { slot, subscription } = edgeNames(edge);
        const [publisher, subscriber] = await Promise.all([
          ask(link.from, link.database),
          ask(link.to, link.database),
        ]);
        const sides = {
          slot: publisher ? publisher.slots.get(slot) : ('unreachable' as const),
          subscription: subscriber ? subscriber.subscriptions.get(subscription) : ('unreachable' as const),
        };
        return edgeStatus(edge, sides, subscriber?.conflicts);
      }),
    );
  }

  /** On its database; how far `to` has applied what was made on `from`. Needs only `to`. */
  async progress(
    link: Pick<Link, 'to' | 'database'> & { readonly from: { readonly node: string } },
  ): Promise<string | undefined> {
    return this.servers.withConnection(link.to, link.database, async (connection) => {
      return (await readSubscription(connection, edgeOf(link)))?.progress ?? undefined;
    });
  }

  #onTo<T>(link: Link, work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.servers.withConnection(link.to, link.database, work);
  }

  #onFrom<T>(link: Link, work: (connection: Connection) => Promise<T>): Promise<T> {
    return this.servers.withConnection(link.from, link.database, work);
  }
}

/** What one database has of the group's edges. */
interface DatabaseEdges {
  readonly slots: ReadonlyMap<string, Slot>;
  readonly subscriptions: ReadonlyMap<string, Subscription>;
  readonly conflicts: ReadonlyMap<string, ConflictCounts>;
}

async function readDatabaseEdges(connection: Connection): Promise<DatabaseEdges> {
  return {
    slots: await readSlots(connection),
    subscriptions: await readSubscriptions(connection),
    conflicts: await readConflicts(connection),
  };
}

export function edgeOf(link: {
  readonly from: { readonly node: string };
  readonly to: { readonly node: string };
  readonly database: string;
}): Edge {
  return { from: link.from.node, to: link.to.node, database: link.database };
}

/** What a member's database has of nodes other than `members`. */
async function strays(
  connection: Connection,
  server: ServerAddress,
  members: readonly string[],
): Promise<{ readonly subscriptions: readonly string[]; readonly slots: readonly string[] }> {
  const { database } = connection.endpoint;
  const others = members.filter((node) => node !== server.node);
  const slots = new Set(others.map((node) => slotName(node, database)));
  const names = new Set(others.map((from) => edgeNames({ from, to: server.node, database }).subscription));
  return {
    subscriptions: [...(await readSubscriptions(connection)).keys()].filter((name) => !names.has(name)),
    slots: [...(await readSlots(connection)).keys()].filter(
      (name) => !slots.has(name) && !name.startsWith('varve_gap_of_'),
    ),
  };
}

/** All links among `servers` for `databases`. */
export function allLinks(servers: readonly ServerAddress[], databases: readonly string[]): Link[] {
  return databases.flatMap((database) =>
    servers.flatMap((to) =>
      servers.filter((from) => from.node !== to.node).map((from) => ({ from, to, database })),
    ),
  );
}

function edgeLost(edge: Edge, present: Subscription, slot: Slot | undefined): VarveError {
  return new VarveError(
    'GROUP_EDGE_LOST',
    `${edge.to} has lost track of the changes of ${edge.from} in ${edge.database}`,
    {
      detail: slot
        ? `${edge.from} has given up its slot ${slot.name}: it kept too much for ${edge.to}, which was away too long.`
        : `The subscription ${present.name} is there, its slot on ${edge.from} is not.`,
      hint: `Have ${edge.to} join anew: varve cluster reinit ${edge.to}`,
    },
  );
}
