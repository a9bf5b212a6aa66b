import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdtemp, open, readFile, realpath, rm, stat, statfs } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { openCoordinator, type CoordinatorOptions } from '../coordination/open-coordinator.ts';
import type { Clock } from '../core/clock.ts';
import { findBinaries } from '../postgres/binaries.ts';
import { blockedAt, resolveRunAs } from '../postgres/run-as.ts';
import { bytesText } from '../run/figures.ts';
import { fail, ok, warn, type DoctorCheck, type Verdict } from './doctor-finding.ts';
import { lockHolder } from '../core/folder-lock.ts';
import type { Log } from './log.ts';
import { chooseFreePorts, isFree } from './ports.ts';
import { SystemFolder } from './system-folder.ts';

export interface MachineDoctorDeps {
  readonly clock: Clock;
  readonly log: Log;
}

export interface MachineDoctorOptions {
  /** Of the system that is or will be here. */
  readonly dir: string;
  /** As `findBinaries` takes it. */
  readonly programs: string;
  readonly coordinator: CoordinatorOptions | undefined;
}

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
const TMPFS_MAGIC = 0x01_02_19_94;
const FSYNC_COUNT = 20;
const SLOW_FSYNC_MS = 20;
const PORTS_NEEDED = 13;
/** Nothing of this project is older. */
const EARLIEST_PLAUSIBLE_MS = Date.UTC(2025, 0, 1);

/** What a machine must have before a node is started on it. */
export function machineChecks(deps: MachineDoctorDeps, options: MachineDoctorOptions): DoctorCheck[] {
  const dir = resolve(options.dir);
  return [
    ...softwareChecks(options),
    ...folderChecks(deps.clock, dir),
    {
      check: 'ports',
      why: 'Each node listens on three ports of 127.0.0.1, which stay its own.',
      remedy: 'Stop what uses them, or choose a range with --port-base.',
      look: () => portsVerdict(dir),
    },
    ...limitChecks(),
    {
      check: 'clock',
      why: 'Time ranges, certificates and leases are judged by it.',
      remedy: 'Set the clock and keep it set (chrony, systemd-timesyncd).',
      look: () => clockVerdict(deps.clock.nowMs()),
    },
    ...coordinatorChecks(deps, options.coordinator),
  ];
}

function softwareChecks({ programs }: MachineDoctorOptions): DoctorCheck[] {
  return [
    {
      check: 'node-version',
      why: 'Older versions lack what Varve is built on.',
      remedy: 'Install Node 20.19 or newer.',
      look: () => nodeVersionVerdict(process.versions.node),
    },
    {
      check: 'postgres-programs',
      why: 'A node runs its own PostgreSQL 15 to 18.',
      remedy: 'Install PostgreSQL, or run npm ci so that the embedded one is there.',
      look: async () => {
        const { version, source, binDir } = await findBinaries({ kind: programs });
        return ok(`PostgreSQL ${version} (${source}, ${binDir})`);
      },
    },
    {
      check: 'run-as-user',
      why: 'PostgreSQL refuses to run as root.',
      remedy: 'Create a user "postgres", or start as an ordinary user.',
      look: async () => {
        const runAs = await resolveRunAs();
        return ok(
          runAs ? `root; PostgreSQL runs as ${runAs.user}` : `user id ${process.getuid?.() ?? 'unknown'}`,
        );
      },
    },
    {
      check: 'locale',
      why: 'Databases are made with C.UTF-8, the same on every node.',
      remedy: 'Install the locale (Debian: it is part of libc-bin), or use PostgreSQL 17 or newer.',
      look: localeVerdict,
    },
  ];
}

function folderChecks(clock: Clock, dir: string): DoctorCheck[] {
  return [
    {
      check: 'folder',
      why: 'All data is below it.',
      remedy: 'Choose another folder with --dir, or get the rights to this one.',
      look: async () => folderVerdict(dir),
    },
    {
      check: 'disk-space',
      why: 'A full disk stops PostgreSQL.',
      remedy: 'Make room, or choose a folder on another disk with --dir.',
      look: async () => {
        const { bavail, bsize, type } = await statfs(await existingParent(dir));
        return diskVerdict(bavail * bsize, type === TMPFS_MAGIC);
      },
    },
    {
      check: 'fsync',
      why: 'Every commit waits for it.',
      remedy: 'Use a disk with a write cache that survives a power cut, not a network file system.',
      look: async () => fsyncVerdict(await fsyncTimes(clock, await existingParent(dir))),
    },
  ];
}

function limitChecks(): DoctorCheck[] {
  return [
    {
      check: 'memory',
      why: 'Four PostgreSQL servers and five daemons take about 700 MB.',
      remedy: 'Start fewer data nodes with --data.',
      look: () => (totalmem() < GIB ? warn(bytesText(totalmem())) : ok(bytesText(totalmem()))),
    },
    {
      check: 'shared-memory',
      why: 'PostgreSQL puts what parallel queries share in /dev/shm.',
      remedy: 'Give it more; with Docker: --shm-size=256m.',
      look: sharedMemoryVerdict,
    },
    {
      check: 'open-files',
      why: 'Each connection, table and log is an open file.',
      remedy: 'Raise the limit: ulimit -n 65536, or LimitNOFILE= of the service.',
      look: async () => openFilesVerdict(await readFile('/proc/self/limits', 'utf8').catch(() => '')),
    },
  ];
}

