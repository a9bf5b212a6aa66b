import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { SystemStatus } from '../src/node/node-status.ts';
import type { Connections } from '../src/node/system-folder.ts';

const VARVE = fileURLToPath(new URL('../bin/varve.js', import.meta.url));
const READY_LIMIT_MS = 90_000;

export interface User {
  readonly uid: number;
  readonly gid: number;
}

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `varve ARGS` to its end. */
export async function varve(
  args: readonly string[],
  options: { input?: string; user?: User } = {},
): Promise<CommandResult> {
  const child = start(args, options.user);
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
  child.stdin?.end(options.input ?? '');
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout: stdout(), stderr: stderr() };
}

/** `varve up` on one folder, as a person would start, kill and stop it. */
export class SystemProcess {
  readonly dir: string;
  readonly #child: ChildProcess;
  readonly #stdout: () => string;
  readonly #stderr: () => string;

  private constructor(dir: string, child: ChildProcess) {
    this.dir = dir;
    this.#child = child;
    this.#stdout = collect(child.stdout);
    this.#stderr = collect(child.stderr);
  }

  /** Resolves when the system is ready and connections.json is written. */
  static async up(dir: string, args: readonly string[] = [], user?: User): Promise<SystemProcess> {
    // What a killed run left says nothing about this one.
    await rm(join(dir, 'connections.json'), { force: true });
    const system = new SystemProcess(dir, start(['up', '--dir', dir, ...args], user));
    await system.#until('ready', () => existsSync(join(dir, 'connections.json')));
    return system;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get output(): string {
    return this.#stdout() + this.#stderr();
  }

  connections(): Connections {
    return JSON.parse(readFileSync(join(this.dir, 'connections.json'), 'utf8')) as Connections;
  }

  daemonPid(name: string): number {
    const { access, data } = this.connections();
    return [...access, ...data].find((node) => node.name === name)?.pid ?? 0;
  }

  postgresPid(name: string): number {
    const file = join(this.dir, 'nodes', name, 'pg', 'data', 'postmaster.pid');
    return Number(readFileSync(file, 'utf8').split('\n')[0]);
  }

  /** All of it: supervisor, daemons, postmasters. */
  allPids(): number[] {
    const { access, data } = this.connections();
    return [this.pid, ...[...access, ...data].flatMap(({ name, pid }) => [pid, this.postgresPid(name)])];
  }

  async kill(pids: readonly number[]): Promise<void> {
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    if (pids.includes(this.pid)) await this.ended();
  }

  /** Rows as lines of text, without header and count. */
  async sql(statement: string, node = 'an1'): Promise<string[]> {
    const result = await varve(['sql', '--dir', this.dir, '--node', node, '-c', statement]);
    if (result.code !== 0) throw new Error(result.stderr);
    return result.stdout
      .trim()
      .split('\n')
      .slice(2, -1)
      .map((line) => line.trim());
  }

  async status(): Promise<SystemStatus> {
    return JSON.parse((await varve(['status', '--dir', this.dir, '--json'])).stdout) as SystemStatus;
  }

  /** Waits until every node is ready, the named one by another process than `notPid`. */
  async allReady(name?: string, notPid?: number): Promise<SystemStatus> {
    let last: SystemStatus | undefined;
    await this.#until('all ready', async () => {
      last = await this.status();
      const other = name === undefined || this.daemonPid(name) !== notPid;
      return other && last.nodes.every(({ state }) => state === 'ready');
    });
    if (!last) throw new Error('no status');
    return last;
  }

  async stop(signal: NodeJS.Signals = 'SIGINT'): Promise<number | null> {
    this.#child.kill(signal);
    return this.ended();
  }

  async ended(): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'close');
    return this.#child.exitCode;
  }

  async #until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    const limit = Date.now() + READY_LIMIT_MS;
    while (!(await condition())) {
      const ended = this.#child.exitCode !== null || this.#child.signalCode !== null;
      if (!ended && Date.now() < limit) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        continue;
      }
      if (!ended) this.#child.kill('SIGKILL');
      throw new Error(`${ended ? 'ended' : 'too late'} before it was ${what}:\n${this.output}`);
    }
  }
}

/** Processes that belong to a system's folder: by their arguments, or working below it as PostgreSQL's do. */
export function processesOf(dir: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((name) => {
      try {
        const what = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
        const below = readlinkSync(`/proc/${name}/cwd`).startsWith(`${dir}/`);
        return below || what.includes(`${dir}/`) || what.endsWith(dir) ? [`${name} ${what}`] : [];
      } catch {
        return []; // Gone meanwhile.
      }
    });
}

/** `varve ARGS` as a process of its own. */
export function start(args: readonly string[], user?: User): ChildProcess {
  return spawn(process.execPath, [VARVE, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    cwd: '/',
    env: { ...process.env, HOME: '/tmp' },
    ...user,
  });
}

function collect(stream: NodeJS.ReadableStream | null): () => string {
  let text = '';
  stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return () => text;
}
