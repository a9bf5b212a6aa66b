import { chown, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { platform } from 'node:process';
import type { Clock } from '../core/clock.ts';
import type { Binaries } from './binaries.ts';
import { endProcesses, processesOn } from './postmaster.ts';
import { INPUT_PATH, runProgram } from './program.ts';
import type { ServerFolder } from './server-folder.ts';

export interface InitDatabaseOptions {
  readonly superuser: string;
  /** UTF8 when left out. */
  readonly encoding?: string | undefined;
  /** C.UTF-8 when left out. */
  readonly locale?: string | undefined;
  /** `builtin` needs PostgreSQL 17. */
  readonly localeProvider?: 'libc' | 'icu' | 'builtin' | undefined;
  /** False leaves out syncing, for servers whose data may be lost. */
  readonly durable: boolean;
  readonly timeoutMs: number;
}

const LEFTOVER_GRACE_MS = 2_000;

/**
 * Makes the data folder, whole or not at all: initdb works in a folder beside it, which is renamed when it is
 * done. What killed attempts left is removed first, their processes included.
 * @throws POSTGRES_START with initdb's words when it fails
 */
export async function initDatabase(
  deps: { readonly clock: Clock; readonly signal: AbortSignal },
  folder: ServerFolder,
  binaries: Binaries,
  options: InitDatabaseOptions,
): Promise<void> {
  await removeLeftovers(deps.clock, folder);
  await folder.password();
  const making = await mkdtemp(`${folder.dataDir}.initdb-`);
  try {
    if (folder.runAs) await chown(making, folder.runAs.uid, folder.runAs.gid);
    const args = [`--pgdata=${folder.dataArgument(making)}`, `--username=${options.superuser}`];
    args.push(`--pwfile=${INPUT_PATH}`);
    args.push('--auth-local=scram-sha-256', '--auth-host=scram-sha-256', '--no-instructions');
    args.push(...localeArguments(binaries.major, options));
    if (!options.durable) args.push('--no-sync');
    const { signal } = deps;
    const { passwordFile: input } = folder;
    const { timeoutMs } = options;
    await runProgram(binaries.initdb, args, { folder, dataDir: making, input, signal, timeoutMs });
    await rename(making, folder.dataDir);
    await folder.sync();
  } catch (error) {
    await rm(making, { recursive: true, force: true });
    throw error;
  }
}

/** The unfinished data folders of attempts that were killed. */
export async function leftovers(folder: ServerFolder): Promise<string[]> {
  const names = await readdir(folder.path).catch(() => []);
  return names.filter((name) => name.startsWith(`${basename(folder.dataDir)}.initdb-`));
}

/** An initdb outlives the process that began it; it must not write on while its folder is removed. */
async function removeLeftovers(clock: Clock, folder: ServerFolder): Promise<void> {
  for (const name of await leftovers(folder)) {
    const path = join(folder.path, name);
    await endProcesses(clock, await processesOn(path), LEFTOVER_GRACE_MS);
    await rm(path, { recursive: true, force: true, maxRetries: 3 });
  }
}

export function localeArguments(
  major: number,
  options: Pick<InitDatabaseOptions, 'encoding' | 'locale' | 'localeProvider'>,
): string[] {
  const { encoding = 'UTF8', locale, localeProvider } = options;
  // macOS has no C.UTF-8 of its own; from 17 on PostgreSQL brings one.
  const provider = localeProvider ?? (platform === 'darwin' && !locale && major >= 17 ? 'builtin' : 'libc');
  const name = locale ?? (platform === 'darwin' && provider === 'libc' ? 'en_US.UTF-8' : 'C.UTF-8');
  const base = [`--encoding=${encoding}`, `--locale-provider=${provider}`];
  if (provider === 'builtin') return [...base, `--builtin-locale=${name}`, '--locale=C'];
  if (provider === 'icu') return [...base, `--icu-locale=${name}`, '--locale=C'];
  return [...base, `--locale=${name}`];
}
