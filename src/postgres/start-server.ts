import { spawn, type ChildProcess } from 'node:child_process';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { VarveError } from '../core/errors.ts';
import type { StepWork } from '../run/step.ts';
import type { Binaries } from './binaries.ts';
import { Connection } from './connection.ts';
import type { Endpoint } from './endpoint.ts';
import { boundLog, logTail } from './own-server.ts';
import { checkPortFree } from './port.ts';
import {
  endProcesses,
  fileSize,
  isAlive,
  processesOn,
  readPidFile,
  signalProcess,
  worksOn,
  type PidFile,
} from './postmaster.ts';
import type { ServerFolder } from './server-folder.ts';
import { systemIdentifier } from './system-identifier.ts';

const POLL_MS = 20;
const ORPHAN_GRACE_MS = 5_000;
/** For a server that may be ours but does not let us in yet. */
const DOUBT_MS = 5_000;

export interface StartDeps {
  readonly clock: Clock;
  readonly work: StepWork;
}

export interface StartParts {
  readonly folder: ServerFolder;
  readonly binaries: Binaries;
  readonly admin: Endpoint;
  readonly timeoutMs: number;
}

/**
 * The postmaster that runs on this data folder, left by a process that died. A `postmaster.pid` whose process
 * is another program by now counts as none.
 */
export async function livePostmaster(
  clock: Clock,
  folder: ServerFolder,
  admin: Endpoint,
): Promise<PidFile | undefined> {
  const until = clock.monotonicMs() + DOUBT_MS;
  for (;;) {
    const found = await readPidFile(folder.dataDir);
    const works = found ? await worksOn(found.pid, folder.dataDir) : 'no';
    if (!found || works === 'no') return undefined;
    // Where the system does not show a process's folder, the server itself tells which cluster it is.
    const certain = works === 'yes' || (await isSameCluster({ ...admin, port: found.port }, folder.dataDir));
    if (certain) return found;
    if (clock.monotonicMs() >= until) return undefined;
    await clock.sleep(POLL_MS);
  }
}

async function isSameCluster(admin: Endpoint, dataDir: string): Promise<boolean> {
  if (admin.port === 0) return false;
  try {
    await using connection = await Connection.open(admin, { connectTimeoutMs: 1000 });
    const { id } = await connection.one<{ id: string }>(
      'select system_identifier::pg_catalog.text as id from pg_catalog.pg_control_system()',
    );
    return id === (await systemIdentifier(dataDir));
  } catch {
    return false;
  }
}

/**
 * Starts a postmaster and resolves when it lets the superuser in. It is not ours to stop when this process dies.
 * @throws PORT_IN_USE
 * @throws POSTGRES_START with the end of its log when it ends, or is not ready in time; it is then stopped
 * @throws LOGIN_FAILED when the password in the file is not the superuser's
 */
export async function spawnPostmaster(deps: StartDeps, parts: StartParts): Promise<ChildProcess> {
  const { clock, work } = deps;
  const { folder, binaries, admin } = parts;
  await checkPortFree(admin.port);
  await cleanUpAfterKill(clock, folder);
  await boundLog(folder.logFile);
  const logOffset = await fileSize(folder.logFile);
  await using log = await open(folder.logFile, 'a', 0o600);
  await folder.give(folder.logFile);
  await using data = await open(folder.dataDir, 'r');
  const child = spawn(binaries.postgres, ['-D', folder.dataArgument()], {
    ...folder.spawnOptions(),
    // A session of its own: the terminal's Ctrl-C is for us, who stop it in order.
    detached: true,
    stdio: ['ignore', log.fd, log.fd, data.fd],
  });
  // It outlives us, so it must not keep us alive.
  child.unref();
  const failure = watchFailure(child, binaries.postgres);
  try {
    await untilReady(deps, parts, { pid: child.pid, failure });
    return child;
  } catch (error) {
    if (child.pid !== undefined) await endProcesses(clock, [child.pid], ORPHAN_GRACE_MS);
    work.signal.throwIfAborted();
    if (!(error instanceof VarveError) || error.code !== 'POSTGRES_START') throw error;
    const detail = await logTail(folder.logFile, logOffset);
    throw new VarveError('POSTGRES_START', error.message, { detail, hint: `Its log: ${folder.logFile}` });
  }
}

/** Waits for a postmaster that is running to let the superuser in. */
export async function untilReady(
  deps: StartDeps,
  parts: Omit<StartParts, 'binaries'>,
  process: { readonly pid: number | undefined; readonly failure: () => string | undefined },
): Promise<void> {
  const { clock, work } = deps;
  const { folder, admin, timeoutMs } = parts;
  const until = clock.monotonicMs() + timeoutMs;
  work.report({ waitingFor: `PostgreSQL on port ${admin.port}, for up to ${timeoutMs / 1000} s` });
  for (;;) {
    const failed = process.failure();
    if (failed !== undefined) throw new VarveError('POSTGRES_START', `PostgreSQL ${failed}`);
    const file = await readPidFile(folder.dataDir);
    if (file?.pid === process.pid && (file?.status === 'ready' || file?.status === 'standby')) break;
    if (clock.monotonicMs() >= until) {
      throw new VarveError('POSTGRES_START', `PostgreSQL was not ready after ${timeoutMs} ms`);
    }
    await clock.sleep(POLL_MS, work.signal);
  }
  const connectTimeoutMs = Math.max(1000, until - clock.monotonicMs());
  await using _login = await Connection.open(admin, { connectTimeoutMs, signal: work.signal });
}

/**
 * What a killed postmaster leaves: children that have not noticed yet, and a `postmaster.pid`. The server
 * deals with the file itself, but for one whose process id belongs to another program by now.
 */
async function cleanUpAfterKill(clock: Clock, folder: ServerFolder): Promise<void> {
  await endProcesses(clock, await processesOn(folder.dataDir), ORPHAN_GRACE_MS);
  const file = await readPidFile(folder.dataDir);
  if (file && isAlive(file.pid) && (await worksOn(file.pid, folder.dataDir)) === 'no') {
    await rm(join(folder.dataDir, 'postmaster.pid'), { force: true });
  }
}

function watchFailure(child: ChildProcess, program: string): () => string | undefined {
  let failed: string | undefined;
  child.once('error', (error) => (failed = `could not be started: ${program}: ${error.message}`));
  child.once('exit', (code, signal) => (failed = `ended while it started (${code ?? signal})`));
  return () => failed;
}

/** Asks a postmaster that is not our child to stop, and waits until it is gone. */
export async function stopAdopted(clock: Clock, pid: number, timeoutMs: number): Promise<void> {
  signalProcess(pid, 'SIGINT');
  const until = clock.monotonicMs() + timeoutMs;
  while (isAlive(pid) && clock.monotonicMs() < until) await clock.sleep(POLL_MS);
  if (isAlive(pid)) await endProcesses(clock, [pid], ORPHAN_GRACE_MS);
}
