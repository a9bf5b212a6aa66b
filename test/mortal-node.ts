import { GroupContext, type BootstrapOptions } from '../src/cluster/bootstrap/context.ts';
import { GroupServers, type ServerAddress } from '../src/cluster/mesh/group-servers.ts';
import type { Coordinator } from '../src/coordination/coordinator.ts';
import { openCoordinator } from '../src/coordination/open-coordinator.ts';
import { TcpProxy } from '../src/coordination/tcp-proxy.suite.ts';
import { systemClock } from '../src/core/clock.ts';
import type { Connection } from '../src/postgres/connection.ts';
import { quiet, type GroupStage } from './group-nodes.ts';

/** Which of its messages is the last. */
export interface Death {
  /** Counted from 1: requests to the coordinator and statements to servers. */
  readonly at: number;
  /** Whether the message was still carried out. */
  readonly when: 'before' | 'after';
}

export class Killed extends Error {
  override readonly message = 'this node was killed';
}

/**
 * A node's daemon within this process that dies as by `kill -9`: from one message on it says nothing more to anybody.
 * Its connections break, its session and registration are not renewed and not given back.
 */
export class MortalNode implements AsyncDisposable {
  readonly context: GroupContext;
  /** Messages so far, or until it was spared. */
  count = 0;
  dead = false;
  #spared = false;
  readonly #death: Death | undefined;
  readonly #link: TcpProxy;
  readonly #coordinator: Coordinator;
  readonly #open = new Set<Connection>();

  private constructor(parts: { link: TcpProxy; coordinator: Coordinator }, death: Death | undefined) {
    this.#link = parts.link;
    this.#coordinator = parts.coordinator;
    this.#death = death;
    this.context = undefined as never;
  }

  static async start(
    stage: GroupStage,
    index: number,
    options: Partial<BootstrapOptions> & { readonly cluster: string },
    death?: Death,
  ): Promise<MortalNode> {
    const link = await TcpProxy.start(stage.coordinatorUrl);
    const coordinator = openCoordinator(
      { kind: 'embedded', url: link.url },
      { clock: systemClock, log: quiet },
    );
    const node = new MortalNode({ link, coordinator }, death);
    const deps = stage.deps(index, options.cluster, node.#mortal(coordinator));
    const servers = new MortalServers(stage.servers.password, {
      tame: (connection) => node.#tame(connection),
      free: (connection) => node.#open.delete(connection),
    });
    const mutable = node as { context: GroupContext };
    mutable.context = new GroupContext(
      {
        ...deps,
        servers,
        withAdmin: (database, work) =>
          deps.withAdmin(database, async (connection) => {
            const tame = node.#tame(connection);
            try {
              return await work(tame);
            } finally {
              node.#open.delete(connection);
            }
          }),
      },
      stage.options(index, options),
    );
    return node;
  }

  /** It does not die any more: what it says from now on is said for the test, which looks whether all is well. */
  spare(): void {
    this.#spared = true;
  }

  /** Now. */
  die(): void {
    this.dead = true;
    this.#link.target = { host: '127.0.0.1', port: 1 };
    this.#link.cut();
    for (const connection of this.#open) connection.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.dead) await this.context[Symbol.asyncDispose]();
    await this.context.servers[Symbol.asyncDispose]();
    await this.#coordinator[Symbol.asyncDispose]();
    await this.#link[Symbol.asyncDispose]();
  }

  async #message<T>(send: () => Promise<T>): Promise<T> {
    if (this.dead) throw new Killed();
    if (this.#spared) return send();
    this.count += 1;
    const last = this.count === this.#death?.at;
    if (last && this.#death.when === 'before') this.die();
    if (this.dead) throw new Killed();
    const result = await send();
    if (last) this.die();
    if (this.dead) throw new Killed();
    return result;
  }

  #mortal(coordinator: Coordinator): Coordinator {
    const counted = new Set([
      'session',
      'lock',
      'get',
      'list',
      'put',
      'delete',
      'txn',
      'register',
      'services',
    ]);
    return new Proxy(coordinator, {
      get: (target, name: keyof Coordinator) => {
        const value: unknown = target[name];
        if (typeof value !== 'function') return value;
        const call = value.bind(target) as (...args: unknown[]) => Promise<unknown>;
        if (!counted.has(String(name))) return call;
        return (...args: unknown[]) => this.#message(() => call(...args));
      },
    });
  }

  #tame(connection: Connection): Connection {
    this.#open.add(connection);
    return new Proxy(connection, {
      get: (target, name: keyof Connection) => {
        const value: unknown = target[name];
        if (typeof value !== 'function') return value;
        if (name === 'transaction') {
          // Its own BEGIN and COMMIT are messages, too.
          return async (work: () => Promise<unknown>) => {
            await this.#message(() => target.query('begin'));
            const result = await work();
            await this.#message(() => target.query('commit'));
            return result;
          };
        }
        const call = value.bind(target) as (...args: unknown[]) => Promise<unknown>;
        if (name !== 'query' && name !== 'one' && name !== 'maybeOne') return call;
        return (...args: unknown[]) => this.#message(() => call(...args));
      },
    });
  }
}

interface Life {
  readonly tame: (connection: Connection) => Connection;
  readonly free: (connection: Connection) => void;
}

class MortalServers extends GroupServers {
  readonly #life: Life;

  constructor(password: string, life: Life) {
    super({ user: 'rdpg', password });
    this.#life = life;
  }

  override withConnection<T>(
    server: ServerAddress,
    database: string,
    work: (connection: Connection) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    return super.withConnection(
      server,
      database,
      async (connection) => {
        try {
          return await work(this.#life.tame(connection));
        } finally {
          this.#life.free(connection);
        }
      },
      signal,
    );
  }

  override async session(server: ServerAddress, database: string): Promise<Connection> {
    return this.#life.tame(await super.session(server, database));
  }
}
