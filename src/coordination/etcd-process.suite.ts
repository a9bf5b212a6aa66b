import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'vitest';
import { systemClock } from '../core/clock.ts';
import { EtcdTransport } from './etcd-transport.ts';

/** Where etcd's program is; undefined when there is none, which is a failure where services are required. */
export function findEtcd(): string | undefined {
  const found = process.env['VARVE_ETCD_BIN'] ?? onPath('etcd');
  if (found === undefined && process.env['VARVE_REQUIRE_SERVICES'] === '1') {
    throw new Error('etcd is required here: set VARVE_ETCD_BIN or put etcd on PATH (Debian: etcd-server)');
  }
  return found;
}

/** Says loudly what is not tested. */
export function skipWithoutEtcd(what: string): void {
  process.stderr.write(`SKIPPED: ${what}: set VARVE_ETCD_BIN or put etcd on PATH\n`);
  test.skip(`${what} (no etcd: set VARVE_ETCD_BIN)`, () => {});
}

function onPath(name: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
  } catch {
    return undefined;
  }
}

export interface EtcdServerOptions {
  /** Further flags. */
  readonly flags?: readonly string[];
  readonly scheme?: 'http' | 'https';
  readonly electionTimeoutMs?: number;
}

/** The least TTL of a server with half of etcd's usual election timeout. */
export const ETCD_TEST_MIN_TTL_MS = 1000;

/** Members of one etcd, each a process that can be killed and started again on its data and ports. */
export class EtcdServers implements AsyncDisposable {
  readonly urls: readonly string[];
  readonly #command: string;
  readonly #folder: string;
  readonly #flags: readonly (readonly string[])[];
  readonly #processes: (ChildProcess | undefined)[];

  private constructor(command: string, folder: string, ports: readonly number[], options: EtcdServerOptions) {
    this.#command = command;
    this.#folder = folder;
    const { scheme = 'http', electionTimeoutMs = 500, flags = [] } = options;
    const count = ports.length / 2;
    const peers = ports.slice(count).map((port) => `http://127.0.0.1:${port}`);
    this.urls = ports.slice(0, count).map((port) => `${scheme}://127.0.0.1:${port}`);
    this.#processes = this.urls.map(() => undefined);
    this.#flags = this.urls.map((url, i) => [
      `--name=m${i}`,
      `--data-dir=${join(folder, `m${i}`)}`,
      `--listen-client-urls=${url}`,
      `--advertise-client-urls=${url}`,
      `--listen-peer-urls=${peers[i]}`,
      `--initial-advertise-peer-urls=${peers[i]}`,
      `--initial-cluster=${peers.map((peer, j) => `m${j}=${peer}`).join(',')}`,
      `--heartbeat-interval=${electionTimeoutMs / 10}`,
      `--election-timeout=${electionTimeoutMs}`,
      // The machine may lose power for all that these tests want to know, and disks here are slow.
      '--unsafe-no-fsync',
      '--logger=zap',
      '--log-level=error',
      ...flags,
    ]);
  }

  static async start(command: string, count: number, options: EtcdServerOptions = {}): Promise<EtcdServers> {
    for (let tried = 1; ; tried += 1) {
      const folder = await mkdtemp(join(tmpdir(), 'varve-test-etcd-'));
      const servers = new EtcdServers(command, folder, await freePorts(count * 2), options);
      const started = await Promise.allSettled(servers.urls.map((_, i) => servers.start(i)));
      const failed = started.find((result) => result.status === 'rejected');
      if (!failed) return servers;
      await servers[Symbol.asyncDispose]();
      // Others on this machine look for free ports, too.
      if (tried === 3) throw failed.reason;
    }
  }

  /** Returns when it is listening, not when it has a leader. */
  async start(member: number): Promise<void> {
    const started = spawn(this.#command, this.#flags[member] ?? [], {
      stdio: ['ignore', 'inherit', 'inherit'],
      // Without which etcd 3.4 refuses to run on anything else.
      env: process.arch === 'x64' ? {} : { ETCD_UNSUPPORTED_ARCH: process.arch },
    });
    this.#processes[member] = started;
    for (;;) {
      const listening = await isListening(this.urls[member] ?? '');
      if (started.exitCode !== null) throw new Error(`etcd ended with ${started.exitCode}`);
      if (listening) return;
      await systemClock.sleep(20);
    }
  }

  pid(member: number): number {
    return this.#processes[member]?.pid ?? 0;
  }

  /** As a crash. */
  async kill(member: number): Promise<void> {
    const child = this.#processes[member];
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  /** By etcd's API, as its own tools speak it. */
  async call<T = unknown>(path: string, body: object = {}, member = 0): Promise<T> {
    const response = await fetch(`${this.urls[member]}/v3/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
    return (await response.json()) as T;
  }

  /** As `call`, where etcd has a certificate of that authority. */
  async callOver(ca: string, path: string, body: object): Promise<void> {
    const transport = new EtcdTransport({ ca });
    const [url = ''] = this.urls;
    const response = await transport.post({
      url: `${url}/v3/${path}`,
      headers: {},
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
      onConnected: () => {},
    });
    const text = (await response.setEncoding('utf8').toArray()).join('');
    transport.close();
    if (response.statusCode !== 200) throw new Error(`${path}: ${text}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.urls.map((_, i) => this.kill(i)));
    await rm(this.#folder, { recursive: true });
  }
}

async function isListening(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
