import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Every temporary folder of a test is `mkdtemp(join(tmpdir(), TEMP_PREFIX + …))`. */
export const TEMP_PREFIX = 'varve-test-';

/**
 * Gives the run a temporary folder of its own (`tmpdir()` in all of its workers), and fails the run when a
 * test left a folder in it, or a PostgreSQL server that works below it. Runs at the same time on one machine
 * do not see each other.
 */
export default async function setup(): Promise<() => Promise<void>> {
  // Short, because unix sockets live below it and their paths end at 107 bytes.
  const folder = await mkdtemp(join(tmpdir(), 'vt-'));
  // A PostgreSQL server that root started runs as another user, who has to get through.
  await chmod(folder, 0o755);
  process.env['TMPDIR'] = folder;
  return async () => {
    const servers = serversBelow(folder);
    const folders = (await readdir(folder)).filter((name) => name.startsWith(TEMP_PREFIX));
    for (const { pid } of servers) end(pid);
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    if (servers.length === 0 && folders.length === 0) return;
    const left = [...servers.map(({ pid, what }) => `postgres ${pid} (${what})`), ...folders];
    // Vitest prints what a teardown throws, but does not count it as a failure.
    process.exitCode = 1;
    throw new Error(`the tests left behind: ${left.join(', ')}`);
  };
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGQUIT');
  } catch {
    // Gone meanwhile, as backends do when their postmaster ends.
  }
}

/** Postmasters and backends alike work in their data folder, so `cwd` tells whose they are. */
function serversBelow(folder: string): { pid: number; what: string }[] {
  if (!existsSync('/proc/self/cwd')) return [];
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const what = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
        const below = readlinkSync(`/proc/${name}/cwd`).startsWith(`${folder}/`);
        return below && what.includes('postgres') ? [{ pid: Number(name), what }] : [];
      } catch {
        return []; // Gone meanwhile.
      }
    });
}
