import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { platform } from 'node:process';
import type { Clock } from '../../core/clock.ts';
import { messageOf } from '../../core/errors.ts';
import { SupervisedProcess, type Exit, type ProcessHandle } from '../../core/supervised-process.ts';
import { endProcesses, isAlive, signalProcess } from '../../postgres/postmaster.ts';
import type { RunAs } from '../../postgres/run-as.ts';

export interface ProxyLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** How one of the proxies is run. */
export interface ProxyCommand {
  readonly name: 'haproxy' | 'pgbouncer';
  readonly program: string;
  readonly args: readonly string[];
  /** Named in the arguments: what a process left from an earlier run is recognised by. */
  readonly configFile: string;
  /** The proxy writes its process id there. */
  readonly pidFile: string;
  /** What it prints goes there. */
  readonly outputFile: string;
  readonly runAs: RunAs | undefined;
}

const RESTART = { firstDelayMs: 100, maxDelayMs: 10_000, stableMs: 10_000, stopTimeoutMs: 3000 } as const;
const END_MS = 2000;
const POLL_MS = 20;

/** One proxy, kept running from `start` until it is disposed of. */
export class ProxyProcess implements AsyncDisposable {
  readonly #deps: { readonly clock: Clock; readonly log: ProxyLog };
  readonly #command: ProxyCommand;
  readonly #stop = new AbortController();
  readonly #process: SupervisedProcess;
  #running: Promise<void> | undefined;
  #trouble: string | undefined;

  constructor(deps: { readonly clock: Clock; readonly log: ProxyLog }, command: ProxyCommand) {
    this.#deps = deps;
    this.#command = command;
    const { name } = command;
    this.#process = new SupervisedProcess(
      {
        clock: deps.clock,
        start: () => spawnProxy(command),
        onStart: (pid) => deps.log.info({ pid }, `${name} is started`),
        onCrash: ({ why, delayMs }) => {
          this.#trouble = why;
          deps.log.warn({ delayMs }, `${name} ${why}; it is started again`);
        },
      },
      RESTART,
    );
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  get isStarted(): boolean {
    return this.#running !== undefined;
  }

  /** How often it ended by itself. */
  get restartCount(): number {
    return this.#process.restartCount;
  }

  /** Why it ended last, undefined when it never did. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  /** Starts it, once, after ending what an earlier run of this node has left. */
  async start(): Promise<void> {
    if (this.#running) return;
    await endLeftProxy(this.#deps.clock, this.#command);
    this.#running = this.#process.run(this.#stop.signal);
  }

  /** False when it does not run. */
  signal(signal: 'SIGHUP' | 'SIGUSR2'): boolean {
    const { pid } = this.#process;
    if (pid === undefined || pid === 0) return false;
    try {
      return process.kill(pid, signal);
    } catch (error) {
      this.#deps.log.warn({ error: messageOf(error) }, `${this.#command.name} could not be sent ${signal}`);
      return false;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

/** Ends the proxy that a killed daemon left running on the same configuration file. */
export async function endLeftProxy(
  clock: Clock,
  { pidFile, configFile }: Pick<ProxyCommand, 'pidFile' | 'configFile'>,
): Promise<void> {
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).trim());
  if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return;
  // Elsewhere nothing tells whose process it is now; its port will.
  if (platform !== 'linux') return;
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  if (!commandLine.split('\0').includes(configFile)) return;
  signalProcess(pid, 'SIGTERM');
  const untilMs = clock.monotonicMs() + END_MS;
  while (isAlive(pid) && clock.monotonicMs() < untilMs) await clock.sleep(POLL_MS);
  if (isAlive(pid)) await endProcesses(clock, [pid], END_MS);
}

function spawnProxy({ program, args, outputFile, runAs }: ProxyCommand): ProcessHandle {
  const output = openSync(outputFile, 'a', 0o600);
  try {
    const child = spawn(program, args, {
      stdio: ['ignore', output, output],
      ...(runAs ? { uid: runAs.uid, gid: runAs.gid } : {}),
    });
    return {
      pid: child.pid ?? 0,
      exited: new Promise<Exit>((resolve) => {
        child.once('exit', (code, signal) => resolve({ code, signal }));
        // Not started at all: there will be no exit.
        child.once('error', () => resolve({ code: null, signal: null }));
      }),
      send: () => {},
      kill: (signal) => void child.kill(signal),
    };
  } finally {
    closeSync(output);
  }
}
