import { startGroupServers, type TestGroupServers } from '../../../test/group-servers.ts';
import { systemClock } from '../../core/clock.ts';
import { TcpProxy } from '../../coordination/tcp-proxy.suite.ts';
import { Connection, type ConnectOptions } from '../../postgres/connection.ts';
import type { OwnServer } from '../../postgres/server.ts';
import type { ServerAddress } from '../mesh/group-servers.ts';
import { allLinks, Mesh, type Link } from '../mesh/mesh.ts';
import { installGroupSchema } from '../ddl/install.ts';

/** One server of a mesh, with the link through which its peers reach it. */
export interface MeshNode {
  readonly node: string;
  readonly server: OwnServer;
  /** To this node, for its peers. */
  readonly link: TcpProxy;
  /** As peers see it: through the link. */
  readonly address: ServerAddress;
  /** As its own daemon sees it. */
  readonly direct: ServerAddress;
}

export const GROUP_UUID = '6f5902ac-2377-4e1b-9a0e-1f3d8f0f1c11';

/** What applications have made. */
export const SCHEMA = `
  create table public.rows (id bigint primary key, writer text, note text, at timestamptz default now());
  grant all on public.rows to app;`;

/** Servers whose databases are replicated from each to each, as those of a group are. */
export class TestMesh implements AsyncDisposable {
  readonly group: TestGroupServers;
  readonly nodes: readonly MeshNode[];
  readonly databases: readonly string[];
  readonly mesh: Mesh;

  private constructor(group: TestGroupServers, nodes: readonly MeshNode[], databases: readonly string[]) {
    this.group = group;
    this.nodes = nodes;
    this.databases = databases;
    this.mesh = new Mesh({ clock: systemClock, servers: group.servers });
  }

  static async start(count: number, databases: readonly string[]): Promise<TestMesh> {
    const group = await startGroupServers(count, { settings: { log_min_messages: 'warning' } });
    const nodes = await Promise.all(
      group.own.map(async (server, i): Promise<MeshNode> => {
        const link = await TcpProxy.start(`http://127.0.0.1:${server.port}`);
        const node = `n${i + 1}`;
        const address = { node, host: '127.0.0.1' };
        return {
          node,
          server,
          link,
          address: { ...address, port: Number(new URL(link.url).port) },
          direct: { ...address, port: server.port },
        };
      }),
    );
    const mesh = new TestMesh(group, nodes, databases);
    await Promise.all(
      nodes.map((node) => mesh.sql(node, 'postgres', `create role app login password 'app-secret'`)),
    );
    for (const database of databases) await mesh.#make(database);
    return mesh;
  }

  at(index: number): MeshNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`there is no node ${index}`);
    return node;
  }

  named(name: string): MeshNode {
    return this.at(this.nodes.findIndex(({ node }) => node === name));
  }

  /** The edge as `to`'s daemon knows it. */
  link(from: MeshNode, to: MeshNode, database: string): Link {
    return { from: from.address, to: to.direct, database };
  }

  /** One or more statements on one node, as the group's role. */
  sql<R extends object>(node: MeshNode, database: string, text: string): Promise<R[]> {
    return this.group.servers.withConnection(node.direct, database, async (connection) => {
      const { rows } = await connection.query<R>(text);
      return rows;
    });
  }

  /** As an application does it. */
  client(node: MeshNode, database: string, options: Partial<ConnectOptions> = {}): Promise<Connection> {
    return Connection.open(
      { user: 'app', password: 'app-secret', host: '127.0.0.1', port: node.server.port, database },
      { connectTimeoutMs: 5_000, statementTimeoutMs: 0, applicationName: 'app', ...options },
    );
  }

  /** Of all rows of a table, in whatever order they are stored. */
  async digest(node: MeshNode, database: string, table = 'public.rows'): Promise<string> {
    const [row] = await this.sql<{ digest: string }>(
      node,
      database,
      `select count(*) || ':' || coalesce(md5(string_agg(t::text, '|' order by t::text)), '') as digest from ${table} t`,
    );
    return row?.digest ?? '';
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map(({ link }) => link[Symbol.asyncDispose]()));
    await this.group[Symbol.asyncDispose]();
  }

  async #make(database: string): Promise<void> {
    await this.group.makeDatabases(database);
    await Promise.all(
      this.nodes.map(({ node, direct }) =>
        this.group.servers.withConnection(direct, database, async (connection) => {
          await connection.query(SCHEMA);
          await installGroupSchema(connection, { groupUuid: GROUP_UUID, node });
        }),
      ),
    );
    const links = allLinks(
      this.nodes.map(({ address }) => address),
      [database],
    );
    await Promise.all(
      links.map((link) =>
        this.mesh.connect(
          { ...link, to: this.named(link.to.node).direct },
          { enabled: true, copyData: false, foundSlot: 'keep' },
        ),
      ),
    );
  }
}
