import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { GroupStatus } from '../src/node/group-control.ts';
import type { NodeStatus } from '../src/node/node-status.ts';
import { chooseFreePorts } from '../src/node/ports.ts';
import { Connection, type Endpoint } from '../src/postgres/connection.ts';
import { TEMP_PREFIX } from './leak-check.ts';

/** Compiles first when the sources have changed. */
const VARVE = fileURLToPath(new URL('../bin/varve.js', import.meta.url));
const PASSWORD = 'password-of-a-group-of-processes';
const SIZE = 3;
const COMPLAINTS = 5;

export interface NodeProcess {
  readonly name: string;
  readonly pgPort: number;
  readonly httpPort: number;
  readonly folder: string;
  process: ChildProcess | undefined;
}

export interface GroupProcessesOptions {
  readonly etcdUrl: string;
  readonly cluster: string;
  readonly leaseTtlS: number;
  /** Beyond the three that form the group. */
  readonly joiners?: number;
  /** What the nodes run, where it is not the checkout's command. */
  readonly script?: string;
  /** Removes their folder in the end, where it is to be done in another way than at once. */
  readonly discard?: (folder: string) => Promise<void>;
}

const removeAtOnce = (folder: string): Promise<void> =>
  rm(folder, { recursive: true, force: true, maxRetries: 5 });

/** Access nodes as a user runs them: `varve node` with configuration files, etcd as coordinator. */
export class GroupProcesses implements AsyncDisposable {
  /** Those that form the group. */
  readonly nodes: readonly NodeProcess[];
  readonly joiners: readonly NodeProcess[];
  readonly #folder: string;
  readonly #script: string;
  readonly #discard: (folder: string) => Promise<void>;

  private constructor(
    folder: string,
    nodes: readonly NodeProcess[],
    { script = VARVE, discard = removeAtOnce }: GroupProcessesOptions,
  ) {
    this.#folder = folder;
    this.#script = script;
    this.#discard = discard;
    this.nodes = nodes.slice(0, SIZE);
    this.joiners = nodes.slice(SIZE);
  }

  /** Nothing runs yet: `start` begins the clock. */
  static async prepare(options: GroupProcessesOptions): Promise<GroupProcesses> {
    const { etcdUrl, cluster, leaseTtlS, joiners = 0 } = options;
    const folder = await mkdtemp(join(tmpdir(), `${TEMP_PREFIX}processes-`));
    const count = SIZE + joiners;
    const ports = await chooseFreePorts(count * 3, []);
    const nodes = Array.from({ length: count }, (_, index) => ({
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
        coordinator: etcdUrl,
        cluster,
        clusterSize: SIZE,
        groupPasswordFile: join(folder, 'group.password'),
        leaseTtl: `${leaseTtlS}s`,
      };
      await writeFile(join(own, 'node.json'), JSON.stringify(config));
    }
    return new GroupProcesses(folder, nodes, options);
  }

  /** `nodeFlags`: of Node itself. */
  start(node: NodeProcess, nodeFlags: readonly string[] = []): void {
    const log = openSync(this.#log(node), 'a');
    const config = join(node.folder, 'node.json');
    const args = ['--max-semi-space-size=1', ...nodeFlags, this.#script, 'node', '--config', config];
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
    // It comes last. Until then nobody logs in, which would hold up those who are looked at.
    const roles = await Promise.all(this.nodes.map((node) => roleOf(node).catch(() => undefined)));
    if (!roles.includes('write master')) return false;
    const rows = await Promise.all(this.nodes.map((node) => this.#defaultRows(node).catch(() => 0)));
    return rows.every((count) => count > 0) && new Set(rows).size === 1;
  }

  async primary(): Promise<NodeProcess | undefined> {
    const master = (await this.status())?.master;
    return this.nodes.find(({ name }) => name === master);
  }

  /** The others take the write master's changes. */
  async isSettled(): Promise<boolean> {
    const roles = (await this.status())?.members.map(({ role }) => role) ?? [];
    const following = roles.filter((role) => role === 'following').length;
    return roles.length >= this.nodes.length && following === roles.length - 1;
  }

  endpoint(node: NodeProcess, database = 'varve'): Endpoint {
    return { host: '127.0.0.1', port: node.pgPort, database, user: 'postgres', password: PASSWORD };
  }

  async processes(node: NodeProcess): Promise<readonly number[]> {
    return [node.process?.pid, await postmasterOf(pidFileOf(node))].filter((pid) => pid !== undefined);
  }

  /** The daemon, what it runs at the moment (initdb), and its server, as when a machine fails. */
  async kill(node: NodeProcess): Promise<void> {
    // A postmaster's children end with it.
    for (const target of [-(node.process?.pid ?? 0), (await postmasterOf(pidFileOf(node))) ?? 0]) {
      try {
        if (target !== 0) process.kill(target, 'SIGKILL');
      } catch {
        // It is gone.
      }
    }
  }

  switchover(): Promise<void> {
    return this.#ask({ kind: 'switchover' });
  }

  /** Asked for; how it goes is in the status. */
  reinit({ name }: NodeProcess): Promise<void> {
    return this.#ask({ kind: 'reinit', node: name });
  }

  /** What the nodes wrote last, for a test that does not get on. */
  async complaints(): Promise<string> {
    const parts = await Promise.all(
      [...this.nodes, ...this.joiners].map(async (node) => {
        const text = await readFile(this.#log(node), 'utf8').catch(() => '');
        return [`${node.name}:`, ...text.trim().split('\n').slice(-COMPLAINTS)].join('\n  ');
      }),
    );
    return parts.join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.nodes, ...this.joiners].map((node) => this.kill(node)));
    await new Promise((resolve) => setTimeout(resolve, 300));
    await this.#discard(this.#folder);
  }

  async #ask(request: object): Promise<void> {
    const master = await this.primary();
    const response = await fetch(`http://127.0.0.1:${master?.httpPort ?? 0}/api/cluster/requests`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(request),
    });
    if (!response.ok) throw new Error(`${JSON.stringify(request)} was refused: ${await response.text()}`);
  }

  #log(node: NodeProcess): string {
    return join(this.#folder, `${node.name}.log`);
  }

  async #defaultRows(node: NodeProcess): Promise<number> {
    await using connection = await Connection.open(this.endpoint(node, 'rdpg'), { connectTimeoutMs: 1000 });
    const { count } = await connection.one<{ count: string }>(
      `select (select count(*) from tasks.schedules) * (select count(*) from cfsb.plans)
              * (select count(*) + 1 from cfsb.instances) as count`,
    );
    return Number(count);
  }
}

/** What a node says of itself, without asking anybody. */
async function roleOf({ httpPort }: NodeProcess): Promise<string | null> {
  const url = `http://127.0.0.1:${httpPort}/api/status`;
  const answer = await fetch(url, { signal: AbortSignal.timeout(1000) });
  return ((await answer.json()) as NodeStatus).role;
}

export function pidFileOf({ folder }: NodeProcess): string {
  return join(folder, 'pg', 'data', 'postmaster.pid');
}

/** The process that a `postmaster.pid` names. */
export async function postmasterOf(pidFile: string): Promise<number | undefined> {
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0]);
  return pid > 1 ? pid : undefined;
}
