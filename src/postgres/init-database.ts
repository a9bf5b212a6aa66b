import { chown, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { platform } from 'node:process';
import type { Clock } from '../core/clock.ts';
import type { Binaries } from './binaries.ts';
import { copyDataFolder } from './copy-data-folder.ts';
import { dataTemplate, discardTemplate } from './data-template.ts';
import { endProcesses, processesOn } from './postmaster.ts';
import { INPUT_PATH, runProgram } from './program.ts';
import type { ServerFolder } from './server-folder.ts';
import type { StartDeps } from './start-server.ts';

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
 * Makes the data folder, whole or not at all: it is filled beside its place, and renamed when it is done. What killed
 * attempts left is removed first, their processes included. It is a copy of one that initdb has made on this machine
 * (`data-template.ts`), or, where that cannot be had, initdb's own work.
 * @throws POSTGRES_START with initdb's words when it fails
 */
export async function initDatabase(
  deps: StartDeps,
  folder: ServerFolder,
  binaries: Binaries,
  options: InitDatabaseOptions & { readonly cacheFolder: string },
): Promise<void> {
  const { work } = deps;
  const { runAs } = folder;
  const make = (place: ServerFolder, durable: boolean): Promise<void> =>
    makeWhole(deps, place, (making) =>
      runInitdb(work.signal, making, { folder: place, binaries }, { ...options, durable }),
    );
  const kind = { ...options, binaries, runAs, arguments: initdbArguments(binaries.major, options) };
  const password = await folder.password();
  const template = await dataTemplate(deps, kind, (place) => make(place, false));
  if (template) {
    const copy = { ...options, template: template.dataDir, folder, binaries, password };
    try {
      await makeWhole(deps, folder, (making) => copyDataFolder(work.signal, making, copy));
      return;
    } catch {
      work.signal.throwIfAborted();
      await discardTemplate(template);
    }
  }
  await make(folder, options.durable);
}

/** `fill` is given a folder that is empty, and ours. */
async function makeWhole(
  { clock }: StartDeps,
  folder: ServerFolder,
  fill: (making: string) => Promise<void>,
): Promise<void> {
  await removeLeftovers(clock, folder);
  const making = await mkdtemp(`${folder.dataDir}.initdb-`);
  try {
    await fill(making);
    await rename(making, folder.dataDir);
    await folder.sync();
  } catch (error) {
    await rm(making, { recursive: true, force: true });
    throw error;
  }
}

async function runInitdb(
  signal: AbortSignal,
  making: string,
  { folder, binaries }: { readonly folder: ServerFolder; readonly binaries: Binaries },
  options: InitDatabaseOptions,
): Promise<void> {
  if (folder.runAs) await chown(making, folder.runAs.uid, folder.runAs.gid);
  // In the template's folder it is drawn here.
  await folder.password();
  const { passwordFile: input } = folder;
  const { timeoutMs, durable } = options;
  const args = [`--pgdata=${folder.dataArgument(making)}`, ...initdbArguments(binaries.major, options)];
  if (!durable) args.push('--no-sync');
  await runProgram(binaries.initdb, args, { folder, dataDir: making, input, signal, timeoutMs });
}

function initdbArguments(major: number, options: InitDatabaseOptions): string[] {
  return [
    `--username=${options.superuser}`,
    `--pwfile=${INPUT_PATH}`,
    '--auth-local=scram-sha-256',
    '--auth-host=scram-sha-256',
    '--no-instructions',
    ...localeArguments(major, options),
  ];
}

/** The unfinished data folders of attempts that were killed. */
export async function leftovers(folder: ServerFolder): Promise<string[]> {
  const names = await readdir(folder.path).catch(() => []);
  return names.filter((name) => name.startsWith(`${basename(folder.dataDir)}.initdb-`));
}

/** A program outlives the process that began it; it must not write on while its folder is removed. */
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