function coordinatorChecks(deps: MachineDoctorDeps, options: CoordinatorOptions | undefined): DoctorCheck[] {
  if (!options) return [];
  return [
    {
      check: 'coordinator',
      why: 'Nodes find each other and choose their leader through it.',
      remedy: 'Start it, or correct the URL.',
      look: async () => {
        await using coordinator = openCoordinator(options, deps);
        const { kind, version, leader } = await coordinator.status();
        return leader === undefined
          ? fail(`${kind} ${version} has no leader`)
          : ok(`${kind} ${version}, led by ${leader}`);
      },
    },
  ];
}

export function nodeVersionVerdict(version: string): Verdict {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 20 || (major === 20 && minor >= 19) ? ok(version) : fail(version);
}

export function diskVerdict(freeBytes: number, inMemory: boolean): Verdict {
  const text = `${bytesText(freeBytes)} free`;
  if (inMemory) return warn(`${text}, in memory: everything is lost when the machine restarts`);
  if (freeBytes < GIB) return fail(text);
  return freeBytes < 10 * GIB ? warn(text) : ok(text);
}

export function fsyncVerdict(timesMs: readonly number[]): Verdict {
  const sorted = [...timesMs].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  const text = `median ${median.toFixed(1)} ms, longest ${(sorted.at(-1) ?? 0).toFixed(1)} ms of ${sorted.length}`;
  return median > SLOW_FSYNC_MS ? warn(text) : ok(text);
}

/** From the text of /proc/self/limits. */
export function openFilesVerdict(limits: string): Verdict {
  const [, soft] = /^Max open files\s+(\d+|unlimited)/m.exec(limits) ?? [];
  if (soft === undefined) return ok('not told by this system');
  return soft !== 'unlimited' && Number(soft) < 1024 ? warn(soft) : ok(soft);
}

export function clockVerdict(nowMs: number): Verdict {
  const text = new Date(nowMs).toISOString();
  return nowMs < EARLIEST_PLAUSIBLE_MS ? fail(text) : ok(text);
}

async function localeVerdict(): Promise<Verdict> {
  const { stdout } = await promisify(execFile)('locale', ['-a']).catch(() => ({ stdout: '' }));
  if (stdout === '') return warn('this system does not list its locales');
  const found = stdout.split('\n').find((name) => /^C\.utf-?8$/i.test(name));
  if (found !== undefined) return ok(found);
  return process.platform === 'darwin' ? ok('made by PostgreSQL itself') : fail('there is no C.UTF-8');
}

async function folderVerdict(dir: string): Promise<Verdict> {
  const parent = await existingParent(dir);
  await access(parent, constants.W_OK | constants.X_OK);
  const holder = await lockHolder(dir);
  if (holder !== undefined) return warn(`${dir} is in use by process ${holder}`);
  const runAs = await resolveRunAs();
  const blocked = runAs && (await blockedAt(await realpath(parent), runAs));
  const reach = blocked === undefined ? '' : `; ${blocked} is closed to ${runAs?.user}, which is got around`;
  if (parent !== dir) return ok(`${dir} will be made${reach}`);
  const { mode } = await stat(dir);
  // Passwords and keys in it have modes of their own; names and sizes would be open.
  return mode & 0o066
    ? warn(`${dir} is open to others (mode ${(mode & 0o777).toString(8)})`)
    : ok(`${dir}${reach}`);
}

async function portsVerdict(dir: string): Promise<Verdict> {
  const layout = await new SystemFolder(dir).readLayout();
  if (!layout) {
    await chooseFreePorts(PORTS_NEEDED, []);
    return ok(`${PORTS_NEEDED} are free`);
  }
  if ((await lockHolder(dir)) !== undefined) return ok('in use by the running system');
  const ports = [
    layout.coordinatorPort,
    ...layout.nodes.flatMap(({ pgPort, httpPort, rpcPort }) => [pgPort, httpPort, rpcPort]),
  ];
  const taken: number[] = [];
  for (const port of ports) if (!(await isFree(port))) taken.push(port);
  return taken.length > 0 ? fail(`taken: ${taken.join(', ')}`) : ok(`${ports.length} are free`);
}

async function sharedMemoryVerdict(): Promise<Verdict> {
  if (process.platform !== 'linux') return ok('not limited here');
  const { blocks, bsize } = await statfs('/dev/shm');
  const size = blocks * bsize;
  return size < 128 * MIB ? warn(bytesText(size)) : ok(bytesText(size));
}

async function fsyncTimes(clock: Clock, parent: string): Promise<number[]> {
  const folder = await mkdtemp(join(parent, '.varve-doctor-'));
  try {
    const file = await open(join(folder, 'probe'), 'w');
    try {
      const times: number[] = [];
      for (let i = 0; i < FSYNC_COUNT; i += 1) {
        await file.write(Buffer.alloc(8192, i));
        const startedAtMs = clock.monotonicMs();
        await file.datasync();
        times.push(clock.monotonicMs() - startedAtMs);
      }
      return times;
    } finally {
      await file.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The folder, or the nearest one above it that exists. */
async function existingParent(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  return found?.isDirectory() || path === dirname(path) ? path : existingParent(dirname(path));
}
