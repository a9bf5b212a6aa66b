import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import {
  endProcesses,
  isAlive,
  processesOn,
  readPidFile,
  signalProcess,
  worksOn,
} from '../postgres/postmaster.ts';
import { endLeftProxies } from './group-proxies.ts';
import { serverFolderOf } from './node-steps.ts';

const POLL_MS = 20;
const END_MS = 5000;

/**
 * Stops the proxies and the PostgreSQL that a daemon left running when it was killed: fast, and by force after `timeoutMs`.
 * Does nothing when none runs.
 */
export async function stopLeftServer(clock: Clock, nodeFolder: string, timeoutMs: number): Promise<void> {
  await endLeftProxies(clock, nodeFolder);
  const dataDir = await realpath(join(serverFolderOf({ folder: nodeFolder }), 'data')).catch(() => undefined);
  if (dataDir === undefined) return;
  const postmaster = await readPidFile(dataDir);
  if (postmaster && (await worksOn(postmaster.pid, dataDir)) === 'yes') {
    signalProcess(postmaster.pid, 'SIGINT');
    const untilMs = clock.monotonicMs() + timeoutMs;
    while (isAlive(postmaster.pid) && clock.monotonicMs() < untilMs) await clock.sleep(POLL_MS);
  }
  await endProcesses(clock, await processesOn(dataDir), END_MS);
}
