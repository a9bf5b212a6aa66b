import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const TICKS_PER_SECOND = 100;
const READY_WAIT_MS = 120_000;

/** A server under test: a process of its own, whose output goes to a file. */
export class Server {
  readonly pid: number;
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #logFile: string;

  private constructor(process: ChildProcess, logFile: string) {
    this.#process = process;
    this.#logFile = logFile;
    this.pid = process.pid ?? 0;
    this.#exited = once(process, 'exit');
    running.add(this);
    void this.#exited.then(() => running.delete(this));
  }

  /** Resolves when it answers `readyPath` with 200; with the milliseconds since its start. */
  static async start(
    command: readonly string[],
    options: { port: number; readyPath: string; logFile: string; env?: Record<string, string> },
  ): Promise<{ server: Server; readyMs: number }> {
    const log = openSync(options.logFile, 'a');
    const [file = '', ...args] = command;
    const startedAt = performance.now();
    const child = spawn(file, args, {
      stdio: ['ignore', log, log],
      env: { ...process.env, ...options.env },
    });
    closeSync(log);
    if (child.pid === undefined) throw new Error(`${file} cannot be started`);
    const server = new Server(child, options.logFile);
    const deadline = startedAt + READY_WAIT_MS;
    while (!(await answers200(options.port, options.readyPath))) {
      if (child.exitCode !== null) throw new Error(`${file} ended: ${server.#lastWords()}`);
      if (performance.now() > deadline)
        throw new Error(`${file} does not become ready: ${server.#lastWords()}`);
      await sleep(2);
    }
    return { server, readyMs: performance.now() - startedAt };
  }

  /** User and system time of the process since its start. */
  cpuSeconds(): number {
    const text = readFileSync(`/proc/${this.pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }

  /** The most memory that it ever had, and what it has now. */
  memory(): { peakBytes: number; bytes: number } {
    const text = readFileSync(`/proc/${this.pid}/status`, 'latin1');
    const kib = (name: string): number =>
      Number(new RegExp(`${name}:\\s+(\\d+)`).exec(text)?.[1] ?? 0) * 1024;
    return { peakBytes: kib('VmHWM'), bytes: kib('VmRSS') };
  }

  /** Waits until it has done what it put off: it rests for half a second, or the time is over. */
  async settle(maxMs = 8000): Promise<void> {
    const deadline = performance.now() + maxMs;
    for (let before = this.cpuSeconds(); performance.now() < deadline;) {
      await sleep(500);
      const now = this.cpuSeconds();
      if (now - before <= 0.02) return;
      before = now;
    }
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL');
    await this.#exited;
  }

  /** In order. */
  async stop(): Promise<void> {
    this.#process.kill('SIGTERM');
    await this.#exited;
  }

  #lastWords(): string {
    return readFileSync(this.#logFile, 'utf8').slice(-2000);
  }
}

const running = new Set<Server>();

/** Ends what is left when the bench ends early. */
export async function killAll(): Promise<void> {
  await Promise.all([...running].map((server) => server.kill()));
}

/** A bench that is stopped leaves neither processes nor files. */
export function endOnSignal(folder: string): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void killAll()
        .then(() => rm(folder, { recursive: true, force: true }))
        .finally(() => process.exit(1));
    });
  }
}

/** One request on a new connection, as cheap as can be: restarts are measured with it. */
function answers200(port: number, path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.setTimeout(1000, () => socket.destroy());
    socket.on('connect', () => socket.write(`GET ${path} HTTP/1.0\r\nHost: localhost\r\n\r\n`));
    socket.once('data', (bytes) => {
      resolve(/^HTTP\/1\.[01] 200/.test(bytes.toString('latin1')));
      socket.destroy();
    });
    socket.on('error', () => resolve(false));
    socket.on('close', () => resolve(false));
  });
}

/** Bytes of all files below. */
export async function folderBytes(folder: string): Promise<number> {
  let sum = 0;
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const found = await stat(join(entry.parentPath, entry.name)).catch(() => undefined);
    // What is on the disk, not what a file says: logs are allocated ahead, and files may have holes.
    sum += found === undefined ? 0 : Math.min(found.size, found.blocks * 512);
  }
  return sum;
}

/** Processor seconds of the whole machine that were not idle, and what was stolen from it. */
export function machineCpu(): { busy: number; stolen: number } {
  const [, ...fields] = (readFileSync('/proc/stat', 'latin1').split('\n')[0] ?? '').split(/\s+/).map(Number);
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = fields;
  return {
    busy: (user + nice + system + irq + softirq) / TICKS_PER_SECOND,
    stolen: steal / TICKS_PER_SECOND,
  };
}
