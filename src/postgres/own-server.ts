import { copyFile, readFile, rename, truncate } from 'node:fs/promises';
import type { ChildProcess } from 'node:child_process';
import type { Clock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { Endpoint } from './endpoint.ts';
import { endProcesses, fileSize, isAlive, processesOn, signalProcess } from './postmaster.ts';
import type { ServerFolder } from './server-folder.ts';

/** `postgres.log` is moved to `postgres.log.1` when it is larger; so the two are all there is. */
const LOG_MAX_BYTES = 10 * 1024 * 1024;
const LOG_CHECK_MS = 60_000;
const ADOPTED_CHECK_MS = 100;
const IMMEDIATE_STOP_MS = 10_000;

export interface OwnServerParts {
  readonly folder: ServerFolder;
  readonly port: number;
  readonly pid: number;
  readonly major: number;
  readonly version: string;
  readonly superuser: string;
  readonly password: string;
  readonly stopTimeoutMs: number;
  /** Of the postmaster, when it is our child; an adopted one is not. */
  readonly child?: ChildProcess | undefined;
}

/** How a postmaster ended; an adopted one does not tell. */
export interface ServerExit {
  readonly code?: number | undefined;
  readonly signal?: NodeJS.Signals | undefined;
}

/** A running server of ours. It goes on when this process dies, and is adopted by the next that starts it. */
export class OwnServer implements AsyncDisposable {
  readonly host = '127.0.0.1';
  readonly port: number;
  /** Absolute folder of its unix socket, open to the server's user and root only. */
  readonly socketDir: string;
  /** The same folder by a name that the server's own backends can use, for dblink or postgres_fdw. */
  readonly socketDirForBackends: string;
  readonly pid: number;
  readonly major: number;
  readonly version: string;
  readonly dataDir: string;
  readonly passwordFile: string;
  readonly superuser: string;
  /** It was running already, left by a process that died. */
  readonly adopted: boolean;
  /** Resolves when the postmaster is gone, for whatever reason. */
  readonly exited: Promise<ServerExit>;
  readonly #clock: Clock;
  readonly #parts: OwnServerParts;
  readonly #logTimer: NodeJS.Timeout;
  #gone = false;
  #stopping: Promise<void> | undefined;

  constructor(deps: { readonly clock: Clock }, parts: OwnServerParts) {
    const { folder, child } = parts;
    this.#clock = deps.clock;
    this.#parts = parts;
    this.port = parts.port;
    this.pid = parts.pid;
    this.major = parts.major;
    this.version = parts.version;
    this.superuser = parts.superuser;
    this.dataDir = folder.dataDir;
    this.socketDir = folder.socketDir;
    this.socketDirForBackends = folder.socketDirForServer;
    this.passwordFile = folder.passwordFile;
    this.adopted = child === undefined;
    this.#logTimer = setInterval(() => void boundLogOfRunning(folder.logFile), LOG_CHECK_MS).unref();
    this.exited = (child ? exitOf(child) : exitOfAdopted(parts.pid)).then((exit) => {
      this.#gone = true;
      clearInterval(this.#logTimer);
      return exit;
    });
  }

  /** The superuser's login, over 127.0.0.1. */
  admin(database = 'postgres'): Endpoint {
    const { superuser: user, password } = this.#parts;
    return { host: this.host, port: this.port, database, user, password };
  }

  /** A file of this server's folder by the name under which the server knows it. */
  seenByServer(path: string): string {
    return this.#parts.folder.seenByServer(path);
  }

  /** Has the server read its configuration files again; they take effect a moment later. */
  reload(): void {
    signalProcess(this.pid, 'SIGHUP');
  }

  /**
   * Ends all sessions and stops the server: fast, then immediately (recovery at the next start), then by
   * killing. Resolves when it is gone; also when it was.
   * @throws POSTGRES_STOP when even a kill does not end it
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    const steps = [
      ['SIGINT', this.#parts.stopTimeoutMs],
      ['SIGQUIT', IMMEDIATE_STOP_MS],
      ['SIGKILL', IMMEDIATE_STOP_MS],
    ] as const;
    for (const [signal, limitMs] of steps) {
      if (this.#gone) break;
      signalProcess(this.pid, signal);
      await this.#waitGone(limitMs);
    }
    if (!this.#gone) {
      throw new VarveError(
        'POSTGRES_STOP',
        `PostgreSQL (process ${this.pid}) on ${this.dataDir} does not end`,
      );
    }
    // A killed postmaster leaves its children to notice by themselves.
    await endProcesses(this.#clock, await processesOn(this.dataDir), IMMEDIATE_STOP_MS);
  }

  async #waitGone(limitMs: number): Promise<void> {
    const limit = new AbortController();
    const timeUp = this.#clock.sleep(limitMs, limit.signal).catch(() => {});
    await Promise.race([this.exited, timeUp]);
    limit.abort();
  }
}

function exitOf(child: ChildProcess): Promise<ServerExit> {
  const result = (code: number | null, signal: NodeJS.Signals | null): ServerExit => ({
    ...(code === null ? {} : { code }),
    ...(signal === null ? {} : { signal }),
  });
  if (child.exitCode !== null || child.signalCode !== null) {
    return Promise.resolve(result(child.exitCode, child.signalCode));
  }
  return new Promise((resolve) => child.once('exit', (code, signal) => resolve(result(code, signal))));
}

/** Nobody tells us of the end of a process that is not our child. */
function exitOfAdopted(pid: number): Promise<ServerExit> {
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      if (isAlive(pid)) return;
      clearInterval(timer);
      resolve({});
    }, ADOPTED_CHECK_MS);
    timer.unref();
  });
}

/** While no server writes to it the file is moved. */
export async function boundLog(path: string): Promise<void> {
  if ((await fileSize(path)) > LOG_MAX_BYTES) await rename(path, `${path}.1`);
}

/** A running server keeps the file open, so it is copied and emptied; lines written in between are lost. */
async function boundLogOfRunning(path: string): Promise<void> {
  if ((await fileSize(path)) <= LOG_MAX_BYTES) return;
  await copyFile(path, `${path}.1`)
    .then(() => truncate(path))
    .catch(() => {
      // Best effort: a full disk must not end the node; it is tried again.
    });
}

/** The last lines that were written to the log after `offset`. */
export async function logTail(path: string, offset: number): Promise<string> {
  const text = await readFile(path).catch(() => Buffer.alloc(0));
  return text.subarray(offset).toString().trim().split('\n').slice(-20).join('\n');
}
