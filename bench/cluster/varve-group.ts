import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { GroupStatus } from '../../src/node/group-control.ts';
import { chooseFreePorts } from '../../src/node/ports.ts';
import { Connection, type Endpoint } from '../../src/postgres/connection.ts';

const ENTRY = fileURLToPath(new URL('../../dist/cli/entry.js', import.meta.url));
const PASSWORD = 'bench-password';

export interface VarveNode {
  readonly name: string;
  readonly pgPort: number;
  readonly httpPort: number;
  readonly folder: string;
  process: ChildProcess | undefined;
}

/** Three access nodes as a user runs them: `varve node` with configuration files, etcd as coordinator. */
export class VarveGroup implements AsyncDisposable {
  readonly nodes: readonly VarveNode[];
  readonly #folder: string;

  private constructor(folder: string, nodes: readonly VarveNode[]) {
    this.#folder = folder;
    this.nodes = nodes;
  }

  /** Nothing runs yet: `start` begins the clock. */
  static async prepare(etcdPort: number, cluster: string, leaseTtlS: number): Promise<VarveGroup> {
    const folder = await mkdtemp(join(tmpdir(), 'varve-bench-group-'));
    const ports = await chooseFreePorts(9, []);
    const nodes = [0, 1, 2].map((index) => ({
      name: `v${index + 1}`,
      pgPort: ports[index * 3] ?? 0,
      httpPort: ports[index * 3 + 1] ?? 0,
      rpcPort: ports[index * 3 + 2] ?? 0,
      folder: join(folder, `v${index + 1}`),
      process: undefined,
    }));
    await writeFile(join(folder, 'group.password'), PASSWORD, { mode: 0o600 });
    await writeFile(join(folder, 'password'), PASSWORD, { mode: 0o600 });
    for (const { name, pgPort, httpPort, rpcPort, folder: own } of nodes) {
      await mkdir(own);
      const config = {
        name,
        kind: 'access',
        folder: own,
        postgres: 'embedded',
        pgPort,
        httpPort,
        rpcPort,
        passwordFile: join(folder, 'password'),
        coordinatorKind: 'etcd',
        coordinator: `http://127.0.0.1:${etcdPort}`,
        cluster,
        clusterSize: 3,
        groupPasswordFile: join(folder, 'group.password'),
        leaseTtl: `${leaseTtlS}s`,
      };
      await writeFile(join(own, 'node.json'), JSON.stringify(config));
    }
    return new VarveGroup(folder, nodes);
  }

  start(node: VarveNode): void {
    const log = openSync(join(this.#folder, `${node.name}.log`), 'a');
    const args = ['--max-semi-space-size=1', ENTRY, 'node', '--config', join(node.folder, 'node.json')];
    node.process = spawn(process.execPath, args, { stdio: ['ignore', log, log], detached: true });
    closeSync(log);
  }

  async status(): Promise<GroupStatus | undefined> {
    for (const { httpPort } of this.nodes) {
      const url = `http://127.0.0.1:${httpPort}/api/cluster`;
      const answer = await fetch(url, { signal: AbortSignal.timeout(1000) }).catch(() => undefined);
      if (answer?.ok) return (await answer.json()) as GroupStatus;
    }
    return undefined;
  }

  /** Schema and default rows are on all three, and there is a write master. */
  async isWhole(): Promise<boolean> {
    const rows = await Promise.all(this.nodes.map((node) => this.#defaultRows(node).catch(() => 0)));
    if (rows.some((count) => count === 0) || new Set(rows).size !== 1) return false;
    return (await this.primary()) !== undefined;
  }

  async primary(): Promise<VarveNode | undefined> {
    const master = (await this.status())?.master;
    return this.nodes.find(({ name }) => name === master);
  }

  endpoint(node: VarveNode, database = 'varve'): Endpoint {
    return { host: '127.0.0.1', port: node.pgPort, database, user: 'postgres', password: PASSWORD };
  }

  /** The daemon and its PostgreSQL at once, as when a machine fails. */
  async kill(node: VarveNode): Promise<void> {
    node.process?.kill('SIGKILL');
    const pidFile = join(node.folder, 'pg', 'data', 'postmaster.pid');
    const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0]);
    if (pid > 1) killed(pid);
  }

  async switchover(): Promise<void> {
    const from = await this.primary();
    const response = await fetch(`http://127.0.0.1:${from?.httpPort ?? 0}/api/cluster/requests`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ kind: 'switchover' }),
    });
    if (!response.ok) throw new Error(`switch-over was refused: ${await response.text()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => this.kill(node)));
    await new Promise((resolve) => setTimeout(resolve, 300));
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }

  async #defaultRows(node: VarveNode): Promise<number> {
    await using connection = await Connection.open(this.endpoint(node, 'rdpg'), { connectTimeoutMs: 1000 });
    const { count } = await connection.one<{ count: string }>(
      `select (select count(*) from tasks.schedules) * (select count(*) from cfsb.plans)
              * (select count(*) + 1 from cfsb.instances) as count`,
    );
    return Number(count);
  }
}

function killed(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is gone.
  }
}
