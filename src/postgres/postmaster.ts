import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { platform } from 'node:process';
import { promisify } from 'node:util';
import type { Clock } from '../core/clock.ts';
import { DATA_FD } from './server-folder.ts';

/** What a running postmaster says of itself in `postmaster.pid`. */
export interface PidFile {
  readonly pid: number;
  /** Seconds since the Unix epoch. */
  readonly startedAt: number;
  /** 0 while not yet known. */
  readonly port: number;
  readonly status: 'starting' | 'stopping' | 'ready' | 'standby' | '';
}

export async function readPidFile(dataDir: string): Promise<PidFile | undefined> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(() => '');
  return parsePidFile(text);
}

/** Lines: pid, data folder, start time, port, socket folder, address, shared memory key, status. */
export function parsePidFile(text: string): PidFile | undefined {
  const lines = text.split('\n').map((line) => line.trim());
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  const statuses = ['starting', 'stopping', 'ready', 'standby'] as const;
  return {
    pid,
    startedAt: Number(lines[2]) || 0,
    port: Number(lines[3]) || 0,
    status: statuses.find((status) => status === lines[7]) ?? '',
  };
}

/**
 * True while there is such a process. One that has ended counts as gone although its parent has not asked for
 * it yet: in a container without an init nobody asks for the children of a parent that died.
 */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  if (platform !== 'linux') return true;
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2, text.lastIndexOf(')') + 3) !== 'Z';
  } catch {
    return false;
  }
}

/** Whether a process is PostgreSQL's and works on this data folder: `yes` and `no` are certain. */
export async function worksOn(pid: number, dataDir: string): Promise<'yes' | 'no' | 'unknown'> {
  if (!isAlive(pid)) return 'no';
  if (platform === 'linux') {
    const folders = await foldersOf(pid);
    if (folders === undefined) return 'no';
    if (folders.length === 0) return 'unknown';
    return folders.includes(dataDir) ? 'yes' : 'no';
  }
  const { stdout } = await promisify(execFile)('ps', ['-p', String(pid), '-o', 'comm=']).catch(() => ({
    stdout: '',
  }));
  return basename(stdout.trim()) === 'postgres' ? 'unknown' : 'no';
}

/**
 * PostgreSQL's processes that work on `dataDir`. Empty where the system does not tell. `dataDir` is a real path.
 */
export async function processesOn(dataDir: string): Promise<number[]> {
  if (platform !== 'linux') return [];
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(pids.map(async (pid) => ({ pid, folders: await foldersOf(pid) })));
  return found.filter(({ folders }) => folders?.includes(dataDir)).map(({ pid }) => pid);
}

/**
 * Working directory, and descriptor of the data folder, of a process of PostgreSQL: a server enters its data
 * folder, initdb has it open. Undefined for another program or none. Empty when it cannot be seen: in a
 * container even root may not look into other users' processes; a program's name is open to all.
 */
async function foldersOf(pid: number): Promise<string[] | undefined> {
  const program = (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).trim();
  if (program !== 'postgres' && program !== 'initdb') return undefined;
  const links = [`/proc/${pid}/cwd`, `/proc/${pid}/fd/${DATA_FD}`];
  const folders = await Promise.all(links.map((link) => readlink(link).catch(() => undefined)));
  return folders.filter((folder) => folder !== undefined);
}

/** Ends processes: asked for `graceMs`, then killed. Resolves when they are gone or after as long again. */
export async function endProcesses(clock: Clock, pids: readonly number[], graceMs: number): Promise<void> {
  for (const signal of ['SIGQUIT', 'SIGKILL'] as const) {
    for (const pid of pids) signalProcess(pid, signal);
    const until = clock.monotonicMs() + graceMs;
    while (pids.some(isAlive) && clock.monotonicMs() < until) await clock.sleep(20);
  }
}

/** False when there is no such process any more. */
export function signalProcess(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

export async function fileSize(path: string): Promise<number> {
  return (await stat(path).catch(() => ({ size: 0 }))).size;
}
